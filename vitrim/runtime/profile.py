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
    """Cost of a model for one image, in multiply-accumulates (MACs).

    blocks:     cost of each block, with the patch tokens in its attention and its MLP
    embed_macs: of the patch embedding or stem
    head_macs:  of the classifier
    dense_macs: total of the same model without reduction
    patches:    patch tokens of the whole image
    params:     parameters of the model, learned parts of methods included

    Example:
        >>> cost = vitrim.profile(vitrim.reduce(model, "evit", keep=0.5))
        >>> cost.macs, cost.dense_macs, f"{cost.share:.0%}"
        (78337728, 130942848, '60%')
    """

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
    """Cost of a reduced or dense model, also on the meta device: from shapes alone, the model does not run.

    image_size: (height, width) in pixels; default: the model's own
    Raises ValueError for a model that no backbone family supports.

    Example:
        >>> vitrim.profile(model).tokens, vitrim.profile(vitrim.reduce(model, "tome", r=8)).tokens
        ([64, 64, 64, 64], [56, 48, 40, 32])
    """
    model = unwrap(model)
    methods = list(model.methods) if isinstance(model, ReducedViT) else []
    backbone = model.backbone if isinstance(model, ReducedViT) else model
    body = find_family(backbone)(backbone)
    params = count_params(model)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    grid = body.grid(size)
    blocks, left = plan_cost(body, methods, grid)
    head = body.head_macs(left + body.prefix)
    return Profile(tuple(blocks), body.embed_macs(grid), head, plan_macs(body, (), grid), grid[0] * grid[1], params)


def image_macs(
    model: nn.Module, kept: Num[Tensor, "b places"], image_size: tuple[int, int] | int | None = None
) -> Num[Tensor, " b"]:
    """MACs [b] of images that each keep their own number of patch tokens, `kept`, at each place of the model's method
    (ToFe, ATS); for several such methods in a stack, the places of the one after those of the other.

    In float64 with gradient to `kept` if that is floating (ToFe Eq. 4 and 14, selectors and approximators included);
    exact integers if it is not. A `PlaceRecord` has the counts: `place_record.selected.sum(dim=1)`.
    image_size: (height, width) in pixels; default: the model's own
    Raises ValueError for a model without a method that leaves images counts of their own, and for other shapes.

    Example:
        >>> fast = vitrim.reduce(model, "tofe", keep=0.5)
        >>> vitrim.image_macs(fast, torch.tensor([[32, 16, 8], [64, 64, 64]])).tolist()  # two images
        [73865088, 135384960]
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
