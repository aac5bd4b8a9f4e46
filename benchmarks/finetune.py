"""What fine-tuning wins back on a small machine: runs the trials of finetune.toml.

    python benchmarks/finetune.py                        # which groups and trials there are
    python benchmarks/finetune.py methods                # all trials of a group
    python benchmarks/finetune.py claims tofe-no-reuse   # one of them
    python benchmarks/finetune.py methods --precision no --results elsewhere   # with other settings than the TOML's

Accuracies are top-1 over all classes of the model, on the first `per_class` validation photographs of each class, crop
1.0. Every method trains for as many steps as take `minutes` by the seconds in results/step_time_bf16.json (of a quiet
run, so that the load of this one does not change the figures), at most one epoch; decoding comes on top.
Each result is a file of its own, results/finetune/GROUP/TRIAL.json, with the settings that it was made with. What is
there already is not run again without --again. `python benchmarks/tables.py` makes the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import timm
import torch
from finetune_trials import RESULTS, TRIALS, Group, Trial, TrialSettings, chosen, read_groups, result_file
from torch import nn

import vitrim
from vitrim.backbones.timm.checkpoints import load_checkpoint
from vitrim.common.files import write_json
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import environment, evaluate_many
from vitrim.runtime.build import UntrainedWarning
from vitrim.runtime.profile import image_macs
from vitrim.training import Recipe, Settings, finetune, get_recipe, override
from vitrim.training.shares import own_counts

SHARED = Path(os.environ.get("VITRIM_SHARED", Path(__file__).resolve().parents[2] / "shared"))
STEP_TIMES = Path(__file__).parent / "results" / "step_time_bf16.json"


def dense_model(settings: TrialSettings) -> nn.Module:
    model = timm.create_model(settings.model)
    load_checkpoint(model, SHARED / settings.weights)
    return model.eval()


def folder_of(split: Path, which: str, parent: Path) -> Path:
    """A split of the photographs, or a folder of links to half of its classes."""
    if which == "all":
        return split
    classes = sorted(p.name for p in split.iterdir() if p.is_dir())
    half = parent / f"{split.name}-{which}"
    half.mkdir(exist_ok=True)
    for name in classes[:5] if which == "first" else classes[5:]:
        (half / name).symlink_to(split / name)
    return half


def recipe_of(trial: Trial, batch: int) -> Recipe:
    """The trial's recipe: its short form, with what the trial changes."""
    return override(get_recipe(trial.recipe, small=True), **{"batch_size": batch, **trial.changes})


def steps_of(trial: Trial, settings: TrialSettings) -> int:
    """So many as the settings say, or as take their minutes; photographs for one epoch may end a run sooner."""
    if settings.steps:
        return settings.steps
    seconds = json.loads(STEP_TIMES.read_text())["rows"][trial.method]["seconds"]
    return round(60 * settings.minutes / seconds)


def train(trial: Trial, settings: TrialSettings, dense: nn.Module, work: Path):
    """Fine-tune in the folder `work`."""
    carried_out = Settings(
        work / "run", settings.seed, settings.precision, cpu=True, log_every=10, save_minutes=60, show=False
    )
    photographs = folder_of(SHARED / settings.data / "train", trial.learn, work)
    recipe, limit = recipe_of(trial, settings.batch), settings.batch * steps_of(trial, settings)
    return finetune(
        dense, trial.method, photographs, recipe, carried_out, macs=trial.macs, limit=limit, **trial.options
    )


def judged(models: dict[str, nn.Module], folder: Path, settings: TrialSettings) -> dict[str, dict]:
    """Accuracy, and agreement with the dense model, of each model."""
    photographs = open_dataset(folder, models["dense"], crop_pct=1.0, limit_per_class=settings.per_class)
    dtype = "bfloat16" if settings.precision == "bf16" else "float32"
    found = evaluate_many(models, open_loader(photographs, 32, 0), dtype=dtype)
    return {
        name: {"top1": r.top1, "interval": r.top1_interval, "agreement": r.agreement, "images": r.images}
        for name, r in found.items()
    }


