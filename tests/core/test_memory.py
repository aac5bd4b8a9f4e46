"""Memory at inference: the peak is no higher than dense timm's at the same batch. Bytes are counted, not sampled."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from settings import BackboneRow, MethodRow, backbones, dense, images, pairs, reduced
from torch import Tensor, nn

from vitrim.deploy.memory import LiveBytes


def peak(model: nn.Module, x: Tensor) -> int:
    """Most bytes alive at once beside the model and its input."""
    with torch.no_grad(), LiveBytes() as watch:
        model(x)
    return watch.peak


def test_the_watch_counts_what_is_alive():
    def program(x):
        a = x + 1  # 4000 bytes
        b = a + 1  # 8000
        del a
        c = b.view(10, 100) + 1  # 8000: a view is no storage of its own
        return (b.sum() + c.sum()).item()

    x = torch.zeros(1000)
    with LiveBytes() as watch:
        program(x)
    assert 8000 <= watch.peak <= 8100


def _wide(row: BackboneRow) -> BackboneRow:
    """Proportions of a real model: mlp_ratio 4, more tokens than channels of a head."""
    keywords = {"img_size": 80, "mlp_ratio": 4.0}
    return BackboneRow(row.name + "-wide", partial(row.build, **keywords), cls=row.cls, image=(80, 80))


def _comparable(backbone: BackboneRow, method: MethodRow) -> bool:
    return not method.full_map and backbone.takes("img_size") and backbone.takes("mlp_ratio")


@pytest.mark.parametrize(("backbone", "method"), pairs("star", _comparable))
def test_peak_is_no_higher_than_dense(backbone, method):
    row = _wide(backbone)
    x = images(row, batch=4)
    assert peak(reduced(row, method), x) <= peak(dense(row), x)


@pytest.mark.parametrize("backbone", backbones(lambda b: b.takes("mlp_ratio") and b.takes("img_size")))
def test_nothing_reduced_costs_no_memory(backbone):
    row = _wide(backbone)
    x, nothing = images(row, batch=4), MethodRow("random", "random", {"keep": 1.0})
    assert peak(reduced(row, nothing), x) <= peak(dense(row), x)


def test_early_reduction_lowers_the_peak_of_what_follows():
    """The control: with half the tokens from the first block on, only that block holds as much as the dense model."""
    row = _wide(next(b.values[0] for b in backbones()))
    x = images(row, batch=4)
    model = reduced(row, MethodRow("random", "random", {"keep": 0.3, "at": 0}))
    assert peak(model, x) < 0.8 * peak(dense(row), x)
