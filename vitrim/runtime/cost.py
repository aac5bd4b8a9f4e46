"""The loop on counts instead of tokens: multiply-accumulates (MACs) from shapes alone; the model never runs.

What the papers call FLOPs are MACs. Counted: projections, attention products, MLP, patch embedding or stem, heads, and
what a method's own decision costs. Not counted, as in the papers: norms, softmax, activations, top-k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..backbones import Backbone
from ..methods import Method
from .turns import Step, plan_turns


@dataclass(frozen=True)
class BlockCost:
    """One block: patch tokens in its attention and its MLP, and MACs of the block and of the methods acting in it."""

    block: int
    attention_tokens: int
    mlp_tokens: int
    macs: int
    method_macs: int


@dataclass(frozen=True)
class OwnCounts:
    """Patch tokens [b, places] that images keep for themselves at the places of one method of the stack (ToFe, ATS)."""

    method: Method
    kept: Tensor


def plan_cost(
    body: Backbone,
    methods: Sequence[Method],
    grid: tuple[int, int],
    own_counts: Sequence[OwnCounts] = (),
    prediction_only: bool = False,
) -> tuple[list[BlockCost], int]:
    """Walk the blocks as the loop does: costs of the blocks, and the patch tokens at the end.

    own_counts:      counts of single images at the places of some methods; costs are then [b] from there on
    prediction_only: as for `reduce`; the last block then has no patch token in its MLP
    """
    n = patches = math.prod(grid)
    blocks, outside = [], n
    for turn in plan_turns(methods, body.depth, prediction_only):
        i, before, patches = turn.block, patches, math.prod(body.grid_at(turn.block, grid))
        n, deciding = n if patches == before else patches, 0
        for step in turn.before:
            outside = outside if step.restore_before is None else n
            n, macs = _after(step, n, patches, body, own_counts, undone=not turn.predicts)
            deciding += macs
        attended = n
        if turn.predicts:
            blocks.append(BlockCost(i, attended, 0, body.prediction_macs(i, attended), deciding))
            return blocks, 0
        deciding += sum(method.observe_macs(i, n, body) for method in turn.observers)
        again = sum(method.follows == "block" for method in turn.followers)
        for step in turn.between:
            n, macs = _after(step, n, patches, body, own_counts, again=again)
            deciding += macs
        blocks.append(BlockCost(i, attended, n, body.block_macs(i, attended, n, grid), deciding))
        n = outside if turn.closes else n
    return blocks, n


def _after(
    step: Step,
    n: Any,
    patches: int,
    body: Backbone,
    own_counts: Sequence[OwnCounts],
    undone: bool = True,
    again: int = 0,
):
    """Patch tokens after a step, of n before it, and the MACs of deciding it; of undoing it, if it is undone; and of
    applying it `again` to features from before the block."""
    method: Any = step.method  # those with counts of their own take them in `macs`
    place = replace(step.place, patches=patches)
    for counts in own_counts:
        if method is counts.method:
            kept = counts.kept[:, step.index]
            return kept, method.macs(place, n, body, kept=kept) if step.acts_on(place, n) else 0
    if isinstance(n, Tensor):
        whole = _whole(n, method)
        after = [_after(step, k, patches, body, (), undone, again) for k in whole]
        return tuple(torch.tensor(figures, device=n.device) for figures in zip(*after, strict=True))
    if not method.acts_on(place, n):
        return n, 0
    undoing = method.undo_macs(place, n, body) if undone else 0
    repeated = again * method.apply_macs(place, n, body)
    return method.count(place, n), method.macs(place, n, body) + undoing + repeated


def _whole(n: Tensor, method: Method) -> list[int]:
    """The counts of all images as whole numbers. Raises ValueError where a gradient would be lost."""
    if n.is_floating_point():
        raise ValueError(
            f"{method.name} follows a method whose images keep counts of their own, and its count is a whole number of "
            "a whole number: give whole numbers as kept"
        )
    return n.tolist()


def plan_macs(
    body: Backbone,
    methods: Sequence[Method],
    grid: tuple[int, int],
    own_counts: Sequence[OwnCounts] = (),
    prediction_only: bool = False,
) -> Any:
    """Total MACs of one image; with `own_counts` [b], as for `plan_cost`, of each."""
    blocks, left = plan_cost(body, methods, grid, own_counts, prediction_only)
    ends = body.embed_macs(grid) + body.head_macs(left + body.prefix)
    return ends + sum(b.macs + b.method_macs for b in blocks)


def whole_macs(body: Backbone, grid: tuple[int, int]) -> int:
    """Total MACs of one image in the dense model, with what it computes and nobody reads."""
    return plan_macs(body, (), grid) + body.unread_macs(grid)
