"""Signals that end what runs as Ctrl-C does, so that files are put in order and somebody can say how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """A command that was told to stop, with what it has to say; `code` is the exit code of such a process.

    Example:
        >>> Stopped("3 plans are kept", signal.SIGTERM).code
        143
    """

    def __init__(self, message: str, number: int = signal.SIGINT):
        super().__init__(message)
        self.code = 128 + number


@contextmanager
def as_interruption(number: signal.Signals) -> Generator[None]:
    """This signal ends what runs as Ctrl-C does: with a `Stopped`."""

    def interrupt(*_: object) -> None:
        raise Stopped("", number)

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, before)
