"""A plan without its model: which share of the patches has left by which share of the depth, dropped and merged."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from .plan_file import Plan

Knot = tuple[float, float, float]  # share of the depth; of the patches dropped, and merged into others, until there


@dataclass(frozen=True)
class Curve:
    """What leaves over the depth of a model; straight between the knots, the first of which is (0, 0, 0).

    Example: of 64 patches 8 are merged in each of 4 blocks.
        >>> from vitrim.runtime.curve import Curve
        >>> tome = "tome", {"r": [8, 8, 8, 8], "at": [0, 1, 2, 3]}
        >>> plan = Plan((tome,), 0.7, 0.69, "vit_tiny", depth=4, patches=64)
        >>> curve = Curve.of(plan)
        >>> curve.left(0.5), curve.counts(range(8), 8, 256)[:2]
        (0.75, [(0, 16), (0, 16)])
    """

    knots: tuple[Knot, ...]

    @staticmethod
    def of(plan: Plan) -> Curve:
        """The curve of a plan of one method with a count for each block of `at`: `pruned` and `merged`, or `r`."""
        ((_, options),) = plan.methods
        merged = options.get("merged", options.get("r"))
        pruned = options.get("pruned", [0] * len(merged))
        knots: list[Knot] = [(0.0, 0.0, 0.0)]
        for block, p, m in zip(options["at"], pruned, merged, strict=True):
            _, dropped, joined = knots[-1]
            if block / plan.depth > knots[-1][0]:  # nothing leaves in the blocks between
                knots.append((block / plan.depth, dropped, joined))
            knots.append(((block + 1) / plan.depth, dropped + p / plan.patches, joined + m / plan.patches))
        return Curve(tuple(knots))

    def until(self, x: float) -> tuple[float, float]:
        """Shares of the patches dropped and merged until that share of the depth."""
        j = bisect_left(self.knots, x, key=lambda knot: knot[0])
        if j == len(self.knots):
            return self.knots[-1][1:]
        if j == 0:
            return 0.0, 0.0
        before, after = self.knots[j - 1 : j + 1]
        t = (x - before[0]) / (after[0] - before[0])
        dropped, merged = (a + t * (b - a) for a, b in zip(before[1:], after[1:], strict=True))
        return dropped, merged

    def left(self, x: float) -> float:
        """The share of the patches that is left there."""
        return 1 - sum(self.until(x))

    def towards(self, other: Curve, t: float) -> Curve:
        """This curve for t = 0, the other one for t = 1, and between the two what lies between them."""
        xs = sorted({knot[0] for knot in (*self.knots, *other.knots)})
        pairs = ((self.until(x), other.until(x)) for x in xs)
        between = ([a + t * (b - a) for a, b in zip(*pair, strict=True)] for pair in pairs)
        return Curve(tuple((x, dropped, merged) for x, (dropped, merged) in zip(xs, between, strict=True)))

    def counts(
        self, blocks: Sequence[int], depth: int, patches: int, power: float = 1.0, halves: bool = False
    ) -> list[tuple[int, int]]:
        """(dropped, merged) tokens in each of these blocks of a model of `depth` blocks and `patches` tokens.

        power:  what is left is raised to it: above 1 more leaves everywhere, at 0 nothing does
        halves: no more than half of the tokens leave in one block (ToMe); the rest does in the next
        """
        counts, n, before = [], patches, (0.0, 0.0)
        for block in blocks:
            x = (block + 1) / depth
            leaving = max(n - max(round(patches * max(self.left(x), 0.0) ** power), 1), 0)
            leaving = min(leaving, n // 2) if halves else leaving
            until = self.until(x)
            dropped, merged = (b - a for a, b in zip(before, until, strict=True))
            share = dropped / (dropped + merged) if dropped + merged > 0 else 0.0
            pruned = math.floor(share * leaving + 0.5)
            counts.append((pruned, leaving - pruned))
            n, before = n - leaving, until
        return counts
