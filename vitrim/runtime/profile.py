"""What a model costs: multiply-accumulates (MACs) of one image, block by block; the model never runs."""

from __future__ import annotations

from jaxtyping import Num
from torch import Tensor, nn

from ..backbones import find_family
from .cost import OwnCounts, plan_macs
from .model import ReducedViT, unwrap
from .model_cost import Profile, cost_of_model

__all__ = ["Profile", "image_macs", "profile"]


def profile(model: nn.Module, image_size: tuple[int, int] | int | None = None) -> Profile:
    """Cost of a reduced or dense model, also on the meta device.

    image_size: (height, width) in pixels; default: the model's own
    Raises ValueError for a model that no backbone family supports.

    Example:
        >>> import timm, vitrim
        >>> vitrim.profile(timm.create_model("deit_small_patch16_224")).gmacs
        4.598882304
    """
    model = unwrap(model)
    methods = list(model.methods) if isinstance(model, ReducedViT) else []
    backbone = model.backbone if isinstance(model, ReducedViT) else model
    body = find_family(backbone)(backbone)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return cost_of_model(model, body, methods, body.grid(size))


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
