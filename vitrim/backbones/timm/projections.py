"""Queries and keys of one layer, projected when asked for."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn

from ...core.recording import recording
from ..layers import is_bare, is_bare_linear
from ..packed import PackedLinear


def has_no_head_norms(attn: Any) -> bool:
    """Whether queries and keys leave their norms as they were."""
    return is_bare(attn.q_norm, nn.Identity) and is_bare(attn.k_norm, nn.Identity)


class Projections:
    """Queries and keys of one `timm.layers.Attention`, from its normalised input [b, n, c]."""

    def __init__(self, attn: Attention):
        self.attn = attn

    @property
    def readable(self) -> bool:
        """Whether a part of the layer's weights projects as the layer does; else it is called for q, k and v."""
        return is_bare_linear(self.attn.qkv)

    def _project(self, h: Tensor, part: int) -> Tensor:
        attn = self.attn
        rows = slice(part * attn.attn_dim, (part + 1) * attn.attn_dim)
        if self.readable:
            bias = None if attn.qkv.bias is None else attn.qkv.bias[rows]
            out = nn.functional.linear(h, attn.qkv.weight[rows], bias)
        else:
            out = attn.qkv(h)[..., rows]
        return out.reshape(*h.shape[:2], attn.num_heads, attn.head_dim).transpose(1, 2)

    def queries(self, h: Tensor, prefix_only: bool = False) -> Tensor:
        return self.attn.q_norm(self._project(h, 0))

    def keys(self, h: Tensor) -> Tensor:
        return self.attn.k_norm(self._project(h, 1))

    def values(self, h: Tensor) -> Tensor:
        return self._project(h, 2)

    @property
    def foldable(self) -> bool:
        """Whether q . k is one bilinear form of the inputs, with weights that may be read: not where queries or keys
        are normalised per head, nor where something sits on the layer."""
        return has_no_head_norms(self.attn) and self.readable

    def folded(self, h: Tensor) -> Tensor | None:
        """u = W_K^T (W_Q h + b_Q) [b, c], averaged over the class tokens h [b, v, c], on the scale of the mean
        attention logit over heads; None where not foldable."""
        if not self.foldable:
            return None
        attn, rows = self.attn, self.attn.attn_dim
        if isinstance(attn.qkv, PackedLinear) and not (recording() or torch.is_grad_enabled()):
            matrix, constant = attn.qkv.derived("folded", self._fold)
            return torch.addmm(constant, h.mean(dim=1), matrix)
        bias = None if attn.qkv.bias is None else attn.qkv.bias[:rows].float()
        q = nn.functional.linear(h, attn.qkv.weight[:rows].float(), bias).mean(dim=1)
        return q @ attn.qkv.weight[rows : 2 * rows].float() * (attn.scale / attn.num_heads)

    def _fold(self) -> tuple[Tensor, Tensor]:
        """W_Q^T W_K and b_Q^T W_K on the same scale: where weights are fixed, one product and half of the memory that
        is read for every block."""
        attn, rows = self.attn, self.attn.attn_dim
        weight = attn.qkv.weight.detach().double()
        keys = weight[rows : 2 * rows] * (attn.scale / attn.num_heads)
        bias = weight.new_zeros(rows) if attn.qkv.bias is None else attn.qkv.bias.detach()[:rows].double()
        return (weight[:rows].T @ keys).float(), (bias @ keys).float()
