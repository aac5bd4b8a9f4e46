"""Methods of other people: known by name, in every command, saved by import path, never imported by a file's word."""

from __future__ import annotations

import json
import sys

import pytest
import timm
import torch
from PIL import Image
from settings import BACKBONES, dense, randomise

import vitrim
from vitrim.cli import main
from vitrim.methods import METHODS, import_method
from vitrim.testing import check_method

DEIT = next(row for row in BACKBONES if row.name == "deit")
X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FILE = '''
import torch
import vitrim
from vitrim import Keep, Method


class Largest(Method):
    """Between attention and MLP keep the patch tokens of the largest norm.

    Args:
        keep: keep rate at each place
        at: blocks, counted from 0
        power: of the norm
    """

    name, title = "largest", "keep the tokens of the largest norm"

    def __init__(self, keep=0.5, at=None, power: float = 2.0):
        super().__init__(keep, at)
        self.power = power

    def forward(self, tokens, evidence, place):
        norms = tokens.patches.norm(p=self.power, dim=-1)
        return Keep(torch.topk(norms, self.count(place, tokens.n), dim=1).indices, scores=norms)

    def count(self, place, n):
        return max(1, int(place.keep * n))


class Learned(Largest):
    """The same after a learned direction."""

    name = "learned-direction"

    def build(self, body):
        self.direction = torch.nn.Parameter(torch.randn(body.width))

    def forward(self, tokens, evidence, place):
        scores = tokens.patches @ self.direction
        return Keep(torch.topk(scores, self.count(place, tokens.n), dim=1).indices, scores=scores)
'''
TINY = ["--model", "deit_tiny_patch16_224", "--image-size", "32"]


