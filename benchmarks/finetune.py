"""What fine-tuning wins back on a small machine: the real DeiT-Ti on Imagenette's photographs.

    python benchmarks/finetune.py methods     # every method before and after `distill`, same MACs, photographs, minutes
    python benchmarks/finetune.py claims      # the papers' ablations on this ground, beside the rows of `methods`
    python benchmarks/finetune.py classes     # learn on five classes, judge on the other five, and the other way round
    python benchmarks/finetune.py tries       # what else was tried for classes never seen
    python benchmarks/finetune.py budgets     # ToFe: what instance-adaptive inference costs, beside its target
    python benchmarks/finetune.py spring      # ToFe: the paper's weight of the budget in a short run

Accuracies are top-1 over all 1000 classes, on the first --per-class validation photographs of each class, crop 1.0.
Every method trains for as many steps as take --minutes by the seconds in benchmarks/results/step_time_bf16.json (of one
quiet run, so that the load of this one does not change the figures), at most one epoch; decoding comes on top.
Results are appended to benchmarks/results/finetune_GROUP.json, each trial with the settings that it ran with; what is
there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch

import vitrim
from vitrim.backbones.timm.checkpoints import load_checkpoint
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import environment, evaluate_many
from vitrim.runtime.profile import image_macs
from vitrim.training import Settings, finetune, get_recipe, override
from vitrim.training.shares import own_counts

PHOTOGRAPHS = 9469  # Imagenette's for training
SHARED = Path(os.environ.get("VITRIM_SHARED", Path(__file__).resolve().parents[2] / "shared"))
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Trial:
    """One run: a method at a share of the dense MACs, a recipe, and what is changed about it."""

    name: str
    method: str
    macs: float = 0.5
    recipe: str = "distill"
    options: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    learn: str = "all"  # classes it learns on: "all", "first" five or "last" five
    judge: str = "all"


METHODS = [Trial(name, name) for name in ("tome", "bat", "evit", "topk", "dpcknn", "idlevit", "dynamicvit", "tofe")]
CLAIMS = [
    Trial("idlevit, cut loss 4", "idlevit", changes={"cut": 4.0}),
    Trial("idlevit, cut loss 20", "idlevit", changes={"cut": 20.0}),
    Trial("tofe, no reuse", "tofe", options={"reuse": False}),
    Trial("tofe, fixed counts", "tofe", changes={"budget": 0.0, "ratio": 100.0}),
    Trial("bat, none", "bat", options={"merge": "none"}),
    Trial("bat, pack", "bat", options={"merge": "pack"}),
    Trial("bat, cluster", "bat", options={"merge": "cluster"}),
]
CLASSES = [
    Trial(f"{method}, {learn} five seen", method, learn=learn, judge=judge)
    for method in ("evit", "tome")
    for learn, judge in (("first", "last"), ("last", "first"))
]
CLASSES += [
    Trial(f"evit, {learn} five seen, patches taught too", "evit", changes={"token_mse": 1.0}, learn=learn, judge=judge)
    for learn, judge in (("first", "last"), ("last", "first"))
]
TRIES = [
    Trial(f"evit, {name}", "evit", changes=changes, learn="first", judge="last")
    for name, changes in {
        "features alone": {"logit_kl": 0.0},
        "mixup and cutmix": {"mixup": 0.8, "cutmix": 1.0},
        "rate 1.5e-5": {"backbone_scale": 0.015, "min_lr": 1e-4},
        "patches taught, rate 1.5e-4": {"token_mse": 1.0, "backbone_scale": 0.15},
    }.items()
]
BUDGETS = [Trial(f"tofe, {share}", "tofe", macs=share, options={"adaptive": "instance"}) for share in (0.4, 0.5, 0.7)]
SPRING = [
    Trial(
        "tofe, 0.5, weight 5",
        "tofe",
        recipe="tofe",
        options={"adaptive": "instance"},
        changes={"budget": 5.0, "budget_of_mean": False},
    )
]
GROUPS = {
    "methods": METHODS,
    "claims": CLAIMS,
    "classes": CLASSES,
    "tries": TRIES,
    "budgets": BUDGETS,
    "spring": SPRING,
}


def dense_model():
    model = timm.create_model("deit_tiny_patch16_224")
    load_checkpoint(model, SHARED / "weights" / "deit_tiny_patch16_224.safetensors")
    return model.eval()


def folder_of(split: str, which: str, parent: Path) -> Path:
    """Imagenette's split, or a folder of links to half of its classes."""
    whole = SHARED / "data" / "imagenette" / split
    if which == "all":
        return whole
    classes = sorted(p.name for p in whole.iterdir() if p.is_dir())
    half = parent / f"{split}-{which}"
    half.mkdir(exist_ok=True)
    for name in classes[:5] if which == "first" else classes[5:]:
        (half / name).symlink_to(whole / name)
    return half


