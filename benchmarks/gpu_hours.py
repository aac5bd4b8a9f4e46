"""What the papers' training runs would cost on ImageNet-1k, in GPU-hours; an estimate by arithmetic, nothing runs.

    python benchmarks/gpu_hours.py                 # print the tables
    python benchmarks/gpu_hours.py --write         # put them into docs/reproduce.md
    python benchmarks/gpu_hours.py --check         # exit 1 if docs/reproduce.md has others
    python benchmarks/gpu_hours.py --rate 20       # of a GPU that sustains 20e12 multiply-accumulates a second

hours = epochs x images x (3 x student's forward + teacher's forward) / rate. A backward pass costs two forwards. The
student's forward is what it costs in training: dense and masked where the method trains so, with the full attention
maps where its loss needs them, at the mean of the keep rates where they follow a schedule. Every command is parsed and
every plan built, on the meta device, as `vitrim finetune` would.

The default rate is what EViT's Table 11 comes to: 201 GPU-hours for 300 epochs of DeiT-S on A100s.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tomllib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch

import vitrim
from vitrim.cli import COMMANDS
from vitrim.cli.finetune import recipe_of
from vitrim.cli.shared.model import open_model_without_weights
from vitrim.cli.shared.parse import parse
from vitrim.cli.shared.plans import one_plan
from vitrim.core.schedule import cosine_keep
from vitrim.runtime.build import UntrainedWarning
from vitrim.runtime.model import ReducedViT
from vitrim.training import Recipe

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "reproduce.md"
IMAGES = 1_281_167  # training photographs of ImageNet-1k
TABLE_11 = {1.0: 201, 0.9: 188, 0.8: 174, 0.7: 160, 0.6: 150, 0.5: 145}  # EViT: keep rate -> printed GPU-hours, A100
WHERE = ["--data", "imagenet/train", "--val", "imagenet/val", "--out", "OUT"]
NOTES = {
    "lvvit": "The paper follows LV-ViT's own training (token labels from a larger network, mix-token): the command is "
    "the nearest there is, and its accuracy is not comparable. Without `--scratch`, `--token-labels 1` learns the "
    "[labels of the trained LV-ViT](recipes/README.md#token-labels).",
    "weights": "LVVIT_S and LVVIT_M are files with the published dense weights: timm has none to download.",
}


@dataclass(frozen=True)
class Run:
    """One row: what the command costs."""

    gmacs: float
    training: float
    epochs: int
    teacher: float  # of the dense model's forward, and of a guide's

    def hours(self, rate: float) -> float:
        """GPU-hours at `rate` multiply-accumulates a second."""
        return self.epochs * IMAGES * (3 * self.training + self.teacher) / rate / 3600


def run_of(command: str) -> Run:
    """The run that the options of `vitrim finetune` ask for. Raises ValueError for options that it would refuse."""
    config = parse(COMMANDS["finetune"], [*WHERE, *shlex.split(command)])
    subject = open_model_without_weights(replace(config.model, checkpoint=None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)
        student = one_plan(subject, config.method, 0).model
    recipe, cost = recipe_of(config), vitrim.profile(student)
    teacher = cost.dense_macs if recipe.teaches and not config.training.scratch else 0
    teacher += sum(vitrim.profile(method.guide.model).macs for method in student.methods if method.guide is not None)
    return Run(cost.gmacs, mean_macs(student, recipe), recipe.epochs, teacher)


def mean_macs(student: ReducedViT, recipe: Recipe) -> float:
    """MACs of the student's forward in training, of one image, mean over the epochs."""
    if not recipe.keep_start and not recipe.keep_epochs:
        return training_macs(student, recipe)
    rates = [[place.keep for place in method.places] for method in student.methods]
    total = 0.0
    for epoch in range(recipe.epochs):
        for method, own in zip(student.methods, rates, strict=True):
            method.set_rates([cosine_keep(r, epoch + 0.5, recipe.keep_start, recipe.keep_epochs) for r in own])
        total += training_macs(student, recipe)
    for method, own in zip(student.methods, rates, strict=True):
        method.set_rates(own)
    return total / recipe.epochs


def training_macs(student: ReducedViT, recipe: Recipe) -> float:
    """MACs of one forward in training, at the keep rates as they are."""
    body, cost = student.body, vitrim.profile(student)
    total = cost.macs
    if any(method.trains_masked for method in student.methods):
        total = cost.dense_macs + sum(_masked(method, body) for method in student.methods)
    for method in student.methods:
        if "cut" in method.losses and recipe.weights.cut:
            total += sum(_map_macs(body, place.block) for place in method.places)
    return total


