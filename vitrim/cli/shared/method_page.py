"""One method on one screen: what it does, its options, what it runs on, its cost, an example, its paper."""

from __future__ import annotations

from collections.abc import Mapping

from .signatures import MethodOption, Signature
from .table import Printer


def print_method(printer: Printer, method: Signature, runs: Mapping[str, str], cost: str) -> None:
    """Print all about a method.

    runs: kind of model -> "yes", or what it needs, or why not
    cost: what it costs with its defaults, in a sentence
    """
    printer.line(f"{method.name}: {method.title}")
    printer.line()
    printer.line(method.summary)
    printer.line()
    printer.line("options:")
    for option in method.options:
        _print_option(printer, option)
    printer.line()
    printer.line("runs on:")
    for answer in dict.fromkeys(runs.values()):
        kinds = ", ".join(kind for kind, said in runs.items() if said == answer)
        words = kinds if answer == "yes" else f"{kinds}: {answer}"
        printer.line(f"  {words}", indent="    ")
    printer.line()
    printer.line(f"cost: {cost}")
    printer.line()
    printer.line("examples:")
    printer.line(f"  vitrim profile --model deit_small_patch16_224 --method {method.name}")
    printer.line(f'  fast = vitrim.reduce(model, "{method.name}", macs=0.6)')
    if method.source:
        printer.line()
        printer.line(f"paper: {method.source}")


def _print_option(printer: Printer, option: MethodOption) -> None:
    name = option.name.replace("_", "-")
    switch = f"--[no-]{name}" if isinstance(option.default, bool) else f"--{name}"
    switch_of = {True: "on", False: "off"}
    default = switch_of[option.default] if isinstance(option.default, bool) else option.default
    text = (option.help or option.name) + ("" if default is None else f" (default: {default})")
    printer.line(f"  {switch:<16}  {text}", indent=" " * 20)
