"""Memory that was freed goes back to the machine."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

EVERY = 1.0  # seconds; it takes some 10 ms where much memory is in use

_last = 0.0


def _trim() -> Callable[[int], int] | None:
    """glibc's own. None with other C libraries, which have no such function."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


_TRIM = _trim()


def give_back_memory() -> None:
    """Give back what the C library keeps of freed memory, where it can be told to; at most once in a second, so that it
    can be called for every image. Where blocks of many sizes come and go it keeps more and more, since of itself it
    gives back only the end of its heap.
    """
    global _last
    now = time.monotonic()
    if _TRIM is not None and now >= _last + EVERY:
        _TRIM(0)
        _last = now
