"""Where in the user's own files an error arose: what PyTorch or vitrim say of it does not tell."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

_VITRIM = str(Path(__file__).resolve().parents[1])
_INSTALLED = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
_OTHERS = tuple(os.path.join(folder, "") for folder in (_VITRIM, *filter(None, _INSTALLED)))


def raised_at(error: BaseException) -> str:
    """`my_file.py:21`, the last line of the user's own that ran; empty where none is among those that led to it.

    Their own is what belongs neither to vitrim nor to Python or a package that is installed.
    """
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(file, line) for file, line in frames if not file.startswith(("<", *_OTHERS))]
    return f"{_shown(own[-1][0])}:{own[-1][1]}" if own else ""


def told_with_place(error: BaseException) -> str:
    """`RuntimeError: selected index k out of range (my_file.py:21)`: an error of somebody's own code, in one line."""
    where = raised_at(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}{f' ({where})' if where else ''}"


def _shown(file: str) -> str:
    """The file as one would type it here."""
    try:
        return str(Path(file).resolve().relative_to(Path.cwd()))
    except (OSError, ValueError):  # it lies elsewhere
        return file
