"""What was tried beyond the plans of `vitrim tune`, and is no part of vitrim: DeiT-Ti at half of its MACs.

    python benchmarks/tuning_tried.py --checkpoint FILE --photos imagenette --json benchmarks/results/tuning_tried.json

`correction`: the last features of the searched plan (--front, --macs) are corrected by a linear map, fitted to the
dense model's by least squares with a ridge (a share of the mean square of a feature), on all classes or on five of the
ten. Each map is fitted on --images photographs of the training folder, without labels.

`one block`: tokens merge for one block alone, and come back after it, beside the plans of PruneMerge at the same cost.

Judged on the validation folder (--judged photographs of each class, the first by name; crop 1): agreement with the
dense model, top-1 lost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from prunemerge_parts import FRONT, divergence
from torch import Tensor, nn
from tuning import DEVICE, NAME, Judged, load, photographs

import vitrim
from vitrim.core.schedule import ceil_count
from vitrim.evaluate import environment
from vitrim.methods.base import top
from vitrim.methods.diffrate import most_similar
from vitrim.runtime.plan_file import pick, read_plans

RIDGES = (0.001, 0.01, 0.1)


class Corrected(nn.Module):
    """The classifier behind a linear correction of the features."""

    def __init__(self, head: nn.Module, weights: Tensor):
        super().__init__()
        self.head, self.weights = head, weights

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features + (with_one(features) @ self.weights).float())


def with_one(features: Tensor) -> Tensor:
    """The features and a constant behind them, in float64."""
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1).double()


def fitted(given: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """The weights [c + 1, c] of the correction that leads from the given features [n, c] to those wanted."""
    rows = with_one(given)
    penalty = torch.full((rows.shape[1],), ridge * float(rows[:, :-1].square().sum(dim=0).mean()), dtype=rows.dtype)
    penalty[-1] = 0  # the constant is free
    return torch.linalg.solve(rows.T @ rows + penalty.diag().to(rows.device), rows.T @ (wanted - given).double())


@torch.inference_mode()
def pooled(model: Any, images: Tensor) -> Tensor:
    """What the head reads, of every photograph."""
    return torch.cat([model.pooled(batch) for batch in images.split(256)])


def correction(dense: Any, judged: Judged, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The plan with and without corrections, on each half of the classes and on all."""
    whole = vitrim.reduce(dense, [], prediction_only=True)
    fast = vitrim.reduce(dense, pick(read_plans(args.front), args.macs))
    read = Judged(dense.head, pooled(whole, judged.images), judged.labels)
    read.images = pooled(fast, judged.images)  # the corrected heads read the features of the plan
    images, labels = photographs(args.photos / "train", dense, -(-2 * args.images // 10))
    given, wanted = pooled(fast, images), pooled(whole, images)
    known = labels.unique()
    groups = {"all": known, "even": known[::2], "odd": known[1::2]}
    maps = [("nothing", None, dense.head)]
    for name, group in groups.items():
        some = drawn(labels, group, args.images)
        maps += [(name, ridge, Corrected(dense.head, fitted(given[some], wanted[some], ridge))) for ridge in RIDGES]
    for name, ridge, head in maps:
        for other, group in groups.items():
            found = read(head, torch.isin(read.labels, group))
            yield {"fitted_on": name, "ridge": ridge, "judged_on": other, **found}


def drawn(labels: Tensor, classes: Tensor, images: int) -> Tensor:
    """The numbers of so many photographs of these classes, the first of each class."""
    each = images // len(classes)
    return torch.cat([(labels == one).nonzero().flatten()[:each] for one in classes])


class ForOneBlock(vitrim.Method):
    """Before a block the tokens that [CLS] reads least join those that they are most like. After it all are there
    again, and each has got what the token that stood for it has gained.

    keep: the first block works on this share of the tokens, the next ones on its powers
    at: blocks, counted from 0 (default: 2 to 11 of 12, as PruneMerge's own plan)
    """

    name, title, acts, weighs = "for-one-block", "merge tokens for one block alone", "before", True

    def __init__(self, keep: Any = 0.8, at: Any = None):
        super().__init__(keep, at)

    def default_places(self, depth):
        return tuple(range(depth // 6, depth))

    def forward(self, tokens, evidence, place):
        order, m = top(evidence.class_logits(), tokens.n), self.count(place, tokens.n)
        lead, moved = order[:, :m], order[:, m:]
        _, into = most_similar(tokens.take(moved), tokens.take(lead))
        return vitrim.Join(lead, moved, into, tokens.sizes, proportional=True)

    def restore_before(self, place):
        return place.block + 1

    def count(self, place, n):
        return ceil_count(place.keep ** (place.index + 1), n)

    def macs(self, place, n, body):
        m = self.count(place, n)
        return body.class_logit_macs(place.block, n) + (n - m) * m * body.width


def one_block(dense: Any, judged: Judged, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Merging for one block alone, PruneMerge's own plan, and the one that was searched."""
    models = {
        "merged for one block": vitrim.reduce(dense, ForOneBlock(), macs=args.macs, prediction_only=True),
        "prunemerge, its own plan": vitrim.reduce(dense, "prunemerge", macs=args.macs, prediction_only=True),
        "prunemerge, searched": vitrim.reduce(dense, pick(read_plans(args.front), args.macs)),
    }
    for name, fast in models.items():
        cost = vitrim.profile(fast)
        about = {"plan": name, "share": cost.share, "tokens": cost.tokens}
        yield {**about, "kl": divergence(dense, fast.eval(), judged.images), **judged(fast)}


TRIED = {"correction": correction, "one block": one_block}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--front", type=Path, default=FRONT)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--judged", type=int, default=200)
    parser.add_argument("--tried", nargs="+", choices=tuple(TRIED), default=tuple(TRIED))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dense, found = load(args), {}
    judged = Judged(dense, *photographs(args.photos / "val", dense, args.judged))
    for tried in args.tried:
        found[tried] = []
        for row in TRIED[tried](dense, judged, args):
            found[tried].append(row)
            print(json.dumps(row), flush=True)
    if args.json:
        asked = {key: getattr(args, key) for key in ("macs", "images", "judged")}
        about = {**environment(DEVICE), "model": NAME, **asked, "photographs": len(judged.images)}
        args.json.write_text(json.dumps({**about, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
