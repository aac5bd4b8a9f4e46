"""Analytic cost: multiply-accumulates (MACs) block by block, from shapes alone; the model never runs.

What the papers call FLOPs are MACs. Counted: projections, attention products, MLP, patch embedding or stem, heads, and
what a method's own decision costs. Not counted, as in the papers: norms, softmax, activations, top-k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Num
from torch import Tensor, nn

from ..backbones import Backbone, find_family
from ..backbones.counting import count_params
from ..methods import Method

KEEP_STEPS = 10**6  # how finely a budget is solved for a keep rate


@dataclass(frozen=True)
class BlockCost:
    """One block: patch tokens in its attention and its MLP, and MACs of the block and of the methods acting in it."""

    block: int
    attention_tokens: int
    mlp_tokens: int
    macs: int
    method_macs: int


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


def plan_cost(
    body: Backbone, methods: Sequence[Method], grid: tuple[int, int], kept: Mapping[int, Tensor] | None = None
) -> tuple[list[BlockCost], int]:
    """Walk the blocks as the runner does, on counts instead of tokens: costs of the blocks, patch tokens at the end.

    kept: patch tokens [b] that images keep for themselves before some blocks; costs are then [b] from there on
    """
    n = patches = math.prod(grid)
    blocks, outside = [], None
    for i in range(body.depth):
        before, patches = patches, math.prod(body.grid_at(i, grid))
        n, own = n if patches == before else patches, 0
        for method, place in acting(methods, i, "before", patches):
            given = {} if kept is None or i not in kept else {"kept": kept[i]}
            own += method.macs(place, n, body, **given)
            if method.until(place) is not None:
                outside = (n, method.until(place))
            n = given["kept"] if given else method.count(place, n)
        attended = n
        own += sum(method.watch_macs(i, n, body) for method in methods)
        for method, place in acting(methods, i, "between", patches):
            given = {} if kept is None or i not in kept else {"kept": kept[i]}
            own += method.macs(place, n, body, **given)
            n = given["kept"] if given else method.count(place, n)
        blocks.append(BlockCost(i, attended, n, body.block_macs(i, attended, n, grid), own))
        if outside is not None and outside[1] == i + 1:
            n, outside = outside[0], None
    return blocks, n


def acting(methods: Sequence[Method], block: int, when: str, patches: int | None = None):
    """The methods that act at this block at this moment, with their places, in the order given."""
    for method in methods:
        place = method.place(block)
        if place is not None and method.acts == when:
            yield method, place if patches is None else replace(place, patches=patches)


def plan_macs(
    body: Backbone, methods: Sequence[Method], grid: tuple[int, int], kept: Mapping[int, Tensor] | None = None
) -> int:
    """Total MACs of one image; with `kept` [b], as for `plan_cost`, of each."""
    blocks, left = plan_cost(body, methods, grid, kept)
    ends = body.embed_macs(grid) + body.head_macs(left + body.prefix)
    return ends + sum(b.macs + b.method_macs for b in blocks)


def profile(model: nn.Module, image_size: tuple[int, int] | int | None = None) -> Profile:
    """Cost of a reduced or dense model, also on the meta device.

    image_size: (height, width) in pixels; default: the model's own
    Raises ValueError for a model that no backbone family supports.
    """
    from .model import ReducedViT, unwrap

    model = unwrap(model)
    methods: Sequence[Method] = ()
    params = count_params(model)
    if isinstance(model, ReducedViT):
        model, methods = model.backbone, list(model.methods)
    body = find_family(model)(model)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    grid = body.grid(size)
    blocks, left = plan_cost(body, methods, grid)
    head = body.head_macs(left + body.prefix)
    return Profile(tuple(blocks), body.embed_macs(grid), head, plan_macs(body, (), grid), grid[0] * grid[1], params)


def image_macs(
    model: nn.Module, kept: Num[Tensor, "b places"], image_size: tuple[int, int] | int | None = None
) -> Num[Tensor, " b"]:
    """MACs of images that keep `kept` patch tokens at the places of the model's method, each its own numbers (ToFe).

    In float64 with gradient to `kept` if that is floating (ToFe Eq. 4 and 14, selectors and approximators included);
    exact integers if it is not. A `Witness` has the counts: `witness.selected.sum(dim=1)`.
    image_size: (height, width) in pixels; default: the model's own
    Raises ValueError for a model without a method that leaves images counts of their own, and for other shapes.
    """
    from .model import ReducedViT, unwrap

    model = unwrap(model)
    methods = list(model.methods) if isinstance(model, ReducedViT) else []
    free = [method for method in methods if method.per_image]
    if len(free) != 1:
        raise ValueError("image_macs needs a model with one method whose images keep counts of their own, such as tofe")
    if kept.dim() != 2 or kept.shape[1] != len(free[0].places):
        raise ValueError(f"kept is {list(kept.shape)}: give [images, {len(free[0].places)}], one count for each place")
    if kept.is_floating_point() and kept.device.type != "mps":
        kept = kept.double()
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    counts = {place.block: kept[:, place.index] for place in free[0].places}
    return plan_macs(model.body, methods, model.body.grid(size), counts)


def solve_dial(cost: Callable[[float], int], budget: float, values: Sequence[float] | None = None) -> float:
    """The dial value whose plan is the largest not above `budget` MACs; of equal plans, the shortest number.

    cost:   dial value -> MACs, rising with the dial
    values: the dial's values from cheapest to dearest; default: keep rates (0, 1] in steps of 1e-6
    Raises ValueError where even the cheapest plan is above the budget.
    """
    at = (lambda j: values[j]) if values is not None else (lambda j: (j + 1) / KEEP_STEPS)
    low, high = 0, (KEEP_STEPS if values is None else len(values)) - 1
    if cost(at(high)) <= budget:  # a plan that keeps all asks nobody, and can be cheaper than the one before it
        return at(high)
    if cost(at(low)) > budget:
        raise ValueError(f"out of reach: {cost(at(low)) / 1e9:.3f} to {cost(at(high)) / 1e9:.3f} GMACs can be had")
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(at(middle)) <= budget else (low, middle - 1)
    return at(low) if values is not None else _shortest(at(low), cost)


def _shortest(dial: float, cost: Callable[[float], int]) -> float:
    """The keep rate with the fewest decimals that has the same plan."""
    for decimals in range(1, 7):
        for rounded in (round(dial, decimals), math.floor(dial * 10**decimals) / 10**decimals):
            if 0 < rounded <= 1 and cost(rounded) == cost(dial):
                return rounded
    return dial
