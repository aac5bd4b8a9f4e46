"""`vitrim.optimize`: the same results up to rounding, the caller's model as it was, and the weights as they are now."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from settings import BACKBONES, BackboneRow, MethodRow, backbones, dense, images, pairs, reduced
from torch import nn

import vitrim
from vitrim.backbones.packed import PackedLinear, trouble_with_packing
from vitrim.deploy import packed_bytes

pytestmark = pytest.mark.skipif(bool(trouble_with_packing()), reason=f"cannot pack here: {trouble_with_packing()}")
DEIT = next(row for row in BACKBONES if row.name == "deit")
EVIT = MethodRow("evit", "evit", {"keep": 0.7})
IDLEVIT = MethodRow("idlevit", "idlevit", {"keep": 0.5})


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [part for part in model.modules() if isinstance(part, nn.Linear)]


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("cover"))
def test_results_are_the_same_up_to_rounding(backbone: BackboneRow, method: MethodRow):
    model, x = reduced(backbone, method), images(backbone)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted, types = model(x), [type(part) for part in model.modules()]
    packed = vitrim.optimize(model)
    assert torch.allclose(packed(x), wanted, rtol=1e-3, atol=1e-4)
    assert torch.equal(model(x), wanted) and [type(part) for part in model.modules()] == types
    assert packed.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert vitrim.profile(packed, backbone.image) == vitrim.profile(model, backbone.image)


@torch.no_grad()
@pytest.mark.parametrize("backbone", backbones())
def test_the_dense_model_too(backbone: BackboneRow):
    model, x = dense(backbone), images(backbone)
    packed = vitrim.for_images(vitrim.optimize(model))
    assert torch.allclose(packed(x), model(x), rtol=1e-3, atol=1e-4)
    assert any(isinstance(layer, PackedLinear) for layer in _linears(packed))


@torch.no_grad()
@pytest.mark.parametrize("method", [EVIT, IDLEVIT], ids=lambda row: row.name)
def test_parameters_are_shared_and_followed_when_they_change(method):
    model, x = reduced(DEIT, method), images(DEIT)
    packed = vitrim.optimize(model)
    packed(x)
    assert packed_bytes(packed) > 0 == packed_bytes(model)
    model.load_state_dict({name: 1.1 * value for name, value in model.state_dict().items()})
    assert torch.allclose(packed(x), model(x), rtol=1e-3, atol=1e-4)
    model.backbone.blocks[0].mlp.fc1.weight.mul_(1.2)
    model.backbone.blocks[2].attn.qkv.bias.mul_(1.2)
    assert torch.allclose(packed(x), model(x), rtol=1e-3, atol=1e-4)


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model, x = copy.deepcopy(reduced(DEIT, EVIT)), images(DEIT)
        model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
        assert torch.allclose(vitrim.optimize(model)(x), model(x), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_copies_pickles_autocast_and_graphs():
    model, x = reduced(DEIT, EVIT), images(DEIT)
    packed, wanted = vitrim.optimize(model), model(x)
    packed(x)
    for again in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.allclose(again(x), wanted, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (packed(x) - model(x)).abs().max() < 0.1 * wanted.abs().max()
    compiled = torch.compile(packed, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), wanted, rtol=1e-3, atol=1e-4)
    program = torch.export.export(packed, (x,)).module()
    assert torch.allclose(program(x), wanted, rtol=1e-3, atol=1e-4)


def test_gradients_to_the_images_are_those_of_the_model():
    model, x = reduced(DEIT, EVIT), images(DEIT).requires_grad_()
    (wanted,) = torch.autograd.grad(model(x).sum(), x)
    (found,) = torch.autograd.grad(vitrim.optimize(model)(x).sum(), x)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_layers_with_something_on_them_stay_as_they_are():
    model, x, seen = reduced(DEIT, EVIT), images(DEIT), []
    model.backbone.blocks[0].mlp.fc1.register_forward_hook(lambda *call: seen.append(1))
    packed = vitrim.optimize(model)
    packed(x)
    assert seen == [1] and type(packed.backbone.blocks[0].mlp.fc1) is nn.Linear


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: model.train(), "call model.eval"),
        (lambda model: model.half(), "float16"),
        (lambda model: model.to("meta"), "on meta"),
    ],
)
def test_what_cannot_be_packed_is_refused(change, said):
    model = reduced(DEIT, EVIT)
    change(model)
    with pytest.raises(ValueError, match=said):
        vitrim.optimize(model)


def test_saving_says_what_to_save(tmp_path):
    with pytest.raises(ValueError, match="save the model that it was made of"):
        vitrim.save(vitrim.optimize(reduced(DEIT, EVIT)), tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_no_model_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="is not supported"):
        vitrim.optimize(nn.Linear(3, 3))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ValueError, match="has no oneDNN"):
        vitrim.optimize(dense(DEIT))
