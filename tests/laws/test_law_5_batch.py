"""Law 5: a batch of two is two batches of one; where order does not matter, shuffled patches are decided alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from settings import images, pairs, reduced

from vitrim import Keep


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("sample"))
def test_a_batch_of_two_is_two_batches_of_one(backbone, method):
    x, model = images(backbone), reduced(backbone, method)
    together, trace = model(x, trace=True)
    for j in range(2):
        alone, own = model(x[j : j + 1], trace=True)
        torch.testing.assert_close(together[j : j + 1], alone, rtol=1e-5, atol=1e-5)
        for a, b in zip(trace, own, strict=True):
            m = b.kept.shape[1]  # another image may have more
            assert torch.equal(a.kept[j : j + 1, :m], b.kept) and (a.kept[j, m:] < 0).all()
            assert torch.equal(a.owners[j : j + 1], b.owners)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star"))
def test_the_order_of_the_batch_does_not_matter(backbone, method):
    x, model = images(backbone, batch=3), reduced(backbone, method)
    torch.testing.assert_close(model(x.flip(0)).flip(0), model(x), rtol=1e-5, atol=1e-5)


def _shuffled(model, monkeypatch, order: torch.Tensor):
    """Let the model see its patches, positions and all, in another order."""
    plain = model._embed

    def embed(*given):
        tokens = plain(*given)
        shuffled = tokens.shrink(Keep(order.expand(len(tokens.x), -1)), undone=True)
        return replace(shuffled, mixed=tokens.mixed)

    monkeypatch.setattr(model, "_embed", embed)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("sample", lambda b, m: m.order_free and not b.grid))
def test_shuffled_patches_get_the_shuffled_decision(backbone, method, monkeypatch):
    x, model = images(backbone), reduced(backbone, method)
    logits, trace = model(x, trace=True)
    order = torch.randperm(trace[0].owners.shape[1])
    _shuffled(model, monkeypatch, order)
    shuffled, again = model(x, trace=True)
    torch.testing.assert_close(shuffled, logits, rtol=1e-4, atol=1e-4)
    for a, b in zip(trace, again, strict=True):
        kept = torch.where(b.kept < 0, -1, order[b.kept.clamp(min=0)])
        assert torch.equal(kept.sort(dim=1).values, a.kept.sort(dim=1).values)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star"))
def test_kept_tokens_depend_on_the_image(backbone, method):
    """The control of the tests above: two images are decided differently (but for the grid, which never looks)."""
    _, trace = reduced(backbone, method)(images(backbone), trace=True)
    kept = [record.kept.sort(dim=1).values for record in trace]
    assert all(torch.equal(k[0], k[1]) for k in kept) == (method.name == "grid")
