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
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return cost_of_model(model, body, methods, body.grid(size))


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
    return plan_macs(reduced.body, methods, reduced.body.grid(size), own_counts, reduced.prediction_only)
