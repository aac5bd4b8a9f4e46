"""Peak memory of one forward, reduced over dense, for every method.

    python benchmarks/memory.py --models DeiT-Ti --json benchmarks/results/memory.json

The most bytes that tensors hold at once beside weights and images (`vitrim.deploy.memory`), on models four blocks deep:
a deeper model holds no more at once. Random weights and noise images: neither changes the memory.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer

import vitrim
from vitrim.deploy.memory import peak_bytes
from vitrim.evaluate import environment

WIDTHS = {"DeiT-Ti": (192, 3), "DeiT-S": (384, 6), "DeiT-B": (768, 12)}


def row_for(name: str, model: VisionTransformer, images: torch.Tensor, macs: float, dense: int) -> dict:
    try:
        fast = vitrim.reduce(model, name, macs=macs).eval()
    except ValueError as error:
        return {"method": name, "macs": macs, "reason": str(error)}
    peak = peak_bytes(fast, images)
    return {"method": name, "macs": macs, "peak": peak, "over_dense": peak / dense}


def rows_for(label: str, size: int, args: argparse.Namespace) -> list[dict]:
    width, heads = WIDTHS[label]
    model = VisionTransformer(img_size=size, patch_size=16, embed_dim=width, num_heads=heads, depth=4).eval()
    images = torch.randn(args.batch, 3, size, size)
    dense = peak_bytes(model, images)
    found = []
    for name in args.methods:
        for macs in args.macs:
            row = {"model": label, "image_size": size, "dense": dense, **row_for(name, model, images, macs, dense)}
            found.append(row)
            print(label, size, name, macs, row.get("over_dense", row.get("reason")), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["DeiT-Ti", "DeiT-S"], choices=WIDTHS)
    parser.add_argument("--methods", nargs="+", default=list(vitrim.METHODS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 1024])
    parser.add_argument("--macs", nargs="+", type=float, default=[0.7, 0.5])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore", vitrim.UntrainedWarning)
    torch.manual_seed(0)
    rows = [row for label in args.models for size in args.sizes for row in rows_for(label, size, args)]
    if args.json is not None:
        args.json.write_text(json.dumps({**environment(), "batch_size": args.batch, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
