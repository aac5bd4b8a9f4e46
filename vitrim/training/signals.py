"""SIGINT (Ctrl-C) and SIGTERM while a run trains: the step at hand is finished and its state written before the run
stops; a second signal stops the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run that was told to stop. Its message says how to go on; `code` is the exit code of such a process.

    Example:
        >>> Interrupted("stopped: go on with --resume", 15).code  # SIGTERM is 15
        143
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.code = 128 + number


class Leave(BaseException):
    """Leave the run here: nothing is half done."""


class Signals:
    """Notes the first signal; the run asks where nothing is half done, and leaves there.

    lockstep: other processes work on the same steps: they must agree before one of them leaves
    came:     the number of the signal; None: none has come

    Signals that somebody has set to be ignored stay ignored (nohup). Outside the main thread nothing is noted. Once a
    signal has come, another one meets the system's own answer until `restore` is called.
    """

    def __init__(self, lockstep: bool = False):
        self.came: int | None = None
        self.lockstep, self._process = lockstep, os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            kept = (signal.SIG_IGN, None)  # None: set by something else than Python
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {number: handler for number, handler in handlers.items() if handler not in kept}
        self._listen()
        return self

    def __exit__(self, *_) -> bool:
        """Whatever breaks once a signal has come is a part of stopping: readers that die, others that are gone."""
        if self.came is None:
            self.restore()
        return self.came is not None

    def restore(self) -> None:
        """Answer signals as before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave_if_told(self) -> None:
        """Leave the run, if a signal has come."""
        if self.came is not None:
            raise Leave

    def leave_together(self, accelerator: Accelerator) -> None:
        """Leave the run, if a signal has come to any of the processes; asked by all of them after the same step."""
        if self.lockstep:
            told = torch.tensor(float(self.came is not None), device=accelerator.device)
            if accelerator.reduce(told, "sum").item() > 0:
                self.came = self.came or int(signal.SIGTERM)
        self.leave_if_told()

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Where a process may wait for others and could not answer: a signal ends it."""
        if self.lockstep:
            self._let_go()
        try:
            yield
        finally:
            if self.came is None:
                self._listen()

    def _note(self, number: int, frame) -> None:
        if os.getpid() != self._process:  # a child that has inherited this handler
            signal.default_int_handler(number, frame)
        self.came = number
        self._let_go()

    def _listen(self) -> None:
        for number in self._before:
            signal.signal(number, self._note)

    def _let_go(self) -> None:
        """From here on the system's own answer: the process ends."""
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)
