"""The state of a run on disk: written beside and renamed, so that a crash, a full disk or SIGKILL loses nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch

LAST, BEST = "last.pt", "best.pt"


class RunStopped(ValueError):
    """A run that cannot go on, with the reason and the last good checkpoint."""


def write(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) to `path`; what was there before stays until the new file is whole.

    Raises RunStopped if the disk is full, naming the checkpoint that is still good.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        with open(beside, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        beside.unlink(missing_ok=True)
        if not _disk_full(error, path.parent):
            raise
        good = f"the last good checkpoint is {path}" if path.exists() else "there is no checkpoint yet"
        raise RunStopped(f"no space left for {path}; {good}: free some space and go on with --resume") from None


def _disk_full(error: Exception, folder: Path) -> bool:
    """torch.save hides ENOSPC behind a RuntimeError of its own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    stat = os.statvfs(folder)
    return "PytorchStreamWriter" in str(error) or stat.f_bavail * stat.f_frsize < 1 << 20


def read(path: Path) -> dict[str, Any]:
    """The state in `path`, tensors and plain values only (nothing is unpickled).

    Raises ValueError for a file that is not a whole checkpoint.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there: nothing to resume; leave --resume out to start")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a whole checkpoint of vitrim ({type(error).__name__})") from error


def check_same_run(saved: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Raise ValueError, saying what differs, if `saved` are the settings of another run."""
    keys = sorted(saved.keys() | now.keys())
    differing = [
        f"{key}: {saved.get(key)!r} there, {now.get(key)!r} here" for key in keys if saved.get(key) != now.get(key)
    ]
    if differing:
        raise ValueError(f"{where} belongs to another run ({'; '.join(differing)}): use another --out, or its settings")
