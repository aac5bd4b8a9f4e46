"""What does one step of `distill` at half MACs cost, against one dense training step and one dense forward?

    python benchmarks/step_time.py

All three are timed in turn in one run; the median over the rounds of distill / (dense step + dense forward) is printed.
Random weights and noise images: neither changes the time.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from pathlib import Path
from statistics import median

import timm
import torch
from torch.nn.functional import cross_entropy

from vitrim.build import UntrainedWarning, attach
from vitrim.evaluate import environment
from vitrim.training import Settings, get_recipe
from vitrim.training.finetune import objective_of
from vitrim.training.loop import make_accelerator
from vitrim.training.objective import Teacher
from vitrim.training.recipes import for_methods
from vitrim.training.steps import Stepper


def distill_step(dense, name, images, labels):
    """A function that takes one step of `distill` with method `name` at half of the dense MACs."""
    student = attach(dense, name, macs=0.5, copy=True)
    recipe = for_methods(get_recipe("distill", small=True), [name])
    settings = Settings(Path("unused"), cpu=True)
    objective = objective_of(recipe, student, 0.5)
    accelerator = make_accelerator(settings, any(m.learns for m in student.methods))
    stepper = Stepper(accelerator, student, Teacher(copy.deepcopy(dense)), objective, settings, steps_per_epoch=100)
    stepper.begin_epoch(0)
    return lambda: stepper.take(0, images, labels)


def dense_step(dense, images, labels):
    """A function that takes one training step of the dense model, with the same optimiser."""
    model = copy.deepcopy(dense).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step():
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds(run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["evit", "tome", "bat", "idlevit"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UntrainedWarning)
    dense = timm.create_model("deit_tiny_patch16_224").eval()
    images, labels = torch.randn(args.batch, 3, 224, 224), torch.randint(0, 1000, (args.batch,))
    runs = {"dense step": dense_step(dense, images, labels), "dense forward": torch.no_grad()(lambda: dense(images))}
    runs |= {name: distill_step(dense, name, images, labels) for name in args.methods}
    rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(args.rounds + 1)][1:]
    found = {}
    for name in args.methods:
        found[name] = median(r[name] / (r["dense step"] + r["dense forward"]) for r in rounds)
        print(f"{name:12} {found[name]:.3f} of a dense training step plus a dense forward")
    if args.json:
        args.json.write_text(json.dumps({**environment(), "batch_size": args.batch, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
