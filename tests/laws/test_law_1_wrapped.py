"""Law 1 with wrapped layers: adapters, parametrisations, pruning, quantised and patched layers. With nothing reduced
the result is the wrapped dense model's, bit for bit; a decision is that of the same weights in plain layers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from counting import counted_macs
from settings import BACKBONES, BackboneRow, dense, images
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import vitrim
from vitrim.runtime.build import attach

FAMILIES = [b for b in BACKBONES if b.name in ("deit", "lvvit", "eva02", "dinov3", "rope_mixed", "swin")]
ROWS = [pytest.param(b, id=b.name) for b in FAMILIES]
DEIT = FAMILIES[0]


class Lora(nn.Module):
    """What peft puts in a layer's place: the layer, and a product of two thin matrices beside it. `weight` and `bias`
    are the layer's own, as peft has it."""

    def __init__(self, layer: nn.Linear, rank: int = 2):
        super().__init__()
        self.base_layer, self.in_features, self.out_features = layer, layer.in_features, layer.out_features
        self.a, self.b = (
            nn.Linear(*size, bias=False) for size in ((self.in_features, rank), (rank, self.out_features))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 2 * self.b(self.a(x))

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias


class Half(nn.Module):
    """A wrapper that states nothing of the layer in it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) / 2


class Int8(Tensor):
    """A weight whose class says how it multiplies, as torchao's quantised weights do; its plain numbers are not what
    the layer multiplies with."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is F.linear:
            x, weight, *bias = args
            return F.linear(x, 2 * weight.as_subclass(Tensor), *bias, **(kwargs or {}))
        return super().__torch_function__(function, types, args, kwargs or {})


class Double(nn.Module):
    """A parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, one) for name, one in model.named_modules() if isinstance(one, nn.Linear) and "head" not in name]


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    holder, _, own = name.rpartition(".")
    setattr(model.get_submodule(holder), own, layer)


def _own_tensors(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Class tokens, positions, scales, separate biases, tables of relative positions: in no layer of torch's."""
    layers = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d)
    return [
        (module, name)
        for module in model.modules()
        if not isinstance(module, layers)
        for name, _ in module.named_parameters(recurse=False)
    ]


# -- what is put on every linear layer, and how the same weights look in plain layers


def _lora(model):
    for name, layer in linears(model):
        put(model, name, Lora(layer))


def _half(model):
    for name, layer in linears(model):
        put(model, name, Half(layer))


def _parametrised(model):
    for _, layer in linears(model):
        parametrize.register_parametrization(layer, "weight", Double())


def _weight_norm(model):
    for _, layer in linears(model):
        parametrizations.weight_norm(layer)
        layer.parametrizations.weight.original0.data.mul_(1.5)


def _spectral_norm(model):
    for _, layer in linears(model):
        parametrizations.spectral_norm(layer)


def _pruned(model):
    for _, layer in linears(model):
        prune.l1_unstructured(layer, "weight", 0.4)


