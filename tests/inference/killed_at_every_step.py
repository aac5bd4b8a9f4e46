"""Runs that are killed before and after each of their steps on the disk, and go on; what went wrong is printed.

python killed_at_every_step.py FOLDER
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from small_runs import KINDS, content, left_beside, pictures, run_on

COUNT, BAD = 19, (0, 8, 9, 17)
STEPS = ("replace", "unlink", "rmdir", "mkdir")  # of `os`, that change what lies in a folder


def die_at(step: int, before: bool) -> None:
    """Let this process kill itself at its step of that number."""
    seen = []

    def dying(name: str):
        real = getattr(os, name)

        def call(*args, **kwargs):
            now = len(seen) == step
            seen.append(name)
            if now and before:
                os.kill(os.getpid(), signal.SIGKILL)
            found = real(*args, **kwargs)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(os, name, call)

    for name in STEPS:
        dying(name)


def killed(step: int, before: bool, work) -> bool:
    """Whether the work was killed at that step; False where it has fewer."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            die_at(step, before)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run has failed"
    return os.WIFSIGNALED(status)


def every_step(data: Path, folder: Path, name: str, over: bool) -> int:
    """Killed at each step in turn, then finished; over: in the place of an older output. Returns the steps."""
    whole = folder / "whole" / name
    whole.parent.mkdir(parents=True)
    run_on(data, whole)
    step = 0
    while True:
        alive = [_one(data, folder / f"{step}{before}" / name, step, before, over, whole) for before in (True, False)]
        if any(alive):
            assert all(alive), "a step that is there before is there after"
            return step
        step += 1


def _one(data: Path, out: Path, step: int, before: bool, over: bool, whole: Path) -> bool:
    """Whether the run has fewer steps."""
    out.parent.mkdir(parents=True)
    if over:
        run_on(data.parent / "few", out)
        older = content(out)
    dead = killed(step, before, lambda: run_on(data, out, overwrite=over))
    if over:
        there = content(out)
        assert not there or there.keys() >= {out.name} or out.is_dir(), (step, before, list(there))
        assert dead or there != older
    run_on(data, out, overwrite=True)
    assert content(out) == content(whole), (out, step, before)
    assert left_beside(out) == [], (step, before, left_beside(out))
    shutil.rmtree(out.parent)
    return not dead


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    data = pictures(root / "data", COUNT, BAD)
    pictures(root / "few", 3)
    names = sys.argv[2:] or list(KINDS)
    for kind in names:
        for over in (False, True):
            print(kind, over, every_step(data, root / f"{kind}{over}", KINDS[kind], over))
