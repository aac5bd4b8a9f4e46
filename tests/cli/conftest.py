"""Fixtures of the command line's tests on photographs."""

from __future__ import annotations

from functools import partial

import pytest
from colours import NAMES, colour, knowing
from PIL import Image
from safetensors.torch import save_file

import vitrim
from vitrim.cli.shared import measure


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """A folder with `data` (ten classes of three pictures), `torchvision.safetensors`, a model that knows them in
    torchvision's order, and `saved`, one in natural order as `save` writes it."""
    root = tmp_path_factory.mktemp("colours")
    for index, name in enumerate(NAMES):
        (root / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (40, 40), colour(index)).save(root / "data" / name / f"{i}.png")
    save_file(knowing(sorted(NAMES)).state_dict(), root / "torchvision.safetensors")
    vitrim.reduce(knowing(NAMES), "topk", keep=0.9).save(root / "saved")
    return root


@pytest.fixture
def in_own_folder(tmp_path, monkeypatch):
    """In a folder of the test's own; speed is measured, but not for long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "throughput_in_turn", partial(measure.throughput_in_turn, seconds=0.001))
