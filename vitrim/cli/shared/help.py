"""Help on one screen: what a command does, examples, the common options; with --help-all the others too."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from itertools import groupby

from .methods_named import Named
from .spec import Command, Option


def help_of(command: Command, named: Named, columns: int = 80, whole: bool = False) -> str:
    """The help of a command, in lines of at most so many columns; the options of a method only if it is named."""
    columns = max(40, min(columns, 100))
    wrap = textwrap.TextWrapper(columns, break_long_words=False, break_on_hyphens=False)
    lines = [f"usage: vitrim {command.name}{f' [{command.word}]' if command.word else ''} [OPTIONS]", ""]
    lines += wrap.wrap(f"{command.summary[:1].upper()}{command.summary[1:]}. {command.about}".strip())
    lines += ["", "examples:", *(f"  {example}" for example in command.examples)]
    options = [o for o in command.options() if whole or o.common or o.required]
    methods = list(named.options(command)) if named.names else []
    for section, found in groupby([*options, *methods], key=lambda o: o.section):
        lines += ["", f"{section}:", *_rows(found, columns)]
    return "\n".join([*lines, "", *_more(command, named, whole, wrap)])


def _rows(options: Iterable[Option], columns: int) -> list[str]:
    indent = 22
    rows = []
    for option in options:
        switch = f"[no-]{option.name}" if option.kind.type is bool and option.target[0] == "options" else option.name
        typed = f"  --{switch}{_metavar(option)}"
        text = option.help + (f" (default: {option.shown})" if option.shown else "")
        text = f"{text} (required)" if option.required else text
        first = f"{typed:<{indent - 1}} " if len(typed) < indent else f"{typed}  "
        rows += textwrap.wrap(
            text, columns, initial_indent=first, subsequent_indent=" " * indent, break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    return rows


def _metavar(option: Option) -> str:
    if option.kind.type is bool:
        return ""
    name = "{" + ",".join(option.kind.choices) + "}" if option.kind.choices else option.kind.type.__name__.upper()
    name = {"STR": "TEXT", "INT": "N", "FLOAT": "X", "PATH": "FILE"}.get(name, name)
    name = name if len(name) < 40 else "NAME"
    return f" {name} ..." if option.kind.many else f" {name}"


def _more(command: Command, named: Named, whole: bool, wrap: textwrap.TextWrapper) -> list[str]:
    lines = []
    if command.dial and not named.names:
        lines.append("A method's own options: vitrim methods NAME, or --method NAME --help.")
    if not whole:
        lines.append(f"All options: vitrim {command.name} --help-all. Options from a file: --config FILE.toml.")
    return [line for text in lines for line in wrap.wrap(text)]
