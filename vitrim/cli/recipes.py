"""`vitrim recipes`: the training recipes; of one, its numbers."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from .._version import __version__
from ..common.files import write_json
from ..training import RECIPES, Recipe, get_recipe
from .commands.finetune import ChangeOptions
from .shared.table import Column, Printer

_IDLE = {
    "layer_decay": 1.0,
    "backbone_scale": 1.0,
    "cut_part": "both",
    "cut_map": "maps",
    "repeated": 1,
}  # that do nothing
PLAIN = ("name", "method", "weights", "augmentation")


def run(config: Any) -> None:
    """List the recipes, or show one."""
    printer = Printer(config.output.json, config.output.wide)
    if config.word is None:
        _list(printer)
        numbers = {name: _numbers(get_recipe(name)) for name in RECIPES}
        write_json(config.output.json, {"recipes": numbers, "vitrim": __version__})
        return
    recipe, small = get_recipe(config.word), get_recipe(config.word, small=True)
    _show(printer, recipe, small)
    numbers = {"recipe": config.word, **_numbers(recipe), "short": _numbers(small)}
    write_json(config.output.json, {**numbers, "vitrim": __version__})


def _list(printer: Printer) -> None:
    rows = [
        [name, recipe.method or "any", f"{recipe.epochs}", str(recipe.batch_size), "yes" if recipe.labels else "no"]
        for name, recipe in ((name, get_recipe(name)) for name in RECIPES)
    ]
    columns = [Column("recipe", text=True), Column("method", text=True), *map(Column, ("epochs", "batch", "labels"))]
    printer.table(columns, rows)
    printer.line()
    printer.line("vitrim recipes NAME shows a recipe's numbers; --short is its form for small machines")


def _show(printer: Printer, recipe: Recipe, small: Recipe) -> None:
    """Its numbers beside those of its short form, losses without weight left out."""
    first = " ".join((RECIPES[recipe.name].__doc__ or "").split("\n\n")[0].split())
    printer.line(f"{recipe.name}: {first}")
    printer.line()
    helps = {f.name: f.metadata["help"] for f in fields(ChangeOptions)}
    numbers, short = _numbers(recipe), _numbers(small)
    rows = [
        [f"--{name.replace('_', '-')}", _shown(value), _shown(short[name]), helps.get(name, "")]
        for name, value in numbers.items()
        if name in helps and (value not in (0, 0.0, False, None, (), _IDLE.get(name)) or short[name] != value)
    ]
    columns = [Column(title, text=True) for title in ("option", "recipe", "--short")]
    printer.table([*columns, Column("what it is", text=True, drop=1)], rows)


def _numbers(recipe: Recipe) -> dict[str, Any]:
    plain = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name not in PLAIN}
    return {**plain, **asdict(recipe.weights), **asdict(recipe.augmentation)}


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else "-" if value is None else f"{value}"
