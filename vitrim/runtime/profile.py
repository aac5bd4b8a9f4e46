"""What a model costs: multiply-accumulates (MACs) of one image, block by block; the model never runs."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Num
from torch import Tensor, nn

from ..backbones import find_family
from ..backbones.counting import count_params
from .cost import BlockCost, OwnCounts, plan_cost, plan_macs
from .model import ReducedViT, unwrap


@dataclass(frozen=True)
class Profile:
    """Cost of a model for one image. `tokens` are the patch tokens after each place where their number changes."""

    blocks: tuple[BlockCost, ...]
    embed_macs: int
    head_macs: int
    dense_macs: int
    patches: int
    params: int

    @property
    def macs(self) -> int:
        """Total MACs of one image."""
        return self.embed_macs + self.head_macs + sum(b.macs + b.method_macs for b in self.blocks)

    @property
    def gmacs(self) -> float:
        """Total, in units of 1e9 MACs."""
        return self.macs / 1e9

    @property
    def dense_gmacs(self) -> float:
        """The same model without reduction, in units of 1e9 MACs."""
        return self.dense_macs / 1e9

    @property
    def share(self) -> float:
        """Share of the dense cost."""
        return self.macs / self.dense_macs

    @property
    def tokens(self) -> list[int]:
        """Patch tokens in the MLP of every block."""
        return [b.mlp_tokens for b in self.blocks]


def profile(model: nn.Module, image_size: tuple[int, int] | int | None = None) -> Profile:
    """Cost of a reduced or dense model, also on the meta device.

    image_size: (height, width) in pixels; default: the model's own
    Raises ValueError for a model that no backbone family supports.
    """
    model = unwrap(model)
    methods = list(model.methods) if isinstance(model, ReducedViT) else []
    params = count_params(model)
    backbone = model.backbone if isinstance(model, ReducedViT) else model
    body = find_family(backbone)(backbone)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    grid = body.grid(size)
    blocks, left = plan_cost(body, methods, grid)
    head = body.head_macs(left + body.prefix)
    return Profile(tuple(blocks), body.embed_macs(grid), head, plan_macs(body, (), grid), grid[0] * grid[1], params)


def image_macs(
    model: nn.Module, kept: Num[Tensor, "b places"], image_size: tuple[int, int] | int | None = None
) -> Num[Tensor, " b"]:
    """MACs of images that keep `kept` patch tokens at the places of the model's method, each its own numbers (ToFe); of
    a stack with several such methods at their places one after the other.

    In float64 with gradient to `kept` if that is floating (ToFe Eq. 4 and 14, selectors and approximators included);
    exact integers if it is not. A `PlaceRecord` has the counts: `place_record.selected.sum(dim=1)`.
    image_size: (height, width) in pixels; default: the model's own
    Raises ValueError for a model without a method that leaves images counts of their own, and for other shapes.
    """
    reduced = unwrap(model)
    methods = list(reduced.methods) if isinstance(reduced, ReducedViT) else []
    free = [method for method in methods if method.counts == "own"]
    if not isinstance(reduced, ReducedViT) or not free:
        raise ValueError("image_macs needs a model with a method whose images keep counts of their own, such as tofe")
    places = [len(method.places) for method in free]
    if kept.dim() != 2 or kept.shape[1] != sum(places):
        raise ValueError(f"kept is {list(kept.shape)}: give [images, {sum(places)}], one count for each place")
    if kept.is_floating_point() and kept.device.type != "mps":
        kept = kept.double()
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    own_counts = [OwnCounts(method, counts) for method, counts in zip(free, kept.split(places, dim=1), strict=True)]
    return plan_macs(reduced.body, methods, reduced.body.grid(size), own_counts)
