"""Queries, keys and values of one attention layer of transformers, from its normalised input h [b, p+n, c]."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Identity
from torch.nn.functional import linear

from ...core.recording import divided
from ..layers import is_bare_linear


class SeparateProjections:
    """`q_proj`, `k_proj` and `v_proj`; where the model has them, norms of queries and keys, and the rotation of patch
    tokens.

    rows:   sines and cosines [n, 2d] or [b, 1, n, 2d] of all tokens but the first `prefix`; None: nothing is rotated
    """

    def __init__(self, attn: Any, rows: Tensor | None = None, prefix: int = 0):
        self.attn, self.rows, self.prefix = attn, rows, prefix
        self.head_dim: int = attn.head_dim

    def project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [b, heads, p+n, d]; as transformers computes them, bit for bit."""
        return self.queries(h), self.keys(h), self.values(h)

    def _normed(self, name: str, x: Tensor) -> Tensor:
        """Queries or keys after the norm over all heads, where the layer has one (InternVL)."""
        norm = getattr(self.attn, name, None)
        return x if norm is None else norm(x)

    def _heads(self, x: Tensor) -> Float[Tensor, "b heads n d"]:
        return divided(x, 2, (x.shape[2] // self.head_dim, self.head_dim)).transpose(1, 2)

    def _rotated(self, x: Float[Tensor, "b heads pn d"]) -> Tensor:
        """Patch tokens rotated, prefix tokens as they are."""
        if self.rows is None:
            return x
        p = self.prefix
        sin, cos = self.rows.to(x.dtype).chunk(2, dim=-1)
        patches = x[:, :, p:]
        first, second = patches.chunk(2, dim=-1)
        turned = (patches * cos) + (torch.cat((-second, first), dim=-1) * sin)
        return torch.cat([x[:, :, :p], turned], dim=2)

    def queries(self, h: Tensor, prefix_only: bool = False) -> Tensor:
        q = self._heads(self._normed("q_norm", self.attn.q_proj(h)))
        return q if prefix_only else self._rotated(q)

    def keys(self, h: Tensor) -> Tensor:
        return self._rotated(self._heads(self._normed("k_norm", self.attn.k_proj(h))))

    def values(self, h: Tensor) -> Tensor:
        return self._heads(self.attn.v_proj(h))

    @property
    def readable(self) -> bool:
        """Whether the weights project as the layers do; else they are called."""
        return all(map(is_bare_linear, (self.attn.q_proj, self.attn.k_proj, self.attn.v_proj)))

    @property
    def foldable(self) -> bool:
        """Whether q . k is one bilinear form of the inputs, with weights that may be read."""
        norms = (getattr(self.attn, name, None) for name in ("q_norm", "k_norm"))
        return self.rows is None and self.readable and all(type(norm) in (type(None), Identity) for norm in norms)

    def folded(self, h: Tensor) -> Tensor | None:
        """u = W_K^T (W_Q h + b_Q) [b, c], averaged over the class tokens h [b, v, c], on the scale of the mean
        attention logit over heads; None where not foldable."""
        if not self.foldable:
            return None
        query, key = self.attn.q_proj, self.attn.k_proj
        bias = None if query.bias is None else query.bias.float()
        q = linear(h, query.weight.float(), bias).mean(dim=1)
        heads = q.shape[-1] // self.head_dim
        return q @ key.weight.float() * (self.head_dim**-0.5 / heads)
