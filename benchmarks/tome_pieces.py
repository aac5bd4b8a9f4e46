"""Pieces of other methods, put into ToMe one at a time, on DeiT-Ti without training.

    python benchmarks/tome_pieces.py --checkpoint FILE --photos imagenette \\
        --json benchmarks/results/tome_pieces.json

Each piece is a small method of its own here. Every --r is a plan, which ToMe and the pieces follow. ALGM's windows are
followed by ToMe in the later blocks, with the smallest r that costs no more than the plan (0.1 % of the dense model at
most). Judged on the validation folder (--judged photographs of each class, the first by name; crop 1): agreement with
the dense model, KL, top-1 lost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from prunemerge_parts import divergence
from torch import Tensor, nn
from tuning import DEVICE, NAME, Judged, load, photographs

import vitrim
from vitrim.core.rows import take_rows
from vitrim.evaluate import environment
from vitrim.methods.base import Method, top
from vitrim.methods.diffrate import most_similar
from vitrim.methods.tome import mean_keys

FROM = 6  # the block from which on ATM's halves go by size
SLACK = 0.001  # of the dense MACs, by which a plan may be above another that it is said to cost the same as
Piece = Callable[[nn.Module, int], Sequence[Method]]


class Longest(vitrim.ToMe):
    """ToFu: the mean of the members, as long as the longest of them."""

    def forward(self, tokens, evidence, place):
        return replace(super().forward(tokens, evidence, place), rescale=True)


@dataclass(frozen=True)
class Powered(vitrim.Join):
    """What travels with the tokens is size ** power, so attention adds power * log(size); means go by the sizes."""

    power: float = field(default=1.0, kw_only=True)

    def shrink_size(self, size):
        return self.total**self.power


class Weaker(vitrim.ToMe):
    """ToMe that adds power * log(size) in attention instead of log(size)."""

    def __init__(self, r: Any = 13, at: Any = None, power: float = 1.0):
        super().__init__(r, at)
        self.power = power

    def forward(self, tokens, evidence, place):
        join: Any = super().forward(tokens, evidence, place)
        sizes = tokens.sizes ** (1 / self.power)
        return Powered(join.lead, join.moved, join.into, sizes, proportional=True, power=self.power)


class BySize(vitrim.ToMe):
    """ATM: in later blocks the smaller half of the tokens is A and the larger one B, so that small ones merge first."""

    def forward(self, tokens, evidence, place):
        if place.block < FROM:
            return super().forward(tokens, evidence, place)
        order, keys = tokens.sizes.argsort(dim=1, stable=True), mean_keys(evidence)
        small, large = order[:, : tokens.n // 2], order[:, tokens.n // 2 :]
        similar, partner = most_similar(take_rows(keys, small), take_rows(keys, large))
        best, r = similar.argsort(dim=1, descending=True), self._merged(place, tokens.n)
        moving, left = best[:, :r], best[:, r:].sort(dim=1).values
        stay = torch.cat([small.gather(1, left), large], dim=1)
        into = partner.gather(1, moving) + left.shape[1]
        return vitrim.Join(stay, small.gather(1, moving), into, tokens.sizes, proportional=True)


class Windows(vitrim.Method):
    """ALGM's first step: the windows of 2 x 2 patches whose features are the most alike become one token each."""

    name, title, weighs = "windows", "merge windows whose patches are alike", True

    def __init__(self, windows: int = 10, at: Any = None):
        super().__init__(at=at)
        self.windows = windows

    def forward(self, tokens, evidence, place):
        members = squares(tokens.grid).to(tokens.x.device)
        unit = F.normalize(tokens.patches.float(), dim=2)[:, members]
        alike = unit.sum(dim=2).norm(dim=2)  # grows with the mean cosine of a window's pairs
        chosen = members[top(alike, self.windows)]
        first, moved = chosen[..., :1].expand(-1, -1, 3).flatten(1), chosen[..., 1:].flatten(1)
        moves = torch.zeros_like(tokens.sizes).scatter(1, moved, 1.0)
        stay = moves.argsort(dim=1, stable=True)[:, : self.count(place, tokens.n)]
        rank = (1 - moves).cumsum(dim=1).long() - 1
        return vitrim.Join(stay, moved, rank.gather(1, first), tokens.sizes, proportional=True)

    def count(self, place, n):
        return n - 3 * self.windows

    def macs(self, place, n, body):
        return n * body.width


def squares(grid: tuple[int, int]) -> Tensor:
    """The numbers of the four patches of every window, [windows, 4]."""
    height, width = grid
    numbers = torch.arange(height * width).view(height // 2, 2, width // 2, 2)
    return numbers.transpose(1, 2).reshape(-1, 4)


def share(dense: nn.Module, methods: Sequence[Method]) -> float:
    return vitrim.profile(vitrim.reduce(dense, methods)).share


def alone(method: Callable[..., Method], **options: Any) -> Piece:
    return lambda dense, r: [method(r=r, **options)]


def windowed(windows: int, block: int) -> Piece:
    """The windows at that block, then ToMe in the blocks after it, with the smallest r that costs no more than ToMe."""

    def methods(dense: nn.Module, r: int) -> Sequence[Method]:
        budget, after = share(dense, [vitrim.ToMe(r=r)]) + SLACK, range(block + 1, 12)
        stacks = ([Windows(windows, at=block), vitrim.ToMe(r=fewer, at=after)] for fewer in range(2 * r))
        return next(stack for stack in stacks if share(dense, stack) <= budget)

    return methods


PIECES: dict[str, Piece] = {
    "ToMe as it is": alone(vitrim.ToMe),
    "the largest norm of the members (ToFu)": alone(Longest),
    "0.75 log(size)": alone(Weaker, power=0.75),
    "0.5 log(size)": alone(Weaker, power=0.5),
    "no log(size)": alone(vitrim.ToMe, proportional=False),
    "halves by size (ATM)": alone(BySize),
    "10 windows in block 1 (ALGM)": windowed(10, 1),
    "20 windows in block 2 (ALGM)": windowed(20, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--r", nargs="+", type=int, default=(10, 16))
    parser.add_argument("--judged", type=int, default=50)
    parser.add_argument("--pieces", nargs="+", default=list(PIECES))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dense = load(args)
    judged = Judged(dense, *photographs(args.photos / "val", dense, args.judged))
    rows = []
    for piece in args.pieces:
        for r in args.r:
            methods = PIECES[piece](dense, r)
            fast = vitrim.reduce(dense, methods).eval()
            about = {"piece": piece, "plan": r, "r": vars(methods[-1])["r"], "share": vitrim.profile(fast).share}
            rows.append({**about, "kl": divergence(dense, fast, judged.images), **judged(fast)})
            print(
                "{piece:40} r {r:2} of the MACs {share:.3f} agreement {agreement:.1f} KL {kl:.4f}".format(**rows[-1]),
                flush=True,
            )
    if args.json:
        about = {**environment(DEVICE), "model": NAME, "judged": args.judged, "photographs": len(judged.images)}
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
