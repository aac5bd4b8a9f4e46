"""What becomes of the patches of an image, block by block: at work, idle, frozen, merged or pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ..methods.base import PRUNED
from ..runtime.model import ReducedViT
from ..runtime.records import BlockTrace


class Fate(IntEnum):
    """What a patch does in one block.

    WORK:   it has a token of its own in the block
    BACK:   so it has, and until the last decision it was idle or frozen: IdleViT's "re-selected" tokens, idle in the
            block before; ToFe's "reused" ones, frozen in the stage before
    MERGED: it shares a token with other patches
    WAITS:  it has no token in the block, and its features wait outside: idle or frozen
    GONE:   it was pruned
    """

    WORK = 0
    BACK = 1
    MERGED = 2
    WAITS = 3
    GONE = 4


class Hold(NamedTuple):
    """The last decision before a block's end: in which block it fell (or the one before was undone), and what patches
    are called that it left without a token."""

    since: int
    rest: str


@dataclass(frozen=True)
class Fates:
    """The patches of one image through all blocks. What counts is who takes part in a block's MLP: a method that acts
    between attention and MLP has let all take part in the attention. Where the grid shrinks on the way (Swin), a
    token's patch is shown as the patches of the image that it covers.

    codes:  [blocks, rows, columns] `Fate`, as whole numbers
    groups: [blocks, rows, columns] patches with one number share a token; -1: without a token
    rests:  for each block what patches without a token are called there: idle, frozen or pruned
    fuses:  whether shared tokens are EViT's, one of all that is left out
    """

    codes: Int[np.ndarray, "blocks rows columns"]
    groups: Int[np.ndarray, "blocks rows columns"]
    rests: tuple[str, ...]
    fuses: bool = False

    @property
    def work(self) -> Float[np.ndarray, "rows columns"]:
        """In how many blocks each patch took part; where it shares a token with others, each has its share in that."""
        sizes = np.stack([group_sizes(groups) for groups in self.groups])
        return np.where(sizes > 0, 1 / np.maximum(sizes, 1), 0.0).sum(axis=0)

    @property
    def changes(self) -> list[int]:
        """The blocks in which other patches share a token, or have none, than in the block before.

        Example:
            >>> fast = vitrim.reduce(model, "evit", keep=0.5)
            >>> follow(fast, fast(images, trace=True)[1])[0].changes
            [1, 2, 3]
        """
        alone = np.arange(self.groups[0].size).reshape(1, *self.groups[0].shape)
        before = np.concatenate([alone, self.groups[:-1]])
        return np.flatnonzero((self.groups != before).any(axis=(1, 2))).tolist()

    @property
    def rests_found(self) -> set[str]:
        """What patches without a token are called, where there are some."""
        waits, gone = (self.codes == code for code in (Fate.WAITS, Fate.GONE))
        found = {rest for rest, some in zip(self.rests, waits.any(axis=(1, 2)), strict=True) if some}
        return found | ({PRUNED} if gone.any() else set())

    @property
    def ringed(self) -> Bool[np.ndarray, "blocks rows columns"]:
        """Patches that are at work again after they were idle or frozen."""
        return self.codes == Fate.BACK

    def count(self, block: int) -> dict[str, int]:
        """Patches in a block, by what they do, and the tokens that stand for them; what there is none of is left out.

        Example:
            >>> fast = vitrim.reduce(model, "evit", keep=0.5)
            >>> follow(fast, fast(images, trace=True)[1])[0].count(1)
            {'tokens': 33, 'kept': 32, 'fused': 32, 'fused tokens': 1}
        """
        codes, groups = self.codes[block], self.groups[block]
        merged, shared = "fused" if self.fuses else "merged", groups[codes == Fate.MERGED]
        found = {
            "tokens": len(np.unique(groups[groups >= 0])),
            "kept": int(np.isin(codes, (Fate.WORK, Fate.BACK)).sum()),
            "re-selected": int((codes == Fate.BACK).sum()),
            merged: len(shared),
            f"{merged} tokens": len(np.unique(shared)),
            self.rests[block]: int((codes == Fate.WAITS).sum()),
        }
        return {word: n for word, n in {**found, PRUNED: int((codes == Fate.GONE).sum())}.items() if n}

    def caption(self, block: int) -> str:
        """A block in words: the tokens that were kept, with those that were idle or frozen before among them, those
        that stand for many, and the patches without one.

        Example:
            >>> fast = vitrim.reduce(model, "evit", keep=0.5)
            >>> fates = follow(fast, fast(images, trace=True)[1])[0]
            >>> fates.caption(0), fates.caption(1)
            ('64 kept', '32 kept + 1 fused')
        """
        n = self.count(block)
        words = f"{n.get('kept', 0)} kept"
        words += f" ({n['re-selected']} re-selected)" if "re-selected" in n else ""
        words += "".join(f" + {n[f'{kind} tokens']} {kind}" for kind in ("fused", "merged") if kind in n)
        return words + "".join(
            f", {n[rest]} {rest}" for rest in dict.fromkeys((self.rests[block], PRUNED)) if rest in n
        )


def follow(model: ReducedViT, trace: Sequence[BlockTrace], image_size: tuple[int, int] | None = None) -> list[Fates]:
    """The fates of the patches of every image of a batch.

    trace:      what `model(images, trace=True)` has returned beside the logits
    image_size: (height, width) of the images in pixels; default: the model's own

    Example:
        >>> fast = vitrim.reduce(model, "idlevit", keep=0.5)
        >>> fates = follow(fast, fast(images, trace=True)[1])
        >>> len(fates), fates[0].codes.shape, fates[0].caption(1)
        (2, (4, 8, 8), '32 kept, 32 idle')
    """
    holds, grid = holds_of(model), model.body.grid(image_size)
    groups = [_on_grid(record, model.body.grid_at(record.block, grid), grid) for record in trace]
    fuses = any(getattr(method, "fuse", False) for method in model.methods)
    return [
        Fates(fates_of(image, holds), image, tuple(hold.rest for hold in holds), fuses)
        for image in np.stack(groups, axis=1)
    ]


def fates_of(groups: Int[np.ndarray, "blocks ..."], holds: Sequence[Hold]) -> Int[np.ndarray, "blocks ..."]:
    """The `Fate` of every patch in every block.

    groups: patches with one number share a token; -1: without a token, as a trace's `owners`
    holds:  the decision in force in each block

    Example: a patch that is idle for a block, and one that is pruned.
        >>> groups = np.array([[0, 1], [0, -1], [1, 0]])
        >>> fates_of(groups, [Hold(0, "idle"), Hold(1, "idle"), Hold(2, "idle")]).tolist()
        [[0, 0], [0, 3], [0, 1]]
        >>> fates_of(groups[:2], [Hold(0, "pruned"), Hold(1, "pruned")]).tolist()
        [[0, 0], [0, 4]]
    """
    out = groups < 0
    may_wait = np.array([hold.rest != PRUNED for hold in holds]).reshape(-1, *[1] * (groups.ndim - 1))
    gone = np.logical_or.accumulate(out & ~may_wait, axis=0)
    waits = out & ~gone
    waited = np.stack([waits[max(hold.since - 1, 0)] for hold in holds])
    shared = np.stack([shares_token(block) for block in groups])
    return np.select([waits, out, shared, waited], [Fate.WAITS, Fate.GONE, Fate.MERGED, Fate.BACK], Fate.WORK)


def holds_of(model: ReducedViT) -> list[Hold]:
    """The decision in force in every block.

    Example:
        >>> [tuple(hold) for hold in holds_of(vitrim.reduce(model, "tofe", keep=0.5, at=(1, 3)))]
        [(0, 'pruned'), (1, 'frozen'), (1, 'frozen'), (3, 'frozen')]
    """
    holds, now = [], Hold(0, PRUNED)
    for turn in model.turns:
        steps = (*turn.between, *turn.before)
        now = Hold(turn.block, steps[0].method.rest_word) if steps else now
        holds.append(now)
        now = Hold(turn.block + 1, PRUNED) if turn.closes else now
    return holds


def group_sizes(groups: Int[np.ndarray, "*patches"]) -> Int[np.ndarray, "*patches"]:
    """For every patch of one block, how many have its token; 0: it has none.

    Example:
        >>> group_sizes(np.array([[0, 1], [2, 2]])).tolist(), group_sizes(np.array([-1, 5])).tolist()
        ([[1, 1], [2, 2]], [0, 1])
    """
    times = np.bincount(groups.ravel() + 1)  # what has no token is number 0
    return np.where(groups < 0, 0, times[groups + 1])


def shares_token(groups: Int[np.ndarray, "*patches"]) -> Bool[np.ndarray, "*patches"]:
    """True for the patches of one block whose token stands for others too.

    Example:
        >>> shares_token(np.array([[0, 1], [2, 2]])).tolist()
        [[False, False], [True, True]]
    """
    return group_sizes(groups) > 1


def _on_grid(record: BlockTrace, grid: tuple[int, int], whole: tuple[int, int]) -> Int[np.ndarray, "b rows columns"]:
    """Who shares a token, for every patch of the whole grid: patches are numbered by the first of those they share it
    with, so that a group has one number in all blocks as long as that one is in it."""
    owners = record.owners.reshape(len(record.owners), -1).cpu().numpy()
    first = np.stack([_by_first(image) for image in owners]).reshape(-1, *grid)
    if grid == whole:
        return first
    rows, columns = (-(-side // part) for side, part in zip(whole, grid, strict=True))
    spread = first.repeat(rows, axis=1).repeat(columns, axis=2)[:, : whole[0], : whole[1]]
    every = np.arange(whole[0] * whole[1]).reshape(whole)  # tokens there are never shared: they keep their grid
    return np.where(spread < 0, -1, every)


def _by_first(owners: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    _, first, which = np.unique(owners, return_index=True, return_inverse=True)
    return np.where(owners < 0, -1, first[which.reshape(-1)])
