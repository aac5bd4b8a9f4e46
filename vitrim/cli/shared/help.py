"""Help on one screen: what a command does, examples, the common options; with --help-all the others too."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from .methods_named import Named
from .spec import Command, Option

USAGE = "vitrim COMMAND [OPTIONS]"
ABOUT = "Makes Vision Transformers faster by spending compute only on the tokens that matter."
FURTHER = "vitrim help COMMAND shows a command's options, vitrim --version the version."


def overview(groups: Mapping[str, Sequence[Command]], columns: int = 80) -> str:
    """The help of `vitrim` itself: its commands by what they are for, a line each where there is room."""
    columns = max(40, min(columns, 100))
    width = max(len(command.name) for commands in groups.values() for command in commands)
    lines = [f"usage: {USAGE}", "", *textwrap.wrap(ABOUT, columns)]
    for heading, commands in groups.items():
        lines += ["", f"{heading}:"]
        for command in commands:
            first, others = f"  {command.name:<{width}}  ", " " * (width + 4)
            lines += textwrap.wrap(command.summary, columns, initial_indent=first, subsequent_indent=others)
    return "\n".join([*lines, "", *textwrap.wrap(FURTHER, columns)])


def help_of(command: Command, named: Named, columns: int = 80, whole: bool = False) -> str:
    """The help of a command, in lines of at most so many columns; the options of a method only if it is named."""
    columns = max(40, min(columns, 100))
    wrap = textwrap.TextWrapper(columns, break_long_words=False, break_on_hyphens=False)
    several = any(o.name == command.takes and o.kind.many for o in command.options())
    taken = f" {command.takes.upper()}{' ...' if several else ''}" if command.takes else ""
    word = f" [{command.word}]" if command.word else taken
    lines = [f"usage: vitrim {command.name}{word} [OPTIONS]", ""]
    lines += wrap.wrap(f"{command.summary[:1].upper()}{command.summary[1:]}. {command.about}".strip())
    lines += ["", "examples:", *(f"  {example}" for example in command.examples)]
    methods = list(named.options(command)) if named.names else []
    options = [o for o in command.options() if whole or o.required or (o.common and not methods)]
    for section, found in groupby([*options, *methods], key=lambda o: o.section):
        lines += ["", *wrap.wrap(f"{section}:"), *_rows(found, columns)]
    return "\n".join([*lines, "", *_more(command, named, whole, wrap)])


def _rows(options: Iterable[Option], columns: int) -> list[str]:
    indent = 22
    rows = []
    for option in options:
        switch = f"[no-]{option.name}" if option.kind.type is bool and option.target[0] == "options" else option.name
        typed = f"  --{switch}{_metavar(option)}"
        text = option.help + _choices(option)
        text += f" (default: {option.shown})" if option.shown else ""
        text = f"{text} (required)" if option.required else text
        fits = len(typed) < indent - 1
        rows += [] if fits else [typed]
        rows += textwrap.wrap(
            text, columns, initial_indent=f"{typed if fits else '':<{indent}}", subsequent_indent=" " * indent,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return rows


def _metavar(option: Option) -> str:
    if option.kind.type is bool:
        return ""
    kinds = {int: "N", float: "X", Path: "PATH", str: "NAME" if option.kind.choices else "TEXT"}
    name = option.metavar or kinds[option.kind.type]
    return f" {name} ..." if option.kind.many else f" {name}"


def _choices(option: Option) -> str:
    """What it may be, where its help does not say so itself."""
    if not option.kind.choices or option.kind.choices[0] in option.help:
        return ""
    *most, last = option.kind.choices
    return f": {', '.join(most)} or {last}"


def _more(command: Command, named: Named, whole: bool, wrap: textwrap.TextWrapper) -> list[str]:
    lines = []
    if command.dial and not named.names:
        lines.append("A method's own options: vitrim methods NAME, or --method NAME --help.")
    elif named.names and not whole:
        lines.append(f"Options of the command: vitrim {command.name} --help.")
    if not whole:
        lines += [f"All options: vitrim {command.name} --help-all.", "Options from a file: --config FILE.toml."]
    return [line for text in lines for line in wrap.wrap(text)]
