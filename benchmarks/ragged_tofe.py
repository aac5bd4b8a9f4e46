"""Does the clock deliver what the MACs promise when every image of a batch keeps its own number of tokens?

    python benchmarks/ragged_tofe.py                       # DeiT-S, batch 32, shares of ToFe's Table V
    python benchmarks/ragged_tofe.py --keep 0.76 0.57 0.43 --spread 0.2 --batches 16 32

Untrained selectors would decide anything, so their decisions are replaced, after they have computed them at full cost:
image i keeps a number of tokens drawn from a normal distribution, as ToFe's Fig. 9 shows them over ImageNet, with a
standard deviation of `--spread` times the mean. Timed in turn in one run: the dense timm model, the same model with
every image at the mean counts (batch-adaptive, dense gathers), and the ragged batch. "kept" is the speed-up over dense
divided by dense MACs over the MACs of the tokens present. Ratios are taken within each round; medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import timm
import torch

import vitrim
from vitrim.evaluate import environment, throughput_in_turn
from vitrim.runtime.build import attach


def drawn_counts(args, batch, n):
    """Kept patch tokens [batch, stages] of artificial images, means `args.keep` times n."""
    generator = torch.Generator().manual_seed(args.seed)
    mean = torch.tensor(args.keep) * n
    spread = torch.randn(batch, len(args.keep), generator=generator) * args.spread
    return (mean * (1 + spread)).round().clamp(1, n).long()


def decide(method, counts, n, device):
    """Let the selectors of the method compute what they compute, and decide for these counts at random positions."""
    generator = torch.Generator().manual_seed(0)
    for selector, count in zip(method.selectors, counts.unbind(1), strict=True):
        rank = torch.rand(len(counts), n, generator=generator).argsort(dim=1)
        margin = torch.where(rank < count.unsqueeze(1), 1.0, -1.0)
        z = torch.stack([margin, -margin], dim=-1).log_softmax(dim=-1).to(device)
        selector.register_forward_hook(lambda module, given, out, z=z: z)


def models_for(args, batch):
    """Dense, batch-adaptive and ragged models, and the MACs of the whole batch in each."""
    dense = timm.create_model(args.model).eval()
    n = vitrim.profile(dense).patches
    options = dict(keep=tuple(args.keep), selector=args.selector, approximator=args.approximator)
    even, ragged = (attach(dense, "tofe", adaptive=kind, **options) for kind in ("batch", "instance"))
    counts = drawn_counts(args, batch, n)
    decide(ragged.methods[0], counts, n, args.device)
    macs = {
        "dense": batch * vitrim.profile(dense).macs,
        "batch-adaptive": batch * vitrim.profile(even).macs,
        "ragged": int(vitrim.image_macs(ragged, counts).sum()),
    }
    return {"dense": dense, "batch-adaptive": even.eval(), "ragged": ragged.eval()}, macs, counts


def rows_for(args, batch):
    """One row for each model at this batch size."""
    models, macs, counts = models_for(args, batch)
    size = timm.data.resolve_model_data_config(models["dense"])["input_size"]
    images = torch.randn(batch, *size)
    timed = throughput_in_turn(models, images, args.rounds, device=args.device, dtype=args.dtype, seconds=args.seconds)
    low, high = (edge.tolist() for edge in (counts.amin(dim=0), counts.amax(dim=0)))
    for name in models:
        promise = macs["dense"] / macs[name]
        yield {
            "batch_size": batch,
            "model": name,
            "gmacs": round(macs[name] / batch / 1e9, 3),
            "tokens": " ".join(f"{a}-{b}" for a, b in zip(low, high, strict=True)) if name == "ragged" else "",
            "promise": round(promise, 3),
            "images_per_s": round(timed[name].images_per_s, 2),
            "speed_up": round(timed[name].speed_up, 3),
            "kept": round(timed[name].speed_up / promise, 3),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--keep", nargs="+", type=float, default=[0.49, 0.25, 0.14])
    parser.add_argument("--spread", type=float, default=0.3, help="standard deviation of the counts over their mean")
    parser.add_argument("--selector", default="mlp")
    parser.add_argument("--approximator", default="bottleneck")
    parser.add_argument("--batches", nargs="+", type=int, default=[32])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = []
    for batch in args.batches:
        for row in rows_for(args, batch):
            if not rows:
                print("  ".join(f"{key:>16}" for key in row))
            rows.append(row)
            print("  ".join(f"{value!s:>16}" for value in row.values()), flush=True)
    if args.json:
        settings = {"model": args.model, "keep": args.keep, "spread": args.spread, "seed": args.seed}
        args.json.write_text(json.dumps({**environment(args.device), **settings, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
