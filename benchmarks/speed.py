"""Does the clock deliver what the MACs promise? Dense timm and reduced models, timed in turn in one run.

    python benchmarks/speed.py                                    # EViT keep 0.7 and 0.5, DeiT-S, batch 16 and 1
    python benchmarks/speed.py --methods idlevit tofe bat tome --macs 0.7 0.5 --batches 16

"kept" is the speed-up over dense divided by dense MACs over reduced MACs. Medians over the rounds; the ratio is taken
within each round, because machines are noisy. Random weights and noise images: neither changes the speed.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import timm
import torch

import vitrim
from vitrim.evaluate import environment, throughput_in_turn


def models_for(args, dense):
    """The dense model, and one reduced model for each method at each keep rate or budget."""
    models = {"dense": dense}
    for name in args.methods:
        for keep in args.keep if args.macs is None else ():
            models[f"{name} keep {keep}"] = vitrim.reduce(dense, name, keep=keep)
        for share in args.macs or ():
            models[f"{name} macs {share}"] = vitrim.reduce(dense, name, macs=share)
    return models


def rows_for(args, batch):
    """One row for each model at this batch size."""
    dense = timm.create_model(args.model).eval()
    models = models_for(args, dense)
    images = torch.randn(batch, *timm.data.resolve_model_data_config(dense)["input_size"])
    timed = throughput_in_turn(models, images, args.rounds, device=args.device, dtype=args.dtype, seconds=args.seconds)
    for name, model in models.items():
        profile = vitrim.profile(model)
        promise = profile.dense_macs / profile.macs
        yield {
            "batch_size": batch,
            "model": name,
            "gmacs": round(profile.gmacs, 3),
            "promise": round(promise, 3),
            "images_per_s": round(timed[name].images_per_s, 2),
            "speed_up": round(timed[name].speed_up, 3),
            "kept": round(timed[name].speed_up / promise, 3),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--methods", nargs="+", default=["evit"])
    parser.add_argument("--keep", nargs="+", type=float, default=[0.7, 0.5])
    parser.add_argument("--macs", nargs="+", type=float)
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 1])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*learned parts.*")
    rows = []
    for batch in args.batches:
        for row in rows_for(args, batch):
            rows.append(row)
            print("  ".join(f"{value!s:>16}" for value in row.values()) if len(rows) > 1 else _head(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps({**environment(args.device), "model": args.model, "rows": rows}, indent=2))


def _head(row):
    titles = "  ".join(f"{key:>16}" for key in row)
    return titles + "\n" + "  ".join(f"{value!s:>16}" for value in row.values())


if __name__ == "__main__":
    main()
