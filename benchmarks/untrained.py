"""Methods and their options without training: agreement with the dense model, KL and top-1 at equal MACs.

    python benchmarks/untrained.py --checkpoint deit_tiny_patch16_224.safetensors --data imagenette/val \
        --json benchmarks/results/untrained.json

DeiT-Ti on the first 100 validation photographs of each class of Imagenette (crop 1), the setting of
docs/results/methods.md. A row of ROWS is a method with options; every row is judged at each budget.
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

import vitrim
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import environment, wilson_interval

NAME = "deit_tiny_patch16_224"
BUDGETS = (0.7, 0.5)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "tome": ("tome", {}),
    "diffrate": ("diffrate", {}),
    "pitome": ("pitome", {}),
    "topk, cls": ("topk", {}),
    "topk, tokens": ("topk", {"score": "tokens"}),
    "topk, shift": ("topk", {"score": "shift"}),
    "topk, shift-mlp": ("topk", {"score": "shift-mlp"}),
    "random": ("random", {}),
}


@torch.inference_mode()
def judge(models: dict[str, torch.nn.Module], dense: torch.nn.Module, loader) -> tuple[dict[str, list[float]], int]:
    """Agreement with dense, right answers and KL(dense || reduced), each summed over the photographs."""
    sums, images = {name: [0.0, 0.0, 0.0] for name in ("dense", *models)}, 0
    for batch in loader:
        wanted = dense(batch.images)
        images += len(wanted)
        for name, model in {"dense": dense, **models}.items():
            logits = wanted if name == "dense" else model(batch.images)
            answers = logits.argmax(dim=1)
            apart = F.kl_div(logits.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="sum")
            for j, figure in enumerate((answers == wanted.argmax(1), answers == batch.labels, apart)):
                sums[name][j] += float(figure.sum())
    return sums, images


def row(name: str, budget: float, share: float, sums: list[float], dense: list[float], images: int) -> dict[str, Any]:
    agreement = [100 * bound for bound in wilson_interval(int(sums[0]), images)]
    return {
        "row": name, "budget": budget, "share": share, "agreement": 100 * sums[0] / images,
        "agreement_interval": agreement, "top1": 100 * sums[1] / images,
        "change": 100 * (sums[1] - dense[1]) / images, "kl": sums[2] / images,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dense = timm.create_model(NAME, checkpoint_path=args.checkpoint).eval()
    loader = open_loader(open_dataset(args.data, dense, crop_pct=1, limit_per_class=args.per_class), 50, workers=0)
    asked = [(name, budget, *ROWS[name]) for budget in BUDGETS for name in args.rows]
    models = {f"{name} {b}": vitrim.reduce(dense, method, macs=b, **o).eval() for name, b, method, o in asked}
    sums, images = judge(models, dense, loader)
    shares = {name: vitrim.profile(model).share for name, model in models.items()}
    rows = [row(n, b, shares[f"{n} {b}"], sums[f"{n} {b}"], sums["dense"], images) for n, b, *_ in asked]
    found = {**environment(), "images": images, "model": NAME, "budgets": BUDGETS, "rows": rows}
    print(untrained_tables.untrained(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
