"""One method on one screen: what it does, its options, what it runs on, its cost, an example, its paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .signatures import MethodOption, Signature
from .table import Printer


def print_method(
    printer: Printer, method: Signature, runs: Mapping[tuple[str, str], str], cost: str, spec: str
) -> None:
    """Print all about a method.

    runs: library and kind of model -> "yes", or what it needs, or why not
    cost: what it costs with its defaults, in a sentence
    spec: what a command line calls it: its name, or `my_file.py:Class`
    """
    printer.line(f"{method.name}: {method.title}")
    printer.line()
    printer.line(method.summary)
    printer.line()
    printer.line("options:" if method.options else "options: none")
    for option in method.options:
        _print_option(printer, option)
    for answer in sorted(set(runs.values()), key=_order):
        _print_models(printer, answer, [kind for kind, said in runs.items() if said == answer])
    printer.line()
    printer.line(f"cost: {cost}")
    printer.line()
    printer.line("examples:")
    printer.line(f"  vitrim profile --model deit_small_patch16_224 --method {spec}")
    for line in _in_python(method, spec):
        printer.line(f"  {line}")
    if method.source:
        printer.line()
        printer.line(f"paper: {method.source}")


def _in_python(method: Signature, spec: str) -> list[str]:
    """The call that puts it on a model; a class of the user's own is imported first."""
    file, _, cls = spec.rpartition(":")
    if not file:
        return [f'fast = vitrim.reduce(model, "{method.name}", macs=0.6)']
    module = Path(file).stem
    return [f"import {module}", f"fast = vitrim.reduce(model, {module}.{cls}(), macs=0.6)"]


def _order(answer: str) -> int:
    """First what simply runs, last what does not."""
    return 0 if answer == "yes" else 1 if answer.startswith("with ") else 2


def _print_models(printer: Printer, answer: str, kinds: Sequence[tuple[str, str]]) -> None:
    """The models of one answer, a line for each library."""
    heading = "runs on:" if answer == "yes" else f"runs {answer} on:" if _order(answer) == 1 else "does not run on:"
    printer.line()
    printer.line(heading)
    for library in dict.fromkeys(library for library, _ in kinds):
        names = ", ".join(name for other, name in kinds if other == library)
        printer.line(f"  {library}: {names}", indent="    ")
    if _order(answer) == 2:
        printer.line(f"  why: {answer}", indent="    ")


def _print_option(printer: Printer, option: MethodOption) -> None:
    name = option.name.replace("_", "-")
    switch = f"--[no-]{name}" if isinstance(option.default, bool) else f"--{name}"
    switch_of = {True: "on", False: "off"}
    default = switch_of[option.default] if isinstance(option.default, bool) else option.default
    text = (option.help or option.name) + ("" if default is None else f" (default: {default})")
    printer.line(f"  {switch:<20}  {text}", indent=" " * 24)
