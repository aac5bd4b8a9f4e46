"""Saves that are killed, and saves beside each other, in processes of their own; what went wrong is printed.

python save_and_kill.py FOLDER
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from saving_setup import FILES, number_of, numbered

import vitrim
from vitrim.common import whole

KILLS, LOADS, OTHERS = 24, 40, 3


def forked(work: Callable[[], None]) -> int:
    """A process of its own that does this work; its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def saving(folder: Path, models: list[vitrim.ReducedViT]) -> Callable[[], None]:
    """Save one after the other, without an end."""

    def loop() -> None:
        while True:
            for model in models:
                model.save(folder)

    return loop


def killed(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def kills(folder: Path, models: list[vitrim.ReducedViT]) -> None:
    """At random moments; what is there afterwards loads, and the next save clears away what was left."""
    draw = random.Random(0)
    models[0].save(folder)
    for _ in range(KILLS):
        child = forked(saving(folder, models))
        time.sleep(draw.uniform(0.002, 0.06))
        killed(child)
        number_of(vitrim.load(folder))
    models[2].save(folder)
    assert number_of(vitrim.load(folder)) == 2
    assert sorted(os.listdir(folder)) == FILES, os.listdir(folder)


def renames(folder: Path, models: list[vitrim.ReducedViT]) -> None:
    """Right before and right after each of the two renames, over an older save and into an empty folder."""
    replace = os.replace
    for old in (True, False):
        for number, before in ((0, True), (0, False), (1, True), (1, False)):
            there = folder / f"{old}{number}{before}"
            if old:
                models[0].save(there)
            os.waitpid(forked(partial(die_at, number, before, replace, partial(models[1].save, there))), 0)
            try:
                found = number_of(vitrim.load(there))
            except ValueError as error:
                assert not old and "has no" in str(error), error
            else:
                assert found == (0 if (number, before) == (0, True) else 1), (old, number, before, found)
            models[2].save(there)
            assert number_of(vitrim.load(there)) == 2 and sorted(os.listdir(there)) == FILES


def die_at(number: int, before: bool, replace: Callable, work: Callable[[], object]) -> None:
    seen = []

    def dying(*names) -> None:
        now = len(seen) == number
        seen.append(names)
        if now and before:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)

    whole.os.replace = dying
    work()


def readers(folder: Path, models: list[vitrim.ReducedViT]) -> None:
    """Beside two writers without an end, one reader: every load is one whole save, and none is starved."""
    models[0].save(folder)
    writers = [forked(saving(folder, models[:2])), forked(saving(folder, models[1:]))]
    seen = {number_of(vitrim.load(folder)) for _ in range(LOADS)}
    for writer in writers:
        killed(writer)
    assert len(seen) > 1, "the writers wrote nothing"


def full(folder: Path, models: list[vitrim.ReducedViT]) -> None:
    """A disk that takes no more than 20 kB of a file: the old save stays, and says so."""
    models[0].save(folder)
    small, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most))
    for there, good in ((folder, "what it held before is as it was"), (folder / "new", "nothing was saved")):
        try:
            models[1].save(there)
        except ValueError as error:
            assert "cannot be saved to: File too large" in str(error) and good in str(error), error
        else:
            raise AssertionError("it saved")
    resource.setrlimit(resource.RLIMIT_FSIZE, (small, most))
    assert number_of(vitrim.load(folder)) == 0
    assert sorted(os.listdir(folder)) == [*FILES, "new"] and os.listdir(folder / "new") == []


if __name__ == "__main__":
    torch.set_num_threads(1)
    numbers = [numbered(number) for number in range(OTHERS)]
    for test in (kills, renames, readers, full):
        test(Path(sys.argv[1]) / test.__name__, numbers)
