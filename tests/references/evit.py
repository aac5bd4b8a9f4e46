"""EViT by the letter of its Algorithm 1 (appendix A), for tests: one image, one head, one token at a time.

Explicit attention maps, plain Python sorting, no code of vitrim. Norms, projections' weights and MLPs are the model's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def _head(attn: nn.Module, h: Tensor, i: int, part: int) -> Tensor:
    """Queries (part 0), keys (1) or values (2) of head i, [tokens, d]."""
    rows = slice((part * attn.num_heads + i) * attn.head_dim, (part * attn.num_heads + i + 1) * attn.head_dim)
    out = h @ attn.qkv.weight[rows].T
    out = out if attn.qkv.bias is None else out + attn.qkv.bias[rows]
    return (attn.q_norm, attn.k_norm, nn.Identity())[part](out)


def _attention(attn: nn.Module, h: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output of the layer, and the attention map of every head."""
    outs, maps = [], []
    for i in range(attn.num_heads):
        q, k, v = (_head(attn, h, i, part) for part in range(3))
        maps.append(torch.softmax(q @ k.T / math.sqrt(attn.head_dim), dim=1))
        outs.append(maps[-1] @ v)
    return attn.proj(torch.cat(outs, dim=1)), maps


def _votes(maps: list[Tensor], prefix: int, class_tokens: tuple[int, ...]) -> list[float]:
    """Attention of the class tokens to every patch token, mean over heads and class tokens."""
    rows = [m[row, prefix:] for m in maps for row in class_tokens]
    return (sum(rows) / len(rows)).tolist()


def _reorganise(x: Tensor, scores: list[float], weights: list[float], prefix: int, keep: float, fuse: bool) -> Tensor:
    """Attentive tokens in descending order of the scores, then the weighted sum of the rest."""
    n = len(x) - prefix
    k = math.ceil(keep * n - 1e-9)
    if k == n:
        return x
    order = sorted(range(n), key=lambda j: -scores[j])
    rows = [x[j] for j in range(prefix)] + [x[prefix + j] for j in order[:k]]
    if fuse:
        rows.append(sum(weights[j] * x[prefix + j] for j in order[k:]))
    return torch.stack(rows)


def published_evit(
    model: nn.Module, image: Tensor, rates: dict[int, float], *, class_tokens=(0,), fuse=True, score="cls"
) -> Tensor:
    """Logits of one image [3, height, width]; rates: keep rate by block, counted from 0."""
    prefix = model.num_prefix_tokens
    x = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0]
    for i, block in enumerate(model.blocks):
        out, maps = _attention(block.attn, block.norm1(x))
        x = x + block.ls1(out)
        if i in rates:
            votes = _votes(maps, prefix, class_tokens or tuple(range(len(x))))
            everyone = _votes(maps, prefix, tuple(range(len(x))))
            scores = {"cls": votes, "-cls": [-a for a in votes], "tokens": everyone}[score]
            x = _reorganise(x, scores, votes, prefix, rates[i], fuse)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.forward_head(model.norm(x[None]))[0]
