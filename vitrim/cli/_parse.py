"""Command lines by tyro, and tyro's boxes as one line."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import tyro

Config = TypeVar("Config")
_SIDES, _ENDS = "│|", ("╭", "╰", "+")
_RULE = re.compile(r"^\s*[─━-]{5,}\s*$")
_HINT = "Perhaps you meant"


def parse(config: type[Config], arguments: Sequence[str], prog: str) -> Config:
    """The command's options from its arguments; `--help` prints them and leaves.

    Raises ValueError, in one line, for what tyro refuses.
    """
    shown = io.StringIO()
    settings = (tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes)
    try:
        with contextlib.redirect_stderr(shown):
            parsed = tyro.cli(config, args=list(arguments), prog=prog, config=settings)
    except SystemExit as stop:
        if stop.code in (0, None):
            sys.stdout.flush()
            raise
        raise ValueError(one_line(shown.getvalue(), prog)) from None
    return _forget_flags_not_given(parsed, arguments)


def one_line(box: str, prog: str) -> str:
    """What a box of tyro's says, without its frame, and where to read on."""
    rows = [row.strip().strip(_SIDES).strip() for row in box.splitlines() if not row.strip().startswith(_ENDS)]
    said = " ".join(_first_section(rows)).replace(f"Missing from {prog}:", "missing:")
    near = _suggestions(rows)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    return f"{said[:1].lower()}{said[1:]}{hint}; see {prog} --help"


def _first_section(rows: list[str]) -> list[str]:
    end = next((i for i, row in enumerate(rows) if _RULE.match(row)), len(rows))
    return [row.rstrip(".") for row in rows[:end] if row]


def _suggestions(rows: list[str]) -> list[str]:
    after = next((i for i, row in enumerate(rows) if row.startswith(_HINT)), len(rows))
    return [match[0] for row in rows[after:] if (match := re.match(r"--[\w-]+(?=[\s,]|$)", row))]


def _forget_flags_not_given(config: Any, arguments: Sequence[str]) -> Any:
    """None for every method flag (`--fuse`, `--no-fuse`) that nobody typed, so that the method's own default holds."""
    typed = {argument.lstrip("-").replace("_", "-").removeprefix("no-") for argument in arguments}
    changed = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            changed[field.name] = _forget_flags_not_given(value, arguments)
        elif field.metadata.get("method_flag") and field.name.replace("_", "-") not in typed:
            changed[field.name] = None
    return replace(config, **changed)
