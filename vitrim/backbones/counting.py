"""Multiply-accumulates of layers, from their sizes: weights are never read.

What is built of plain linear layers is counted by in_features and out_features; a part with something else in it
(an adapter, a wrapper) by torch on the meta device, where nothing is computed; what does not run there (quantised
layers) by the sizes that it states.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any

import torch
from timm.layers import AttentionPoolLatent, GluMlp, Mlp, PatchEmbed, SwiGLU
from timm.models.swin_transformer import PatchMerging
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .layers import kind, part_kind

_BUILT_OF_LINEARS = (Mlp, GluMlp, SwiGLU, PatchMerging)
_LAYERS = ("torch.nn.modules.", "timm.layers.", "transformers.activations")
_SIZES = ("in_features", "out_features")
_ROWS = 2  # tokens in a count: torch's counter does not see the product of a matrix and one vector


def linear_macs(module: nn.Module | None, width: int) -> int:
    """Multiply-accumulates of a part for one token of `width` channels.

    Raises ValueError for a part that neither runs on the meta device nor states its sizes.
    """
    if module is None:
        return 0
    if part_kind(module) is nn.Linear:
        layer: Any = getattr(module, "_orig_mod", module)
        return layer.in_features * layer.out_features
    if part_kind(module) in _BUILT_OF_LINEARS and all(_is_known(part) for part in module.children()):
        return sum(linear_macs(part, width) for part in module.children())
    if _has_no_products(module):
        return 0
    states_all = not any(True for _ in module.parameters())  # quantised: nothing that torch could count
    return (0 if states_all else _counted(module, (1, _ROWS, width)) // _ROWS) or _stated(module)


def conv_macs(embed: nn.Module, grid: tuple[int, int], channels: int) -> int:
    """Multiply-accumulates of a patch embedding for an image of that many patches and of so many channels."""
    conv = getattr(embed, "proj", None)
    if type(embed) is PatchEmbed and kind(conv) is nn.Conv2d:
        return grid[0] * grid[1] * conv_weights(conv)
    macs = counted_stem(embed, grid, channels)
    return macs or grid[0] * grid[1] * conv_weights(conv)


def counted_stem(embed: nn.Module, grid: tuple[int, int], channels: int) -> int:
    """What torch counts for any stem and an image of so many patches; 0 where it does not run on the meta device."""
    return _counted(embed, (1, channels, *pixels_of(embed, grid)))


def conv_weights(conv: nn.Module | None) -> int:
    """Multiply-accumulates of a convolution for one place of its output. Raises ValueError if it is none."""
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(f"the multiply-adds of a {type(conv).__name__} in the stem cannot be counted")
    return conv.out_channels * (conv.in_channels // conv.groups) * math.prod(conv.kernel_size)


def count_params(model: nn.Module) -> int:
    """Parameters, those of quantised layers too, which torch packs away."""
    packed = (part for part in model.modules() if _is_packed(part))
    return sum(p.numel() for p in model.parameters()) + sum(map(_packed_params, packed))


def _is_packed(layer: nn.Module) -> bool:
    return all(isinstance(getattr(layer, size, None), int) for size in _SIZES) and not any(
        True for _ in layer.parameters()
    )


def _packed_params(layer: Any) -> int:
    bias = layer.bias() if callable(getattr(layer, "bias", None)) else None
    return layer.in_features * layer.out_features + (0 if bias is None else bias.numel())


def latent_pool_macs(pool: AttentionPoolLatent, tokens: int, width: int) -> int:
    """SigLIP's attention pooling of `tokens` tokens: keys and values of all, everything else for the latents alone."""
    inner = pool.num_heads * pool.head_dim
    per_latent = linear_macs(pool.q, pool.latent_dim) + linear_macs(pool.proj, inner)
    per_latent += linear_macs(pool.mlp, pool.out_features) + 2 * tokens * inner
    return tokens * linear_macs(pool.kv, width) + pool.latent_len * per_latent


def pixels_of(embed: Any, grid: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels of an image of so many patches; the model's own size may leave a rest."""
    if is_strict(embed) and tuple(grid) == tuple(embed.grid_size):
        return tuple(embed.img_size)
    return tuple(side * ratio for side, ratio in zip(grid, embed.feat_ratio(as_scalar=False), strict=True))


def is_strict(embed: nn.Module) -> bool:
    """Whether a patch embedding takes images of its own size alone."""
    return getattr(embed, "strict_img_size", False)


def _is_known(module: nn.Module) -> bool:
    return kind(module) is nn.Linear or _has_no_products(module)


def _has_no_products(module: nn.Module) -> bool:
    """Norms, activations, dropout: modules of torch's and of the libraries' own, with nothing of two dimensions in
    them."""
    from_library = kind(module).__module__.startswith(_LAYERS)
    below = (part for name, part in module.named_children() if name != "parametrizations")
    return (
        from_library
        and all(p.dim() < 2 for p in module.parameters(recurse=False))
        and all(map(_has_no_products, below))
    )


def _counted(module: nn.Module, shape: tuple[int, ...]) -> int:
    """What torch counts for an input of that shape, on a copy without data; 0 where the module does not run so."""
    try:
        stem = _without_data(module)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            stem(torch.empty(shape, device="meta", dtype=_dtype(stem)))
    except Exception:  # whatever a stranger's forward raises
        return 0
    return counter.get_total_flops() // 2


def _without_data(module: nn.Module) -> nn.Module:
    """A copy in eval mode whose tensors have shapes and no numbers; nobody's hooks are run for a count."""
    memo: dict[int, Any] = {id(b): b.to("meta") for b in module.buffers()}
    for p in module.parameters():
        memo[id(p)] = nn.Parameter(p.detach().to("meta"), requires_grad=False)
    for part in module.modules():
        memo[id(part._forward_hooks)], memo[id(part._forward_pre_hooks)] = OrderedDict(), OrderedDict()
    return copy.deepcopy(module, memo).eval()


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def _stated(module: nn.Module) -> int:
    """By the in_features and out_features of the outermost layers that state them."""
    sizes: Any = [getattr(module, size, None) for size in _SIZES]
    stated = all(isinstance(size, int) for size in sizes)
    macs = math.prod(sizes) if stated else sum(map(_stated_below, module.children()))
    if not macs:
        name = type(module).__name__
        raise ValueError(
            f"the multiply-adds of a {name} cannot be counted: it does not run on the meta device, and states no "
            "in_features and out_features"
        )
    return macs


def _stated_below(module: nn.Module) -> int:
    return 0 if _has_no_products(module) else _stated(module)
