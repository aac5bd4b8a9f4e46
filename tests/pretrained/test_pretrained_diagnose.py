"""Diagnoses of transformers' models: what timm's twin says, features by cosine, the dense answer, a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import IMAGE, build
from small_vlms import build_vlm
from twins import TWINS

import vitrim
from vitrim import cli
from vitrim.view import diagnose
from vitrim.view.looking import look

IMAGES = torch.randn(3, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(1))


def test_a_model_and_its_twin_of_timm_are_diagnosed_alike():
    twin = next(twin for twin in TWINS if twin.name == "ViTForImageClassification")
    methods = vitrim.IdleViT(keep=0.5), vitrim.EViT(keep=0.5)
    ours, theirs = (
        diagnose({m.name: vitrim.reduce(model.eval(), m) for m in methods}, [IMAGES]) for model in twin.both()
    )
    for name, each in ours.models.items():
        other = theirs.models[name]
        np.testing.assert_allclose(each.similarity, other.similarity, rtol=1e-4)
        np.testing.assert_allclose(each.sorted_attention.map, other.sorted_attention.map, rtol=1e-3, atol=1e-5)
        assert each.reselection == other.reselection and each.left_out == other.left_out
    assert [row.agreement for row in ours.classes] == [row.agreement for row in theirs.classes]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    for number in range(4):
        Image.new("RGB", (IMAGE, IMAGE), (60 * number, 90, 200 - 40 * number)).save(f"x/{number}.png")


@pytest.mark.parametrize("name", ["ViTForImageClassification", "CLIPModel", "SiglipModel", "Dinov2WithRegistersModel"])
def test_on_the_command_line(data, name):
    build(name).save_pretrained("model")
    line = ["--method", "tome", "random", "--macs", "0.7", "--workers", "0", "--json", "d.json", "--out", "d.html"]
    assert cli.main(["diagnose", "x", "--model", "hf:model", *line]) == 0
    figures = json.loads(Path("d.json").read_text())
    classifies = name == "ViTForImageClassification"
    assert figures["images"] == 4 and bool(figures["classes_found"]) == classifies
    assert ("cosine" in figures["rows"][1]) and ("agreement" in figures["rows"][1]) == classifies
    assert ("sorted_attention" in figures["rows"][0]["left_out"]) == (name == "SiglipModel")


def test_the_dense_answer_is_the_dense_models():
    """The backbone of a reduced model of transformers is that reduced model."""
    model = build("ViTForImageClassification").eval()
    fast = vitrim.reduce(model, "topk", keep=0.2)
    with torch.inference_mode():
        dense, reduced = (each(pixel_values=IMAGES).logits.softmax(dim=1).amax(dim=1) for each in (model, fast))
    assert not torch.allclose(dense, reduced, atol=1e-3), "the test shows nothing"
    (seen,) = look([fast], IMAGES[0])
    assert seen.dense.probability == pytest.approx(dense[0].item(), rel=1e-4)
    assert seen.reduced.probability == pytest.approx(reduced[0].item(), rel=1e-4)


def test_the_dense_features_are_the_dense_models():
    model = build("Dinov2Model").eval()
    fast = vitrim.reduce(model, "topk", keep=0.2)
    found = diagnose({"fast": fast}, [IMAGES], differing=3)
    with torch.inference_mode():
        dense, reduced = (each(pixel_values=IMAGES).pooler_output for each in (model, fast))
    cosines = torch.cosine_similarity(dense, reduced, dim=1).sort().values.tolist()
    assert [one.cosines["fast"] for one in found.differing] == pytest.approx(cosines, rel=1e-4)
    assert cosines[0] < 0.9999, "the test shows nothing"


def test_a_vision_language_model_is_refused_in_a_line():
    fast = vitrim.reduce(build_vlm("LlavaForConditionalGeneration"), "random", keep=0.5)
    with pytest.raises(ValueError, match="answers prompts and gives no features of an image: give its tower"):
        diagnose(fast, [IMAGES])
