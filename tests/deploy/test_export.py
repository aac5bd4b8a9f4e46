"""`vitrim.export`: a file that answers as the model does, or no file."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from docs_pages import ROOT, blocks
from PIL import Image
from safetensors.torch import save_file
from settings import BACKBONES, MethodRow, dense, images, reduced
from timm.models import register_model
from torch import nn

import vitrim
from vitrim import cli
from vitrim.common import extras
from vitrim.deploy import formats

DEIT = next(row for row in BACKBONES if row.name == "deit")
EVIT = MethodRow("evit", "evit", {"keep": 0.7})


@pytest.fixture(scope="module")
def model() -> vitrim.ReducedViT:
    torch.manual_seed(0)
    return vitrim.reduce(
        timm.create_model("test_vit", depth=1, img_size=32, num_classes=3).eval(), "evit", keep=0.5, at=0
    )


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_onnx_answers_without_torch_or_vitrim(model, x, tmp_path):
    made = vitrim.export(model, tmp_path / "fast.onnx", images=x)
    assert made.input == ("batch", 3, 32, 32) and made.bytes == made.path.stat().st_size
    assert made.agreement == 1.0 and made.strays == 0 and made.images == 5
    session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
    for k in (1, 2, 5):
        (logits,) = session.run(["logits"], {"images": x[:k].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(x[:k]), rtol=1e-4, atol=1e-4)
    assert session.get_inputs()[0].shape[0] == session.get_outputs()[0].shape[0] == "batch"
    about = session.get_modelmeta().custom_metadata_map
    assert about["model"] == "test_vit" and json.loads(about["methods"])[0]["options"]["keep"] == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["fast.onnx"], "all weights are in the one file"


@pytest.fixture(scope="module")
def of_two(model, tmp_path_factory):
    """An ONNX file of pixels, two images at a time, and images that it was made with."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    data = vitrim.backbones.library_of(model.backbone).data_config(model.backbone)
    mean, std = (torch.tensor(data[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    prepared = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    path = tmp_path_factory.mktemp("exported") / "two.onnx"
    return vitrim.export(model, path, images=prepared, batch_size=2, preprocessing=True), pixels, prepared


@torch.no_grad()
def test_a_fixed_batch_with_preprocessing(model, of_two):
    made, pixels, prepared = of_two
    assert made.input == (2, 32, 32, 3)
    (logits,) = onnxruntime.InferenceSession(made.path).run(None, {"images": pixels})
    torch.testing.assert_close(torch.from_numpy(logits), model(prepared), rtol=1e-4, atol=1e-4)
    with pytest.raises(Exception, match="Got: 1 Expected: 2"):
        onnxruntime.InferenceSession(made.path).run(None, {"images": pixels[:1]})


@torch.no_grad()
def test_the_page_prepares_images_as_timm_does(model, of_two, tmp_path, monkeypatch, capsys):
    """The program of docs/deploy.md, on a photograph that is not square."""
    monkeypatch.chdir(tmp_path)
    Path("fast.onnx").write_bytes(of_two[0].path.read_bytes())
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save("photo.jpg")
    (program,) = (block.code for block in blocks(ROOT / "docs" / "deploy.md") if "InferenceSession" in block.code)
    found: dict = {}
    exec(program.replace("[None]", "[None].repeat(2, 0)"), found)  # the file takes two images at a time
    data = vitrim.backbones.library_of(model.backbone).data_config(model.backbone)
    transform = timm.data.create_transform(**{**data, "input_size": (3, 32, 32)})
    wanted = model(transform(Image.open("photo.jpg"))[None])
    torch.testing.assert_close(torch.from_numpy(found["logits"][:1]), wanted, rtol=1e-3, atol=1e-3)
    assert capsys.readouterr().out == f"{wanted.argmax()}\n"


@torch.no_grad()
@pytest.mark.parametrize("whole", [False, True])
def test_pt2_runs_with_torch_alone(model, x, tmp_path, whole):
    subject = vitrim.reduce(model.backbone, [], prediction_only=True) if whole else model
    made = vitrim.export(subject, tmp_path / "fast.pt2", images=x)
    kept = {"vitrim.json": ""}
    program = torch.export.load(io.BytesIO(made.path.read_bytes()), extra_files=kept)
    torch.testing.assert_close(program.module()(x[:3]), subject(x[:3]), rtol=1e-4, atol=1e-4)
    assert json.loads(kept["vitrim.json"])["model"] == "test_vit"
    assert not any(example.any() for example in program.example_inputs[0]), "the file holds no photograph"


def test_the_callers_model_stays_as_it_was(x, tmp_path):
    model = reduced(DEIT, EVIT).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    vitrim.export(model, tmp_path / "a.pt2", images=images(DEIT))
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("change", ["logits", "nan"])
def test_a_file_that_disagrees_is_not_kept(model, x, tmp_path, monkeypatch, change):
    def wrong(path):
        run = formats._open_torch(path)
        return lambda images: run(images) + (0.1 if change == "logits" else float("nan"))

    monkeypatch.setitem(formats.FORMATS, "torch", replace(formats.FORMATS["torch"], open=wrong))
    (tmp_path / "old.pt2").write_bytes(b"old")
    with pytest.raises(ValueError, match=r"disagrees with the model: by up to .* on 5 of 5 images; nothing"):
        vitrim.export(model, tmp_path / "old.pt2", images=x, overwrite=True)
    assert (tmp_path / "old.pt2").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_nothing(model, x, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(formats.FORMATS, "torch", replace(formats.FORMATS["torch"], save=full))
    with pytest.raises(ValueError, match="No space left on device; nothing was written"):
        vitrim.export(model, tmp_path / "a.pt2", images=x)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_before_anything_is_written(model, tmp_path, monkeypatch):
    (tmp_path / "there.onnx").touch()
    refusals = {
        "must end in .onnx or .xml or .pt2": (model, "a.trt", {}),
        "is there already": (model, "there.onnx", {}),
        "batch_size=0: give a whole number from 1": (model, "a.pt2", {"batch_size": 0}),
        "is not supported": (nn.Linear(3, 3), "a.pt2", {}),
        "ats keeps another number of tokens in each image": (vitrim.reduce(model.backbone, "ats"), "a.pt2", {}),
    }
    for said, (subject, name, options) in refusals.items():
        with pytest.raises(ValueError, match=said):
            vitrim.export(subject, tmp_path / name, **options)
    monkeypatch.setattr(extras, "_installed", lambda module: module != "onnxruntime")
    with pytest.raises(ValueError, match=r'needs onnxruntime: pip install "vitrim\[export\]"'):
        vitrim.export(model, tmp_path / "a.onnx")
    monkeypatch.setattr(formats, "LARGEST_ONNX", 1000)
    monkeypatch.setattr(extras, "_installed", lambda module: True)
    with pytest.raises(ValueError, match=r"one ONNX file holds 2\.1"):
        vitrim.export(model, tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]


@register_model
def four_blocks(pretrained: bool = False, **given) -> nn.Module:
    """A name for the command line, of as few blocks as its defaults take: time goes by their number."""
    return timm.create_model("test_vit", depth=4, **given)


def test_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    dense = timm.create_model("four_blocks", img_size=32, num_classes=3)
    save_file(dense.state_dict(), "w.safetensors")
    line = [
        "export",
        "--model",
        "four_blocks",
        "--image-size",
        "32",
        "--num-classes",
        "3",
        "--checkpoint",
        "w.safetensors",
    ]
    assert cli.main([*line, "--keep", "0.5", "--data", "photos", "--out", "a.pt2", "--json", "a.json"]) == 0
    out = capsys.readouterr().out
    assert "wrote a.pt2 (torch.export, " in out and "checked on 3 images" in out and "class tokens alone" in out
    first = (tmp_path / "a.json").read_text()
    figures = json.loads(first)
    assert figures["prediction_only"] and figures["agreement"] == 1.0 and figures["images"] == 3
    assert cli.main([*line, "--no-prediction-only", "--out", "b.pt2", "--json", "a.json"]) == 0
    assert "checked on 4 random images" in capsys.readouterr().out
    assert not json.loads((tmp_path / "a.json").read_text())["prediction_only"]
    (tmp_path / "b.pt2").unlink()
    assert cli.main([*line, "--limit", "5", "--out", "b.pt2"]) == 2
    assert "--limit 5 is for images of --data" in capsys.readouterr().err
    assert cli.main([*line, "--out", "a.pt2"]) == 2 and "--overwrite" in capsys.readouterr().err
    assert cli.main([*line, "--method", "ats", "--out", "b.pt2"]) == 2
    assert "keeps another number of tokens" in capsys.readouterr().err and not (tmp_path / "b.pt2").exists()


def test_the_dense_model_too(tmp_path):
    made = vitrim.export(dense(DEIT), tmp_path / "dense.pt2", images=images(DEIT))
    assert made.difference < 1e-4 and made.agreement == 1.0
