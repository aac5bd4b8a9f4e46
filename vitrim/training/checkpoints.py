"""The state of a run on disk: whole or not there, so that a crash, a full disk or SIGKILL loses nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch

from ..common.whole import Beside

LAST, BEST = "last.pt", "best.pt"
PARTS = ("identity", "step", "student", "optimizer")


class RunStopped(ValueError):
    """A run that cannot go on, with the reason and the last good checkpoint."""


def write(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) to `path`; what was there before stays until the new file is whole.

    Raises RunStopped where the disk is full or refuses, naming the checkpoint that is still good.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Beside(path) as beside:
            torch.save(state, beside.file)
            beside.publish()
    except (OSError, RuntimeError) as error:
        full = _disk_full(error, path.parent)
        if isinstance(error, RuntimeError) and not full:
            raise
        problem = (
            f"no space left for {path}"
            if full
            else f"{path} cannot be written: {getattr(error, 'strerror', None) or error}"
        )
        good = f"the last good checkpoint is {path}" if path.exists() else "there is no checkpoint yet"
        raise RunStopped(f"{problem}; {good}: make room for it and go on with --resume") from None


def _disk_full(error: Exception, folder: Path) -> bool:
    """torch.save hides what the system said behind a RuntimeError of its own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    stat = os.statvfs(folder)
    return "PytorchStreamWriter" in str(error) or stat.f_bavail * stat.f_frsize < 1 << 20


def holds_run(folder: Path) -> bool:
    """Whether a run has left a checkpoint in its folder of checkpoints; what a killed one left beside is none."""
    return any((folder / name).exists() for name in (LAST, BEST))


def read(path: Path) -> dict[str, Any]:
    """The state in `path`, tensors and plain values only (nothing is unpickled).

    Raises ValueError for a file that is not a whole checkpoint.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there: nothing to resume; leave --resume out to start")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a whole checkpoint of vitrim ({type(error).__name__})") from error
    missing = [part for part in PARTS if not isinstance(state, dict) or part not in state]
    if missing:
        raise ValueError(f"{path} is not a whole checkpoint of vitrim: it has no {missing[0]!r}")
    return state


def check_same_run(saved: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Raise ValueError, saying what differs, if `saved` are the settings of another run."""
    keys = sorted(saved.keys() | now.keys())
    differing = [
        f"{key}: {saved.get(key)!r} there, {now.get(key)!r} here" for key in keys if saved.get(key) != now.get(key)
    ]
    if differing:
        raise ValueError(f"{where} belongs to another run ({'; '.join(differing)}): use another --out, or its settings")
