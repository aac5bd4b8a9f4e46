"""What is told of a command line before PyTorch is imported, and what is likely meant by a wrong word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vitrim
from vitrim import cli
from vitrim.cli.shared.measure import Row, disturbed
from vitrim.common.text import nearest
from vitrim.evaluate import Throughput

ON = ["--model", "deit_tiny_patch16_224", "--data", "."]
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
    import json

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
