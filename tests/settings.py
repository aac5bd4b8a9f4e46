"""The one table of (backbone, method, options) that every law walks over. A new method or backbone adds a row here.

The models are small and all their parameters are random: a LayerScale at its initial 1e-5, a zero bias or near-uniform
attention would hide mistakes.
"""

from __future__ import annotations

import functools
import math
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from copies import copier
from timm.layers import Attention, LayerNorm, SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import vitrim
from vitrim.backbones import LVViT
from vitrim.runtime.build import attach, make_method

try:
    import transformers
except ImportError:  # an extra
    transformers: Any = None

CLASSES = 7

REFUSED_NAMES = (  # names of timm's ViT modules that are not built from its pre-norm Block and its Attention
    "vit_base_patch16_18x2_224",
    "vit_base_patch16_rpn_224",
    "vit_base_patch16_xp_224",
    "vit_dlittle_patch16_reg1_gap_256",
    "vit_dpwee_patch16_reg1_gap_256",
    "vit_dwee_patch16_reg1_gap_256",
    "vit_huge_patch14_xp_224",
    "vit_large_patch14_xp_224",
    "vit_pwee_patch16_reg1_gap_256",
    "vit_small_patch16_18x2_224",
)


@dataclass(frozen=True)
class BackboneRow:
    """A small model of one kind.

    build:   makes it; its parameters are randomised afterwards
    cls:     it has a [CLS] token
    grid:    its tokens must keep their grid (Swin): only methods that idle or freeze fit
    image:   (height, width) of the images in pixels
    family:  models of one family share an adapter; expensive tools run once for each
    timms:   it is one of timm's, with timm's interface
    """

    name: str
    build: Callable[[], nn.Module]
    cls: bool = True
    grid: bool = False
    image: tuple[int, int] = (40, 40)
    family: str = "plain"
    timms: bool = True

    def takes(self, argument: str) -> bool:
        """Whether the model can be built with another value of that argument."""
        return argument in getattr(self.build, "keywords", {})