def _masked(method, body) -> int:
    """What the method's own parts cost where all tokens run: selectors and approximators see every patch."""
    patches = {place: _patches(body, place.block) for place in method.places}
    every = {"kept": 0} if method.counts == "own" else {}
    places = [replace(place, patches=n) for place, n in patches.items()]
    return sum(method.macs(place, place.patches, body, **every) for place in places)


def _map_macs(body, block: int) -> int:
    """Queries and keys of all tokens and their products, for a loss on the attention map (IdleViT's cut)."""
    n = _patches(body, block)
    heads, channels = body.heads(block)
    window = getattr(body.block(block), "window_size", None) if hasattr(body, "block") else None
    seen = n + body.prefix if window is None else window[0] * window[1]
    return 2 * body.key_macs(block, n) + (n + body.prefix) * seen * heads * channels


def _patches(body, block: int) -> int:
    height, width = body.grid_at(block, body.grid())
    return height * width


# -- what is printed


def rate_of_table_11() -> float:
    """Multiply-accumulates a second that the dense row of EViT's Table 11 comes to."""
    with torch.device("meta"):
        dense = vitrim.profile(timm.create_model("deit_small_patch16_224")).macs
    return Run(0, dense, 300, 0).hours(1) / TABLE_11[1.0]


def section(table: dict, rate: float) -> str:
    """One published table: the command, and a row for each run."""
    lines = [f"### {table['title']}", "", "```", *_folded(table["run"]), "```", ""]
    lines += ["| ROW | top-1 | top-5 | GMACs, paper | GMACs, vitrim | GPU-hours |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for added, *printed in table["rows"]:
        run = run_of(f"{table['run']} {added}")
        accuracy = ["" if value < 0 else f"{value:.2f}".removesuffix("0") for value in printed[:2]]
        gmacs = "" if printed[2] < 0 else f"{printed[2]:.1f}"
        figures = [*accuracy, gmacs, f"{run.gmacs:.2f}", f"{run.hours(rate):.3g}"]
        lines.append(f"| `{added}` | {' | '.join(figures)} |")
    note = table.get("note")
    return "\n".join([*lines, *(["", NOTES.get(note, note)] if note else []), ""])


def _folded(options: str) -> list[str]:
    """The command in lines of at most 110 characters."""
    lines, words = [], shlex.split(f"vitrim finetune {' '.join(WHERE)} {options} ROW")
    groups: list[str] = []
    for word in words:
        starts = word.startswith("--") or word == "ROW" or not groups
        groups, last = (groups, word) if starts else (groups[:-1], f"{groups[-1]} {word}")
        groups.append(last)
    line = ""
    for group in groups:
        if line and len(line) + len(group) > 104:
            lines.append(f"{line} \\")
            line = "    " + group
        else:
            line = f"{line} {group}" if line else group
    return [*lines, line]


def check_of_table_11(rate: float) -> str:
    """The estimate beside EViT's own clock."""
    lines = ["| keep rate | printed, A100 | by the estimate |", "|---|---:|---:|"]
    for keep, hours in TABLE_11.items():
        run = run_of(f"--model deit_small_patch16_224 --recipe evit_scratch --scratch --method evit --keep {keep}")
        lines.append(f"| {keep:g} | {hours} | {run.hours(rate):.0f} |")
    return "\n".join(lines) + "\n"


def filled(text: str, rate: float) -> str:
    """The page with its generated sections: `<!-- runs: NAME -->` to `<!-- end -->`."""
    tables = tomllib.loads((HERE / "reproduce.toml").read_text())["table"]
    sections = {"table11": check_of_table_11(rate)}
    for page in dict.fromkeys(table["page"] for table in tables):
        sections[page] = "\n".join(section(table, rate) for table in tables if table["page"] == page)
    for name, body in sections.items():
        begin = f"<!-- runs: {name} -->\n"
        before, rest = text.split(begin)
        text = f"{before}{begin}{body}{rest[rest.index('<!-- end -->') :]}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, help="1e12 multiply-accumulates a second")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    rate = args.rate * 1e12 if args.rate else rate_of_table_11()
    print(f"rate: {rate / 1e12:.2f}e12 multiply-accumulates a second", file=sys.stderr)
    old = PAGE.read_text()
    new = filled(old, rate)
    if args.write:
        PAGE.write_text(new)
    elif not args.check:
        print(new)
    return int(args.check and new != old)


if __name__ == "__main__":
    sys.exit(main())
