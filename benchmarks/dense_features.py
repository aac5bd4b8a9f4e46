"""How well features of every patch come back after a reduction, with each way of filling pruned patches.

    python benchmarks/dense_features.py --checkpoint deit_tiny_patch16_224.safetensors --data imagenette/val \
        --json benchmarks/results/dense_features.json

DeiT-Ti on the first photographs of each class of Imagenette (crop 1): features after the final norm, restored
(`forward_features(images, restore=True, fill=...)`), beside those of the dense model.

cosine:  mean over all patches, in percent
matches: share of patches, in percent, whose nearest patch (by cosine) on the next photograph is the one that it is in
         the dense model
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
import untrained_tables
from torch import Tensor

import vitrim
from vitrim.core.filling import FILLS
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import environment

NAME = "deit_tiny_patch16_224"
BUDGETS = (0.7, 0.5)
# With the others every patch has an owner of its own.
DROPPING = ("topk", "evit", "diffrate", "prunemerge", "random", "grid")
METHODS = ("tome", "pitome", "dpcknn", "bat", "idlevit", "evovit", *DROPPING)


def nearest(features: Tensor) -> Tensor:
    """For every patch [b, n] its nearest patch on the next photograph of the batch."""
    unit = F.normalize(features, dim=2)
    return torch.bmm(unit, unit.roll(-1, 0).transpose(1, 2)).argmax(dim=2)


@torch.inference_mode()
def judge(models: dict[str, Any], dense: torch.nn.Module, loader, p: int) -> dict[tuple[str, str], list[float]]:
    """Mean cosine and share of matches, over all photographs."""
    sums, photographs = {(name, f): [0.0, 0.0] for name in models for f in fills(name)}, 0
    for batch in loader:
        wanted = dense.forward_features(batch.images)[:, p:]
        matched, photographs = nearest(wanted), photographs + len(wanted)
        for name, fill in sums:
            found = models[name].forward_features(batch.images, restore=True, fill=fill)[:, p:]
            cosine = F.cosine_similarity(found, wanted, dim=2).mean(dim=1).sum()
            same = (nearest(found) == matched).float().mean(dim=1).sum()
            sums[name, fill] = [sums[name, fill][0] + float(cosine), sums[name, fill][1] + float(same)]
    return {key: [100 * each / photographs for each in both] for key, both in sums.items()}


def fills(name: str) -> tuple[str, ...]:
    return FILLS if name.split()[0] in DROPPING else ("last",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dense = timm.create_model(NAME, checkpoint_path=args.checkpoint).eval()
    loader = open_loader(open_dataset(args.data, dense, crop_pct=1, limit_per_class=args.per_class), 50, workers=0)
    models = {f"{name} {b}": vitrim.reduce(dense, name, macs=b).eval() for b in BUDGETS for name in METHODS}
    figures = judge(models, dense, loader, dense.num_prefix_tokens)
    rows = [
        {
            "method": name.split()[0],
            "budget": float(name.split()[1]),
            "fill": fill,
            "cosine": both[0],
            "matches": both[1],
        }
        for (name, fill), both in figures.items()
    ]
    found = {**environment(), "images": 10 * args.per_class, "model": NAME, "budgets": BUDGETS, "rows": rows}
    print(untrained_tables.dense_features(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
