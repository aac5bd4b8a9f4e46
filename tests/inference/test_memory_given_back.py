"""Memory that was freed does not stay with the process."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from small_runs import pictures, small_model

import vitrim
from vitrim.common import memory
from vitrim.data import open_dataset
from vitrim.inference.reading import Batches, pieces

if memory._TRIM is None:
    pytest.skip("this C library gives nothing back", allow_module_level=True)


def resident() -> int:
    """Bytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def test_what_lies_strewn_in_the_heap_is_given_back(monkeypatch):
    monkeypatch.setattr(memory, "_last", 0.0)
    blocks = [bytes([number % 251]) * 100_000 for number in range(1000)]  # each too small for a mapping of its own
    kept = blocks[::50]
    del blocks
    before = resident()
    memory.give_back_memory()
    assert before - resident() > 60e6
    assert sum(map(len, kept)) == 2_000_000


def test_once_in_a_second(monkeypatch):
    calls, now = [], [100.0]
    monkeypatch.setattr(memory, "_TRIM", calls.append)
    monkeypatch.setattr(memory, "_last", 0.0)
    monkeypatch.setattr(memory.time, "monotonic", lambda: now[0])
    for now[0] in (100.0, 100.5, 100.9, 101.0, 101.5, 102.5):
        memory.give_back_memory()
    assert len(calls) == 3


@pytest.mark.parametrize("who", ["decodes", "computes"])
def test_whoever_works_through_many_images_gives_back(who, tmp_path, monkeypatch):
    worker = vitrim.Predictor(small_model(), device="cpu")
    images = open_dataset(pictures(tmp_path, 3), small_model(), labels=False)
    calls: list[int] = []
    monkeypatch.setattr(memory, "_TRIM", calls.append)
    monkeypatch.setattr(memory, "EVERY", 0.0)
    work = {"decodes": lambda: images[0], "computes": lambda: worker.of_images(torch.zeros(2, 3, 32, 32))}[who]
    for _ in range(3):
        work()
    assert len(calls) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_the_collector_leaves_alone_what_forks_share(workers, tmp_path):
    images = open_dataset(pictures(tmp_path, 5), small_model(), labels=False)
    before, kept = gc.get_freeze_count(), []
    for _ in pieces(images, Batches([0], 5, 5, 2), workers, torch.device("cpu")):
        kept.append(gc.get_freeze_count())
    assert min(kept) > 10_000 and len(kept) == 3
    assert gc.get_freeze_count() == before
