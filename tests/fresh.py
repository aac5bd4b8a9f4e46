"""Scripts in processes of their own, forked from one that has imported what takes seconds.

To import torch, timm and accelerate takes five seconds of a processor, and a dozen tests need a process that is killed,
has a terminal, or works beside another. Each gets a fork of one process that has done nothing but import: it knows
nothing of what other tests have done, and starts at once. How a process starts is not tested with it.
"""

from __future__ import annotations

import multiprocessing
import operator
import os
import runpy
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from multiprocessing import forkserver, reduction
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

IMPORTED = ["torch", "timm", "pytest", "vitrim.cli.finetune", "vitrim.cli.evaluate", "vitrim.training"]
QUIET = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


class Sent:
    """An open file, as whoever gets it has it open too."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __reduce__(self):
        return operator.methodcaller("detach"), (reduction.DupFd(self.descriptor),)


def ready() -> Any:
    """The context of processes that are forked from the one which has imported all; that one runs now."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with mock.patch.dict(os.environ, QUIET):
        forkserver.ensure_running()
    return context


def start(
    script: Path | str,
    *arguments: object,
    folder: Path | str = ".",
    out: int | None = None,
    error: int | None = None,
    variables: Mapping[str, str | None] | None = None,
) -> ForkServerProcess:
    """The script as `python script arguments` in a folder; a module by its name as `python -m` does.

    out, error: open files, or terminals, that it writes to; variables: of its environment, None for those to leave out
    """
    context = ready()
    with open(os.devnull, "r+b") as nothing:
        streams = [Sent(nothing.fileno() if each is None else each) for each in (None, out, error)]
        known = {**os.environ, **QUIET, **(variables or {})}
        known = {name: value for name, value in known.items() if value is not None}
        given = (str(script), [*map(str, arguments)], os.path.abspath(folder), known, streams)
        process = context.Process(target=_main, args=given)
        process.start()
    return process


def finish(process: ForkServerProcess, seconds: float = 300) -> int:
    """The exit code; minus the number of the signal that has ended it."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"the script still runs after {seconds} s")
    return process.exitcode


def run(script: Path, *arguments: object, folder: Path, processes: int = 1) -> tuple[int, str]:
    """The script in that many processes which find each other as those of torchrun do: the exit code of the first that
    failed, and all that they have said on standard error, which files in `folder` keep."""
    folder.mkdir(exist_ok=True)
    ranks = _ranks(processes) if processes > 1 else [{}]
    with ExitStack() as stack:
        started = []
        for number, rank in enumerate(ranks):
            error = stack.enter_context(open(folder / f"{number}.txt", "w"))
            started.append(start(script, *arguments, error=error.fileno(), variables=rank))
            stack.callback(started[-1].kill)
        codes = [finish(process) for process in started]
    said = "".join((folder / f"{number}.txt").read_text() for number in range(processes))
    return next(filter(None, codes), 0), said


def _ranks(processes: int) -> list[dict[str, str]]:
    """What each process of a group is told, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    return [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _main(
    script: str, arguments: Sequence[str], folder: str, variables: dict[str, str], streams: Sequence[int]
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))
    sys.path.insert(0, str(Path(script).parent))
    sys.argv = [script, *arguments]
    try:
        if script.endswith(".py"):
            runpy.run_path(script, run_name="__main__")
        else:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # as Python ends then
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
