"""Exported files as models: every format answers as its model does, is whole or not there, and says what it is."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import zipfile
from functools import partial
from pathlib import Path

import fresh
import numpy as np
import onnx
import pytest
import timm
import torch
from docs_pages import ROOT, blocks
from PIL import Image

import vitrim
from vitrim import cli
from vitrim.common.whole import Beside, publish_both
from vitrim.deploy import aotinductor, int8, open_exported
from vitrim.deploy.checking import filled
from vitrim.deploy.formats import FORMATS
from vitrim.deploy.prepared import as_pixels
from vitrim.deploy.runtimes import prepare
from vitrim.deploy.seal import KEY

# Name of the file -> how it is exported; x to judge by and c to calibrate on are put in.
FILES = {
    "fast.onnx": {"preprocessing": True},  # without it: test_export.py
    "fast.xml": {},
    "pixels.xml": {"preprocessing": True, "batch_size": 2},
    "fast.pt2": {"batch_size": 2},
    "dynamic.onnx": {"int8": "dynamic"},
    "static.onnx": {"int8": "static"},
    "static.xml": {"int8": "static"},
}
INT8 = [name for name, given in FILES.items() if "int8" in given]


@pytest.fixture(scope="module")
def model() -> vitrim.ReducedViT:
    """One class stands out in every image: rounding to int8, which differs from processor to processor, moves none.
    Of one size of images: one that resamples its positions is recorded twice, as those of the scripts below are."""
    torch.manual_seed(0)
    one_size = {"img_size": 32, "dynamic_img_size": False}
    dense = timm.create_model("test_vit", depth=1, num_classes=3, **one_size).eval()
    torch.nn.init.constant_(dense.head.bias[1:2], 2.0)
    return vitrim.reduce(dense, "evit", keep=0.5, at=0)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """Five images that pixels can be made of."""
    pixels = torch.randint(256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return (pixels / 255 - 0.5) / 0.5


@pytest.fixture(scope="module")
def folder(model, x, tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def exported(model, x, folder):
    """Exports a file when it is first asked for; what the caller has switched off, logging for one, stays off."""
    made = {}

    def export(name):
        if name not in made:
            given = dict(FILES[name])
            if given.get("int8") == "static":
                given["calibration"] = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))
            labels = torch.tensor([0, 1, 2, 0, 1]) if "int8" in given else None
            logging.disable(logging.CRITICAL)
            try:
                made[name] = vitrim.export(model, folder / name, images=x, labels=labels, **given)
                assert logging.root.manager.disable == logging.CRITICAL
            finally:
                logging.disable(logging.NOTSET)
        return made[name]

    return export


@torch.no_grad()
@pytest.mark.parametrize("name", FILES)
def test_an_opened_file_answers_as_its_model(exported, model, x, name):
    made = exported(name)
    opened, wanted = open_exported(made.path), model(x)
    about = opened.about
    assert about["model"] == "test_vit" and about["methods"][0]["options"]["keep"] == 0.5
    assert about["format"] in FORMATS and about["input_size"] == [3, 32, 32] and opened.num_classes == 3
    cost = vitrim.profile(model)
    assert opened.cost.gmacs == cost.gmacs and opened.cost.share == cost.share and opened.cost.tokens == cost.tokens
    for k in (1, 3, 5):
        found = opened(x[:k])
        assert found.shape == wanted[:k].shape and found.isfinite().all()
        if name not in INT8:
            torch.testing.assert_close(found, wanted[:k], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"takes \[batch, 3, 32, 32\]"):
        opened(x[..., :16])


def changed(content: bytes, count: int):
    """The content with one bit flipped, at `count` places from end to end and one in the digest."""
    places = [*(len(content) * k // count for k in range(count)), len(content) - 1, content.rfind(KEY.encode()) + 30]
    for k, place in enumerate(places):
        wrong = bytearray(content)
        wrong[place] ^= 1 << k % 8
        yield wrong


def refusal(path: Path) -> str:
    """Why a file is not opened: one line that names it."""
    with pytest.raises(ValueError) as caught:
        open_exported(path)
    said = str(caught.value)
    assert str(path.with_suffix("")) in said and "\n" not in said and len(said) <= 300
    return said


@pytest.mark.parametrize("name", FILES)
def test_one_wrong_bit_is_found_wherever_it_is(exported, tmp_path, name):
    paths = FORMATS["openvino"].paths(exported(name).path) if name.endswith(".xml") else [exported(name).path]
    copies = [tmp_path / path.name for path in paths]
    for copy, path in zip(copies, paths, strict=True):
        copy.write_bytes(path.read_bytes())
    open_exported(copies[0])
    for copy, path in zip(copies, paths, strict=True):
        for wrong in changed(path.read_bytes(), 40 if copy is copies[0] else 4):
            copy.write_bytes(wrong)
            said = refusal(copies[0])
            assert f"{copy} is damaged, or " in said or "no model that OpenVINO reads: one is damaged" in said
        copy.write_bytes(path.read_bytes())


@pytest.mark.parametrize("name", ["fast.onnx", "fast.xml", "fast.pt2"])
def test_a_file_without_a_digest_or_cut_short_is_refused(exported, tmp_path, name):
    """The first is what earlier versions have written, and what is left where the damage is in the digest's name."""
    for path in FORMATS["openvino"].paths(exported(name).path) if name.endswith(".xml") else [exported(name).path]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path, content = tmp_path / name, exported(name).path.read_bytes()
    path.write_bytes(content.replace(KEY.encode(), b"x" * len(KEY)))
    assert refusal(path) == f"{path} has no digest to check it by: export again, with this version of vitrim"
    for length in (1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refusal(path)
    path.write_bytes(b"")
    refusal(path)


def test_onnx_reads_and_writes_a_file_as_it_is(exported, x, tmp_path):
    """What only passes through another program is not damaged; what that changes is another model."""
    proto = onnx.load(exported("fast.onnx").path)
    onnx.save(proto, tmp_path / "same.onnx")
    open_exported(tmp_path / "same.onnx")
    proto.graph.doc_string = "mine"
    onnx.save(proto, tmp_path / "other.onnx")
    assert "was changed after it was exported" in refusal(tmp_path / "other.onnx")


def run_alone(program: str, folder: Path, argument: Path) -> tuple[int, str]:
    (folder / "alone.py").write_text(program)
    return fresh.run(folder / "alone.py", argument, folder=folder)


COMPILED = """
import sys, timm, torch, vitrim
from torch._inductor import config
from vitrim.deploy import open_exported

# For one file: headers that others would share take longer than they save, and what calls the kernels need not be fast.
config.aot_inductor.precompile_headers, config.aot_inductor.compile_wrapper_opt_level = False, "O0"

torch.manual_seed(0)
model = timm.create_model("test_vit", depth=1, img_size=32, num_classes=3).eval()
fast, x = vitrim.reduce(model, "evit", keep=0.5, at=0), torch.randn(5, 3, 32, 32)
made = vitrim.export(fast, sys.argv[1], images=x, format="aotinductor", batch_size=2)
opened = open_exported(made.path)
assert opened.about["format"] == "aotinductor" and opened.cost.gmacs == vitrim.profile(fast).gmacs
with torch.no_grad():
    for k in (1, 3, 5):
        torch.testing.assert_close(opened(x[:k]), fast(x[:k]), rtol=1e-3, atol=1e-4)
content = bytearray(made.path.read_bytes())
for place in range(0, len(content), len(content) // 20):
    content[place] ^= 1
    made.path.write_bytes(content)
    content[place] ^= 1
    try:
        open_exported(made.path)
    except ValueError as error:
        assert str(error).startswith(f"{made.path} is damaged, or ")
    else:
        raise AssertionError(place)
"""


def test_a_compiled_file_answers_as_its_model(tmp_path):
    """In a process of its own: machine code that goes wrong takes no other test with it."""
    code, said = run_alone(COMPILED, tmp_path, tmp_path / "compiled.pt2")
    assert code == 0, said


SIGNALLED = """
import gc, os, signal, sys, timm, torch, vitrim
from vitrim.deploy import open_exported

torch.manual_seed(0)
model = timm.create_model("test_vit", depth=1, img_size=32, num_classes=3).eval()
torch.nn.init.constant_(model.head.bias[1:2], 2.0)
for name in ("a.xml", "b.xml"):
    x, others = torch.randn(2, 3, 32, 32), torch.randn(32, 3, 32, 32)
    vitrim.export(model, sys.argv[1] + "/" + name, images=x, int8="static", calibration=others)
    opened = open_exported(sys.argv[1] + "/" + name)
    opened(x)
del opened
gc.collect()
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
os.kill(os.getpid(), signal.SIGUSR1)
assert heard
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")
def test_signals_are_heard_after_openvino_has_come_and_gone(tmp_path):
    code, said = run_alone(SIGNALLED, tmp_path, tmp_path)
    assert code == 0, f"{code} {said}"  # -11: a signal on a stack that has been freed


@pytest.mark.parametrize("name", INT8)
def test_an_int8_file_says_what_it_has_lost(exported, name):
    made = exported(name)
    lost = open_exported(made.path).about["int8"]
    assert lost == json.loads(json.dumps(made.int8.as_dict()))
    assert lost["images"] == 5 and lost["calibrated_on"] == (0 if name.startswith("dynamic") else 32)
    assert {"agreement", "dense_before", "dense_after", "top1_before", "top1_after"} < lost.keys()
    assert made.difference is None and made.agreement * 100 == made.int8.agreement >= 75


def test_openvino_reads_the_file_alone_and_nothing_is_sent(exported):
    made = exported("pixels.xml")
    import openvino

    assert "openvino_telemetry" not in sys.modules
    read = openvino.Core().read_model(made.path)
    assert read.get_rt_info(["vitrim", "model"]).value == "test_vit"
    assert json.loads(read.get_rt_info(["vitrim", "mean"]).value) == [0.5, 0.5, 0.5]
    assert list(read.input("images").shape) == [2, 32, 32, 3] and list(read.output("logits").shape) == [2, 3]
    assert made.bytes == sum(path.stat().st_size for path in FORMATS["openvino"].paths(made.path))


@torch.no_grad()
def test_the_page_runs_openvino_alone(exported, model, folder, tmp_path, monkeypatch, capsys):
    """The program of docs/deploy.md, on a photograph of the model's size."""
    made = exported("pixels.xml")
    for path in FORMATS["openvino"].paths(made.path):
        (tmp_path / path.with_stem("fast").name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save("photo.jpg")
    (program,) = (block.code for block in blocks(ROOT / "docs" / "deploy.md") if "compile_model" in block.code)
    found: dict = {}
    exec(program.replace("[None]", "[None].repeat(2, 0)"), found)  # this file takes two images at a time
    data = vitrim.backbones.library_of(model.backbone).data_config(model.backbone)
    transform = timm.data.create_transform(**{**data, "input_size": (3, 32, 32)})
    wanted = model(transform(Image.open("photo.jpg"))[None])
    torch.testing.assert_close(torch.from_numpy(found["logits"][:1]), wanted, rtol=1e-3, atol=1e-3)
    assert capsys.readouterr().out == f"{wanted.argmax()}\n"


@pytest.mark.parametrize("killed_at", range(4))
def test_a_pair_is_whole_whenever_its_writer_is_killed(tmp_path, monkeypatch, killed_at):
    """Killed at the first to the third change of a name; the fourth is none of them."""
    first, second = tmp_path / "a.xml", tmp_path / "a.bin"
    steps = iter(range(10))

    def until_killed(call, *arguments):
        if next(steps) == killed_at:
            raise KeyboardInterrupt
        return call(*arguments)

    with Beside(first) as one, Beside(second) as two:
        for old, new in ((first, one), (second, two)):
            old.write_bytes(b"old")
            new.file.write(b"new")
        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            patched.setattr(os, "replace", partial(until_killed, os.replace))
            patched.setattr(os, "unlink", partial(until_killed, os.unlink))
            publish_both(one, two)
    assert first.exists() == (killed_at in (0, 3))
    assert not first.exists() or first.read_bytes() == second.read_bytes() == (b"old" if killed_at == 0 else b"new")
    assert len(list(tmp_path.iterdir())) == 1 + first.exists()


def test_files_that_are_no_models_are_refused(exported, tmp_path):
    made = exported("fast.xml")
    (tmp_path / "fast.xml").write_bytes(made.path.read_bytes())
    with pytest.raises(ValueError, match=r"needs its weights, fast\.bin, beside it"):
        open_exported(tmp_path / "fast.xml")
    (tmp_path / "fast.bin").write_bytes(exported("static.xml").path.with_suffix(".bin").read_bytes())
    with pytest.raises(ValueError, match=r"fast\.bin is damaged, or belongs to|no model that OpenVINO reads"):
        open_exported(tmp_path / "fast.xml")
    for name in ("bad.onnx", "bad.xml", "bad.pt2"):
        (tmp_path / name).write_bytes(b"nothing")
        (tmp_path / "bad.bin").write_bytes(b"nothing")
        with pytest.raises(ValueError, match=r"cannot be opened|no model that OpenVINO reads"):
            open_exported(tmp_path / name)
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.ones(2),)), tmp_path / "other.pt2")
    with pytest.raises(ValueError, match=r"other\.pt2 does not say which images it takes"):
        open_exported(tmp_path / "other.pt2")
    with pytest.raises(ValueError, match=r"must end in \.onnx or \.xml or \.pt2"):
        open_exported(tmp_path / "fast.trt")
    with pytest.raises(ValueError, match="there is no file"):
        open_exported(tmp_path / "nowhere.onnx")


