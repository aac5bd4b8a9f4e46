"""Options in a file: TOML, or the JSON that an earlier run has written."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any


def from_file(path: Path, command: str) -> dict[str, Any]:
    """The options that a file gives, by their names on the command line; of a run's JSON, those that were typed then.

    Raises ValueError for a file that cannot be read, or is of another command.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"--config {path} cannot be read: {reason}") from error
    if not isinstance(found, dict):
        raise ValueError(f"--config {path} holds no options: give lines such as `keep = 0.7`")
    if "given" in found:
        if found.get("command") not in (None, command):
            raise ValueError(f"--config {path} is of vitrim {found['command']}, not of vitrim {command}")
        found = found["given"]
    return {name.replace("_", "-"): value for name, value in found.items()}


def asked(config: Any) -> dict[str, Any]:
    """What was typed, for a command's JSON: given as --config it repeats the run."""
    return {"command": config.command, "given": config.given}
