"""Models of transformers on the command line: folders of theirs, and one line for what is not taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from small_models import IMAGE, build, transformers

import vitrim
from vitrim import cli
from vitrim.backbones import TRANSFORMERS


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A dense model with its image processor in `vit`, and a reduced one in `fast`."""
    monkeypatch.chdir(tmp_path)
    model = build("ViTForImageClassification")
    model.save_pretrained("vit")
    size = {"height": IMAGE, "width": IMAGE}
    transformers.ViTImageProcessor(size=size, image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained("vit")
    vitrim.save(vitrim.reduce(model, "tome", macs=0.7), "fast")
    return tmp_path


def test_profile_of_a_folder(folder, capsys):
    assert cli.main(["profile", "--model", "hf:vit", "--method", "tome", "--macs", "0.7", "--json", "a.json"]) == 0
    told = json.loads(Path("a.json").read_text())
    assert told["gmacs"] == vitrim.profile(vitrim.load("fast")).gmacs and "64 > 54" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        ["export", "--model", "hf:vit", "--out", "a.onnx"],
        ["evaluate", "--model", "hf:vit", "--data", "x"],
        ["compare", "--checkpoint", "fast", "--data", "x"],
        ["benchmark", "--model", "hf:vit"],
        ["finetune", "--model", "hf:vit", "--data", "x", "--out", "y"],
    ],
    ids=lambda line: line[0],
)
def test_other_commands_say_that_they_take_none(folder, capsys, line):
    for label in "ab":
        Path("x", label).mkdir(parents=True)
        Image.new("RGB", (IMAGE, IMAGE)).save(Path("x", label, "0.png"))
    assert cli.main(line) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "of transformers' models this command takes none yet, vitrim profile does" in said
    assert not Path("a.onnx").exists()


def test_what_is_not_there_or_not_run(folder, capsys):
    config = json.loads(Path("vit/config.json").read_text())
    Path("vit/config.json").write_text(json.dumps({**config, "architectures": ["BeitModel"]}))
    assert cli.main(["profile", "--model", "hf:vit", "--keep", "0.5"]) == 2
    assert "holds a BeitModel, and vitrim runs ViTModel" in capsys.readouterr().err


def test_the_processor_says_how_images_are_prepared(folder):
    model = TRANSFORMERS.create("hf:vit", pretrained=True)
    data = TRANSFORMERS.data_config(model)
    assert (
        data["mean"] == (0.4, 0.4, 0.4) and data["std"] == (0.3, 0.3, 0.3) and data["input_size"] == (3, IMAGE, IMAGE)
    )
    assert data["interpolation"] == "bilinear" and (data["crop_pct"], data["crop_mode"]) == (1.0, "squash")
    assert TRANSFORMERS.classes(model) == 5 and TRANSFORMERS.label_names(model) == {}
    assert TRANSFORMERS.undecayed(model) == {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
