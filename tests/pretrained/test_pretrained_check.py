"""`vitrim check` on models of transformers: folders as transformers saves them and as vitrim does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import IMAGE, build, transformers
from small_vlms import build_vlm

import vitrim
from vitrim import cli
from vitrim.backbones import TransformersBackbone
from vitrim.testing import check_model


@pytest.mark.parametrize("name", ["Dinov2ForImageClassification", "DINOv3ViTBackbone", "SiglipModel", "CLIPModel"])
def test_small_models_pass(name):
    report = check_model(build(name), ["idlevit"] if name == "CLIPModel" else ["tome", "tofe"], export=None)
    assert not report.broken and report.conclusion.startswith(f"{6 * len(report.methods)} checks passed, none failed")


@pytest.mark.parametrize(
    "make", [lambda: build("Siglip2VisionModel"), lambda: build_vlm("LlavaForConditionalGeneration")]
)
def test_models_that_take_more_than_images_are_refused(make):
    with pytest.raises(ValueError, match=r"cannot be checked, since it does not take images alone \(.*\): ") as said:
        check_model(make())
    assert len(str(said.value)) <= 300


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A dense model with its image processor in `vit`, a reduced one in `fast`, pictures in `data`."""
    monkeypatch.chdir(tmp_path)
    model = build("ViTForImageClassification")
    model.save_pretrained("vit")
    size = {"height": IMAGE, "width": IMAGE}
    transformers.ViTImageProcessor(size=size).save_pretrained("vit")
    vitrim.save(vitrim.reduce(model, "tome", macs=0.7), "fast")
    Path("data").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"data/{number}.png")
    return tmp_path


def test_a_folder_passes(folder, capsys):
    assert cli.main(["check", "hf:vit", "--method", "evit", "tome", "--json", "a.json"]) == 0
    out = capsys.readouterr().out
    assert "hf:vit: 13 checks passed, none failed, none skipped; 2 methods" in out
    told = json.loads(Path("a.json").read_text())
    assert (told["library"], told["transformers"]) == ("transformers", transformers.__version__)
    assert told["methods"][0]["checks"]["onnx"]["state"] == "holds"


def test_a_reduced_folder_and_pictures(folder, capsys):
    assert cli.main(["check", "fast", "--export", "none", "--data", "data"]) == 0
    out = capsys.readouterr().out
    assert "tome r=" in out and "2 images of 32 x 32" in out and "fast: 6 checks passed, none failed" in out


def test_a_deviation_is_exit_code_1(folder, capsys, monkeypatch):
    right = TransformersBackbone.mlp
    monkeypatch.setattr(TransformersBackbone, "mlp", lambda self, i, t: (y := right(self, i, t)).with_x(y.x * 1.001))
    assert cli.main(["check", "hf:vit", "--method", "tome", "--export", "none"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "FAILS: identity of tome: logits, hidden_states.1, hidden_states.2 and 2 more of the model with" in out


def test_what_is_no_model_is_exit_code_2(folder, capsys):
    assert cli.main(["check", "hf:data"]) == 2
    assert "hf:data cannot be loaded" in capsys.readouterr().err
