"""What does one step of `distill` at half MACs cost, against one dense training step and one dense forward?

    python benchmarks/step_time.py --json benchmarks/results/step_time.json
    python benchmarks/step_time.py --precision bf16 --json benchmarks/results/step_time_bf16.json

All three are timed in turn in one run; the median over the rounds of distill / (dense step + dense forward) is printed.
Random weights and noise images: neither changes the time.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from functools import partial
from pathlib import Path
from statistics import median

import timm
import torch
from torch.nn.functional import cross_entropy

from vitrim.evaluate import environment
from vitrim.runtime.build import UntrainedWarning
from vitrim.training import Settings, get_recipe
from vitrim.training.finetune import make_teacher, objective_of
from vitrim.training.loop import make_accelerator
from vitrim.training.steps import Stepper
from vitrim.training.student import make_student

METHODS = [
    "evit",
    "bat",
    "tome",
    "topk",
    "dpcknn",
    "idlevit",
    "dynamicvit",
    "tofe",
]  # those of the group `methods` in finetune.toml


def distill_step(dense, name, images, labels, precision):
    """A function that takes one step of `distill` with method `name` at half of the dense MACs."""
    student, recipe = make_student(dense, name, get_recipe("distill", small=True), 0.5, {})
    settings = Settings(Path("unused"), cpu=True, precision=precision)
    objective = objective_of(recipe, student, 0.5)
    accelerator = make_accelerator(settings, any(m.learns for m in student.methods))
    teacher = make_teacher(dense, student, recipe)
    stepper = Stepper(accelerator, student, teacher, objective, settings, steps_per_epoch=100)
    stepper.begin_epoch(0)
    return lambda: stepper.take(0, images, labels)


def dense_step(dense, images, labels, cast):
    """A function that takes one training step of the dense model, with the same optimiser."""
    model = copy.deepcopy(dense).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step():
        with cast():
            loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds(run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UntrainedWarning)
    dense = timm.create_model("deit_tiny_patch16_224").eval()
    images, labels = torch.randn(args.batch, 3, 224, 224), torch.randint(0, 1000, (args.batch,))
    cast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=args.precision == "bf16")

    @torch.no_grad()
    def dense_forward():
        with cast():
            dense(images)

    runs = {"dense step": dense_step(dense, images, labels, cast), "dense forward": dense_forward}
    runs |= {name: distill_step(dense, name, images, labels, args.precision) for name in args.methods}
    rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(args.rounds + 1)][1:]
    found = {}
    for name in args.methods:
        ratio = median(r[name] / (r["dense step"] + r["dense forward"]) for r in rounds)
        found[name] = {"ratio": round(ratio, 4), "seconds": round(median(r[name] for r in rounds), 4)}
        print(f"{name:12} {ratio:.3f} of a dense training step plus a dense forward, {found[name]['seconds']:.2f} s")
    if args.json:
        where = {**environment(), "precision": args.precision, "batch_size": args.batch, "rounds": args.rounds}
        args.json.write_text(json.dumps({**where, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
