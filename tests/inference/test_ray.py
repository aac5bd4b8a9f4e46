"""Runs on Ray: every row once, whatever dies. One cluster of this machine, with two actors, for the whole file."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from small_runs import content, left_beside, pictures, run_on, saved_model, small_model

import vitrim
from vitrim.inference.journal import Journal
from vitrim.inference.on_ray import OnRay, _placed, on_ray

pytest.importorskip("ray.data", reason="Ray is not installed")
COUNT, BAD = 26, (0, 5, 25)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("ray") / "data", COUNT, BAD)


@pytest.fixture(scope="module")
def engine() -> Iterator[OnRay]:
    with on_ray("cpu", 2, 1, "float32", None) as engine:
        yield engine


def workers(kind: str) -> list[int]:
    """Processes of Ray's that are named so."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if kind.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("name", ["out.csv", "features"])
def test_an_actor_is_killed_in_the_middle(name, data, engine, tmp_path, monkeypatch):
    """Every row comes once, and all of them are those of a run without Ray, byte for byte."""
    whole, out = tmp_path / "whole" / name, tmp_path / "out" / name
    whole.parent.mkdir(), out.parent.mkdir()
    run_on(data, whole, part=4, batch=2)
    killed, add = [], Journal.list_skipped

    def killing(self, number, skipped):
        if not killed:
            killed.append(workers("ray::MapWorker(MapBatches(_Actor)")[0])
            os.kill(killed[0], signal.SIGKILL)
        add(self, number, skipped)

    monkeypatch.setattr(Journal, "list_skipped", killing)
    done = run_on(data, out, part=4, batch=2, engine=engine)
    assert killed and (done.images, done.unreadable) == (COUNT, len(BAD))
    assert content(out) == content(whole) and left_beside(out) == []
