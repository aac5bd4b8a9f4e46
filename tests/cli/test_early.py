"""What is told of a command line before PyTorch is imported, and what is likely meant by a wrong word."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm

import vitrim
from vitrim import cli
from vitrim.cli.shared import model_names
from vitrim.cli.shared.measure import Row, disturbed
from vitrim.common import extras, walking
from vitrim.common.text import nearest
from vitrim.evaluate import Throughput

ON = ["--model", "deit_tiny_patch16_224", "--data", "."]
OUT = ["--out", "a.csv"]
WRONG = {
    "there is no file or folder nowhere": ["evaluate", *ON, "--data", "nowhere"],
    "there is no checkpoint nowhere": ["compare", *ON, "--checkpoint", "nowhere"],
    "there is no class map nowhere": ["evaluate", *ON, "--class-map", "nowhere"],
    "there is no label file nowhere": ["evaluate", *ON, "--label-file", "nowhere"],
    "--batch-size 0: give a whole number from 1": ["demo", "--batch-size", "0"],
    "must end in .png or .svg": ["compare", *ON, "--out", "a.pdf"],
    "must end in .html or .htm": ["demo", "--out", "a.pdf"],
    "must end in .onnx or .xml or .pt2": ["export", "--model", "x", "--out", "a.pdf"],
    "profile: evaluate, compare, predict, embed, finetune, demo, export, benchmark and check take it": [
        "profile",
        "--data",
        ".",
    ],
    "must end in .png or .svg or .pdf": ["benchmark", *ON[:2], "--out", "a.html"],
    "belongs to one model, and --model names 2": ["benchmark", "--model", "a", "b", "--checkpoint", "."],
    "--model is given twice": ["benchmark", "--model", "a", "--model", "b"],
    "and onnx does not run it: leave one of the two out": ["benchmark", *ON[:2], "--detail", "--runtime", "onnx"],
    "--data judges what --instead shows": ["benchmark", *ON],
    "--limit is about the images of --data": ["benchmark", *ON[:2], "--instead", "--limit", "3"],
    "there is no checkpoint x.pth": ["benchmark", *ON, "--instead", "--smaller-checkpoint", "x.pth"],
    "there is no file nowhere.json": ["benchmark", *ON[:2], "--vs", "nowhere.json"],
    "several are separated by spaces: --keep 0.7 0.5": ["compare", *ON, "--keep", "0.7,0.5"],
    "give a number, such as 0.7": ["compare", *ON, "--keep", "0,7"],
    "give a number, a share such as 0.6": ["compare", *ON, "--macs", "60%"],
    "separate methods by spaces, evit tome": ["compare", *ON, "--method", "evit,tome"],
    "did you mean tome?": ["methods", "ToMe"],
    "--method evit tome: give one here": ["predict", ".", "--method", "evit", "--method", "tome", *OUT],
    "--macs 0.6 0.7: give one here": ["profile", *ON[:2], "--macs", "0.6", "0.7"],
    "--macs 7 is no share of the dense cost": ["check", *ON[1:2], "--macs", "7"],
    "--macs 0 is no share of the dense cost": ["visualize", ".", *ON[:2], "--macs", "0"],
    "--keep 7 is not in (0, 1]": ["compare", *ON, "--keep", "0.7", "7"],
    "--macs solves for --r: give one of the two": ["evaluate", *ON, "--method", "tome", "--r", "3", "--macs", "0.7"],
    "say with --guide which model it belongs to": ["profile", *ON[:2], "--guide-checkpoint", "."],
    "there is no file of class names nowhere": ["predict", ".", *OUT, "--class-names", "nowhere"],
    "there is no plan nowhere": ["evaluate", *ON, "--plan", "nowhere"],
    ". holds no image (.bmp, .gif": ["embed", ".", *ON[:2], "--out", "f"],
    "*.xyz matches no image (.bmp, .gif": ["tune", "*.xyz", *ON[:2], "--out", "p.json"],
    "no file matches *.xyz": ["visualize", "*.xyz", *ON[:2]],
    "/dev/null is a device or a pipe, neither file nor folder: give a folder of any depth, a photograph, a .tar": [
        "predict",
        "/dev/null",
        *OUT,
    ],
    "there is no file or folder absent: give a folder of any depth, a photograph, a .tar": ["predict", "absent", *OUT],
    "DATA is given in two ways, a and b": ["predict", "a", "--data", "b", *OUT],
    "DATA is given in two ways, b and a": ["diagnose", "b", "--data", "a"],
    "IMAGES is given in two ways, a and b": ["visualize", "a", "--overwrite", "--images", "b"],
    "timm has no model 'nonsense': timm.list_models()": ["profile", "--model", "nonsense"],
    "did you mean deit_tiny_patch16_224": ["profile", "--model", "deit_tiny_patch16_22"],
    "timm has no model 'nobody'": ["profile", *ON[:2], "--guide", "nobody"],
    "--limit 0: give a whole number from 1": ["evaluate", *ON, "--limit", "0"],
    "--workers -1: give a whole number from 0": ["embed", ".", "--out", "f", "--workers", "-1"],
    "--crop-pct 7: give a share in (0, 1]": ["diagnose", ".", "--crop-pct", "7"],
    "--device nonsense: give cpu, cuda, cuda:1 or mps": ["benchmark", *ON[:2], "--device", "nonsense"],
    "--host 8.8.8.8 is no address of this machine": ["playground", "--host", "8.8.8.8"],
}


@pytest.mark.parametrize("said", WRONG)
def test_mistakes_are_told_in_one_line(capsys, tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(WRONG[said]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_none_of_these_imports_torch(tmp_path):
    script = (
        "import sys, types, json; package = types.ModuleType('vitrim'); package.__path__ = [sys.argv.pop(1)]\n"
        "sys.modules['vitrim'] = package\nfrom vitrim.cli import main\n"
        "codes = [main(words) for words in json.loads(sys.argv.pop(1))]\n"
        "sys.exit(set(codes) != {2} or 'torch' in sys.modules)"
    )
    words = json.dumps(list(WRONG.values()))
    where = str(Path(vitrim.__file__).parent)
    done = subprocess.run([sys.executable, "-c", script, where, words], capture_output=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


def test_nearest_names():
    names = ["davit_small", "deit_small_patch16_224", "deit_small_distilled_patch16_224", "evit_finetune", "idlevit"]
    assert nearest("deit_small", names, 2) == names[1:3]
    assert nearest("DEIT_SMALL_PATCH16_224", names) == ["deit_small_patch16_224"]
    assert nearest("evit", names) == ["evit_finetune"] and nearest("xyz", names) == []


def test_a_busy_machine_is_told():
    def row(label: str, low: float, high: float) -> Row:
        return Row(label, None, None, None, Throughput(1.0, 1.2, low, high))

    assert disturbed([row("dense", 1, 1), row("evit", 1.15, 1.25)]) == ""
    assert "the speed-up of tome went from 0.65 to 1.66" in disturbed([row("dense", 1, 1), row("tome", 0.65, 1.66)])


def test_a_busy_port_is_told_at_once(capsys):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        assert cli.main(["playground", "--port", str(busy.getsockname()[1])]) == 2
    assert "is busy: give another one" in capsys.readouterr().err


ASKED = {"command": "predict", "model": "deit_tiny_patch16_224", "method": "evit", "split": None, "data": "/a"}
OTHERS = {
    "other command": (["embed", ".", *OUT], {}),
    "other model": (["predict", ".", *OUT, "--model", "vit_tiny_patch16_224"], {}),
    "other method": (["predict", ".", *OUT, "--method", "tome"], {}),
    "other precision": (["predict", ".", *OUT, "--precision", "bfloat16"], {"precision": "float32"}),
    "other split": (["predict", ".", *OUT, "--split", "val"], {}),
    "other data": (["predict", ".", *OUT], {}),
    "other dense": (["embed", ".", *OUT, "--dense"], {"command": "embed", "dense": False}),
}


@pytest.mark.parametrize("said", OTHERS)
def test_an_unfinished_run_that_was_asked_something_else_is_told_at_once(said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "import_module", None)
    words, more = OTHERS[said]
    (tmp_path / "a.csv.parts").mkdir()
    asked = tmp_path / "a.csv.parts" / "asked.json"
    asked.write_text(json.dumps({**ASKED, **more}))
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert f"a.csv.parts holds an unfinished run with {said}" in err and err.count("\n") == 1
    assert json.loads(asked.read_text()) == {**ASKED, **more}


def test_an_extra_that_is_missing_is_told_at_once(capsys, tmp_path, monkeypatch):
    """With all that needs one: by what is installed, and nothing is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()
    needs = {
        "vitrim visualize needs matplotlib": ["visualize", "a.jpg", *ON[:2]],
        "writing Parquet needs pyarrow": ["predict", "a.jpg", *ON[:2], "--out", "a.parquet"],
        "--engine ray needs ray": ["embed", "a.jpg", *ON[:2], "--out", "f", "--engine", "ray"],
        "vitrim tune --picture needs matplotlib": ["tune", ".", "--out", "p.json", "--picture", "p.png"],
        "vitrim playground needs gradio": ["playground", "--port", "0"],
        "export to OpenVINO needs openvino": ["export", *ON[:2], "--out", "a.xml"],
        "export to ONNX needs onnx": ["export", *ON[:2], "--out", "a.onnx"],
    }
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    monkeypatch.setattr(cli, "import_module", None)
    for said, words in needs.items():
        assert cli.main(words) == 2
        assert said in capsys.readouterr().err


def test_names_of_models_are_read_off_timms_files():
    """None that timm has is refused: each stands there as a word."""
    words = set(re.findall(r"\w+", model_names._text()))
    own = [name for name in timm.list_models() if timm.models.model_entrypoint(name).__module__.startswith("timm.")]
    assert len(own) > 1000 and {name.partition(".")[0] for name in own} <= words


def test_endings_are_torchvisions():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert tuple(sorted({*IMG_EXTENSIONS, ".gif"})) == walking.ENDINGS
