"""What plans cost in milliseconds, by a table of what their pieces take by tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any

from ..runtime.turns import Step
from .exchange import Cost
from .space import LAST_BLOCK, Shape, Space


@dataclass(frozen=True)
class Curve:
    """Milliseconds by patch tokens, linear between the counts that were measured. More tokens never take less: where
    they did, neighbours that contradict each other count by their mean, as few of them as can be (isotonic regression).
    The last count is that of the whole image, where nothing has been merged yet: it stands for itself.

    Example:
        >>> curve = Curve((10, 20, 30, 40), (1.0, 3.0, 2.0, 2.5))
        >>> [curve(n) for n in (5, 15, 25, 40)]
        [1.0, 1.75, 2.5, 2.5]
    """

    tokens: tuple[int, ...]
    ms: tuple[float, ...]

    def __call__(self, n: int) -> float:
        """Milliseconds at n tokens."""
        if n >= self.tokens[-1] or len(self.tokens) == 1:
            return self.ms[-1]
        counts, rising = self.tokens[:-1], self._rising
        j = bisect_right(counts, n)
        if j in (0, len(counts)):
            return rising[0] if j == 0 else rising[-1]
        part = (n - counts[j - 1]) / (counts[j] - counts[j - 1])
        return rising[j - 1] + part * (rising[j] - rising[j - 1])

    @cached_property
    def _rising(self) -> list[float]:
        """All but the last, so that none is above the next: pools of neighbours by their means."""
        pools: list[tuple[float, int]] = []
        for ms in self.ms[:-1]:
            mean, size = ms, 1
            while pools and pools[-1][0] > mean:
                before, many = pools.pop()
                mean, size = (mean * size + before * many) / (size + many), size + many
            pools.append((mean, size))
        return [mean for mean, size in pools for _ in range(size)]


@dataclass(frozen=True)
class Table:
    """Milliseconds of the pieces that plans of one stack are made of, of one batch.

    ends:   before the first block and behind the last one
    dense:  the dense model, by its pieces
    curves: by name: "attention" and "mlp" of a block; "last block", which computes class tokens alone; and by each
            method's name what a place of it adds, by the tokens before it, or, of a method that puts tokens back, the
            whole block by the tokens inside. Where blocks have several shapes the first of each is named too
    """

    ends: float
    dense: float
    curves: dict[str, Curve]

    def ms(self, space: Space, shape: Shape) -> float:
        """Milliseconds of a plan."""
        return self.ends + sum(
            self._block(kind, *each[1:]) for kind, each in zip(space.kinds, space.walk(shape), strict=True)
        )

    def _block(self, kind: str, step: Step | None, n: int, left: int) -> float:
        if step is None:
            return self.plain(kind, n, n)
        place = self.curves[place_name(step, kind)]
        if step.restore_before is not None:
            return place(left)
        return place(n) + self.plain(kind, left if step.method.acts == "before" else n, left)

    def plain(self, kind: str, attended: int, left: int) -> float:
        if kind == LAST_BLOCK:
            return self.curves[kind](attended)
        return self.curves[named("attention", kind)](attended) + self.curves[named("mlp", kind)](left)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Table:
        """What `as_dict` gave.

        Example:
            >>> table = Table(0.5, 2.0, {"mlp": Curve((1, 4), (0.1, 0.2))})
            >>> Table.from_dict(table.as_dict()) == table
            True
        """
        curves = {name: Curve(tuple(c["tokens"]), tuple(c["ms"])) for name, c in said["curves"].items()}
        return cls(said["ends"], said["dense"], curves)


def named(piece: str, kind: str) -> str:
    """A curve's name: `attention`, or `attention, block from 3` where blocks differ."""
    return piece if kind == "block" else f"{piece}, {kind}"


def place_name(step: Step, kind: str) -> str:
    """The name of a method's curve."""
    return named(step.method.name, kind)


def cost_of(table: Table, space: Space) -> Cost:
    """What plans cost by a table, as shares of the dense model's milliseconds."""

    @cache
    def share(shape: Shape) -> float:
        return table.ms(space, shape) / table.dense

    def exact(shape: Shape) -> float:
        return share(space.shape_of(space.methods(shape)))

    return Cost(share, "latency", exact, opening=True)
