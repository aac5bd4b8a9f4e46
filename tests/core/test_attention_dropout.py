"""Attention dropout: on the softmaxed map, in train mode, dense and masked, in every family."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from settings import BACKBONES, dense, images
from torch import nn

import vitrim
from vitrim.core import attention as module
from vitrim.core.attention import attention, masked_attention
from vitrim.runtime.build import attach

FAMILIES = [pytest.param(b, id=b.name) for b in BACKBONES if b.name in ("deit", "lvvit", "eva02", "dinov3", "swin")]
P = 0.4


def _heads(n: int = 9) -> list[torch.Tensor]:
    return list(torch.randn(3, 2, 3, n, 8).unbind(0))


def test_masked_attention_drops_entries_of_the_normalised_map():
    (q, k, v), mask = _heads(), torch.ones(2, 9)
    mask[:, 4:] = 0
    torch.manual_seed(1)
    dropped = attention(q, k, v, key_mask=mask, dropout=P)
    torch.manual_seed(1)
    eye = torch.eye(9, dtype=torch.bool)
    logits = (q @ k.transpose(-2, -1) / 8**0.5).masked_fill((mask[:, None, None] == 0) & ~eye, float("-inf"))
    wanted = F.dropout(logits.softmax(dim=-1), P) @ v
    torch.testing.assert_close(dropped, wanted.transpose(1, 2).flatten(2), rtol=1e-5, atol=1e-6)


def test_its_mean_is_attention_without_dropout():
    (q, k, v), mask = _heads(), torch.ones(2, 9)
    draws = torch.stack([masked_attention(q, k, v, mask, dropout=P) for _ in range(4000)])
    wanted = masked_attention(q, k, v, mask)
    error = (draws.mean(dim=0) - wanted).abs() / (draws.std(dim=0) / 4000**0.5)
    assert error.max() < 5 and draws.std(dim=0).min() > 1e-3


def test_without_dropout_no_random_number_is_drawn():
    (q, k, v), mask = _heads(), torch.ones(2, 9)
    before = torch.get_rng_state()
    masked_attention(q, k, v, mask)
    assert torch.equal(torch.get_rng_state(), before)


def _masked(row, p: float) -> vitrim.ReducedViT:
    """In train mode, masked, with decisions that draw nothing: whatever differs from call to call is dropout."""
    torch.manual_seed(0)
    model = dense(row).train()
    for one in model.modules():
        if isinstance(one, nn.Dropout):
            one.p = 0.0
        if hasattr(one, "drop_prob"):  # stochastic depth
            one.drop_prob = 0.0
    for attn in (one for one in model.modules() if hasattr(one, "attn_drop")):
        attn.attn_drop.p = p
    fast = attach(model, "tofe", keep=0.6)
    fast.methods.eval()
    fast.methods[0].masked = True
    return fast


@torch.no_grad()
@pytest.mark.parametrize("row", FAMILIES)
def test_every_family_drops_in_masked_training(row, monkeypatch):
    x, seen = images(row), []

    def dropout(weights, p=0.5, training=True, inplace=False):
        seen.append((p, training, weights.sum(dim=-1)))
        return drop(weights, p, training, inplace)

    drop = F.dropout
    monkeypatch.setattr(module.F, "dropout", dropout)
    fast = _masked(row, P)
    one, other = fast(x), fast(x)
    assert not torch.equal(one, other)
    maps = [sums for p, training, sums in seen if p == P and training and sums.dim() == 3]
    assert len(maps) >= 2 * len(fast.methods[0].places)
    assert all(torch.allclose(sums, torch.ones(()), atol=1e-5) for sums in maps)
    fast.eval()
    assert torch.equal(fast(x), fast(x))


@torch.no_grad()
@pytest.mark.parametrize("row", FAMILIES)
def test_the_control_without_dropout_two_calls_agree(row):
    fast, x = _masked(row, 0.0), images(row)
    assert torch.equal(fast(x), fast(x))