@dataclass(frozen=True)
class MethodRow:
    """A method with options, or a stack of them.

    more:       (name, options) of the methods that follow in the stack
    needs_cls:  it reads [CLS] attention
    keeps_grid: every reduction is undone within its block (IdleViT), so that it fits backbones that need their grid
    order_free: it does not look at the order of the tokens (law 5)
    full_map:   it forms the N x N attention map at inference
    reuses:     what it takes away can come back later than after the same block
    static:     token counts don't depend on the image: it compiles, exports, and its cost is known beforehand
    off:        options with which nothing is reduced (law 1); None: it cannot be switched off
    uncounted:  (profile) -> MACs that torch's counter does not see (distances, elementwise products), for one image
    """

    id: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    needs_cls: bool = False
    keeps_grid: bool = False
    order_free: bool = True
    full_map: bool = False
    reuses: bool = False
    static: bool = True
    off: dict[str, Any] | None = field(default_factory=lambda: {"keep": 1.0})
    uncounted: Callable[[vitrim.Profile], int] | None = None
    more: tuple[tuple[str, dict[str, Any]], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the methods, in order."""
        return (self.name, *(name for name, _ in self.more))

    def make(self) -> list[vitrim.Method]:
        """The methods, not bound yet."""
        return [make_method(name, **options) for name, options in ((self.name, self.options), *self.more)]

    def switched_off(self) -> MethodRow:
        """The same row with nothing reduced."""
        off = {"tome": {"r": 0}}
        more = tuple((name, {**options, **off.get(name, {"keep": 1.0})}) for name, options in self.more)
        return replace(self, options={**self.options, **self.off}, more=more)

    def says(self, flag: str) -> bool:
        """Whether that property is true of some method of the row."""
        return any(getattr(method, flag) for method in self.make())


SMALL = dict(img_size=40, patch_size=8, embed_dim=48, depth=4, num_heads=3, mlp_ratio=2.0, num_classes=CLASSES)


def _plain(cls=VisionTransformer, **options) -> Callable[[], nn.Module]:
    return partial(cls, **{**SMALL, **options})


def _gated(depth: int) -> nn.Module:
    """Gated attention, heads wider than dim / heads, norms inside both halves; timm builds none with a gate."""
    model = _plain(scale_mlp_norm=True, depth=depth)()
    for block in model.blocks:
        block.attn = Attention(
            48, 3, attn_head_dim=20, qkv_bias=True, scale_norm=True, gated=True, norm_layer=LayerNorm
        )
    return model


def _rope(**options) -> Callable[[], nn.Module]:
    return partial(Eva, **SMALL, use_rot_pos_emb=True, **options)


def _swin(third: int = 4) -> nn.Module:
    """third: blocks of the third stage, in which methods act"""
    heads, depths = (1, 2, 4, 8), (1, 1, third, 1)
    return SwinTransformer(48, 2, embed_dim=16, depths=depths, num_heads=heads, window_size=3, num_classes=CLASSES)


def _pretrained(name: str, config: str, depth: int = 4, **options) -> nn.Module:
    """A model of transformers."""
    sizes = dict(image_size=40, patch_size=8, hidden_size=48, intermediate_size=96, num_attention_heads=3)
    asked = {**sizes, "num_hidden_layers": depth, "num_labels": CLASSES, **options}
    if name.startswith("Siglip"):  # its config holds one for each modality
        asked = {"vision_config": asked, "num_labels": CLASSES}
    return getattr(transformers, name)(getattr(transformers, config)(**asked))


_NO_CLS = dict(class_token=False)
_DINOV3 = dict(num_reg_tokens=4, use_abs_pos_emb=False, init_values=1e-5, qkv_bias=False)

TIMMS: tuple[BackboneRow, ...] = (
    BackboneRow("deit", _plain()),
    BackboneRow("distilled", _plain(VisionTransformerDistilled)),
    BackboneRow("deit3", _plain(init_values=1e-5, no_embed_class=True, drop_path_rate=0.3)),
    BackboneRow("clip", _plain(pre_norm=True, norm_layer=nn.LayerNorm, act_layer="quick_gelu")),
    BackboneRow("registers", _plain(reg_tokens=4, no_embed_class=True, init_values=1e-5)),
    BackboneRow("siglip", _plain(global_pool="map", **_NO_CLS), cls=False),
    BackboneRow("gap", _plain(global_pool="avg", fc_norm=True)),
    BackboneRow("gap_no_cls", _plain(global_pool="avg", qkv_bias=False, **_NO_CLS), cls=False),
    BackboneRow("gap_registers", _plain(global_pool="avg", reg_tokens=1, **_NO_CLS), cls=False),
    BackboneRow("avgmax", _plain(global_pool="avgmax", pool_include_prefix=True)),
    BackboneRow("max", _plain(global_pool="max")),
    BackboneRow("qk_norm", _plain(qk_norm=True, pos_embed="none")),
    BackboneRow("swiglu", _plain(mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, init_values=1e-5)),
    BackboneRow("gated", partial(_gated, depth=4)),
    BackboneRow("dynamic", _plain(img_size=32, dynamic_img_size=True), image=(32, 56)),
    BackboneRow("dropout", _plain(drop_rate=0.2, pos_drop_rate=0.2, proj_drop_rate=0.2, attn_drop_rate=0.2)),
    BackboneRow("features", _plain(num_classes=0)),
    BackboneRow("rectangle", _plain(img_size=(24, 64), patch_size=(8, 16)), image=(24, 64)),
    BackboneRow("lvvit", partial(LVViT, **SMALL, stem_channels=8, token_labels=False), family="lvvit"),
    BackboneRow("eva02", _rope(qkv_fused=False, swiglu_mlp=True, scale_mlp=True, ref_feat_shape=(3, 3)), family="rope"),
    BackboneRow("dinov3", _rope(rope_type="dinov3", rope_rotate_half=True, **_DINOV3), family="rope"),
    BackboneRow("rope_mixed", _rope(attn_type="rope", rope_type="mixed", global_pool="token"), family="rope"),
    BackboneRow("swin", partial(_swin, third=4), cls=False, grid=True, image=(48, 48), family="swin"),
)

# One of each template of a layer: with [CLS]; rotary, with registers; pooling over merged tokens, without [CLS].
PRETRAINED: tuple[BackboneRow, ...] = tuple(
    BackboneRow(
        row, partial(_pretrained, name, config, depth=4, **options), cls=cls, family="transformers", timms=False
    )
    for row, name, config, options, cls in (
        ("hf_deit", "DeiTForImageClassification", "DeiTConfig", {}, True),
        ("hf_dinov3", "DINOv3ViTModel", "DINOv3ViTConfig", {"num_register_tokens": 4}, True),
        ("hf_siglip", "SiglipForImageClassification", "SiglipConfig", {}, False),
    )
)
BACKBONES = (*TIMMS, *(PRETRAINED if transformers is not None else ()))

METHODS: tuple[MethodRow, ...] = (
    MethodRow("evit", "evit", dict(keep=0.7), needs_cls=True),
    MethodRow("evit-rates", "evit", dict(keep=(0.9, 0.5), at=(0, 2)), needs_cls=True),
    MethodRow("evit-every", "evit", dict(keep=0.8, at=(0, 1, 2, 3)), needs_cls=True),
    MethodRow("evit-drop", "evit", dict(keep=0.5, fuse=False), needs_cls=True),
    MethodRow("evit-tokens", "evit", dict(keep=0.6, score="tokens"), full_map=True),
    MethodRow("evit-random", "evit", dict(keep=0.6, score="random", seed=3), order_free=False),
    MethodRow("evit-least", "evit", dict(keep=0.7, score="-cls"), needs_cls=True),
    MethodRow("evit-shift", "evit", dict(keep=0.7, score="shift")),
    MethodRow("topk", "topk", dict(keep=0.7), needs_cls=True),
    MethodRow("topk-shift", "topk", dict(keep=0.7, score="shift-mlp")),
    MethodRow("topk-tokens", "topk", dict(keep=(0.8, 0.6), at=(1, 3), score="tokens"), full_map=True),
    MethodRow("random", "random", dict(keep=0.6), order_free=False),
    MethodRow("grid", "grid", dict(keep=0.6), order_free=False),
    MethodRow("idlevit", "idlevit", dict(keep=0.7), needs_cls=True, keeps_grid=True),
    MethodRow("idlevit-softmax", "idlevit", dict(keep=0.5, score="softmax"), needs_cls=True, keeps_grid=True),
    MethodRow("idlevit-shift", "idlevit", dict(keep=0.7, score="shift"), keeps_grid=True),
    MethodRow("idlevit-predictor", "idlevit", dict(keep=0.5, blocks=(0, 3), score="predictor"), keeps_grid=True),
    MethodRow("tome", "tome", dict(r=3), order_free=False, off={"r": 0}),
    MethodRow("tome-plain", "tome", dict(r=(5, 4), at=(0, 2), proportional=False), order_free=False, off={"r": 0}),
    MethodRow("dynamicvit", "dynamicvit", dict(keep=0.7)),
    MethodRow("dpcknn", "dpcknn", dict(keep=0.7)),
    MethodRow("dpcknn-plain", "dpcknn", dict(keep=(0.8, 0.4), at=(0, 2), proportional=False)),
    MethodRow("diffrate", "diffrate", dict(keep=0.8), needs_cls=True),
    MethodRow(
        "diffrate-lists",
        "diffrate",
        dict(pruned=(2, 1), merged=(3, 5), at=(0, 2), score="tokens", proportional=False),
        full_map=True,
        off={"pruned": 0, "merged": 0},
    ),
    MethodRow("pitome", "pitome", dict(keep=0.8)),
    MethodRow("prunemerge", "prunemerge", dict(keep=0.8), needs_cls=True),
    MethodRow(
        "prunemerge-lists",
        "prunemerge",
        dict(pruned=(2, 1), merged=(3, 5), at=(0, 2), score="tokens", candidates=0.7, rescale=False),
        full_map=True,
        off={"pruned": 0, "merged": 0},
    ),
    MethodRow("evovit", "evovit", dict(keep=0.5), needs_cls=True, keeps_grid=True),
    MethodRow("ats", "ats", dict(keep=0.7), needs_cls=True, order_free=False, static=False, off=None),
    MethodRow("evovit-stages", "evovit", dict(keep=0.7, stages=3, momentum=0.9), needs_cls=True, keeps_grid=True),
    MethodRow("tofe", "tofe", dict(keep=0.6), reuses=True),
    MethodRow(
        "tofe-conv", "tofe", dict(keep=(0.6, 0.3), at=(0, 2), approximator="conv"), order_free=False, reuses=True
    ),
    MethodRow("tofe-block", "tofe", dict(approximator="block", selector="dynamicvit"), reuses=True),
    MethodRow("tofe-pruning", "tofe", dict(keep=0.7, reuse=False)),
    MethodRow("tofe-instance", "tofe", dict(adaptive="instance"), static=False, reuses=True),
    MethodRow("bat", "bat", dict(keep=0.5, clusters=3), needs_cls=True),
    MethodRow("bat-tokens", "bat", dict(keep=(0.6, 0.0), at=(0, 2), neighbours=None, score="tokens"), full_map=True),
    MethodRow("bat-shift", "bat", dict(keep=0.5, clusters=3, score="shift")),
    MethodRow("bat-evit", "bat", dict(keep=0.6, merge="cluster", clusters=3, normalise=False), needs_cls=True),
    MethodRow("bat-kmeans", "bat", dict(keep=0.5, clusters=3, merger="kmeans"), needs_cls=True),
    MethodRow("bat-max", "bat", dict(keep=0.5, clusters=3, merger="max"), needs_cls=True, order_free=False),
    MethodRow("bat-conv", "bat", dict(keep=0.5, merger="convolution"), needs_cls=True, order_free=False),
)


def brightness(images: Tensor) -> Tensor:
    """Scores from outside [b, n0], one for each patch of the rows' images."""
    height, width = images.shape[-2:]
    grid = (3, 4) if (height, width) == (24, 64) else (height // 8, width // 8)
    return torch.nn.functional.adaptive_avg_pool2d(images.mean(dim=1), grid).flatten(1)


STACKS: tuple[MethodRow, ...] = (
    MethodRow(
        "stack-tome-evit",
        "tome",
        dict(r=3, at=(0, 1)),
        needs_cls=True,
        order_free=False,
        off={"r": 0},
        more=(("evit", dict(keep=0.6, at=2)),),
    ),
    MethodRow(
        "stack-three",
        "evit",
        dict(keep=0.8, at=0),
        needs_cls=True,
        order_free=False,
        more=(("tome", dict(r=4, at=1)), ("bat", dict(keep=0.5, clusters=2, at=2))),
    ),
    MethodRow(
        "stack-idlevit-tome",
        "idlevit",
        dict(keep=0.6, blocks=(0, 1)),
        needs_cls=True,
        order_free=False,
        more=(("tome", dict(r=4, at=(2, 3))),),
    ),
    MethodRow(
        "stack-shifts",
        "tome",
        dict(r=4, at=(0, 1)),
        order_free=False,
        off={"r": 0},
        more=(("evit", dict(keep=0.7, at=2, score="shift")), ("diffrate", dict(keep=0.6, at=3, score="shift-mlp"))),
    ),
    MethodRow(
        "stack-guided",
        "evit",
        dict(keep=0.7, at=0, score=brightness),
        needs_cls=True,
        more=(("evit", dict(keep=0.6, at=2)),),
    ),
    MethodRow(
        "stack-proportional",
        "tome",
        dict(r=5, at=(0, 1), proportional=False),
        order_free=False,
        off={"r": 0},
        more=(("dpcknn", dict(keep=0.7, at=2)),),
    ),
    MethodRow(
        "stack-random",
        "random",
        dict(keep=0.8, at=0, seed=1),
        order_free=False,
        more=(("evit", dict(keep=0.6, at=2, score="random", seed=2)),),
    ),
    MethodRow(
        "stack-merge-evovit",
        "tome",
        dict(r=4, at=0),
        needs_cls=True,
        order_free=False,
        off={"r": 0},
        more=(("evovit", dict(keep=0.4, blocks=(2, 3))),),
    ),
    MethodRow(
        "stack-two-idle",
        "idlevit",
        dict(keep=(0.5,), blocks=(0,), score="predictor"),
        keeps_grid=True,
        more=(("idlevit", dict(keep=(0.6,), blocks=(3,), score="predictor")),),
    ),
    MethodRow(
        "stack-prune-freeze",
        "evit",
        dict(keep=0.8, at=0),
        needs_cls=True,
        reuses=True,
        more=(("tofe", dict(keep=(0.6, 0.4), at=(1, 3))),),
    ),
    MethodRow(
        "stack-evit-dynamicvit",
        "evit",
        dict(keep=0.6, at=0),
        needs_cls=True,
        more=(("dynamicvit", dict(keep=0.6, at=(1, 3))),),
    ),
    MethodRow(
        "stack-two-dynamicvit",
        "dynamicvit",
        dict(keep=0.5, at=1),
        more=(("dynamicvit", dict(keep=0.6, at=3)),),
    ),
    MethodRow(
        "stack-two-tofe",
        "tofe",
        dict(keep=(0.6,), at=1),
        reuses=True,
        more=(("tofe", dict(keep=(0.5,), at=3, approximator="identity")),),
    ),
)
METHODS = (*METHODS, *STACKS)


def fits(backbone: BackboneRow, method: MethodRow) -> bool:
    """Whether the method can be put on the backbone; tests of refusals check the rest."""
    return (backbone.cls or not method.needs_cls) and (not backbone.grid or method.keeps_grid or method.reuses)


def _all() -> Iterator[tuple[BackboneRow, MethodRow]]:
    """Every method on every backbone that it fits; stacks on one backbone of each family."""
    first = {row.family: row for row in reversed(BACKBONES)}.values()
    return ((b, m) for b in BACKBONES for m in METHODS if fits(b, m) and (not m.more or b in first))


def _star() -> Iterator[tuple[BackboneRow, MethodRow]]:
    """Every method on the first backbone that it fits; on every other backbone the first method that fits."""
    homes = {m.id: next(b for b in BACKBONES if fits(b, m)) for m in METHODS}
    yield from ((homes[m.id], m) for m in METHODS)
    for b in BACKBONES:
        if b not in homes.values():
            yield b, next(m for m in METHODS if fits(b, m))


def _cover() -> Iterator[tuple[BackboneRow, MethodRow]]:
    """Every method and every backbone at least once, in few and varied combinations."""
    waiting = list(METHODS)
    for j, b in enumerate(BACKBONES):
        fresh = next((m for m in waiting if fits(b, m)), None)
        fitting = [m for m in METHODS if fits(b, m)]
        yield b, fresh or fitting[j % len(fitting)]
        waiting = [m for m in waiting if m is not fresh]
    yield from ((next(b for b in BACKBONES if fits(b, m)), m) for m in waiting)


def _sample(every: Iterable[tuple[BackboneRow, MethodRow]], each: int = 4) -> Iterator[tuple[BackboneRow, MethodRow]]:
    """Of all combinations, in an order drawn once and for all, those whose backbone or method came up less than `each`
    times before: every method on several backbones, every backbone with several methods."""
    shuffled, seen = list(every), Counter()
    random.Random(0).shuffle(shuffled)
    for b, m in shuffled:
        if min(seen[b.name], seen[m.id]) < each:
            seen.update((b.name, m.id))
            yield b, m


def pairs(
    walk: str = "all",
    where: Callable[[BackboneRow, MethodRow], bool] = lambda b, m: True,
    shallow: bool = False,
) -> list:
    """Valid combinations as pytest parameters (backbone row, method row).

    walk:    "all" combinations; "sample": every row several times; for slow tools "star" (methods on one backbone,
             backbones with one method) or "cover" (every row at least once)
    shallow: models two blocks deep, for tools whose time goes by the number of operations
    """
    walks = {"all": _all, "sample": _all, "star": _star, "cover": _cover}
    chosen = [pair for pair in walks[walk]() if where(*pair)]
    chosen = list(_sample(chosen)) if walk == "sample" else chosen
    cut = _shallow if shallow else lambda b, m: (b, m)
    return [pytest.param(*cut(b, m), id=f"{b.name}-{m.id}") for b, m in chosen]


def _shallow(backbone: BackboneRow, method: MethodRow) -> tuple[BackboneRow, MethodRow]:
    """The same rows on a model of two blocks, reduced in both, where the row's model can be built with a depth."""
    part = "third" if backbone.takes("third") else "depth"
    if not backbone.takes(part) or method.more:  # a stack needs its blocks
        return backbone, method
    blocks = (2, 3) if part == "third" else (0, 1)
    names = vitrim.METHODS[method.name].option_names()
    both = {key: value for key, value in {"at": blocks, "blocks": blocks, "stages": 2}.items() if key in names}
    if str(method.options.get("score")).startswith("shift"):  # it decides by the block before
        both = {key: value if key == "stages" else value[1:] for key, value in both.items()}
    if method.name == "evovit":  # so does this one
        both = {"blocks": (1,), "stages": 1}
    build = partial(backbone.build, **{part: 2})
    return replace(backbone, build=build), replace(method, options={**method.options, **both})


def backbones(where: Callable[[BackboneRow], bool] = lambda b: True) -> list:
    """Every backbone as a pytest parameter."""
    return [pytest.param(b, id=b.name) for b in BACKBONES if where(b)]


def methods(where: Callable[[MethodRow], bool] = lambda m: True) -> list:
    """Every method as a pytest parameter."""
    return [pytest.param(m, id=m.id) for m in METHODS if where(m)]


def families() -> list:
    """One (backbone, method) for every family, two blocks deep, for the slowest tools."""
    rows = {b.family: b for b in reversed(BACKBONES)}
    return [pytest.param(*_shallow(b, next(m for m in METHODS if fits(b, m))), id=f) for f, b in rows.items()]


# Methods that take a batch apart in ways of their own: parts of tensors, ties, pairs, groups, numbers drawn.
UNLIKE = (
    "evovit",
    "tofe-conv",
    "bat",
    "dpcknn",
    "tome",
    "idlevit-softmax",
    "evit-random",
    "grid",
)


def together(*ids: str) -> list:
    """Those methods and all families in one model for each family, for the slowest tools: on a family with [CLS] a
    stack of its share of the methods, one in each block; on the others what fits, also pooling by attention."""
    first = {b.family: b for b in reversed(BACKBONES)}.values()
    takes_all = [b for b in first if b.cls and not b.grid]
    # What puts tokens aside looks at blocks before it, and what brings them back at the end comes last.
    rows = sorted((m for m in METHODS if m.id in ids), key=lambda m: (m.reuses, m.keeps_grid))
    stacks = [_stacked(b, rows[k :: len(takes_all)]) for k, b in enumerate(takes_all)]
    return [
        *(pytest.param(b, m, id=f"{b.name}-{m.id}") for b, m in stacks),
        *(p for p in families() if p.values[0].family not in {b.family for b in takes_all}),
        *pairs("star", lambda b, m: b.name == "siglip", shallow=True),
    ]


def _stacked(backbone: BackboneRow, rows: Sequence[MethodRow]) -> tuple[BackboneRow, MethodRow]:
    """A model of as many blocks as there are rows, and their methods in one row, the k-th in block k alone."""
    stack = [(m.name, {**m.options, **_in_block(m, k)}) for k, m in enumerate(rows)]
    (name, options), *more = stack
    deep = replace(backbone, build=partial(backbone.build, depth=len(rows)))
    return deep, MethodRow("-".join(m.id for m in rows), name, options, more=tuple(more))


def _in_block(method: MethodRow, block: int) -> dict[str, Any]:
    """The options with which it acts in that block alone, at the first of its rates."""
    names = vitrim.METHODS[method.name].option_names()
    options: dict[str, Any] = {key: (block,) for key in ("at", "blocks") if key in names}
    keep = method.options.get("keep")
    return options if keep is None else {**options, "keep": keep[:1] if isinstance(keep, tuple) else (keep,)}


# -- models and images


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random values for every parameter and buffer of batch norms, such that attention is far from uniform."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=g)
        if name.endswith(("norm.weight", "gamma")) or ("norm" in name and name.endswith("weight") and p.dim() == 1):
            p.copy_(0.8 + 0.3 * draw)
        elif p.dim() >= 2 and name.endswith("weight"):
            p.copy_(draw * 1.3 / math.sqrt(p[0].numel()))
        else:
            p.copy_(0.5 * draw)  # biases and class, register, distillation, position embeddings
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=g))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=g))
    return model