class Evil:
    """What makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_images_of_another_kind_are_refused(model, x, tmp_path):
    for wrong, said in ((x[:, :1], r"takes 3 channels"), (x[0], "without a batch")):
        with pytest.raises(ValueError, match=said):
            vitrim.export(model, tmp_path / "a.pt2", images=wrong)
    assert not any(tmp_path.iterdir())


def test_nothing_in_a_pt2_is_unpickled(exported, tmp_path):
    evil = io.BytesIO()
    torch.save(Evil(str(tmp_path / "made")), evil)
    with zipfile.ZipFile(exported("fast.pt2").path) as old, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as new:
        pickled = [name for name in old.namelist() if name.endswith(".pt")]
        for name in old.namelist():
            new.writestr(name, evil.getvalue() if name in pickled else old.read(name))
    assert pickled
    with pytest.raises(ValueError, match=r"evil\.pt2 cannot be opened"):
        open_exported(tmp_path / "evil.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt2"]
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_what_int8_needs_is_told_before_anything_is_written(model, x, tmp_path, monkeypatch):
    c = torch.randn(32, 3, 32, 32)
    (tmp_path / "there.bin").touch()
    refusals = {
        r'int8="static" is not for torch\.export: there is \.onnx dynamic or static; \.xml static': (
            "a.pt2",
            "static",
            x,
            c,
        ),
        r'int8="dynamic" is not for OpenVINO': ("a.xml", "dynamic", x, None),
        r'int8="static" is judged on photographs before the file is kept: give images': ("a.xml", "static", None, c),
        r'int8="static" measures ranges on photographs: give calibration, or int8="dynamic"': (
            "a.onnx",
            "static",
            x,
            None,
        ),
        r'int8="dynamic" needs no calibration': ("a.onnx", "dynamic", x, c),
        r"calibration has 31 images to calibrate on: give 32 or more": ("a.xml", "static", x, c[1:]),
        r"5 of the images to calibrate on are among those to judge by": ("a.xml", "static", x, torch.cat([c, x])),
        r'calibration is for int8="static"': ("a.onnx", None, x, c),
        r"there\.bin is there already": ("there.xml", None, x, None),
    }
    for said, (name, way, images, calibration) in refusals.items():
        with pytest.raises(ValueError, match=said):
            vitrim.export(model, tmp_path / name, images=images, int8=way, calibration=calibration)
    with pytest.raises(ValueError, match="4 labels for 5 images"):
        vitrim.export(model, tmp_path / "a.onnx", images=x, int8="dynamic", labels=torch.zeros(4))
    for name, other, said in (
        ("a.onnx", "openvino", r"must end in \.xml"),
        ("a.pt2", "trt", "choose one of onnx, openv"),
    ):
        with pytest.raises(ValueError, match=said):
            vitrim.export(model, tmp_path / name, format=other)
    monkeypatch.setattr(aotinductor.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="AOTInductor compiles C\\+\\+, and there is no compiler"):
        vitrim.export(model, tmp_path / "a.pt2", format="aotinductor")
    assert [path.name for path in tmp_path.iterdir()] == ["there.bin"]


@pytest.mark.parametrize("change", ["classes", "nan"])
def test_an_int8_file_that_is_broken_is_not_kept(model, x, tmp_path, change):
    def wrong(images):
        return model(images).roll(1, dims=1) if change == "classes" else model(images) * float("nan")

    said = "predicts the model's class for 0 % of 5 images" if change == "classes" else "gives NaN or infinity"
    with pytest.raises(ValueError, match=said):
        int8.judge(wrong, (model, model.backbone), x, None, None, "dynamic", 0)


@torch.no_grad()
@pytest.mark.parametrize("runtime", ["onnx-int8", "openvino-int8"])
def test_int8_as_a_runtime_of_benchmark(model, x, runtime):
    found = prepare(model, runtime, x[:2])(x[:2])
    assert found.shape == (2, 3) and (found - model(x[:2])).abs().max() < 0.2


def test_batches_are_filled_and_pixels_come_back(x):
    assert torch.equal(filled(x[:3], 5), torch.cat([x[:3], x[:2]]))
    pixels = as_pixels(x, {"mean": [0.5] * 3, "std": [0.5] * 3})
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5, x)


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A folder `photos` of three classes, with 14 photographs each."""
    monkeypatch.chdir(tmp_path)
    for number in range(42):
        file = tmp_path / "photos" / "abc"[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (36, 36, 3), dtype=np.uint8)).save(file)


