"""A run that is killed at any moment goes on, and its output is that of one that was never killed, byte for byte."""

from __future__ import annotations

import os
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path

import fresh
import pytest
from small_runs import KINDS, content, left_beside, pictures, run_on, saved_model

COUNT, BAD = 6, (0, 5)
KILLS = int(os.environ.get("VITRIM_KILLS", "2"))  # more to look for what is rare
STEPS = ("replace", "unlink", "rmdir", "mkdir")  # of `os`, that change what lies in a folder


class Killed(BaseException):
    """The process is gone. Nothing that runs after this changes the disk: every further step raises it, too."""


class Steps:
    """Stops the process before its step of that number on the disk."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int):
        self.at, self.seen, self.dead = at, 0, False
        for name in STEPS:
            patch.setattr(os, name, self._counting(getattr(os, name)))
        patch.setattr(os, "fsync", lambda descriptor: None)  # no power is cut here

    def _counting(self, step):
        def call(*args, **kwargs):
            self.dead = self.dead or self.seen == self.at
            if self.dead:
                raise Killed
            self.seen += 1
            return step(*args, **kwargs)

        return call


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("kills")
    pictures(root / "few", 3)
    return pictures(root / "data", COUNT, BAD)


@pytest.mark.parametrize("over", [False, True], ids=["new", "over an older one"])
@pytest.mark.parametrize("kind", ["csv", "npy"])
def test_killed_at_each_step_on_the_disk(data, kind, over, tmp_path):
    whole = tmp_path / "whole" / KINDS[kind]
    whole.parent.mkdir()
    run_on(data, whole, part=4)
    step, dead = 0, True
    while dead:
        out = tmp_path / f"{step}" / KINDS[kind]
        dead = stopped(data, out, step, over)
        run_on(data, out, part=4, overwrite=True)
        assert content(out) == content(whole), step
        assert left_beside(out) == [], step
        shutil.rmtree(out.parent)
        step += 1
    assert step > 20


def stopped(data: Path, out: Path, step: int, over: bool) -> bool:
    """Whether the run came to that step, and was killed. It leaves an old output, a new one, or a run to go on with."""
    out.parent.mkdir()
    if over:
        run_on(data.parent / "few", out)
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch, step)
        with suppress(Killed):
            run_on(data, out, part=4, overwrite=over)
    assert not over or out.exists() or out.with_name(f"{out.name}.parts").exists()
    return steps.dead


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_the_command_killed_at_random_moments(command, data, tmp_path):
    """By SIGKILL, with a process that decodes beside it."""
    model, out = saved_model(tmp_path / "model"), {"predict": "out.jsonl", "embed": "features"}[command]
    line = ["vitrim", command, str(data), "--checkpoint", str(model), "--out", out, "--part", "2", "--batch-size", "2"]
    line += ["--workers", "1", "--device", "cpu"]
    start = time.monotonic()
    (tmp_path / "whole").mkdir()
    assert fresh.finish(fresh.start(*line, folder=tmp_path / "whole")) == 0
    seconds, draw = time.monotonic() - start, random.Random(0)
    (tmp_path / "killed").mkdir()
    for _ in range(KILLS):
        process = fresh.start(*line, folder=tmp_path / "killed")
        time.sleep(draw.uniform(0.4, 1) * seconds)
        process.kill()
        process.join()
        if (tmp_path / "killed" / out).exists():  # it came to its end: once more from the start
            assert content(tmp_path / "killed" / out) == content(tmp_path / "whole" / out)
            shutil.rmtree(tmp_path / "killed")
            (tmp_path / "killed").mkdir()
    if not (tmp_path / "killed" / out).exists():
        assert fresh.finish(fresh.start(*line, folder=tmp_path / "killed")) == 0
    assert content(tmp_path / "killed" / out) == content(tmp_path / "whole" / out)
    assert left_beside(tmp_path / "killed" / out) == []
