"""Law 1 with hooks: what sits on the modules that the loop goes around acts as in the dense model, before and after
`reduce`, with and without a reduction."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from settings import BACKBONES, BackboneRow, dense, images, nothing
from timm.models.eva import EvaBlock
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import vitrim
from vitrim.backbones.lvvit.model import LVViTBlock
from vitrim.runtime.build import attach

FAMILIES = [b for b in BACKBONES if b.name in ("deit", "lvvit", "eva02", "dinov3", "swin")]
ROWS = [pytest.param(b, id=b.name) for b in FAMILIES]
DEIT, SWIN = FAMILIES[0], FAMILIES[-1]


def block(model: nn.Module) -> nn.Module:
    """A block in the middle, with others before and after it."""
    return model.layers[2].blocks[1] if hasattr(model, "layers") else model.blocks[1]


def holder(model: nn.Module) -> nn.Module:
    """The module that holds all blocks, as the model calls it (Eva calls its blocks itself)."""
    return model.layers if hasattr(model, "layers") else model.blocks


def _double(module, args):
    return (2 * args[0],)


def _double_alone(module, args):
    return 2 * args[0]


def _double_with_keywords(module, args, keywords):
    return (2 * args[0], *args[1:]), keywords


def _halve(module, args, out):
    return out / 2


def _halve_with_keywords(module, args, keywords, out):
    return out / 2


def _halve_in_place(module, args, out):
    out.mul_(0.5)


Put = Callable[[nn.Module], object]
HOOKS: dict[str, Put] = {
    "block, before": lambda m: block(m).register_forward_pre_hook(_double),
    "block, before, no tuple": lambda m: block(m).register_forward_pre_hook(_double_alone),
    "block, before, keywords": lambda m: block(m).register_forward_pre_hook(_double_with_keywords, with_kwargs=True),
    "block, after": lambda m: block(m).register_forward_hook(_halve),
    "block, after, in place": lambda m: block(m).register_forward_hook(_halve_in_place),
    "block, after, keywords": lambda m: block(m).register_forward_hook(_halve_with_keywords, with_kwargs=True),
    "attention, before": lambda m: block(m).attn.register_forward_pre_hook(_double),
    "attention, after": lambda m: block(m).attn.register_forward_hook(_halve),
    "model, before": lambda m: m.register_forward_pre_hook(_double),
    "model, after": lambda m: m.register_forward_hook(_halve),
    "all blocks, before": lambda m: holder(m).register_forward_pre_hook(_double),
    "all blocks, after": lambda m: holder(m).register_forward_hook(_halve),
    "first norm": lambda m: block(m).norm1.register_forward_hook(_halve),
    "projection": lambda m: block(m).attn.proj.register_forward_hook(_halve),
    "mlp": lambda m: block(m).mlp.register_forward_hook(_halve),
    "final norm": lambda m: m.norm.register_forward_hook(_halve),
}
STAGE_HOOKS: dict[str, Put] = {
    "stage, before": lambda m: m.layers[2].register_forward_pre_hook(_double),
    "stage, after": lambda m: m.layers[2].register_forward_hook(_halve),
    "blocks of a stage, before": lambda m: m.layers[2].blocks.register_forward_pre_hook(_double),
    "patch merging": lambda m: m.layers[2].downsample.register_forward_hook(_halve),
}


def _acts(row: BackboneRow, name: str) -> bool:
    return not (row.family == "rope" and name.startswith("all blocks"))


PUT = [
    pytest.param(row, put, id=f"{row.name}-{name}")
    for row in FAMILIES
    for name, put in {**HOOKS, **(STAGE_HOOKS if row is SWIN else {})}.items()
    if _acts(row, name)
]


@torch.no_grad()
@pytest.mark.parametrize("when", ["before reduce", "after reduce"])
@pytest.mark.parametrize(("row", "put"), PUT)
def test_nothing_reduced_is_the_hooked_model_bitwise(row, put, when):
    x, untouched, model = images(row), dense(row), dense(row)
    if when == "before reduce":
        put(model)
    fast = _nothing(row, model)
    if when == "after reduce":
        fast(x)  # the hook comes when all has been looked at once
        put(model)
    assert torch.equal(fast(x), model(x))
    assert not torch.equal(model(x), untouched(x))


def _nothing(row: BackboneRow, model: nn.Module) -> vitrim.ReducedViT:
    method, options = ("idlevit", {"score": "predictor"}) if row.grid else ("random", {})
    return attach(model, method, keep=1.0, **options)


METHODS = [
    ("evit", {"at": (0, 1, 2)}),
    ("idlevit", {"blocks": (1, 2, 3)}),
    ("tome", {"r": 3}),
    ("bat", {"at": (1, 2), "clusters": 3}),
    ("tofe", {"keep": 0.6}),
]


@torch.no_grad()
@pytest.mark.parametrize("row", [r for r in ROWS if not r.values[0].grid])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=[m for m, _ in METHODS])
def test_a_hook_that_halves_attention_decides_as_halved_weights_do(row, method, options):
    """Powers of two are exact in floating point, so the two must agree bit for bit, decisions too."""
    x, hooked, halved = images(row), dense(row), dense(row)
    block(hooked).attn.register_forward_hook(_halve)
    for p in block(halved).attn.proj.parameters():
        p.div_(2)
    _same(x, *(_seeded(model, method, options) for model in (hooked, halved)))


@torch.no_grad()
@pytest.mark.parametrize("row", [r for r in ROWS if not r.values[0].grid])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=[m for m, _ in METHODS])
def test_a_hook_before_attention_is_seen_by_what_decides(row, method, options):
    x, hooked, doubled = images(row), dense(row), dense(row)
    block(hooked).attn.register_forward_pre_hook(_double)
    for p in block(doubled).norm1.parameters():
        p.mul_(2)
    _same(x, *(_seeded(model, method, options) for model in (hooked, doubled)))


@torch.no_grad()
@pytest.mark.parametrize("method", ["idlevit", "tofe"])
def test_hooks_act_on_swin_while_tokens_are_outside(method):
    x, hooked, halved = images(SWIN), dense(SWIN), dense(SWIN)
    block(hooked).attn.register_forward_hook(_halve)
    for p in block(halved).attn.proj.parameters():
        p.div_(2)
    options = {"score": "predictor"} if method == "idlevit" else {}
    _same(x, *(_seeded(model, method, options) for model in (hooked, halved)))


def _seeded(model: nn.Module, method: str, options: dict) -> vitrim.ReducedViT:
    torch.manual_seed(0)
    return attach(model, method, **options).eval()


def _same(x: Tensor, ours: vitrim.ReducedViT, other: vitrim.ReducedViT) -> None:
    (logits, trace), (wanted, wanted_trace) = ours(x, trace=True), other(x, trace=True)
    assert all(torch.equal(a.kept, b.kept) for a, b in zip(trace, wanted_trace, strict=True))
    assert torch.equal(logits, wanted)


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS)
def test_hooks_for_all_modules_at_once(row):
    blocks = (Block, EvaBlock, LVViTBlock, SwinTransformerBlock)
    model, x = dense(row), images(row)
    fast, plain = _nothing(row, model), model(x)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: out / 2 if type(module) in blocks else None
    )
    try:
        assert torch.equal(fast(x), model(x)) and not torch.equal(model(x), plain)
    finally:
        handle.remove()
    assert torch.equal(fast(x), plain)


BACKWARD: dict[str, Put] = {
    "block": lambda m: block(m).register_full_backward_hook(lambda module, into, out: (2 * into[0],)),
    "block, early": lambda m: block(m).register_full_backward_pre_hook(lambda module, out: (2 * out[0],)),
    "attention": lambda m: block(m).attn.register_full_backward_hook(lambda module, into, out: (2 * into[0],)),
}


@pytest.mark.parametrize("put", BACKWARD.values(), ids=BACKWARD)
@pytest.mark.parametrize("row", [r for r in ROWS if r.values[0] is not SWIN])
def test_backward_hooks_change_gradients_as_in_the_dense_model(row, put):
    x, model, untouched = images(row), dense(row), dense(row)
    put(model)
    ours, theirs, without = (_gradients(one, x) for one in (_nothing(row, model), model, untouched))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(theirs, without, strict=True))


def _gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model = getattr(model, "backbone", model) if not isinstance(model, vitrim.ReducedViT) else model
    parameters = [p for name, p in model.named_parameters() if "methods." not in name]
    return list(torch.autograd.grad(model(x).square().sum(), parameters, allow_unused=False))


# -- observers


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS)
def test_what_observers_have_kept_is_not_written_into(row):
    """The sums of the residuals are formed in place where nobody else holds a branch."""
    x, model, kept, wanted = images(row), dense(row), {}, {}
    fast = _nothing(row, model)
    fast(x)
    handles = [_keep(module, name, kept) for name, module in model.named_modules()]
    fast(x)
    ours, _ = dict(kept), kept.clear()
    model(x)
    wanted = kept
    for handle in handles:
        handle.remove()
    # Eva's list of blocks is never called; the drop of attention maps is inside the fused kernel
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


def _keep(module: nn.Module, name: str, kept: dict):
    def hook(module, args, out):
        kept[name] = out  # as it is, not a copy

    return module.register_forward_hook(hook)


@torch.no_grad()
@pytest.mark.parametrize("part", ["mlp", "attn.proj", "drop_path2"])
def test_an_output_put_in_by_a_hook_stays_the_callers(part):
    """Activation patching: the same tensor is handed out at every call."""
    x, model = images(DEIT), dense(DEIT)
    fast = _nothing(DEIT, model)
    fast(x)
    given = torch.randn(2, 26, 48)
    before = given.clone()
    block(model).get_submodule(part).register_forward_hook(lambda module, args, out: given)
    assert torch.equal(fast(x), model(x)) and torch.equal(fast(x), model(x))
    assert torch.equal(given, before)


class Stored(nn.Module):
    """Gives the same tensor at every call."""

    def __init__(self, given: Tensor):
        super().__init__()
        self.given = given

    def forward(self, x: Tensor) -> Tensor:
        return self.given


HANDS_OUT: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "patched mlp": lambda b, t: setattr(b.mlp, "forward", lambda x: t),
    "patched last layer": lambda b, t: setattr(b.mlp.fc2, "forward", lambda x: t),
    "patched projection": lambda b, t: setattr(b.attn.proj, "forward", lambda x: t),
    "another drop path": lambda b, t: setattr(b, "drop_path2", Stored(t)),
    "another projection": lambda b, t: setattr(b.attn, "proj", Stored(t)),
    "a view of it": lambda b, t: b.mlp.register_forward_hook(lambda module, args, out: t[:]),
}


@torch.no_grad()
@pytest.mark.parametrize("put", HANDS_OUT.values(), ids=HANDS_OUT)
@pytest.mark.parametrize("row", ROWS[:3])
def test_what_a_layer_hands_out_again_and_again_stays_as_it_is(row, put):
    x, model = images(row), dense(row)
    fast = _nothing(row, model)
    fast(x)
    given = torch.randn(2, model.num_prefix_tokens + 25, 48)
    before = given.clone()
    put(block(model), given)
    wanted = model(x)
    assert torch.equal(fast(x), wanted) and torch.equal(fast(x), wanted)
    assert torch.equal(given, before)


@torch.no_grad()
def test_observers_see_blocks_and_attention_of_a_reduced_model():
    model, seen = dense(DEIT), []
    fast = attach(model, "evit", keep=0.5, at=(1,))
    for one in (*model.blocks, *(b.attn for b in model.blocks)):
        one.register_forward_hook(lambda module, args, out: seen.append((type(module), args[0].shape[1], out.shape[1])))
    fast(images(DEIT))
    shapes = [(26, 26), (26, 26), (26, 26), (26, 15), (15, 15), (15, 15), (15, 15), (15, 15)]
    assert [(a, b) for _, a, b in seen] == shapes


# -- refused


def _masked(module, args, keywords):
    return args, {"is_causal": True}


def test_hooks_that_the_loop_cannot_follow_are_refused_by_name():
    x = images(DEIT)
    for put, words in (
        (lambda b: b.register_forward_hook(lambda m, a, out: out[:, :3]), "a hook of Block turns"),
        (lambda b: b.register_forward_hook(lambda m, a, out: (out, out)), "into tuple"),
        (lambda b: b.register_forward_pre_hook(lambda m, a: (a[0], None)), "gives Block 2 inputs"),
        (lambda b: b.register_forward_pre_hook(_masked, with_kwargs=True), "is_causal"),
    ):
        model = dense(DEIT)
        fast = attach(model, "evit")
        put(block(model))
        with pytest.raises(ValueError, match=words):
            fast(x)


READERS = {
    "before, one argument": lambda m: m.register_forward_pre_hook(lambda _, a, k: k.get("rope"), with_kwargs=True),
    "before, whether": lambda m: m.register_forward_pre_hook(
        lambda _, a, k: (a, k) if "rope" in k else None, with_kwargs=True
    ),
    "before, a copy": lambda m: m.register_forward_pre_hook(lambda _, a, k: (a, {**k}), with_kwargs=True),
    "after, how many": lambda m: m.register_forward_hook(lambda _, a, k, out: out * (1 + len(k)), with_kwargs=True),
}


@pytest.mark.parametrize("put", READERS.values(), ids=READERS)
@pytest.mark.parametrize("where", ["block", "attention"])
def test_a_hook_that_reads_keyword_arguments_that_the_loop_does_not_pass_is_refused(put, where):
    model = dense(DEIT)
    fast = attach(model, "evit")
    put(block(model) if where == "block" else block(model).attn)
    with pytest.raises(ValueError, match=r"a hook of \w+ reads its keyword arguments"):
        fast(images(DEIT))


def test_backward_hooks_of_the_old_kind_are_refused():
    model = dense(DEIT)
    block(model).register_backward_hook(lambda module, into, out: None)
    with pytest.raises(ValueError, match=r"blocks\.1 has a backward hook of the old kind"):
        vitrim.reduce(model, "evit")


def test_hooks_on_a_wrapper_that_is_taken_off_are_refused():
    wrapped = torch.compile(dense(DEIT), backend="eager")
    wrapped.register_forward_hook(lambda module, args, out: out / 2)
    with pytest.raises(ValueError, match="the OptimizedModule around the model has hooks"):
        vitrim.reduce(wrapped, "evit")


@torch.no_grad()
def test_hooks_act_in_compiled_models():
    model, x = dense(DEIT), images(DEIT)
    fast = attach(model, "evit", keep=0.5, at=(1, 2))
    plain = fast(x)
    for put in (HOOKS["block, before"], HOOKS["attention, after"], HOOKS["model, after"]):
        put(model)
    torch._dynamo.reset()
    compiled = torch.compile(fast, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), fast(x)) and not torch.equal(fast(x), plain)


def test_a_model_without_hooks_is_as_it_was():
    """The control: with no hook anywhere the table's first law holds on the same rows."""
    for row in FAMILIES:
        with torch.no_grad():
            assert torch.equal(nothing(row)(images(row)), dense(row)(images(row)))
