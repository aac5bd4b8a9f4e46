"""From images to the tokens that go into the first layer, in the three ways of transformers' vision models.

Shapes: b images, n tokens, p the side of a patch in pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ...core.recording import length

_CHANNELS = 2  # torch's counter does not see the product of a matrix and one vector


@dataclass(frozen=True)
class Frame:
    """Images of a batch that are cut into the same grid of patches, and lie in the first rows of their tokens.

    rows: their numbers in the batch; None: all images, and all of their tokens
    grid: (height, width) in patches
    """

    rows: Int[Tensor, " k"] | None
    grid: tuple[int, int]

    def of(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "k m c"]:
        """The rows of these images."""
        return x if self.rows is None else x[self.rows, : math.prod(self.grid)]

    def into(self, x: Float[Tensor, "b n c"], part: Float[Tensor, "k m c"]) -> Float[Tensor, "b n c"]:
        """x with `part` in the place of these rows."""
        if self.rows is None:
            return part
        x = x.clone()
        x[self.rows, : part.shape[1]] = part
        return x


class Stem:
    """Images [b, 3, height, width], cut into patches by a convolution.

    packs: whether a batch may hold images of several grids
    """

    packs = False

    def image_size(self, config: Any) -> tuple[int, int]:
        """(height, width) in pixels of the images that the model is made for."""
        return pair(config.image_size)

    def grid(self, config: Any, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in patches of an image of that size in pixels."""
        (height, width), patch = image_size, pair(config.patch_size)
        return height // patch[0], width // patch[1]

    def inputs(self, config: Any, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """What the model's embeddings are given for these images."""
        return (images,)

    def keywords(self, config: Any, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """What the model itself is given for these images."""
        return {"pixel_values": images}

    def frames(self, config: Any, pixels: Tensor, given: Mapping[str, Any]) -> list[Frame]:
        """The grids of a batch. pixels, given: the first and the other arguments of the model's forward.

        Raises ValueError for arguments that say what no frame can hold.
        """
        return [Frame(None, self.grid(config, (length(pixels, -2), length(pixels, -1))))]

    def images_of(self, config: Any, pixels: Tensor, frame: Frame) -> Tensor:
        """The images of a frame [k, 3, height, width]."""
        return pixels

    def macs(self, embed: Any, grid: tuple[int, int]) -> int:
        """Multiply-accumulates of one image."""
        patches = patch_layer(embed)
        conv = next(module for module in patches.modules() if isinstance(module, nn.Conv2d))
        return math.prod(grid) * math.prod(conv.weight.shape)


class MaskedStem(Stem):
    """The same with positions by shares of the image, and a mask of its patches (NaViT; Idefics3, SmolVLM)."""

    def inputs(self, config, images):
        height, width = self.grid(config, (length(images, -2), length(images, -1)))
        return images, torch.ones(images.shape[0], height, width, dtype=torch.bool, device=images.device)

    def frames(self, config, pixels, given):
        mask = given.get("patch_attention_mask")
        if mask is not None and not bool(mask.all()):
            raise ValueError(
                "some images are padded (pixel_attention_mask), and the language model reads the padding too, which a "
                "reduced tower does not compute: give images that fill their frame, or ask the dense model"
            )
        return super().frames(config, pixels, given)


class PackedStem(Stem):
    """Patches [b, n, p * p * 3] of images of several shapes, padded behind their last one (NaFlex; SigLIP 2)."""

    packs = True

    def image_size(self, config):
        side = math.isqrt(config.num_patches) * config.patch_size
        return side, side

    def inputs(self, config, images):
        grid = self.grid(config, (length(images, -2), length(images, -1)))
        shapes = torch.tensor([grid], device=images.device).expand(images.shape[0], 2)
        return packed(images, config.patch_size), shapes

    def keywords(self, config, images):
        pixels, shapes = self.inputs(config, images)
        mask = torch.ones(pixels.shape[:2], dtype=torch.int32, device=images.device)
        return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": shapes}

    def frames(self, config, pixels, given):
        shapes, mask = given.get("spatial_shapes"), given.get("pixel_attention_mask")
        if shapes is None:
            raise ValueError("spatial_shapes [b, 2] are missing: give (height, width) in patches of every image")
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise ValueError("a recorded graph cannot depend on spatial_shapes: give model.reduced, which takes images")
        grids, n = [(h, w) for h, w in shapes.tolist()], pixels.shape[1]
        _check_mask(mask, grids, n)
        if len(set(grids)) == 1 and math.prod(grids[0]) == n:
            return [Frame(None, grids[0])]
        rows = {grid: [i for i, own in enumerate(grids) if own == grid] for grid in grids}
        return [Frame(torch.tensor(own, device=pixels.device), grid) for grid, own in rows.items()]

    def images_of(self, config, pixels, frame):
        p, part = config.patch_size, frame.of(pixels)
        cut = part.reshape(part.shape[0], *frame.grid, p, p, -1)
        return cut.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def macs(self, embed, grid):
        side = embed.position_embedding_size
        resized = _resizing_macs(type(embed).resize_positional_embeddings, side, grid)
        return math.prod(grid) * math.prod(patch_layer(embed).weight.shape) + resized * embed.embed_dim


def packed(images: Float[Tensor, "b 3 h w"], patch: int) -> Float[Tensor, "b n pp3"]:
    """Images as the patches that SigLIP 2's image processor makes of them.

    Example:
        >>> from vitrim.backbones.transformers.stems import packed
        >>> packed(torch.zeros(2, 3, 32, 16), 4).shape
        torch.Size([2, 32, 48])
    """
    cut = images.unflatten(2, (-1, patch)).unflatten(4, (-1, patch))
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


@functools.cache
def _resizing_macs(resize: Callable[..., Tensor], side: int, grid: tuple[int, int]) -> int:
    """Multiply-accumulates of one channel of the positions, resized to a grid; newer versions of transformers write it
    as a product of matrices."""
    with torch.device("cpu"), FlopCounterMode(display=False) as counter:
        resize(torch.zeros(side, side, _CHANNELS), torch.tensor([grid]), math.prod(grid))
    return counter.get_total_flops() // (2 * _CHANNELS)


def _check_mask(mask: Tensor | None, grids: list[tuple[int, int]], n: int) -> None:
    """Raise ValueError for a mask that leaves out other patches than the padding."""
    counts = [math.prod(grid) for grid in grids]
    whole = mask is None and all(count == n for count in counts)
    if not whole and (mask is None or any(_real(row, n) != count for row, count in zip(mask, counts, strict=True))):
        raise ValueError(
            "pixel_attention_mask must be 1 for the patches of spatial_shapes and 0 for the padding behind them: give "
            "both as the image processor makes them"
        )


def _real(row: Tensor, n: int) -> int:
    """Ones in front of a row of the mask; -1 where others follow."""
    count = int(row.count_nonzero())
    return count if row.shape == (n,) and bool(row[:count].all()) else -1


def patch_layer(embed: Any) -> Any:
    """What makes a token of a patch."""
    return embed.patch_embedding if hasattr(embed, "patch_embedding") else embed.patch_embeddings


def pair(size: Any) -> tuple[int, int]:
    """(height, width) of one number or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


CONVOLVED, MASKED, PACKED = Stem(), MaskedStem(), PackedStem()