@torch.no_grad()
def adaptive_share(model, dense: nn.Module, settings: TrialSettings) -> float:
    """Mean MACs of instance-adaptive inference over all validation photographs, as a share of the dense cost."""
    photographs, shares = open_dataset(SHARED / settings.data / "val", dense, crop_pct=1.0), []
    for images, *_ in open_loader(photographs, 32, 0):
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
            _, loss_inputs = model(images, losses=True)
        counts, _ = own_counts(model.methods[0], loss_inputs)
        shares.append(image_macs(model, counts) / vitrim.profile(dense).macs)
    return float(torch.cat(shares).mean())


def last_row(steps: Path) -> dict[str, str]:
    lines = steps.read_text().splitlines()
    return dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))


def figures_of(trial: Trial, settings: TrialSettings, work: Path) -> dict[str, Any]:
    """Train, judge, and say what it came to."""
    dense, begin = dense_model(settings), time.time()
    torch.manual_seed(settings.seed)  # learned parts of `before` are random
    before = vitrim.reduce(dense, trial.method, macs=trial.macs, **trial.options)
    trained = train(trial, settings, dense, work)
    figures = {"steps": trained.steps, "minutes": round((time.time() - begin) / 60, 2)}
    figures["share_before"] = vitrim.profile(before).share
    figures["share_after"] = vitrim.profile(trained.model).share
    if trial.options.get("adaptive") == "instance":
        figures["share_mean"] = adaptive_share(trained.model, dense, settings)
    models = {"dense": dense, "before": before, "after": trained.model}
    figures |= judged(models, folder_of(SHARED / settings.data / "val", trial.judge, work), settings)
    return {**figures, "last": last_row(work / "run" / "steps.csv")}


def commit() -> str | None:
    """The commit of this checkout, `-dirty` where files differ from it; None outside of git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return found.stdout.strip() or None if found.returncode == 0 else None


def run(group: Group, trial: Trial, results: Path, command: str) -> dict[str, Any]:
    """One trial; its result is written with everything that it was made with."""
    record = {
        "group": group.name,
        "trial": asdict(trial),
        "settings": asdict(group.settings),
        "command": command,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(seed=group.settings.seed),
    }
    with tempfile.TemporaryDirectory() as work:
        record["figures"] = figures_of(trial, group.settings, Path(work))
    file = result_file(results, group.name, trial)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(str(file), record)
    return record


def parser_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", nargs="?")
    parser.add_argument("names", nargs="*", metavar="TRIAL", help="default: all of the group")
    parser.add_argument("--trials", type=Path, default=TRIALS, help="the TOML")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder for the results")
    parser.add_argument("--again", action="store_true", help="also those whose result is there")
    for name, kind in {"minutes": float, "steps": int, "batch": int, "per_class": int, "seed": int}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="instead of the TOML's")
    parser.add_argument("--precision", choices=["no", "bf16"], help="instead of the TOML's")
    return parser


def group_of(args: argparse.Namespace, groups: dict[str, Group]) -> Group:
    """The group that the command line names, with the settings that it changes."""
    if args.group not in groups:
        raise ValueError(f"there is no group {args.group}: choose one of {', '.join(groups)}")
    group = groups[args.group]
    given = {f.name: getattr(args, f.name, None) for f in fields(TrialSettings)}
    changed = {name: value for name, value in given.items() if value is not None}
    return replace(group, settings=replace(group.settings, **changed))


def run_all(args: argparse.Namespace, command: str) -> None:
    groups = read_groups(args.trials)
    if args.group is None:
        for group in groups.values():
            print(f"{group.name}: {group.about}", *(f"    {trial.file}" for trial in group.trials), sep="\n")
        return
    group = group_of(args, groups)
    for trial in chosen(group, args.names):
        file = result_file(args.results, group.name, trial)
        if file.exists() and not args.again:
            print(f"{file} is there already (--again runs it again)", flush=True)
        else:
            figures = run(group, trial, args.results, command)["figures"]
            print(trial.name, json.dumps({k: v for k, v in figures.items() if k != "last"}), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    args = parser_of().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UntrainedWarning)  # `before` is judged untrained, on purpose
            run_all(args, shlex.join(["python", "benchmarks/finetune.py", *arguments]))
    except ValueError as error:
        print(f"finetune.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
