"""Law 3, sizes: a token that stands for s patches counts as s tokens, in pooling and in proportional attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from settings import backbones, images, nothing

from vitrim.core.attention import attention


def _repeated(x: torch.Tensor, sizes: torch.Tensor, prefix: int) -> torch.Tensor:
    """Every patch row as often as its size says, the prefix rows once."""
    return torch.cat([x[:, :prefix], x[:, prefix:].repeat_interleave(sizes, dim=1)], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("pre_logits", [False, True])
@pytest.mark.parametrize("backbone", backbones(lambda b: not b.grid))
def test_pooling_counts_a_token_as_often_as_its_size(backbone, pre_logits):
    body = nothing(backbone).body
    tokens = body.embed(images(backbone))
    tokens = tokens.with_x(body.norm(tokens.x))
    sizes = torch.arange(tokens.n) % 3 + 1
    sized = replace(tokens, size=sizes.float().expand(2, -1))
    many = replace(tokens.with_x(_repeated(tokens.x, sizes, tokens.prefix)), grid=(1, int(sizes.sum())))
    expected = body.head(many, pre_logits=pre_logits)
    torch.testing.assert_close(body.head(sized, pre_logits=pre_logits), expected, rtol=1e-4, atol=1e-5)
    pools = body.model.global_pool in ("avg", "avgmax", "map") if backbone.timms else not backbone.cls
    if pools:
        assert (body.head(tokens, pre_logits=pre_logits) - expected).abs().max() > 1e-3, "the sizes are seen"


def test_proportional_attention_counts_a_key_as_often_as_its_size():
    q, k, v = (torch.randn(2, 3, 7, 8) for _ in range(3))
    sizes = torch.tensor([1, 3, 1, 2, 5, 1, 2])
    bias = sizes.log().expand(2, -1)
    many = attention(q, *(t.repeat_interleave(sizes, dim=2) for t in (k, v)))
    torch.testing.assert_close(attention(q, k, v, key_bias=bias), many, rtol=1e-4, atol=1e-5)
    masked = attention(q, k, v, key_bias=bias, key_mask=torch.ones(2, 7))
    torch.testing.assert_close(masked, many, rtol=1e-4, atol=1e-5)
