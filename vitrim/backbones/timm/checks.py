"""What timm's models take and what of them is supported, for all families of timm."""

from __future__ import annotations

import math
from typing import Any

from timm.layers import Attention, AttentionPoolLatent, GluMlp, Mlp, PatchEmbed, SwiGLU
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ...core.recording import image_size
from ..counting import is_strict
from ..layers import kind, part_kind, wrapper_advice


def embedded_grid(embed: Any, pixels: tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) in patches of an image of that size in pixels; of the model's own size, if None."""
    size = embed.img_size if pixels is None else pixels
    if is_strict(embed) and tuple(size) == tuple(embed.img_size):
        return tuple(embed.grid_size)
    return tuple(embed.dynamic_feat_size(size))


def check_size(embed: Any, images: Tensor) -> None:
    """Raise ValueError for images of a size that timm does not take. Of its own size a model leaves out what patches do
    not fill; other sizes, where it takes them, must be filled or padded."""
    size = image_size(images)
    if is_strict(embed):
        if size != tuple(embed.img_size):
            raise ValueError(
                f"images are {size[0]} x {size[1]}, this model takes {embed.img_size[0]} x {embed.img_size[1]}: resize "
                "them, call model.set_input_size(img_size=...) first, or build the model with dynamic_img_size=True"
            )
        return
    pads = not isinstance(embed, PatchEmbed) or embed.dynamic_img_pad
    if not pads and any(side % patch for side, patch in zip(size, embed.patch_size, strict=True)):
        raise ValueError(
            f"images are {size[0]} x {size[1]}, and patches of {embed.patch_size[0]} x {embed.patch_size[1]} do "
            "not fill them: resize them to multiples, or build the model with dynamic_img_pad=True"
        )


def check_scale(i: int, attn: Any, channels: int) -> None:
    """Raise ValueError for logits that are scaled in another way; timm's fused attention scales by itself."""
    if not attn.fused_attn and not math.isclose(attn.scale, channels**-0.5):
        raise ValueError(
            f"attention of block {i} scales its logits by {attn.scale:g}, only 1 / sqrt({channels}) is supported"
        )


def check_pool(model: nn.Module) -> None:
    """Raise ValueError for a pooling layer that would not weigh merged tokens."""
    if model.attn_pool is not None and part_kind(model.attn_pool) is not AttentionPoolLatent:
        name = type(model.attn_pool).__name__
        raise ValueError(f"the pooling of this model is a {name}, only timm's AttentionPoolLatent is supported")


def check_block(i: int, block: Any, cls: type[Block]) -> None:
    """Raise ValueError for a block that is not `cls`, or holds attention or an MLP of other kinds."""
    if any(kind(child) is cls for child in block.children()):
        raise ValueError(f"block {i} is a {type(block).__name__} around timm's: {wrapper_advice(block)}")
    if kind(block) is not cls:
        raise ValueError(
            f"block {i} is a {type(block).__name__}, only timm's pre-norm Block is supported "
            "(post-norm and parallel blocks have no place between attention and MLP where tokens could be reduced)"
        )
    if kind(block.attn) is not Attention:
        raise ValueError(f"attention of block {i} is {type(block.attn).__name__}, only timm's Attention is supported")
    check_scale(i, block.attn, block.attn.head_dim)
    if part_kind(block.mlp) not in (Mlp, GluMlp, SwiGLU):
        raise ValueError(f"mlp of block {i} is {type(block.mlp).__name__}, only Mlp, GluMlp and SwiGLU are supported")


def check_type(what: str, module: nn.Module, *allowed: type[nn.Module]) -> None:
    """Raise ValueError for a part of a Swin of another type."""
    if part_kind(module) not in allowed:
        names = " or ".join(cls.__name__ for cls in allowed)
        raise ValueError(f"{what} of this Swin is a {type(module).__name__}, only timm's {names} is supported")
