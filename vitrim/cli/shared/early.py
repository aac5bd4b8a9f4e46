"""What can be told of a command line before PyTorch is imported, which takes seconds: numbers, and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...common.files import check_new, check_report
from ...common.places import check_there
from .spec import Command

COUNTS = ("threads", "batch_size", "rounds", "actors")  # from 1
IMAGES = ("data", "bank", "val", "calibration")
FILES = {"checkpoint": "checkpoint", "label_file": "label file", "class_map": "class map"}


def check_early(command: Command, config: Any) -> None:
    """Raise ValueError for what could never work: before anything slow is imported."""
    groups = [getattr(config, group) for group in command.groups]
    for group in groups:
        for name in COUNTS:
            given = getattr(group, name, None)
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None and value < 1:
                    raise ValueError(f"--{name.replace('_', '-')} {value}: give a whole number from 1")
        for name in IMAGES:
            given = getattr(group, name, None)
            for place in given if isinstance(given, tuple) else (given,):
                if place is not None:
                    check_there(place)
        for name, kind in FILES.items():
            given = getattr(group, name, None)
            for path in given if isinstance(given, tuple) else (given,):
                _check_file(name, kind, path)
        if command.endings and getattr(group, "out", None) is not None:
            check_new(group.out, group.overwrite, command.endings)
        if getattr(group, "json", None) is not None:
            check_report(group.json)
    _check_apart(groups)
    command.check(config)


def _check_apart(groups: Sequence[Any]) -> None:
    """Raise ValueError where a report would replace what the command has just written."""
    outs = [Path(group.out) for group in groups if getattr(group, "out", None) is not None]
    reports = [Path(group.json) for group in groups if getattr(group, "json", None) is not None]
    for out in outs:
        if any(out.expanduser().resolve() == report.expanduser().resolve() for report in reports):
            raise ValueError(f"--out and --json both name {out}: give each a file of its own")


def _check_file(name: str, kind: str, path: Path | None) -> None:
    if path is not None and not path.expanduser().exists():
        what = "a file of weights, or a folder that save() wrote" if name == "checkpoint" else "a file"
        raise ValueError(f"there is no {kind} {path}: give --{name.replace('_', '-')} {what}")
