"""What share of a reduced model's time goes into the method's own steps: deciding, and applying the decision.

    python benchmarks/own_steps.py                                # BAT keep 0.7, DeiT-S, batch 16
    python benchmarks/own_steps.py --methods bat evit tome --macs 0.7

Every decision of one forward is recorded and timed again by itself, in turn with the whole model; medians over the
rounds. Random weights and noise images: neither changes the speed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import timm
import torch

import vitrim
from vitrim.evaluate import environment


def decisions(model, images):
    """(method, tokens, evidence, place) of every decision in one forward."""
    seen = []
    hooks = [
        method.register_forward_hook(lambda method, given, reduction: seen.append((method, *given)))
        for method in model.methods
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return seen


def replay(seen):
    """Decide and apply all over again."""
    for method, tokens, evidence, place in seen:
        reduction = method(tokens, evidence, place)
        if reduction is not None:
            tokens.shrink(reduction)


def seconds(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


@torch.inference_mode()
def row_for(name, model, images, rounds):
    seen = decisions(model, images)
    replay(seen)
    pairs = [(seconds(model, images), seconds(replay, seen)) for _ in range(rounds)]
    whole, own = (statistics.median(times) for times in zip(*pairs, strict=True))
    share = statistics.median(own / whole for whole, own in pairs)
    return {
        "model": name,
        "batch_size": len(images),
        "model_ms": round(1000 * whole, 2),
        "own_ms": round(1000 * own, 2),
        "share": round(share, 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--methods", nargs="+", default=["bat"])
    parser.add_argument("--keep", nargs="+", type=float, default=[0.7])
    parser.add_argument("--macs", nargs="+", type=float)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*learned parts.*")
    dense = timm.create_model(args.model).eval()
    images = torch.randn(args.batch, *timm.data.resolve_model_data_config(dense)["input_size"])
    dial, values = ("macs", args.macs) if args.macs else ("keep", args.keep)
    rows = []
    for name in args.methods:
        for value in values:
            model = vitrim.reduce(dense, name, **{dial: value})
            rows.append(row_for(f"{name} {dial} {value}", model, images, args.rounds))
            print("  ".join(f"{key} {figure}" for key, figure in rows[-1].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps({**environment("cpu"), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
