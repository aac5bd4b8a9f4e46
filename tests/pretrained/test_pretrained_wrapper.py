"""timm models inside transformers' wrapper."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_models import differing, images, randomise, tensors, transformers
from torch import Tensor, nn

import vitrim
from vitrim.backbones.transformers.wrapper import CLASSES, CLASSIFIER

SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("vit_tiny_patch16_224", {}),
    "average": ("vit_base_patch16_224", {"global_pool": "avg"}),
    "attention pooling": ("vit_base_patch16_siglip_224", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {}),
}
ASKED = [{}, {"output_hidden_states": True}, {"output_hidden_states": [1, 3]}, {"return_dict": False}]


def build(name: str, kind: str = "average", **more: Any) -> Any:
    architecture, arguments = KINDS[kind]
    torch.manual_seed(0)
    told = {"architecture": architecture, "model_args": {**SMALL, **arguments, **more}, "num_labels": 5}
    return randomise(getattr(transformers, name)(transformers.TimmWrapperConfig(**told)))


def call(model: nn.Module, x: Tensor, **asked: Any) -> Any:
    labels = {"labels": torch.tensor([0, 1])} if type(model).__name__ == CLASSIFIER else {}
    return model(x, **labels, **asked)


@torch.no_grad()
@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLASSES)
def test_nothing_reduced_is_transformers_bitwise(name, kind, asked):
    model, x = build(name, kind), images()
    before = call(model, x, **asked)
    fast: Any = vitrim.reduce(model, "tome", r=0)
    assert differing(call(fast, x, **asked), before) == [] and differing(call(model, x, **asked), before) == []
    assert isinstance(fast, type(model)) and type(fast).__name__ == name and fast.config is not None
    assert fast.state_dict().keys() == model.state_dict().keys()
    assert all(a is b for a, b in zip(fast.parameters(), model.parameters(), strict=True))
    fast.train()
    assert not any(part.training for part in model.modules()) and fast.reduced.training


@torch.no_grad()
@pytest.mark.parametrize("asked", ASKED[:3], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLASSES)
def test_sizes_reach_the_pooling_whatever_else_is_asked_for(name, kind, asked):
    model, x = build(name, kind), images()
    fast: Any = vitrim.reduce(model, "tome", macs=0.7)
    found, wanted = call(fast, x, **asked), call(model, x, **asked)
    assert [t.shape for t in tensors(found)] == [t.shape for t in tensors(wanted)]
    answer = found.logits if name == CLASSIFIER else found.pooler_output
    bare = vitrim.reduce(model.timm_model, "tome", macs=0.7)
    assert torch.equal(answer, fast.reduced(x)) and torch.equal(answer, bare(x))
    assert vitrim.profile(fast) == vitrim.profile(bare)
    assert vitrim.profile(model).macs == vitrim.profile(fast).dense_macs
    assert vitrim.for_images(model) is model.timm_model and vitrim.for_images(fast) is fast.reduced


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")
@pytest.mark.parametrize("way", ["vitrim", "transformers"])
@pytest.mark.parametrize(("name", "method"), [(CLASSES[0], "tome"), (CLASSIFIER, "dynamicvit")])
def test_saved_and_loaded(name, method, way, tmp_path):
    model, x = build(name), images()
    fast: Any = vitrim.reduce(model, method, macs=0.7)
    vitrim.save(fast, tmp_path) if way == "vitrim" else fast.save_pretrained(tmp_path)
    for again in (vitrim.load(tmp_path), type(fast).from_pretrained(tmp_path)):
        assert differing(call(again, x), call(fast, x)) == [] and type(again) is type(fast)
    dense = getattr(transformers, name).from_pretrained(tmp_path).eval()
    assert differing(call(dense, x), call(model, x)) == []


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")
def test_a_copy_is_a_model_of_its_own_and_takes_weights():
    fast: Any = vitrim.reduce(build(CLASSIFIER), "dynamicvit", macs=0.7)
    x, before = images(), call(fast, images())
    other: Any = vitrim.reduce(build(CLASSIFIER), "dynamicvit", macs=0.7, copy=True)
    for p in other.parameters():
        p.zero_()
    other.load_state_dict(fast.state_dict())
    again = copy.deepcopy(fast)
    assert differing(call(again, x), before) == [] and differing(call(other, x), before) == []
    again.timm_model.blocks[0].mlp.fc1.weight.zero_()
    assert differing(call(again, x), before) == [0, 1] and differing(call(fast, x), before) == []


def test_gradients_and_recomputation():
    fast: Any = vitrim.reduce(build(CLASSIFIER), "tome", macs=0.7).train()
    found = []
    for recompute in (False, True):
        fast.zero_grad()
        fast.timm_model.set_grad_checkpointing(recompute)
        call(fast, images()).loss.backward()
        found.append([p.grad.clone() for p in fast.parameters()])
    assert fast.reduced.grad_checkpointing
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*found, strict=True))


def _resnet() -> Any:
    return transformers.TimmWrapperModel(transformers.TimmWrapperConfig(architecture="resnet10t", num_labels=5))


REFUSED = {
    "timm.models.resnet.ResNet is not supported": lambda: vitrim.reduce(_resnet(), "tome"),
    "reduced already": lambda: vitrim.reduce(vitrim.reduce(build(CLASSES[0]), "tome"), "tome"),
    "Cannot set `output_attentions`": lambda: vitrim.reduce(build(CLASSES[0]), "tome")(
        images(), output_attentions=True
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_refusals_say_what_to_do(said):
    with pytest.raises(ValueError, match=said) as caught:
        REFUSED[said]()
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)
