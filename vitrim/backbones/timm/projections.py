"""Queries and keys of one layer, projected when asked for."""

from __future__ import annotations

from timm.layers import Attention
from torch import Tensor, nn


class Projections:
    """Queries and keys of one `timm.layers.Attention`, from its normed input [b, n, c]."""

    def __init__(self, attn: Attention):
        self.attn = attn

    def _project(self, h: Tensor, part: int) -> Tensor:
        attn = self.attn
        rows = slice(part * attn.attn_dim, (part + 1) * attn.attn_dim)
        bias = None if attn.qkv.bias is None else attn.qkv.bias[rows]
        out = nn.functional.linear(h, attn.qkv.weight[rows], bias)
        return out.reshape(*h.shape[:2], attn.num_heads, attn.head_dim).transpose(1, 2)

    def queries(self, h: Tensor, prefix_only: bool = False) -> Tensor:
        return self.attn.q_norm(self._project(h, 0))

    def keys(self, h: Tensor) -> Tensor:
        return self.attn.k_norm(self._project(h, 1))

    @property
    def foldable(self) -> bool:
        """Whether q . k is one bilinear form of the inputs: not where queries or keys are normalised per head."""
        return isinstance(self.attn.q_norm, nn.Identity) and isinstance(self.attn.k_norm, nn.Identity)

    def folded(self, h: Tensor) -> Tensor | None:
        """u = W_K^T (W_Q h + b_Q) [b, c], meant over the voters h [b, v, c] and scaled to the mean over heads of the
        attention logits; None where not foldable."""
        if not self.foldable:
            return None
        attn, rows = self.attn, self.attn.attn_dim
        bias = None if attn.qkv.bias is None else attn.qkv.bias[:rows].float()
        q = nn.functional.linear(h, attn.qkv.weight[:rows].float(), bias).mean(dim=1)
        return q @ attn.qkv.weight[rows : 2 * rows].float() * (attn.scale / attn.num_heads)
