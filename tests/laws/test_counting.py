"""The oracle of law 8 against products counted by hand, on every torch and every device that tests use."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from counting import counted_macs, counting
from torch import nn

BATCH, HEADS, TOKENS, WIDTH = 2, 3, 10, 16


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_is_two_products(device, masked):
    q = torch.empty(BATCH, HEADS, TOKENS, WIDTH, device=device)
    mask = torch.zeros(BATCH, 1, TOKENS, TOKENS, device=device) if masked else None
    with counting() as count:
        F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert count.macs == 2 * BATCH * HEADS * TOKENS * TOKENS * WIDTH


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_one_query_costs_one_row(device):
    q, k = torch.empty(1, HEADS, 1, WIDTH, device=device), torch.empty(1, HEADS, TOKENS, WIDTH, device=device)
    with counting() as count:
        F.scaled_dot_product_attention(q, k, k)
    assert count.macs == 2 * HEADS * TOKENS * WIDTH


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_linear_and_convolution(device):
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(2), nn.Linear(4, 5)).to(device)
    assert counted_macs(model, torch.empty(1, 3, 8, 8, device=device)) == 8 * 4 * 3 * 16 + 8 * 4 * 5
