"""SigLIP 2: patches of images of several shapes in one batch, padded behind their last one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import build, images
from torch import Tensor

import vitrim
from vitrim.backbones.transformers.stems import packed

NAMES = ["Siglip2VisionModel", "Siglip2ForImageClassification", "Siglip2Model"]
N = 70  # rows for every image
SHAPES = [(8, 8), (4, 16), (7, 9), (8, 8), (3, 5)]


def batch(rubbish: float = 0.0) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Images of SHAPES, and one batch of all of them; rubbish: what stands in the padding."""
    pictures = [images(1, 4 * h, 4 * w) * (1 + i / 9) for i, (h, w) in enumerate(SHAPES)]
    pixels, mask = torch.full((len(SHAPES), N, 48), rubbish), torch.zeros(len(SHAPES), N, dtype=torch.int32)
    for i, picture in enumerate(pictures):
        rows = packed(picture, 4)[0]
        pixels[i, : len(rows)], mask[i, : len(rows)] = rows, 1
    return pictures, {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": torch.tensor(SHAPES)}


def call(model: Any, given: dict[str, Tensor]) -> Any:
    ids = {"input_ids": torch.tensor([[1, 5, 7, 2]])} if hasattr(model, "text_model") else {}
    return model(**given, **ids)


def answers(out: Any) -> list[Tensor]:
    """What an output says of whole images."""
    return [out[key] for key in ("logits", "pooler_output", "image_embeds") if out.get(key) is not None]


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_padded_and_nothing_reduced_is_transformers(name):
    model, (_, given) = build(name), batch()
    fast = vitrim.reduce(model, "tome", r=0)
    ours, theirs = call(fast, given), call(model, given)
    for a, b in zip(answers(ours), answers(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for i, (h, w) in enumerate(SHAPES if name == "Siglip2VisionModel" else ()):
        real = slice(0, h * w)
        torch.testing.assert_close(
            ours.last_hidden_state[i, real], theirs.last_hidden_state[i, real], rtol=1e-4, atol=1e-4
        )


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")
@pytest.mark.parametrize("method", ["tome", "dpcknn", "random", "grid", "tofe", "dynamicvit"])
@pytest.mark.parametrize("name", NAMES[:2])
def test_an_image_is_the_same_padded_among_others_and_alone(name, method):
    fast, (pictures, given) = vitrim.reduce(build(name), method), batch()
    (whole,) = answers(call(fast, given))
    for i, picture in enumerate(pictures):
        torch.testing.assert_close(fast.reduced(picture)[0], whole[i], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_what_stands_in_the_padding_does_not_matter(name):
    fast = vitrim.reduce(build(name), "tome", macs=0.7)
    clean, dirty = call(fast, batch()[1]), call(fast, batch(rubbish=7.0)[1])
    assert all(torch.equal(a, b) for a, b in zip(answers(clean), answers(dirty), strict=True))


@torch.no_grad()
def test_hidden_states_keep_their_rows():
    model, (_, given) = build(NAMES[0]), batch()
    out = vitrim.reduce(model, "tome", macs=0.7)(**given, output_hidden_states=True)
    assert [tuple(state.shape) for state in out.hidden_states] == [(5, N, 48)] * 5
    first = model(**given, output_hidden_states=True).hidden_states[0]
    assert torch.equal(out.hidden_states[0], first) and out.last_hidden_state.isfinite().all()
    assert torch.equal(out.hidden_states[4][4, 15:], first[4, 15:]), "padding stays as it was"


def test_gradients_with_padding():
    fast = vitrim.reduce(build("Siglip2ForImageClassification"), "tome", macs=0.7).train()
    fast(**batch()[1], labels=torch.tensor([0, 1, 2, 3, 4])).loss.backward()
    assert all(p.grad is not None for p in fast.vision_model.encoder.parameters())


def _changed(**changes: Any) -> Any:
    given = {**batch()[1], **changes}
    return vitrim.reduce(build(NAMES[0]), "tome", r=4)(**given)


def _mask(row: int, patches: slice, value: int) -> Tensor:
    mask = batch()[1]["pixel_attention_mask"]
    mask[row, patches] = value
    return mask


REFUSED = {
    "pixel_attention_mask must be 1 for the patches": lambda: _changed(pixel_attention_mask=_mask(2, slice(0, 3), 0)),
    "and 0 for the padding behind them": lambda: _changed(pixel_attention_mask=_mask(4, slice(15, 20), 1)),
    "give both as the image processor makes them": lambda: _changed(pixel_attention_mask=None),
    r"spatial_shapes \[b, 2\] are missing": lambda: _changed(spatial_shapes=None),
}


@pytest.mark.parametrize("said", REFUSED)
def test_refusals_say_what_to_do(said):
    with pytest.raises(ValueError, match=said) as caught:
        REFUSED[said]()
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_the_dense_model_takes_images_too(name):
    model = build(name)
    same = vitrim.reduce(model, "tome", r=0).reduced
    for x in (images(), images(2, 48, 24)):
        assert torch.equal(vitrim.for_images(model)(x), same(x))


@torch.no_grad()
def test_exported_for_images():
    fast, x = vitrim.reduce(build("Siglip2ForImageClassification"), "tome", macs=0.7), images()
    program = torch.export.export(fast.reduced, (x,))
    torch.testing.assert_close(program.module()(x), fast.reduced(x), rtol=1e-4, atol=1e-5)
