"""Public functions that are given something of another kind: one line that names the argument and what to give."""

from __future__ import annotations

import pytest
import timm
import torch

import vitrim
from vitrim.tune import tune


@pytest.fixture(scope="module")
def dense():
    return timm.create_model("test_vit", img_size=32, patch_size=8, depth=2).eval()


@pytest.fixture(scope="module")
def fast(dense):
    return vitrim.reduce(dense, "evit", at=1)


IMAGES = torch.rand(16, 3, 32, 32)
NO_PATHS = ("", None, 3, b"x", ["a"])
WRONG = {
    "picture is": [lambda d, f, x=x: vitrim.view.figure(f, x) for x in ("", None, 3, b"x", [b"x"])],
    "is no reduced model: give vitrim.reduce": [
        *(lambda d, f, x=x: vitrim.view.figure(x, "a.png") for x in (3, None, "evit", b"x", ["evit"])),
        *(lambda d, f, x=x: vitrim.view.diagnose(x, [IMAGES]) for x in (3, None, "evit", b"x", ["evit"])),
    ],
    "batches is": [lambda d, f, x=x: vitrim.view.diagnose(f, x) for x in (3, None, "photos", b"x")],
    "pretrained_model_name_or_path is": [lambda d, f, x=x: vitrim.from_pretrained(x) for x in NO_PATHS],
    "folder is": [lambda d, f, x=x: vitrim.load(x) for x in NO_PATHS],
    "save_directory is": [lambda d, f, x=x: f.save_pretrained(x) for x in NO_PATHS],
    "repo_id is": [lambda d, f, x=x: f.push_to_hub(x) for x in (*NO_PATHS, "a b/c", "a/b/c", "a\nb")],
    "model is": [
        *(lambda d, f, x=x: vitrim.Predictor(x) for x in NO_PATHS),
        *(lambda d, f, x=x: vitrim.Embedder(x) for x in NO_PATHS),
        *(lambda d, f, x=x: tune(x, IMAGES) for x in (3, None, "test_vit")),
    ],
    "the batch is": [lambda d, f, x=x: vitrim.Embedder(f, device="cpu")(x) for x in (3, None, "x", [IMAGES])],
    "top=": [lambda d, f, x=x: vitrim.Predictor(f, top=x) for x in ("5", None, 2.5, 0, True)],
    "batch_size=": [lambda d, f, x=x: vitrim.Embedder(f, batch_size=x) for x in ("5", 2.5, 0)],
    "class_names is": [lambda d, f, x=x: vitrim.Predictor(f, class_names=x) for x in ("", 3, b"x")],
    "images is": [lambda d, f, x=x: tune(d, x) for x in (3, "photos", IMAGES[0], IMAGES.byte())],
    "methods ": [lambda d, f, x=x: tune(d, IMAGES, x) for x in ("tome", 3, [3], [])],
    "budgets is": [lambda d, f, x=x: tune(d, IMAGES, ["tome"], x) for x in (0.5, "0.5")],
    "license=": [lambda d, f, x=x: f.save_pretrained("x", license=x) for x in (3, "a\nb: c", "", "a: b", "x y")],
    "base_model=": [lambda d, f, x=x: f.save_pretrained("x", base_model=x) for x in (3, "x y", "a\n", "a/b/c", "-x")],
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_of_another_kind_is_told_in_one_line(said, dense, fast, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in WRONG[said]:
        with pytest.raises(ValueError) as error:
            call(dense, fast)
        text = str(error.value)
        assert said in text and "give" in text and len(text) <= 300 and "\n" not in text
    assert not list(tmp_path.iterdir())
