"""Every method behind one that leaves tokens out for a while: they have no evidence of the blocks that they missed."""

from __future__ import annotations

import pytest
import torch
from settings import BACKBONES, dense, images

import vitrim
from vitrim.methods import METHODS

DEIT = next(row for row in BACKBONES if row.name == "deit")
BEFORE = {
    "idle": lambda: vitrim.IdleViT(keep=(0.5,), blocks=(0,)),
    "frozen": lambda: vitrim.ToFe(keep=(0.4,), at=(0,)),
}


STAGES = {"idlevit": {"stages": 2}}  # of its own it wants more blocks than one


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("before", BEFORE)
def test_logits_are_finite(before, name):
    """Evo-ViT once divided by the attention that nobody had paid to tokens idle in all blocks so far: NaN."""
    method, more = METHODS[name], STAGES.get(name, {})
    blocks = (1, 2) if more else (1,)
    place = {key: blocks for key in ("at", "blocks") if key in method.option_names()}
    for value in (0.9, 0.6, 0.5) if method.dial == "keep" else (4, 8):
        stack = [BEFORE[before](), method(**{method.dial: value}, **place, **more)]
        assert vitrim.reduce(dense(DEIT), stack)(images(DEIT)).isfinite().all(), value