def test_evaluate_and_compare_take_a_file(exported, model, photographs, capsys):
    file = str(exported("fast.onnx").path)
    data = ["--data", "photos", "--rounds", "1", "--limit", "9", "--workers", "0", "--json", "a.json"]
    assert cli.main(["evaluate", "--model", file, *data]) == 0
    alone = json.loads(Path("a.json").read_text())
    assert alone["method"] == "evit" and alone["images"] == 9 and alone["gmacs"] == vitrim.profile(model).gmacs
    assert "fast.onnx (test_vit), 9 of 42 images" in capsys.readouterr().out
    model.save("saved")
    assert cli.main(["evaluate", "--model", file, "--baseline", "saved", *data]) == 0
    beside = json.loads(Path("a.json").read_text())
    assert beside["top1"] == alone["top1"] and beside["dense"]["method"] == "dense" and "agreement" in beside
    assert cli.main(["compare", "--checkpoint", "saved", "--file", file, *data]) == 0
    rows = json.loads(Path("a.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["dense", "evit"] and rows[1]["options"]["format"] == "onnx"
    assert rows[1]["top1"] == alone["top1"] and rows[1]["agreement"] == beside["agreement"]
    assert cli.main(["compare", "--checkpoint", "saved", "--file", file, file, *data]) == 2
    assert "--file names a file twice" in capsys.readouterr().err
    Path("flat").mkdir()
    Path("photos/a/0.png").rename("flat/0.png")
    assert cli.main(["evaluate", "--model", file, "--data", "flat"]) == 2
    assert "flat has no labels: give --baseline" in capsys.readouterr().err


def test_the_command_keeps_what_is_judged_out_of_the_calibration(model, photographs, capsys):
    model.save("saved")
    line = ["export", "--checkpoint", "saved", "--int8", "static"]
    line += ["--data", "photos", "--calibration", "photos", "--out", "fast.onnx", "--json", "a.json"]
    assert cli.main([*line, "--limit", "9"]) == 0
    assert "in int8 (static, calibrated on 33 images), judged on 9 images: top-1 " in capsys.readouterr().out
    told = json.loads(Path("a.json").read_text())["int8"]
    assert told == open_exported("fast.onnx").about["int8"] and told["calibrated_on"] == 33
    assert cli.main([*line, "--limit", "20", "--overwrite"]) == 2
    assert "--calibration photos has 22 images that are not judged: give a folder with 32" in capsys.readouterr().err
