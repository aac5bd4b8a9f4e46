"""`--guide`: another model's class attention chooses the tokens (EViT Table 14)."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vitrim
from vitrim import cli

SMALL = {"img_size": 64, "num_classes": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints, and photographs of two classes."""
    root = tmp_path_factory.mktemp("guide")
    for seed, name in enumerate(("dense", "guide")):
        torch.manual_seed(seed)
        model = timm.create_model("test_vit", img_size=64, num_classes=2 if name == "dense" else 1000)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        save_file(model.state_dict(), root / f"{name}.safetensors")
    for i in range(16):
        place = root / "data" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 70), (16 * i, 100, 255 - 16 * i)).save(place / f"{i}.png")
    return root


def model(folder):
    given = ["--model", "test_vit", "--image-size", "64", "--num-classes", "2"]
    return [*given, "--checkpoint", str(folder / "dense.safetensors")]


def guide(folder):
    return ["--guide", "test_vit", "--guide-checkpoint", str(folder / "guide.safetensors")]


def test_a_guided_model_is_trained_saved_and_evaluated(folder, tmp_path, capsys):
    data, out = ["--data", str(folder / "data")], tmp_path / "out"
    short = ["--short", "--batch-size", "8", "--device", "cpu", "--workers", "0", "--out", str(out)]
    guided = [*model(folder), *guide(folder), "--method", "evit", "--keep", "0.5", "--at", "0"]
    assert cli.main(["finetune", *guided, *data, *short, "--json", str(tmp_path / "made.json")]) == 0
    assert json.loads((tmp_path / "made.json").read_text())["options"]["score"] == "last class attention of test_vit"
    fast = vitrim.load(out)
    weights = fast.methods[0].guide.model.state_dict()
    given = timm.create_model("test_vit", img_size=64)
    vitrim.backbones.timm.checkpoints.load_checkpoint(given, folder / "guide.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in given.state_dict().items()), "guides do not learn"
    quick = ["--rounds", "1", "--workers", "0", "--device", "cpu"]
    assert cli.main(["evaluate", "--checkpoint", str(out), *data, *quick]) == 0
    assert "evit keep=0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "tome", "--guide", "test_vit"], "tome takes none: methods that do are evit"),
        (["--guide", "test_vit", "--score", "cls"], "leave out --score"),
        (["--guide-checkpoint", "w.safetensors"], "say with --guide which model it belongs to"),
        (["--guide", "test_vitt"], "timm has no model 'test_vitt'"),
    ],
)
def test_what_cannot_guide_is_refused(arguments, said, capsys):
    assert cli.main(["profile", "--model", "test_vit", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
