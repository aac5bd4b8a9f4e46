"""Fixtures for every test: seeds, threads, and the folder of real weights and photographs."""

from __future__ import annotations

import gc
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from shared_folder import SHARED


def pytest_configure(config):
    """A shell has what it starts in the background ignore Ctrl-C, and tests of interruptions must not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start, as `threads` is for this one
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no workers, each of which imports torch first
    gc.disable()  # nothing that is there while tests are collected goes away, and to look takes a third of that time


def pytest_collection_finish(session):
    """What is there before the first test is there to the end: the collector need not look at it again, which takes a
    tenth of the suite's time; nor need it look as often as it does in a program of few objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def threads():
    """One thread: models this small gain nothing from a second, and threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def little_memory():
    """The machine's rate of reading is measured on 1 MB: no test looks at how fast it is."""
    from vitrim.deploy import roofline

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline, "STREAM", 1 << 18)
        yield


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, alone or in the suite."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # torch.manual_seed also formats the stack, for accelerators: 1 ms
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


def shared_path(*parts: str) -> Path:
    """A file or folder of VITRIM_SHARED (default: `shared` beside the checkout); skips, saying so, without it."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not there: set VITRIM_SHARED to the folder with weights/, data/ and spec/")
    return path


@pytest.fixture(scope="session")
def shared():
    """`shared("weights", "x.safetensors")`: that path under VITRIM_SHARED, or a skip that says what is missing."""
    return shared_path
