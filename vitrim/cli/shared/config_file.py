"""Options in a file: TOML, or the JSON that an earlier run has written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...common.absent import absent
from ...common.text import first_line, reason

_TOML = "text stands in quotes, and each option on a line of its own"


def from_file(path: Path, command: str) -> dict[str, Any]:
    """The options that a file gives, by their names on the command line; of a run's JSON, those that were typed then.

    A run's own JSON is never written over by its repetition: `json` and `overwrite` are not taken from it.
    Raises ValueError for a file that cannot be read, is of another command, or names another file of options.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except FileNotFoundError as error:
        way = "give --config one in TOML, or the JSON of an earlier run"
        raise ValueError(absent("file of options", path, way)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} cannot be read: {reason(error)}") from error
    found = _parsed(text, path)
    if not isinstance(found, dict):
        raise ValueError(f"--config {path} holds no options: give lines such as `keep = 0.7`")
    if "given" in found:
        if found.get("command") not in (None, command):
            raise ValueError(f"--config {path} is of vitrim {found['command']}, not of vitrim {command}")
        found = {name: value for name, value in found["given"].items() if name not in ("json", "overwrite")}
    options = {name.replace("_", "-"): value for name, value in found.items()}
    for name, value in options.items():
        if name == "config":
            raise ValueError(f"--config {path} names another file of options: put them all into one")
        if isinstance(value, dict):
            raise ValueError(f"--config {path}: {name} is a table: give lines such as `keep = 0.7`")
    return options


def _parsed(text: str, path: Path) -> Any:
    is_json = path.suffix.lower() == ".json"
    try:
        return json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        kind, way = ("JSON", "give that of an earlier run, or TOML") if is_json else ("TOML", _TOML)
        raise ValueError(f"--config {path} is no valid {kind}: {first_line(error)}; {way}") from error


def config_path(arguments: Sequence[str]) -> Path | None:
    """The file that a command line names with --config, if it names one."""
    for i, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option == "--config":
            value = value or next(iter(arguments[i + 1 : i + 2]), "")
            return Path(value) if value and not value.startswith("--") else None
    return None


def asked(config: Any) -> dict[str, Any]:
    """What was typed, for a command's JSON: given as --config it repeats the run."""
    return {"command": config.command, "given": config.given}
