"""The stack that Python's signal handlers run on, given back after a library has put another in its place.

OpenVINO's CPU plugin sets a stack of its own for signals and frees it with the plugin. Two plugins that are freed in
the order in which they were made leave a freed one behind, and the next signal (Ctrl-C, a child that ends) is then a
segmentation fault. NNCF makes several.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """stack_t of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def keeping_signal_stack() -> Generator[None]:
    """Give back the signal stack of this thread as it is now.

    Example:
        >>> with keeping_signal_stack():
        ...     pass  # what may free a plugin
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        gc.collect()  # what is freed later would put a freed stack back
        libc.sigaltstack(ctypes.byref(before), None)