def judged(models, folder: Path, args) -> dict[str, dict]:
    dense = next(iter(models.values()))
    loader = open_loader(open_dataset(folder, dense, crop_pct=1.0, limit_per_class=args.per_class), 32, 0)
    found = evaluate_many(models, loader, dtype="bfloat16" if args.precision == "bf16" else "float32")
    return {
        name: {"top1": r.top1, "interval": r.top1_interval, "agreement": r.agreement, "images": r.images}
        for name, r in found.items()
    }


@torch.no_grad()
def adaptive_share(model, dense, folder: Path, bf16: bool) -> float:
    """Mean MACs of instance-adaptive inference over all photographs of a folder, as a share of the dense cost."""
    loader, shares = open_loader(open_dataset(folder, dense, crop_pct=1.0), 32, 0), []
    for images, *_ in loader:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            _, learned = model(images, losses=True)
        shares.append(image_macs(model, own_counts(model.methods[0], learned)[0]) / vitrim.profile(dense).macs)
    return float(torch.cat(shares).mean())


def steps_of(trial: Trial, args) -> int:
    """Steps that take --minutes, at most those of one epoch over all training photographs."""
    if args.steps:
        return args.steps
    seconds = json.loads((RESULTS / "step_time_bf16.json").read_text())["rows"][trial.method]["seconds"]
    return min(PHOTOGRAPHS // args.batch, round(60 * args.minutes / seconds))


def run(trial: Trial, args, work: Path) -> dict[str, Any]:
    dense, begin = dense_model(), time.time()
    changes = {"batch_size": args.batch, **trial.changes}
    recipe = override(get_recipe(trial.recipe, small=True), **changes)
    settings = Settings(work / "run", precision=args.precision, cpu=True, workers=0, log_every=10, save_minutes=60)
    before = vitrim.reduce(dense, trial.method, macs=trial.macs, **trial.options)
    learn, judge = folder_of("train", trial.learn, work), folder_of("val", trial.judge, work)
    report = finetune(
        dense,
        trial.method,
        learn,
        recipe,
        settings,
        macs=trial.macs,
        limit=args.batch * steps_of(trial, args),
        **trial.options,
    )
    minutes = (time.time() - begin) / 60
    figures = judged({"dense": dense, "before": before, "after": report.model}, judge, args)
    costs = {"share_before": vitrim.profile(before).share, "share_after": vitrim.profile(report.model).share}
    if trial.options.get("adaptive") == "instance":
        costs["share_mean"] = adaptive_share(
            report.model, dense, folder_of("val", "all", work), args.precision == "bf16"
        )
    last = (work / "run" / "steps.csv").read_text().splitlines()
    loss = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    return {"trial": trial.name, "steps": report.steps, "minutes": round(minutes, 2), **costs, **figures, "last": loss}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--only", nargs="+", help="only trials whose name holds one of these")
    parser.add_argument("--minutes", type=float, default=3.3, help="of training, for every method")
    parser.add_argument("--steps", type=int, help="this many instead, for every method")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=vitrim.runtime.build.UntrainedWarning)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"finetune_{args.group}.json"
    done = json.loads(path.read_text()) if path.exists() else {"trials": []}
    for trial in GROUPS[args.group]:
        known = [d["trial"] for d in done["trials"]]
        if trial.name in known or (args.only and not any(part in trial.name for part in args.only)):
            continue
        with tempfile.TemporaryDirectory() as work:
            result = run(trial, args, Path(work))
        print(trial.name, json.dumps({k: v for k, v in result.items() if k != "last"}), flush=True)
        done["trials"].append({**result, "settings": vars(args) | environment()})
        path.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