def tiny(depth: int = 3) -> torch.nn.Module:
    """A small model that can be saved."""
    return randomise(timm.create_model("deit_tiny_patch16_224", img_size=32, depth=depth, num_classes=3)).eval()


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file with two methods; nobody knows of them before or after."""
    known, path = dict(METHODS), list(sys.path)
    (tmp_path / "house_methods.py").write_text(FILE)
    yield tmp_path / "house_methods.py"
    METHODS.clear()
    METHODS.update(known)
    sys.path[:] = path
    sys.modules.pop("house_methods", None)


def forgotten(name: str) -> None:
    METHODS.pop(name)
    sys.modules.pop("house_methods", None)


def test_a_registered_method_is_made_by_name(file):
    cls = import_method(f"{file}:Largest")
    fast = vitrim.reduce(dense(DEIT), "largest", keep=0.6, at=(1, 2))
    assert type(fast.methods[0]) is cls and vitrim.profile(fast).tokens == [25, 15, 9, 9]
    assert vitrim.reduce(dense(DEIT), "largest", macs=0.8).methods[0].keep < 1


@pytest.mark.parametrize("cls", ["Largest", "Learned"])
def test_saved_by_its_import_path_and_loaded_where_the_caller_allows_it(file, tmp_path, cls):
    method = import_method(f"{file}:{cls}")
    torch.manual_seed(1)
    fast = vitrim.ReducedViT(tiny(), [method(0.6, at=1)])
    vitrim.save(fast, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["methods"][0]["class"] == f"house_methods:{cls}"
    with torch.no_grad():
        wanted = fast(X)
        assert torch.equal(vitrim.load(tmp_path / "out")(X), wanted), "registered already"
        forgotten(method.name)
        with pytest.raises(ValueError, match=f"house_methods:{cls}.*not vitrim's own: allow its code"):
            vitrim.load(tmp_path / "out")
        assert "house_methods" not in sys.modules, "loading has imported nothing"
        assert torch.equal(vitrim.load(tmp_path / "out", methods=[f"{file}:{cls}"])(X), wanted)
        assert torch.equal(vitrim.load(tmp_path / "out", methods=[METHODS[method.name]])(X), wanted)


def test_another_class_of_that_name_is_not_taken_for_it(file, tmp_path):
    vitrim.save(vitrim.ReducedViT(tiny(), [import_method(f"{file}:Largest")(0.6, at=1)]), tmp_path / "out")
    forgotten("largest")

    class Largest(vitrim.TopK):
        name = "largest"

    vitrim.register_method(Largest)
    with pytest.raises(ValueError, match="house_methods:Largest"):
        vitrim.load(tmp_path / "out")


def test_names_that_are_taken_and_classes_that_are_none(file):
    for body, message in (
        ({"name": "evit"}, "the name 'evit' of Mine is taken by vitrim's own"),
        ({"name": "My Method"}, "has the name 'My Method'"),
        ({"name": "mine", "count": vitrim.Method.count}, "Mine has no count"),
    ):
        with pytest.raises(ValueError, match=message):
            vitrim.register_method(type("Mine", (vitrim.TopK,), body))
    with pytest.raises(ValueError, match="is no method"):
        vitrim.register_method(torch.nn.Linear)
    import_method(f"{file}:Largest")
    with pytest.raises(ValueError, match="taken by house_methods:Largest"):
        vitrim.register_method(type("Other", (vitrim.TopK,), {"name": "largest"}))


@pytest.mark.parametrize(
    ("spec", "text", "message"),
    [
        ("nowhere.py:Mine", None, "there is no file nowhere.py"),
        ("{}:Missing", FILE, "has no class Missing that is a vitrim.Method"),
        ("{}:Method2", "Method2 = 3", "has no class Method2"),
        ("{}:Mine", "import vitrim\n1 / 0\n", r"house_methods.py:2 cannot be imported \(ZeroDivisionError"),
        ("{}:Mine", "class Mine(:\n", "cannot be imported .SyntaxError"),
    ],
)
def test_what_cannot_be_imported_is_one_line(file, spec, text, message, capsys):
    if text:
        file.write_text(text)
    with pytest.raises(ValueError, match=message):
        import_method(spec.format(file))
    assert main(["profile", *TINY, "--method", spec.format(file)]) == 2
    out = capsys.readouterr().err
    assert out.count("\n") == 1 and "Traceback" not in out


@pytest.mark.parametrize("joined", [False, True])
def test_in_profile_its_options_are_options(file, capsys, joined):
    method = [f"--method={file}:Largest"] if joined else ["--method", f"{file}:Largest"]
    assert main(["profile", *TINY, *method, "--keep", "0.5", "--power", "1", "--json", "-"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["method"] == "largest" and figures["options"]["power"] == 1


@pytest.mark.parametrize(
    "words", [["{}:Largest"], ["largest", "--method", "{}:Largest"], ["--method={}:Largest", "largest"]]
)
def test_its_page_is_that_of_a_method(file, capsys, monkeypatch, words):
    monkeypatch.chdir(file.parent)
    assert main(["methods", *(word.format(file.name) for word in words)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("largest: keep the tokens of the largest norm\n") and "--power " in out
    assert "  vitrim profile --model deit_small_patch16_224 --method house_methods.py:Largest\n" in out
    python = out.partition("house_methods.py:Largest\n")[2].partition("\n\n")[0]
    names = {"model": tiny(depth=12), "vitrim": vitrim}
    exec("\n".join(line.strip() for line in python.splitlines()), names)
    assert names["fast"].methods[0].name == "largest"


def test_where_it_fails_is_told(file, capsys, monkeypatch):
    monkeypatch.chdir(file.parent)
    file.write_text(FILE.replace("self.count(place, tokens.n), dim=1", "999, dim=1"))
    line = (
        file.read_text().splitlines().index("        return Keep(torch.topk(norms, 999, dim=1).indices, scores=norms)")
    )
    where = f"(house_methods.py:{line + 1})"
    report = check_method(import_method("house_methods.py:Largest"), raises=False)
    assert {finding.reason for finding in report.broken} == {f"RuntimeError: selected index k out of range {where}"}
    forgotten("largest")
    vitrim.reduce(tiny(depth=4), "evit").save("saved")
    (file.parent / "photos").mkdir()
    Image.new("RGB", (40, 40)).save("photos/1.png")
    for command in (["visualize", "photos", "--out", "a.png"], ["evaluate", "--data", "photos"]):
        assert main([*command, "--checkpoint", "saved", "--method", "house_methods.py:Largest"]) == 2
        err = capsys.readouterr().err
        assert err == f"vitrim: error: RuntimeError: selected index k out of range {where}\n"
        forgotten("largest")


def test_a_mistake_of_vitrims_own_shows_its_traceback_beside_a_method_of_ones_own(file, monkeypatch):
    monkeypatch.setattr("vitrim.cli.profile.run", len)
    with pytest.raises(TypeError, match="has no len"):
        main(["profile", *TINY, "--method", f"{file}:Largest"])


def test_in_the_list_of_methods(file, capsys):
    assert main(["methods", "--method", f"{file}:Largest", "--json", "-"]) == 0
    assert "largest" in {row["method"] for row in json.loads(capsys.readouterr().out)["methods"]}


def test_trained_and_judged_from_the_command_line(file, tmp_path, capsys):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (32, 32), (60 * k, 90, 30)).save(tmp_path / "photos" / name / f"{k}.png")
    out, spec = tmp_path / "out", f"{file}:Learned"
    run = ["--data", str(tmp_path / "photos"), "--workers", "0"]
    short = [
        "--recipe",
        "evit_scratch",
        "--short",
        "--batch-size",
        "4",
        "--scratch",
        "--num-classes",
        "2",
        "--device",
        "cpu",
    ]
    assert main(["finetune", *TINY, "--method", spec, *short, *run, "--out", str(out)]) == 0
    forgotten("learned-direction")
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(out), *run]) == 2
    assert "allow its code" in capsys.readouterr().err
    assert main(["evaluate", "--checkpoint", str(out), *run, "--method", spec, "--rounds", "1"]) == 0
    assert "learned-direction" in capsys.readouterr().out
