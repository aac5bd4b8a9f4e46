"""Law 7, what sits on a model: another forward or another class where the loop goes around is refused by name, when the
model is taken and at the next forward; what only has no effect is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator, cpu_offload
from accelerate.hooks import remove_hook_from_module
from accelerate.state import AcceleratorState
from settings import BACKBONES, dense, images
from timm.layers import Attention
from timm.models.eva import EvaBlock
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

import vitrim
from vitrim.runtime.build import attach

FAMILIES = [b for b in BACKBONES if b.name in ("deit", "lvvit", "eva02", "dinov3", "swin")]
ROWS = [pytest.param(b, id=b.name) for b in FAMILIES]
DEIT = FAMILIES[0]


def place(model: nn.Module) -> tuple[nn.Module, int, str]:
    """A list of blocks, the number of one of them, and its path."""
    return (
        (model.layers[2].blocks, 1, "layers.2.blocks.1") if hasattr(model, "layers") else (model.blocks, 1, "blocks.1")
    )


def block(model: nn.Module) -> nn.Module:
    blocks, i, _ = place(model)
    return blocks[i]


class Wrapper(nn.Module):
    """Hands on whatever is asked of it, as many wrappers do."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **keywords):
        return 2 * self.inner(*args, **keywords)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


def _wrap(model, wrapper=Wrapper):
    blocks, i, _ = place(model)
    blocks[i] = wrapper(blocks[i])


def _own_class(module: nn.Module) -> None:
    """The same module as an instance of a subclass with a forward of its own."""

    class Mine(type(module)):
        def forward(self, *args, **keywords):
            return 2 * super().forward(*args, **keywords)

    module.__class__ = Mine


Put = Callable[[nn.Module], object]


def _own_forward(find: Callable[[nn.Module], nn.Module], step: str = "forward") -> Put:
    return lambda model: setattr(find(model), step, lambda x, **_: x)


REFUSED: dict[str, tuple[Put, str]] = {
    "forward of the model": (_own_forward(lambda m: m), "{model}.forward has been replaced"),
    "features of the model": (_own_forward(lambda m: m, "forward_features"), "forward_features has been replaced"),
    "forward of a block": (_own_forward(block), "{path}.forward has been replaced"),
    "forward of attention": (_own_forward(lambda m: block(m).attn), "{path}.attn.forward has been replaced"),
    "wrapped block": (_wrap, "Wrapper"),
    "compiled block": (lambda m: _wrap(m, lambda b: torch.compile(b, backend="eager")), "compile the reduced model"),
    "class of the model": (_own_class, "Mine"),
    "class of a block": (lambda m: _own_class(block(m)), "Mine"),
    "class of attention": (lambda m: _own_class(block(m).attn), "Mine"),
}
PUT = [pytest.param(row, *REFUSED[name], id=f"{row.name}-{name}") for row in FAMILIES for name in REFUSED]


def _said(model: nn.Module, words: str) -> str:
    kind = type(model).__mro__[1].__name__ if type(model).__name__ == "Mine" else type(model).__name__
    return words.format(model=kind, path=place(model)[2]).replace(".", r"\.")


@pytest.mark.parametrize(("row", "put", "words"), PUT)
def test_refused_by_name_when_the_model_is_taken(row, put, words):
    model = dense(row)
    put(model)
    for call in (lambda: attach(model, *_method(row)), lambda: vitrim.profile(model)):
        with pytest.raises(ValueError, match=_said(model, words)) as caught:
            call()
        assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize(("row", "put", "words"), PUT)
def test_refused_by_name_at_the_next_forward(row, put, words):
    model, x = dense(row), images(row)
    fast = attach(model, *_method(row))
    fast(x)
    put(model)
    for call in (fast, fast.forward_features, fast.forward_intermediates):
        with pytest.raises(ValueError, match=_said(model, words)):
            call(x)


def _method(row) -> tuple[str | vitrim.Method]:
    return (vitrim.IdleViT(keep=0.6, score="predictor") if row.grid else vitrim.Random(keep=0.6),)


@pytest.mark.parametrize("name", ["forward_head", "pool"])
@pytest.mark.parametrize("row", [r for r in ROWS if r.id in ("deit", "eva02", "dinov3")])
def test_pooling_of_ones_own_is_refused_since_merged_tokens_are_weighed(row, name):
    model = dense(row)
    setattr(model, name, lambda x, *_: x)
    with pytest.raises(ValueError, match=f"{name} has been replaced"):
        vitrim.reduce(model, "tome")


def test_a_sequence_of_blocks_with_a_forward_of_its_own():
    class EveryOther(nn.Sequential):
        def forward(self, x):
            for one in list(self)[::2]:
                x = one(x)
            return x

    model = dense(DEIT)
    model.blocks = EveryOther(*model.blocks)
    with pytest.raises(ValueError, match="blocks is a EveryOther"):
        vitrim.reduce(model, "evit")


