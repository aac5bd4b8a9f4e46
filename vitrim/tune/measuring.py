"""How a table of milliseconds is measured: pieces in turn, on a coarse grid of token counts, and on a finer one where
the staircase of a machine's kernels shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import quantiles
from typing import Any

from torch import Tensor

from ..evaluate.timing import times_in_turn
from .pieces import Pieces, Runs
from .space import LAST_BLOCK, Space
from .table import Curve, Table, named, place_name

ROUNDS, SECONDS = 15, 0.002  # of each piece: many short looks, since others may run on the machine
COARSE = 12  # intervals of the first grid of token counts
FINEST, BENT = 2, 0.04  # tokens between counts at least; how far a middle may be from a straight line
PASSES, MOST = 4, 12  # times that gaps are halved, and how many at a time: on a busy machine nothing is straight
Stopwatch = Callable[[Runs, Tensor], Mapping[Any, float]]


def in_turn(runs: Runs, batch: Tensor) -> dict[Any, float]:
    """Milliseconds of one call of each, the lower quartile of rounds in which all take their turn: whatever else runs
    on the machine only ever makes a call longer.

    Example:
        >>> in_turn({"a": torch.neg}, torch.ones(2))["a"] > 0
        True
    """
    rounds = times_in_turn(runs, batch, ROUNDS, SECONDS)
    return {name: 1000 * quantiles([each[name] for each in rounds], n=4, method="inclusive")[0] for name in runs}


class Measuring:
    """One stack's table: a coarse grid of counts, and where it is not straight a finer one."""

    def __init__(self, space: Space, batch: Tensor, stopwatch: Stopwatch):
        self.space, self.batch, self.stopwatch = space, batch, stopwatch
        self.pieces, self.kinds = Pieces(space, batch), space.kinds
        self.blocks = {kind: block for block, kind in enumerate(self.kinds)}  # the last of each: most may leave before
        self.steps = {place_name(step, self.kinds[step.place.block]): step for step in space.steps}
        self.plain: dict[str, dict[int, dict[str, float]]] = {kind: {} for kind in self.blocks}

    def table(self) -> Table:
        counts = coarse(self.space.patches)
        first: dict[Any, Any] = {("end", name): run for name, run in self.pieces.ends().items()}
        full = {kind: block for kind, block in self.blocks.items() if kind != LAST_BLOCK}
        first |= {("dense", kind): self.pieces.dense(block) for kind, block in full.items()}
        spent = self._time([(kind, n) for kind in self.blocks for n in counts], first)
        for kind in self.blocks:
            self._refine(kind)
        curves = self._halves()
        dense = [spent["dense", self._full(block)] for block in range(len(self.kinds))]
        ends = spent["end", "embed"] + spent["end", "head"]
        table = Table(ends, ends + sum(dense), curves)
        return Table(ends, table.dense, {**curves, **self._places(table, counts)})

    def _full(self, block: int) -> str:
        """The kind of a block in the dense model: the last one computes all tokens there, as those before it."""
        return self.kinds[block] if self.kinds[block] != LAST_BLOCK else self.kinds[max(block - 1, 0)]

    def _time(self, wanted: Iterable[tuple[str, int]], others: Runs | None = None) -> dict[Any, float]:
        """Measure blocks of a kind at counts, and other pieces beside them in the same rounds."""
        runs: dict[Any, Any] = dict(others or {})
        for kind, n in wanted:
            there, found = self.pieces.plain(self.blocks[kind], n)
            if there not in self.plain[kind]:
                runs |= {(kind, there, part): run for part, run in found.items()}
        spent = dict(self.stopwatch(runs, self.batch)) if runs else {}
        for kind, n, part in (key for key in runs if len(key) == 3):
            self.plain[kind].setdefault(n, {})[part] = spent[kind, n, part]
        return spent

    def _refine(self, kind: str) -> None:
        """Halve the gaps between counts until their middles lie on a straight line, the most bent ones first."""
        gaps = list(pairwise(sorted(self.plain[kind])))
        for _ in range(PASSES):
            gaps = [(a, b) for a, b in gaps if b - a > FINEST][: MOST + 1]
            self._time([(kind, (a + b) // 2) for a, b in gaps])
            middles = [(a, n, b) for a, b in gaps for n in self.plain[kind] if a < n < b]
            bent = [gap for gap in middles if self._bend(kind, *gap) > BENT]
            bent = sorted(bent, key=lambda gap: -self._bend(kind, *gap))[: MOST // 2]
            gaps = [half for a, n, b in bent for half in ((a, n), (n, b))]

    def _bend(self, kind: str, a: int, n: int, b: int) -> float:
        """How far a middle is from the straight line, as a share of it."""
        left, middle, right = (self.plain[kind][count]["block"] for count in (a, n, b))
        line = left + (right - left) * (n - a) / (b - a)
        return abs(middle - line) / middle

    def _halves(self) -> dict[str, Curve]:
        """Attention is what of a block is not its MLP."""
        curves = {}
        for kind, by_count in self.plain.items():
            if kind == LAST_BLOCK:
                curves[kind] = _curve({n: parts["block"] for n, parts in by_count.items()})
                continue
            rest = {n: max(parts["block"] - parts["mlp"], 0.0) for n, parts in by_count.items()}
            curves[named("attention", kind)] = _curve(rest)
            curves[named("mlp", kind)] = _curve({n: parts["mlp"] for n, parts in by_count.items()})
        return curves

    def _places(self, table: Table, counts: Sequence[int]) -> dict[str, Curve]:
        """What a place adds to its block; of a method that puts tokens back the whole block."""
        found = {(name, n): self.pieces.acting(step, n) for name, step in self.steps.items() for n in counts if n > 2}
        spent = self.stopwatch({key: run for key, (_, _, run) in found.items()}, self.batch)
        points: dict[str, dict[int, float]] = {name: {} for name in self.steps}
        for key, (before, left, _) in found.items():
            step = self.steps[key[0]]
            if left == before:
                continue
            undone, attended = step.restore_before is not None, left if step.method.acts == "before" else before
            rest = 0.0 if undone else table.plain(self.kinds[step.place.block], attended, left)
            points[key[0]][left if undone else before] = max(spent[key] - rest, 0.0)
        empty = next((name for name, by_count in points.items() if not by_count), None)
        if empty is not None:
            raise ValueError(f"{empty} takes no token of {self.space.patches}: there is no plan to search")
        return {name: _curve(by_count) for name, by_count in points.items()}


def coarse(patches: int) -> list[int]:
    """The first counts: about evenly, and one token less than all, since merged tokens weigh in attention.

    Example:
        >>> coarse(64)
        [1, 5, 11, 16, 21, 27, 32, 37, 43, 48, 53, 59, 63, 64]
    """
    return sorted({max(1, round(patches * j / COARSE)) for j in range(COARSE + 1)} | {max(1, patches - 1)})


def _curve(points: Mapping[int, float]) -> Curve:
    counts = sorted(points)
    return Curve(tuple(counts), tuple(points[n] for n in counts))
