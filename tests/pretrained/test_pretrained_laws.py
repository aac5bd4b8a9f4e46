"""Models of transformers: nothing reduced is the model bit for bit, costs are exact, twins in timm agree."""

from __future__ import annotations

import pytest
import torch
from counting import counted_macs, counting
from small_models import build, call, differing, images, tensors
from torch import nn
from twins import TWINS

import vitrim
from vitrim.backbones.transformers.dialects import ENTRIES

STATIC = [name for name, method in vitrim.METHODS.items() if name != "ats"]


def fits(name: str, method: str) -> bool:
    """Models without [CLS] take methods that need none."""
    needs = {"evit", "bat", "idlevit", "evovit", "ats", "topk", "diffrate", "prunemerge"}
    return not (method in needs and name.startswith(("IJepa", "Siglip", "Idefics3", "SmolVLM")))


def nothing(model: nn.Module, name: str) -> nn.Module:
    """Reduced, with every token kept."""
    return vitrim.reduce(model, "evit", keep=1.0) if fits(name, "evit") else vitrim.reduce(model, "tome", r=0)


@torch.no_grad()
@pytest.mark.parametrize("asked", [{}, {"output_hidden_states": True}, {"return_dict": False}], ids=str)
@pytest.mark.parametrize("name", ENTRIES)
def test_nothing_reduced_is_transformers_bitwise(name, asked):
    model, x = build(name), images()
    before = call(model, x, **asked)
    fast = nothing(model, name)
    assert differing(call(fast, x, **asked), before) == []
    assert isinstance(fast, type(model)) and type(fast).__name__ == name and fast is not model
    assert fast.state_dict().keys() == model.state_dict().keys()
    assert all(a is b for a, b in zip(fast.parameters(), model.parameters(), strict=True))
    assert differing(call(model, x, **asked), before) == [] and type(model).__module__.startswith("transformers.")


# Every method on one class of each architecture, and on every other class those that merge, idle and differ by image.
ONE_EACH = {"DeiTModel", "IJepaModel", "Dinov2ForImageClassification", "DINOv3ViTModel", "CLIPModel"}
ONE_EACH |= {"SiglipVisionModel", "Siglip2VisionModel", "InternVLVisionModel", "SmolVLMVisionTransformer"}
PAIRS = [(name, m) for name in ENTRIES for m in vitrim.METHODS if name in ONE_EACH or m in ("tome", "idlevit", "ats")]


@torch.no_grad()
@pytest.mark.parametrize(("name", "method"), PAIRS)
@pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")
def test_outputs_are_whole_whatever_was_left_out(name, method):
    if not fits(name, method):
        with pytest.raises(ValueError, match=r"needs a \[CLS\] token"):
            vitrim.reduce(build(name), method)
        return
    model, x = build(name), images()
    wanted = call(model, x, output_hidden_states=True)
    budget = method == "tome" or (name == "DeiTModel" and method != "ats")  # to meet one takes as long as all the rest
    fast = vitrim.reduce(model, method, **({"macs": 0.75} if budget else {}))
    found = call(fast, x, output_hidden_states=True)
    assert [t.shape for t in tensors(found)] == [t.shape for t in tensors(wanted)]
    assert all(t.isfinite().all() for t in tensors(found))
    alone = fast.reduced(x)
    seen = call(fast, x)
    for key in ("logits", "pooler_output", "image_embeds"):
        if key in seen and not hasattr(model, "text_model"):
            torch.testing.assert_close(seen[key], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", STATIC)
@pytest.mark.parametrize(
    "name",
    [
        "ViTForImageClassification",
        "Dinov2ForImageClassification",
        "DINOv3ViTModel",
        "SiglipVisionModel",
        "InternVLVisionModel",
        "Siglip2ForImageClassification",
    ],
)
@pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")
def test_plan_is_torchs_count(name, method):
    if not fits(name, method) or method in ("bat", "dpcknn", "dynamicvit", "tofe"):
        pytest.skip("no method for this model, or one whose distances the counter does not see")
    fast = vitrim.reduce(build(name), method, macs=0.75)
    assert counted_macs(fast.reduced, images()) == 2 * vitrim.profile(fast).macs


@pytest.mark.parametrize("name", ENTRIES)
def test_dense_plan_is_torchs_count(name):
    model = build(name)
    plan = vitrim.profile(model)
    assert plan.macs == plan.dense_macs and plan.params == sum(p.numel() for p in model.parameters())
    one = vitrim.reduce(model, "grid", keep=0.9, at=3)  # little is gone, and that in the last layer
    assert counted_macs(one.reduced, images()) == 2 * vitrim.profile(one).macs
    if not hasattr(model, "text_model"):
        with counting() as count:
            call(one, images())
        assert count.macs == 2 * vitrim.profile(one).macs, "called as transformers' it costs the same"


@torch.no_grad()
@pytest.mark.parametrize("method", ["evit", "tome", "idlevit", "bat"])
@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_the_same_weights_in_timm_give_the_same(twin, method):
    if not fits(twin.name, method):
        pytest.skip("needs [CLS]")
    ours, theirs = twin.both()
    x = images()
    torch.testing.assert_close(twin.output(call(ours, x)), theirs(x), rtol=1e-5, atol=1e-5)
    at = {"tome": {"r": 6}, "idlevit": {"keep": 0.6}}.get(method, {"keep": 0.6, "at": (1, 2)})
    fast, twin_fast = vitrim.reduce(ours, method, **at), vitrim.reduce(theirs, method, **at)
    torch.testing.assert_close(twin.output(call(fast, x)), twin_fast(x), rtol=1e-5, atol=1e-5)
    (_, trace), (_, wanted) = fast.reduced(x, trace=True), twin_fast(x, trace=True)
    assert all(torch.equal(a.kept, b.kept) for a, b in zip(trace, wanted, strict=True))
    assert vitrim.profile(fast).tokens == vitrim.profile(twin_fast).tokens


@torch.no_grad()
@pytest.mark.parametrize("name", ["DeiTModel", "DINOv3ViTModel", "SiglipModel"])
def test_an_image_is_the_same_alone_and_in_a_batch(name):
    fast, x = vitrim.reduce(build(name), "tome", r=8), images(3)
    whole = fast.reduced(x)
    for i in range(3):
        torch.testing.assert_close(fast.reduced(x[i : i + 1]), whole[i : i + 1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "ViTModel",
        "CLIPVisionModel",
        "Dinov2Model",
        "DINOv3ViTModel",
        "Siglip2VisionModel",
        "InternVLVisionModel",
        "Idefics3VisionTransformer",
    ],
)
def test_images_of_another_size(name):
    model, x = build(name), images(2, 48, 24)
    told = {"interpolate_pos_encoding": True} if name in ("ViTModel", "CLIPVisionModel") else {}
    assert differing(call(nothing(model, name), x, **told), call(model, x, **told)) == []
    fast = vitrim.reduce(model, "tome", macs=0.7)
    assert call(fast, x, **told).last_hidden_state.shape == call(model, x, **told).last_hidden_state.shape
    if told:
        with pytest.raises(ValueError, match="doesn't match"):
            call(fast, x)
