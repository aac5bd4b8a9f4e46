"""`vitrim.view.figure`: what is in it, for which models and pictures, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import noise, several, small
from settings import BACKBONES, dense

import vitrim
from vitrim.data import data_config
from vitrim.data.pictures import prepared
from vitrim.view import figure, looking
from vitrim.view.figures import draw, save_figure, shown_blocks
from vitrim.view.looking import DenseView, look

MODEL = small()
FAST = several(MODEL)


def words(drawn) -> list[str]:
    """All that is written in a figure."""
    texts = [text.get_text() for axes in drawn.axes for text in (*axes.texts, axes.title, axes.xaxis.label)]
    left = [axes.get_title(loc="left") for axes in drawn.axes]
    keys = [text.get_text() for axes in drawn.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    return [" ".join(text.split()) for text in (*texts, *left, *keys) if text]


def test_a_row_for_each_model_of_each_picture():
    drawn = figure(FAST, [noise(0), noise(1)], blocks=[0, 3])
    pictures = [axes for axes in drawn.axes if axes.images and axes.get_title(loc="center").startswith("block ")]
    assert len(pictures) == 2 * 4 * 2 and sum(text == "blocks taken part in" for text in words(drawn)) == 8
    said = words(drawn)
    for picture in (noise(0), noise(1)):
        for one in look(FAST, picture):
            assert any(one.title in text and one.said in text for text in said)
            assert one.fates.caption(3) in said
    assert {"faded: idle or pruned", "ringed: re-selected"} <= set(said)


def test_a_key_names_what_is_there_and_nothing_else():
    said = words(figure(FAST[3], noise(), blocks=[3]))
    assert "faded: pruned" in said and not any("ringed" in text or "share a token" in text for text in said)


def test_answers_are_those_of_the_models():
    image = prepared(noise(), data_config(MODEL)).unsqueeze(0)
    with torch.inference_mode():
        logits = [model(image)[0].softmax(dim=0) for model in (MODEL, FAST[0])]
    names = ["tench", "golf ball", "cat"]
    (seen,) = look(FAST[:1], noise())
    for answer, chances in zip((seen.dense, seen.reduced), logits, strict=True):
        assert answer.label == names[int(chances.argmax())]
        assert answer.probability == pytest.approx(chances.max().item(), rel=1e-4)
    assert seen.share == pytest.approx(vitrim.profile(FAST[0]).share)


def test_pictures_may_be_images_files_and_tensors(tmp_path):
    noise().save(tmp_path / "a.png")
    tensor = prepared(noise(), data_config(MODEL))
    every = [
        look(FAST[:1], one)[0] for one in (noise(), tmp_path / "a.png", str(tmp_path / "a.png"), tensor, tensor[None])
    ]
    for one in every[1:]:
        assert (one.pixels == every[0].pixels).all() and (one.fates.groups == every[0].fates.groups).all()
    assert len(figure(FAST[0], noise()).axes) == len(figure(FAST[:1], [tmp_path / "a.png"]).axes)


def test_a_model_keeps_its_mode_and_its_answers():
    fast = vitrim.reduce(small(), "evit", keep=0.5).train()
    figure(fast, noise())
    assert fast.training and fast.backbone.training and all(p.grad is None for p in fast.parameters())


def test_a_model_without_a_classifier_is_judged_by_its_features():
    (seen,) = look([vitrim.reduce(small(num_classes=0), "evit", keep=0.5)], noise())
    assert seen.dense is None and seen.reduced is None and seen.said == f"features: cosine {seen.cosine:.3f} with dense"
    assert "says" not in " ".join(words(figure(vitrim.reduce(small(num_classes=0), "evit"), noise())))


def test_models_of_different_backbones_each_have_their_dense_answer():
    other = small()
    torch.nn.init.normal_(other.head.bias, std=9)
    drawn = figure([FAST[0], vitrim.reduce(other, "evit")], noise())
    assert sum("dense says" in text for text in words(drawn)) == 2
    assert sum("dense says" in text for text in words(figure(FAST[:2], noise()))) == 1


@pytest.mark.parametrize("row", [pytest.param(b, id=b.name) for b in BACKBONES])
def test_every_backbone_can_be_looked_at(row):
    method = vitrim.IdleViT(keep=0.5, stages=2, score="logit" if row.cls else "predictor")
    fast = vitrim.runtime.build.attach(dense(row), method)
    (seen,) = look([fast], torch.randn(3, *row.image))
    assert seen.fates.codes.shape[1:] == fast.body.grid(row.image)
    assert draws(seen)


def draws(seen) -> bool:
    return len(draw([[seen]], ["noise"]).axes) > 3


def test_a_model_of_transformers_as_reduce_gives_it():
    transformers = pytest.importorskip("transformers")
    sizes = dict(image_size=64, patch_size=8, hidden_size=48, intermediate_size=96, num_attention_heads=3)
    config = transformers.ViTConfig(**sizes, num_hidden_layers=4, id2label={0: "cat", 1: "dog"})
    model = transformers.ViTForImageClassification(config).eval()
    for fast in (vitrim.reduce(model, "evit", keep=0.5), vitrim.for_images(vitrim.reduce(model, "evit", keep=0.5))):
        (seen,) = look([fast], noise())
        assert seen.reduced.label in ("cat", "dog") and seen.fates.count(1)["tokens"] == 33


def test_one_dense_model_of_transformers_looks_once(monkeypatch):
    transformers = pytest.importorskip("transformers")
    sizes = dict(image_size=64, patch_size=8, hidden_size=48, intermediate_size=96, num_attention_heads=3)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, num_hidden_layers=4)).eval()
    looks = []
    monkeypatch.setattr(looking, "DenseView", lambda *given: looks.append(1) or DenseView(*given))
    seen = look([vitrim.reduce(model, name) for name in ("evit", "tome")], noise())
    assert len(looks) == 1 and seen[0].dense is not None
    look([vitrim.reduce(small(), name) for name in ("evit", "tome")], noise())
    assert len(looks) == 3, "two models of the same kind are two"


def test_the_blocks_that_are_shown():
    evit, tome, idle, _ = look(FAST, noise())
    assert shown_blocks([evit]) == [1, 2, 3] and shown_blocks([idle]) == [1, 2, 3]
    deep = [vitrim.reduce(small(depth=12), m) for m in ("evit", "tome", "idlevit")]
    evit, tome, idle = look(deep, noise())
    assert shown_blocks([evit]) == [3, 6, 9] and shown_blocks([tome]) == [3, 6, 9, 11]
    assert shown_blocks([evit, tome, idle]) == [3, 6, 9, 11]
    early = look([vitrim.reduce(small(depth=12), vitrim.EViT(at=block)) for block in range(1, 9)], noise())
    assert shown_blocks(early) == [1, 2, 4, 5, 7, 8], "no more than six"


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_same_pictures_make_the_same_file(tmp_path, ending):
    files = [save_figure(tmp_path / f"{i}.{ending}", figure(FAST[1], noise())) for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_figure_shows_itself_in_a_notebook():
    assert figure(FAST[0], noise())._repr_png_()[:4] == b"\x89PNG"


def test_names_of_files_are_no_mathematics(tmp_path):
    noise().save(tmp_path / "$a_{b$.png")
    save_figure(tmp_path / "f.svg", figure(FAST[0], tmp_path / "$a_{b$.png"))
    assert "$a_{b$.png" in (tmp_path / "f.svg").read_text()


REFUSED = {
    "a dense model": (lambda: figure(MODEL, noise()), "VisionTransformer is no reduced model: give vitrim.reduce"),
    "no model": (lambda: figure([], noise()), "at least one reduced model and one picture"),
    "no picture": (lambda: figure(FAST, []), "at least one reduced model and one picture"),
    "an array": (lambda: figure(FAST[0], np.zeros((64, 64, 3))), "picture is a ndarray: give a PIL image, a file"),
    "a batch": (lambda: figure(FAST[0], torch.zeros(2, 3, 64, 64)), "give one prepared image, floats"),
    "bytes": (lambda: figure(FAST[0], torch.zeros(3, 64, 64, dtype=torch.uint8)), "the image is uint8"),
    "no file": (lambda: figure(FAST[0], "nowhere.png"), "nowhere.png cannot be read: FileNotFoundError"),
    "no image": (lambda: figure(FAST[0], Path(__file__)), "cannot be read: not an image"),
    "a block beyond": (lambda: figure(FAST[0], noise(), blocks=[4]), "the models have blocks 0 to 3"),
}


@pytest.mark.parametrize("call, said", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_shown_is_refused_in_a_line(call, said):
    with pytest.raises(ValueError, match=said) as refused:
        call()
    assert "\n" not in str(refused.value) and len(str(refused.value)) <= 300


def test_a_figure_has_an_end():
    (seen,) = look([FAST[0]], noise())
    with pytest.raises(ValueError, match="a figure of 101 rows is too large: give at most 100 pictures times models"):
        draw([[seen]] * 101, ["noise"] * 101)