@functools.cache
def _copier(row: BackboneRow) -> Callable[[], nn.Module]:
    torch.manual_seed(0)
    return copier(randomise(row.build(), seed=zlib.crc32(row.name.encode())).eval())


def dense(row: BackboneRow) -> nn.Module:
    """The row's model with random parameters, in eval mode, as a function of images; a copy of one's own."""
    return vitrim.for_images(_copier(row)())


def reduced(backbone: BackboneRow, method: MethodRow, **changed: Any) -> vitrim.ReducedViT:
    """The row's model with the row's methods on it, their learned parts randomised as well; in eval mode.

    changed: options of the first method
    """
    model = attach(dense(backbone), replace(method, options={**method.options, **changed}).make())
    for one in model.methods:
        randomise(one, seed=1)
    return model.eval() if method.static else level(model.eval(), images(backbone, batch=8, seed=2))


def nothing(backbone: BackboneRow) -> vitrim.ReducedViT:
    """The row's model with a method on it that keeps every token."""
    if backbone.grid:
        model = attach(dense(backbone), "idlevit", keep=1.0, score="predictor")
        model.methods[0].masked = False  # in training its predictor draws at every rate
        return model
    return attach(dense(backbone), "random", keep=1.0)


@torch.no_grad()
def level(model: vitrim.ReducedViT, x: Tensor) -> vitrim.ReducedViT:
    """The same model, its selectors' last biases such that over the images x they keep about half of the tokens."""

    def centre(selector, given, z):
        last = [m for m in selector.modules() if isinstance(m, nn.Linear)][-1]
        last.bias[0] -= (z[..., 0] - z[..., 1]).median()

    for selector in getattr(model.methods[0], "selectors", ()):
        hook = selector.register_forward_hook(centre)
        model(x)
        hook.remove()
    return model


def images(row: BackboneRow, batch: int = 2, seed: int = 0) -> Tensor:
    """Random images [batch, 3, height, width] that the row's model takes."""
    return torch.randn(batch, 3, *row.image, generator=torch.Generator().manual_seed(seed))


def capture(model: vitrim.ReducedViT) -> list[tuple]:
    """A list that fills, as the model runs, with (tokens, evidence, place, reduction) of every decision."""
    seen: list[tuple] = []
    for method in model.methods:
        method.register_forward_hook(lambda _, given, reduction: seen.append((*given, reduction)))
    return seen
