"""Command lines by tyro, and tyro's boxes as one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any, TypeVar

import tyro

Config = TypeVar("Config")
_SIDES, _ENDS = "│|", ("╭", "╰", "+")
_RULE = re.compile(r"^\s*[─━-]{5,}\s*$")
_OPTION = re.compile(r"--[a-z][\w-]*(?=[\s,]|$)")
_UNREADABLE = re.compile(
    r"Could not find valid parse for arguments: \[(?P<a>.*)\]"
    r"|no type matching .*? could be instantiated from \[(?P<b>.*?)\].*"
    r"|invalid literal for int\(\) with base 10: (?P<c>.*)"
    r"|could not convert string to float: (?P<d>.*)"
)
_HINT, _MISSING = "Perhaps you meant", "Missing from"


def parse(config: type[Config], arguments: Sequence[str], prog: str) -> Config:
    """The command's options from its arguments; `--help` prints them and leaves by SystemExit.

    Raises ValueError, in one line, for what tyro refuses, for an option of several values that got none, and for an
    empty value: as a path it would be the current folder.
    """
    _check_not_empty(arguments)
    shown = io.StringIO()
    settings = (tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes)
    try:
        with contextlib.redirect_stderr(shown):
            parsed = tyro.cli(config, args=list(arguments), prog=prog, config=settings)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(one_line(shown.getvalue(), prog)) from None
    return _as_typed(parsed, {_name_in(argument) for argument in arguments if argument.startswith("--")})


def _check_not_empty(arguments: Sequence[str]) -> None:
    """Raise ValueError for an empty value: as a path it would be the current folder, and it is mostly a slip of the
    shell's (`--data $DATA` in quotes, where there is no DATA)."""
    for before, argument in zip([None, *arguments], arguments, strict=False):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            option = argument.rstrip("=") or before or "an argument"
            raise ValueError(f"{option} is empty: give a value, or leave it out")


def one_line(box: str, prog: str) -> str:
    """What a box of tyro's says, and where to read on."""
    rows = _inside(box)
    end = next((i for i, row in enumerate(rows) if _RULE.match(row)), len(rows))
    section = [row.rstrip(".") for row in rows[:end]]
    near = _options_in(rows[next((i for i, row in enumerate(rows) if row.startswith(_HINT)), len(rows)) :])
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    return f"{_said(section)}{hint}; see {prog} --help"


def _inside(box: str) -> list[str]:
    """The rows of a box; without UTF-8 tyro draws none, but puts a title and a rule on top."""
    rows = [row.strip().strip(_SIDES).strip() for row in box.splitlines() if not row.strip().startswith(_ENDS)]
    rows = [row for row in rows if row]
    return rows[2:] if len(rows) > 1 and _RULE.match(rows[1]) else rows


def _said(section: list[str]) -> str:
    text = " ".join(section)
    if text.startswith(_MISSING):
        return f"missing: {', '.join(_options_in(section))}"
    text = _UNREADABLE.sub(lambda match: f"cannot read {match[match.lastgroup or 0]}", text).removeprefix(
        "Error parsing "
    )
    return text[:1].lower() + text[1:]


def _options_in(rows: list[str]) -> list[str]:
    return [match[0] for row in rows if (match := _OPTION.match(row))]


def _name_in(argument: str) -> str:
    """`keep` of `--keep`, `--keep=0.7` and, for flags, `--no-keep`."""
    return argument.removeprefix("--").partition("=")[0].replace("-", "_").removeprefix("no_")


def _as_typed(config: Any, typed: set[str]) -> Any:
    """The configuration, with None for every method flag that nobody typed, so that the method's own default holds."""
    return replace(config, **{field.name: _value_as_typed(config, field, typed) for field in fields(config)})


def _value_as_typed(config: Any, field: Field, typed: set[str]) -> Any:
    value = getattr(config, field.name)
    if is_dataclass(value):
        return _as_typed(value, typed)
    if value == () and field.name in typed:
        raise ValueError(f"--{field.name.replace('_', '-')}: give at least one value")
    return None if field.metadata.get("method_flag") and field.name not in typed else value