def _old_weight_norm(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still there
        for _, layer in linears(model):
            nn.utils.weight_norm(layer)
            layer.weight_g.data.mul_(1.5)


def _hooked(model):
    for _, layer in linears(model):
        layer.register_forward_hook(lambda module, args, out: out / 2)


def _patched(model):
    for _, layer in linears(model):
        layer.forward = lambda x, layer=layer: F.linear(x, layer.weight / 2, layer.bias)


def _int8(model):
    for _, layer in linears(model):
        layer.weight = nn.Parameter(layer.weight.data.as_subclass(Int8), requires_grad=False)


def _quantised(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still there
        _quantise(model)


def _quantise(model):
    torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True)


def _own_parametrised(model):
    for module, name in _own_tensors(model):
        parametrize.register_parametrization(module, name, Double())


def _own_pruned(model):
    for module, name in _own_tensors(model):
        prune.l1_unstructured(module, name, 0.3)


def _unfused(model):
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = not module.fused_attn


WRAPS: dict[str, Callable[[nn.Module], None]] = {
    "lora": _lora,
    "wrapper": _half,
    "parametrised": _parametrised,
    "weight norm": _weight_norm,
    "spectral norm": _spectral_norm,
    "pruned": _pruned,
    "old weight norm": _old_weight_norm,
    "hooked": _hooked,
    "patched": _patched,
    "tensor subclass": _int8,
    "quantised": _quantised,
    "own tensors parametrised": _own_parametrised,
    "own tensors pruned": _own_pruned,
    "other attention kernel": _unfused,
}
WRAPPED = [pytest.param(wrap, id=name) for name, wrap in WRAPS.items()]


def plain(model: nn.Module) -> nn.Module:
    """The same function of plain layers: every linear layer by what it gives for zeros and for unit vectors."""
    for name, layer in _outermost(model):
        width = next(iter(_sizes(layer)))
        zeros = layer(torch.zeros(1, 1, width))[0]
        weight = (layer(torch.eye(width)[None])[0] - zeros).T
        new = nn.Linear(*weight.T.shape)
        new.weight.copy_(weight), new.bias.copy_(zeros[0])
        put(model, name, new)
    return model


def _outermost(model: nn.Module) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    for name, one in model.named_modules():
        inside = any(name.startswith(f"{above}.") for above, _ in found)
        if not inside and "head" not in name and (isinstance(one, Half) or hasattr(one, "in_features")):
            found.append((name, one))
    return found


def _sizes(layer: nn.Module) -> tuple[int, int]:
    layer = layer.layer if isinstance(layer, Half) else layer
    return layer.in_features, layer.out_features


def nothing(row: BackboneRow, model: nn.Module) -> vitrim.ReducedViT:
    method, options = ("idlevit", {"score": "predictor"}) if row.grid else ("random", {})
    return attach(model, method, keep=1.0, **options)


@torch.no_grad()
@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("row", ROWS)
def test_nothing_reduced_is_the_wrapped_model_bitwise(row, wrap):
    x, model = images(row), wrapped(row, wrap)
    wanted = model.eval()(x)
    assert torch.equal(nothing(row, model)(x), wanted)
    assert wrap is _unfused or not torch.equal(wanted, dense(row)(x))


METHODS = [
    ("evit", {"at": (0, 1, 2)}),
    ("idlevit", {"blocks": (0, 1, 2, 3)}),
    ("idlevit", {"blocks": (1, 2), "score": "softmax"}),
    ("tome", {"r": 3}),
    ("bat", {"at": (1, 2), "clusters": 3}),
    ("tofe", {"keep": 0.6}),
    ("dynamicvit", {}),
]
ON_LAYERS = [p for p in WRAPPED if "own" not in p.id and p.id not in ("other attention kernel", "quantised")]


def methods_for(row: BackboneRow) -> list[tuple[str, dict]]:
    return [("idlevit", {"score": "predictor"}), ("tofe", {"keep": 0.6})] if row.grid else METHODS


def wrapped(row: BackboneRow, wrap: Callable[[nn.Module], None]) -> nn.Module:
    torch.manual_seed(0)
    model = dense(row)
    wrap(model)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("wrap", ON_LAYERS)
@pytest.mark.parametrize("row", ROWS)
def test_decisions_are_those_of_the_same_weights_in_plain_layers(row, wrap):
    x, model, other = images(row), wrapped(row, wrap), plain(wrapped(row, wrap))
    for method, options in methods_for(row):
        ours, theirs = (_seeded(one, method, options) for one in (model, other))
        (logits, trace), (wanted, wanted_trace) = ours(x, trace=True), theirs(x, trace=True)
        assert all(torch.equal(a.kept, b.kept) for a, b in zip(trace, wanted_trace, strict=True)), method
        torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS)
def test_every_method_runs_on_quantised_layers_and_quantised_itself(row):
    x = images(row)
    for method, options in methods_for(row):
        quantised, ours = attach(wrapped(row, _quantised), method, **options), attach(dense(row), method, **options)
        _quantised(ours)
        for fast in (quantised, ours.eval()):
            assert fast(x).isfinite().all()
            cost = vitrim.profile(fast, row.image)
            same = vitrim.profile(attach(dense(row), method, **options), row.image)
            assert cost.params == same.params and [b.macs for b in cost.blocks] == [b.macs for b in same.blocks]
            # IdleViT folds, or projects keys alone, where it may read the weights; here the layer is called
            called = method == "idlevit" and row.name not in ("swin", "eva02")  # no keys, or a layer of their own
            assert cost.macs > same.macs if called else cost.macs == same.macs


def _seeded(model: nn.Module, method: str, options: dict) -> vitrim.ReducedViT:
    torch.manual_seed(0)
    return attach(model, method, **options).eval()


