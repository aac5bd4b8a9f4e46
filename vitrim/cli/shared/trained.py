"""What `vitrim finetune` prints at its end, and writes as JSON."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from ...common.files import write_json
from ...common.text import counted
from ...data.classes import in_words
from ...evaluate import environment
from ...runtime.model import unwrap
from ...runtime.profile import Profile, profile
from ...training import FinetuneResult, Recipe
from ...training.validation import DENSE, UNTRAINED
from .baseline import NAME as BEFORE
from .config_file import asked
from .plans import plan_of
from .report import images_in_words, left_out
from .table import Column, Printer

# What the last line says of both models, in this order.
NAMES = {"top1": "top-1", "knn": "nearest-neighbour accuracy", "agreement": "agreement", "cosine": "cosine"}


def tell(config: Any, name: str, recipe: Recipe, trained: FinetuneResult, judge_on: DataLoader | None) -> None:
    """Print what a run came to, and write its JSON. config: the command's options."""
    reduced: Any = unwrap(trained.model)
    printer, cost, plan = Printer(config.output.json), profile(reduced), plan_of(reduced)
    _tell_of(printer, trained.photographs, "training")
    if judge_on is not None:
        _tell_of(printer, judge_on.dataset, "validation")
    for file, reason in sorted(trained.unreadable.items()):
        printer.line(f"skipped {file}: {reason}")
    judged = _in_words(trained.figures) or "nothing was judged (--val)"
    printer.line(f"{counted(trained.steps, 'step')} of {recipe.name}; {judged}")
    printer.line(f"saved {config.training.out}: use it with --checkpoint {config.training.out}")
    if any(key.startswith(UNTRAINED) for key in trained.figures):
        _table(printer, trained.figures, cost)
    printer.line(_before_and_after(trained.figures, cost))
    made = {"model": name, "method": plan.name, "options": plan.options, "recipe": recipe.name, "steps": trained.steps}
    cost_figures = {"gmacs": cost.gmacs, "dense_gmacs": cost.dense_gmacs, "tokens": cost.tokens, "params": cost.params}
    classes = {"labels": trained.photographs.classes.rule, "left_out": trained.photographs.left_out}
    where = {
        **classes,
        "out": str(config.training.out),
        "skipped": trained.unreadable,
        **environment(seed=config.machine.seed),
    }
    write_json(config.output.json, {**asked(config), **made, **cost_figures, **trained.figures, **where})


def _in_words(figures: dict[str, float]) -> str:
    """The figures of the result, and those of the dense model as it was before fine-tuning, each by its name."""
    own = {key: value for key, value in figures.items() if not key.startswith((DENSE, UNTRAINED))}
    student = "  ".join(f"{key} {value:.2f}" for key, value in own.items())
    beside = {key.removeprefix(DENSE): value for key, value in figures.items() if key.startswith(DENSE)}
    before = "  ".join(f"{key} {value:.2f}" for key, value in beside.items())
    return f"{student}; {BEFORE}: {before}" if before else student


def _table(printer: Printer, figures: dict[str, float], cost: Profile) -> None:
    """The dense model, the reduced one as training found it, and as it left it."""
    names = [key for key in NAMES if key in figures]
    costs = {"dense": cost.dense_gmacs, "reduced, untrained": cost.gmacs, "reduced, trained": cost.gmacs}
    rows = [
        [label, *(_cell(figures.get(f"{before}{key}"), key) for key in names), f"{gmacs:.3f}"]
        for before, (label, gmacs) in zip((DENSE, UNTRAINED, ""), costs.items(), strict=True)
    ]
    printer.table([Column("", text=True), *(Column(NAMES[key]) for key in names), Column("GMACs")], rows)


def _cell(value: float | None, key: str) -> str:
    return "-" if value is None else _shown(value, key)


def _before_and_after(figures: dict[str, float], cost: Profile) -> str:
    """What the dense model was and cost before, and what the reduced one is now."""
    shown = [key for key in NAMES if key in figures and not (key == "cosine" and "agreement" in figures)]
    before = [f"{NAMES[key]} {_shown(figures[f'{DENSE}{key}'], key)}" for key in shown if f"{DENSE}{key}" in figures]
    after = [f"{NAMES[key]} {_shown(figures[key], key)}" for key in shown]
    costs = f"{cost.dense_gmacs:.3f} GMACs", f"{cost.gmacs:.3f} GMACs ({100 * cost.share:.1f} %)"
    return f"before: dense, {', '.join([*before, costs[0]])}; after: {', '.join([*after, costs[1]])}"


def _shown(value: float, key: str) -> str:
    return f"{value:.4f}" if key == "cosine" else f"{value:.1f} %"


def _tell_of(printer: Printer, photographs: Any, what: str) -> None:
    """How many photographs there were, how their labels were understood, and what was left out."""
    classes = photographs.classes
    labels = ", no labels" if classes.unlabelled else f", labels {in_words(classes)}" if classes.names else ""
    printer.line(f"{what}: {images_in_words(photographs)}{labels}")
    left_out(printer, photographs)
