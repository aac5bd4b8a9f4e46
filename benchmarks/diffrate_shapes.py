"""Where DiffRate should let tokens leave: shapes of its two lists at the same cost, on DeiT-Ti without training.

    python benchmarks/diffrate_shapes.py --checkpoint FILE --photos imagenette \\
        --json benchmarks/results/diffrate_shapes.json

In every shape half of the tokens that leave a block are dropped, and half join others. Every shape is the dearest of
its kind that costs at most --macs of the dense model. Judged on the validation folder (--judged photographs of each
class, the first by name; crop 1): agreement with the dense model, KL, top-1 lost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from prunemerge_parts import divergence
from torch import nn
from tuning import DEVICE, NAME, Judged, load, photographs

import vitrim
from vitrim.evaluate import environment
from vitrim.methods.diffrate import halves

DEPTH, STEP = 12, 0.01  # blocks; how finely a number of tokens is sought
Shape = Callable[[nn.Module, float], nn.Module]


def shared(at: Sequence[int]) -> Shape:
    """The same share of the tokens leaves in each of these blocks."""
    return lambda dense, macs: vitrim.reduce(dense, vitrim.DiffRate(at=at), macs=macs)


def numbered(at: Sequence[int], more_from: int = DEPTH) -> Shape:
    """The same number of tokens leaves in each of these blocks, and half as many again from block `more_from` on."""

    def shape(dense: nn.Module, macs: float) -> nn.Module:
        low, high = 0, round(64 / STEP)  # of the steps; so many tokens cost more than macs, so many less
        while high - low > 1:
            middle = (low + high) // 2
            dear = vitrim.profile(vitrim.reduce(dense, leaving(at, more_from, middle * STEP))).share > macs
            low, high = (middle, high) if dear else (low, middle)
        return vitrim.reduce(dense, leaving(at, more_from, high * STEP))

    return shape


def leaving(at: Sequence[int], more_from: int, number: float) -> vitrim.DiffRate:
    """DiffRate that lets so many tokens leave each block; of a fraction one token more in some of the blocks."""
    shares = [number * (1.5 if block >= more_from else 1.0) for block in at]
    ends = [round(sum(shares[:j])) for j in range(len(shares) + 1)]
    pairs = [halves(end - start) for start, end in pairwise(ends)]
    return vitrim.DiffRate(pruned=[dropped for dropped, _ in pairs], merged=[joined for _, joined in pairs], at=at)


SHAPES: dict[str, Shape] = {
    "same share in blocks 2 to 11": shared(range(2, DEPTH)),
    "same share in blocks 1 to 11": shared(range(1, DEPTH)),
    "same share in all blocks": shared(range(DEPTH)),
    "same number in all blocks": numbered(range(DEPTH)),
    "same number in blocks 2 to 11": numbered(range(2, DEPTH)),
    "same number in blocks 2 to 11, half as many again from block 9": numbered(range(2, DEPTH), 9),
}


def judge(shape: str, macs: float, dense: nn.Module, judged: Judged) -> dict[str, Any]:
    fast = SHAPES[shape](dense, macs).eval()
    cost = vitrim.profile(fast)
    about = {"shape": shape, "macs": macs, "share": cost.share, "tokens": cost.tokens}
    return {**about, "kl": divergence(dense, fast, judged.images), **judged(fast)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--macs", nargs="+", type=float, default=(0.5, 0.7))
    parser.add_argument("--judged", type=int, default=100)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dense, rows = load(args), []
    judged = Judged(dense, *photographs(args.photos / "val", dense, args.judged))
    for macs in args.macs:
        for shape in args.shapes:
            rows.append(judge(shape, macs, dense, judged))
            print("{macs} {shape:64} agreement {agreement:.1f} lost {lost:.1f}".format(**rows[-1]), flush=True)
    if args.json:
        about = {**environment(DEVICE), "model": NAME, "judged": args.judged, "photographs": len(judged.images)}
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
