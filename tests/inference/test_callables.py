"""The callable classes: columns in, columns out, whatever engine calls them."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import saved_model, small_model

import vitrim

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 40, 50, 3), dtype=np.uint8)


def encoded(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PNGS = [encoded(each) for each in PIXELS]
FORMS = {
    "an array": {"image": PIXELS},
    "a list of arrays": {"image": list(PIXELS)},
    "PIL": {"image": [Image.fromarray(each) for each in PIXELS]},
    "Hugging Face": {"image": [{"bytes": each, "path": None} for each in PNGS]},
    "bytes": {"bytes": PNGS},
    "an array of bytes": {"bytes": np.array(PNGS, dtype=object)},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cls", [vitrim.Predictor, vitrim.Embedder])
def test_images_in_any_form_give_the_same_rows(cls, form):
    function = cls(small_model(), device="cpu")
    wanted, found = function({"bytes": PNGS}), function({**FORMS[form], "id": [7] * 5})
    assert found.pop("id") == [7] * 5 and found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


def test_rows_are_those_of_the_model():
    model = vitrim.reduce(small_model(), "evit")
    found = vitrim.Predictor(model, top=9, device="cpu", class_names=list("abcde"))({"image": PIXELS})
    transform = vitrim.Predictor(model, device="cpu").ready.transform
    with torch.inference_mode():
        logits = model(torch.stack([transform(Image.fromarray(each)) for each in PIXELS]))
    assert found["index"].shape == (5, 5) and found["label"].tolist()[0] == ["abcde"[i] for i in found["index"][0]]
    np.testing.assert_array_equal(found["index"], logits.softmax(1).topk(5).indices)
    np.testing.assert_allclose(found["probability"].sum(1), 1, rtol=1e-5)


def test_a_batch_size_changes_no_row():
    for cls in (vitrim.Predictor, vitrim.Embedder):
        whole, parts = (cls(small_model(), device="cpu", batch_size=size)({"image": PIXELS}) for size in (None, 2))
        for name in set(whole) - {"error", "label"}:
            np.testing.assert_allclose(whole[name], parts[name], atol=1e-5)


@pytest.mark.parametrize("bad", [[PNGS[0], b"no", PNGS[1], b""], [b""], []], ids=["some", "one", "none at all"])
def test_images_that_cannot_be_read_have_their_rows(bad):
    found = vitrim.Predictor(small_model(), device="cpu", top=2)({"bytes": bad})
    readable = [len(each) > 2 for each in bad]
    assert [not reason for reason in found["error"]] == readable
    assert found["index"].shape == (len(bad), 2) and ((found["index"] >= 0).all(1) == readable).all()
    assert (np.isnan(found["probability"]).any(1) != readable).all()
    features = vitrim.Embedder(small_model(), device="cpu")({"bytes": bad})["embedding"]
    assert features.shape == (len(bad), 16) and (np.isnan(features).any(1) != readable).all()


@pytest.mark.parametrize(
    ("batch", "said"),
    [({"id": [1]}, 'the batch has id: give the images as "image"'), ({"image": [], "bytes": []}, "has image, bytes")],
)
def test_a_batch_without_images_is_refused(batch, said):
    with pytest.raises(ValueError, match=said):
        vitrim.Embedder(small_model(), device="cpu")(batch)


def test_pixels_of_another_kind_are_no_image():
    for wrong in (PIXELS.astype(np.float32), PIXELS[:, :, :, :2], [None]):
        assert all(vitrim.Embedder(small_model(), device="cpu")({"image": wrong})["error"])


def test_given_a_folder_it_pickles_without_weights(tmp_path):
    folder = saved_model(tmp_path / "model")
    function = vitrim.Embedder(folder, dense=True, device="cpu")
    pickled = pickle.dumps(function)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert again._ready is None
    np.testing.assert_array_equal(again({"image": PIXELS})["embedding"], function({"image": PIXELS})["embedding"])


@pytest.mark.parametrize("cls", [vitrim.Predictor, vitrim.Embedder])
def test_hugging_face_maps_it(cls):
    """As docs/scale.md shows it."""
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    photos = datasets.Dataset.from_dict({"image": [*PNGS, b"no"], "id": [*range(6)]})
    photos = photos.cast_column("image", datasets.Image(decode=False))
    function = cls(small_model(), device="cpu")
    found = photos.map(function, batched=True, batch_size=4, remove_columns=["image"])
    wanted = function({"bytes": [*PNGS, b"no"]})
    assert found["id"][:] == [*range(6)] and [not each for each in found["error"]] == [True] * 5 + [False]
    for name in wanted.keys() - {"error"}:
        mapped, alone = np.array(found[name][:5]), wanted[name][:5]
        assert np.allclose(mapped, alone, atol=1e-6) if alone.dtype.kind == "f" else (mapped == alone).all()


def test_a_model_itself_is_pickled_with_it_and_stays_in_its_mode():
    model = small_model().train()
    try:
        function = pickle.loads(pickle.dumps(vitrim.Predictor(model, device="cpu")))
        assert function({"image": PIXELS})["index"].shape == (5, 5) and model.training
    finally:
        model.eval()
