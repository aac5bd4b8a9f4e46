"""Law 9, empty batches: no image in, no image out, for every method and family."""

from __future__ import annotations

import pytest
import torch
from settings import images, pairs, reduced


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star", shallow=True))
def test_no_image_in_no_image_out(backbone, method):
    x, model = images(backbone), reduced(backbone, method)
    none = x[:0]
    logits, trace = model(none, trace=True)
    assert logits.shape == model(none).shape == (0, *model(x).shape[1:])
    assert all(len(record.kept) == len(record.owners) == 0 for record in trace)
    for fill in ("last", "zeros", "neighbours"):
        whole = model.forward_features(x, restore=True, fill=fill)
        assert model.forward_features(none, restore=True, fill=fill).shape == (0, *whole.shape[1:])
    final, grids = model.forward_intermediates(none)
    assert len(final) == 0 and [g.shape[1:] for g in grids] == [g.shape[1:] for g in model.forward_intermediates(x)[1]]