CLASSES = {
    "block": (Block, "forward", "deit"),
    "attention": (Attention, "forward", "deit"),
    "model": (VisionTransformer, "forward_features", "deit"),
    "block of Eva": (EvaBlock, "forward", "eva02"),
    "block of Swin": (SwinTransformerBlock, "forward", "swin"),
    "window attention of a block": (SwinTransformerBlock, "_attn", "swin"),
}


@torch.no_grad()
@pytest.mark.parametrize(("cls", "step", "name"), CLASSES.values(), ids=CLASSES)
def test_patched_classes_are_refused(cls, step, name, monkeypatch):
    row = next(b for b in FAMILIES if b.name == name)
    fast, x, old = attach(dense(row), *_method(row)), images(row), getattr(cls, step)
    fast(x)
    monkeypatch.setattr(cls, step, lambda self, x, *args, **keywords: 2 * old(self, x, *args, **keywords))
    for call in (lambda: fast(x), lambda: attach(dense(row), *_method(row))):
        with pytest.raises(ValueError, match=rf"{cls.__name__}\.{step} is not timm's own"):
            call()
    monkeypatch.undo()
    fast(x)


@torch.no_grad()
def test_patched_linear_layers_are_called(monkeypatch):
    """`nn.Linear.forward` is nobody's business but torch's: whatever it has become, it is called."""
    x, old = images(DEIT), nn.Linear.forward
    halved = dense(DEIT)
    for one in halved.modules():
        if isinstance(one, nn.Linear):
            for p in one.parameters():
                p.div_(2)
    wanted = [attach(halved, name)(x) for name in ("idlevit", "evit")]
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: old(self, x) / 2)
    for name, logits in zip(("idlevit", "evit"), wanted, strict=True):
        torch.testing.assert_close(attach(dense(DEIT), name)(x), logits, rtol=1e-4, atol=1e-5)


# -- what others undo


@torch.no_grad()
def test_a_bound_copy_of_the_classs_own_forward_is_no_patch():
    """Accelerate leaves one behind when it takes its wrapping off."""
    model, x = dense(DEIT), images(DEIT)
    for one in (model, model.blocks[1], model.blocks[1].attn.qkv):
        one.forward = one.forward
    assert torch.equal(attach(model, "random", keep=1.0)(x), dense(DEIT)(x))
    assert torch.equal(attach(model, "idlevit")(x), attach(dense(DEIT), "idlevit")(x))


@pytest.fixture
def own_accelerator():
    """Accelerate keeps one state for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_accelerate_is_named_with_its_way_out(own_accelerator):

    model, x = dense(DEIT), images(DEIT)
    cpu_offload(model, execution_device="cpu")
    with pytest.raises(ValueError, match="take accelerate's hooks off"):
        vitrim.reduce(model, "evit")
    remove_hook_from_module(model, recurse=True)
    model.load_state_dict(dense(DEIT).state_dict(), assign=True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare_model(model, evaluation_mode=True)
    with pytest.raises(ValueError, match="unwrap_model"):
        vitrim.reduce(prepared, "evit")
    again = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    with torch.no_grad():
        assert torch.equal(attach(again, "random", keep=1.0)(x), dense(DEIT)(x))


# -- what has no effect


def test_compile_of_parts_is_said_to_have_no_effect():
    for put, words in (
        (lambda m: m.blocks[1].compile(), r"compile\(\) of blocks\.1 has no effect"),
        (lambda m: [b.compile() for b in m.blocks], r"compile\(\) of blocks\.0 and 3 more has no effect"),
        (lambda m: m.compile(), r"compile\(\) of VisionTransformer has no effect"),
        (lambda m: m.blocks[0].attn.compile(), r"compile\(\) of blocks\.0\.attn has no effect"),
    ):
        model = dense(DEIT)
        put(model)
        with pytest.warns(UserWarning, match=words):
            vitrim.reduce(model, "evit")


@torch.no_grad()
def test_compiled_parts_that_are_called_stay_compiled():
    model, x = dense(DEIT), images(DEIT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.blocks[0].mlp.compile(backend="eager")
        model.blocks[1].mlp = torch.compile(model.blocks[1].mlp, backend="eager")
        model.blocks[2].attn.qkv = torch.compile(model.blocks[2].attn.qkv, backend="eager")
        fast = vitrim.reduce(model, "random", keep=1.0)
    assert torch.equal(fast(x), model(x))
    assert vitrim.profile(fast).macs == vitrim.profile(dense(DEIT)).macs
    for name in ("idlevit", "evit", "tome"):
        torch.testing.assert_close(attach(model, name)(x), attach(dense(DEIT), name)(x), rtol=1e-4, atol=1e-5)


# -- attention that is scaled in another way


def test_other_scales_are_refused_where_timm_would_use_them():
    model = dense(DEIT)
    model.blocks[1].attn.scale = 1.0
    assert attach(model, "evit")  # timm's fused attention scales by itself
    model.blocks[1].attn.fused_attn = False
    with pytest.raises(ValueError, match="attention of block 1 scales its logits by 1"):
        vitrim.reduce(model, "evit")