# -- what it costs


def counted(model: nn.Module, x: Tensor) -> int:
    """MACs of one image as torch counts them."""
    return counted_macs(model, x) // len(x)


@pytest.mark.parametrize("row", ROWS)
def test_adapters_cost_what_torch_counts(row):
    x, model = images(row), dense(row)
    _lora(model)
    assert vitrim.profile(model, row.image).macs == counted(model, x) > vitrim.profile(dense(row), row.image).macs
    for method, options in methods_for(row)[:2]:
        fast = attach(model, method, **options)
        assert vitrim.profile(fast, row.image).macs == counted(fast, x), method


@pytest.mark.parametrize("wrap", [p for p in WRAPPED if p.id != "lora"])
@pytest.mark.parametrize("row", ROWS)
def test_the_others_cost_what_the_layers_in_them_do(row, wrap):
    with torch.no_grad():
        model = wrapped(row, wrap)
    assert vitrim.profile(model, row.image).macs == vitrim.profile(dense(row), row.image).macs
    assert attach(model, "tofe", macs=0.9)


def test_a_layer_that_cannot_be_counted_is_refused_by_name():
    class Opaque(nn.Module):
        def forward(self, x):
            return torch.from_numpy(x.numpy() * 2)

    model = dense(DEIT)
    model.blocks[1].attn.proj = Opaque()
    with pytest.raises(ValueError, match="multiply-adds of a Opaque cannot be counted"):
        vitrim.profile(model)


def test_counting_reads_no_weight_and_calls_nobody():
    """A spectral norm in train mode changes with every look at its weight; a hook may count its calls."""
    model, calls = dense(DEIT).train(), []
    _lora(model)
    _spectral_norm(model)
    for module in model.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    vitrim.profile(model)
    assert not calls
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# -- the libraries themselves, where they are installed


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS)
def test_peft(row):
    peft = pytest.importorskip("peft", exc_type=ImportError)
    model, x = dense(row), images(row)
    names = ["qkv", "q_proj", "k_proj", "proj", "fc1"]
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=names, init_lora_weights=False)
    model = peft.inject_adapter_in_model(config, model).eval()
    merged = copy.deepcopy(model)
    for one in merged.modules():
        if hasattr(one, "merge") and hasattr(one, "lora_A"):
            one.merge()
    assert torch.equal(nothing(row, model)(x), model(x))
    assert vitrim.profile(model, row.image).macs == counted(model, x)
    assert vitrim.profile(merged, row.image).macs == vitrim.profile(dense(row), row.image).macs
    for method, options in methods_for(row):
        ours, theirs = (_seeded(one, method, options)(x, trace=True)[1] for one in (model, merged))
        assert all(torch.equal(a.kept, b.kept) for a, b in zip(ours, theirs, strict=True))


def test_peft_models_are_refused_with_a_way_out():
    peft = pytest.importorskip("peft", exc_type=ImportError)
    inside = peft.get_peft_model(dense(DEIT), peft.LoraConfig(target_modules=["qkv"]))
    with pytest.raises(ValueError, match=r"PeftModel is a wrapper.*get_base_model"):
        vitrim.reduce(inside, "evit")
    assert vitrim.reduce(inside.get_base_model(), "evit")


def test_peft_around_a_reduced_model_trains_its_adapters():
    peft = pytest.importorskip("peft", exc_type=ImportError)
    given = peft.LoraConfig(r=2, target_modules=["qkv", "fc1"], modules_to_save=["head"])
    model, x = peft.get_peft_model(attach(dense(DEIT), "tome", r=3), given).train(), images(DEIT)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for _ in range(3):
        F.cross_entropy(model(x), torch.tensor([0, 1])).backward()
        optimiser.step()
        optimiser.zero_grad()
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert len(changed) == 2 * 2 * 4 + 2 and all("lora_" in name or "modules_to_save" in name for name in changed)


@torch.no_grad()
@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_torchao(config):
    torchao = pytest.importorskip("torchao.quantization", exc_type=ImportError)
    model, x = dense(DEIT), images(DEIT)
    torchao.quantize_(model, getattr(torchao, config)())
    assert torch.equal(nothing(DEIT, model)(x), model(x))
    assert vitrim.profile(model).macs == vitrim.profile(dense(DEIT)).macs
    for method, options in METHODS:
        assert attach(model, method, **options)(x).isfinite().all()
