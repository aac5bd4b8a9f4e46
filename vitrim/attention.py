"""Attention has one seam: this function turns (q, k, v) and what the tokens bring along into the output.

Backbones call it, methods never do. Everything dense goes to PyTorch's fused kernel, which never forms the map; only
masked training writes the softmax out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n d"],
    *,
    key_bias: Float[Tensor, "b n"] | None = None,
    key_mask: Float[Tensor, "b n"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b n hd"]:
    """softmax(q k^T / sqrt(d)) v, heads concatenated.

    key_bias: added to every logit of a key (ToMe's log size)
    key_mask: soft keep mask of masked training, 1 for prefix tokens; then q, k, v are treated as in ToFe Eq. 17 and 18
    """
    if key_mask is not None:
        out = masked_attention(q, k, v, key_mask, key_bias)
    elif key_bias is not None:
        bias = key_bias[:, None, None].to(q.dtype).expand(-1, 1, q.shape[2], -1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    else:
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    b, h, n, d = out.shape
    # ONNX needs the copy written out once a mask is there; reshape alone would make the same one.
    out = out.transpose(1, 2) if key_bias is None else out.transpose(1, 2).contiguous()
    return out.reshape(b, n, h * d)


def masked_attention(q, k, v, key_mask, key_bias=None) -> Float[Tensor, "b h n d"]:
    """Explicit float32 softmax weighted by G (ToFe Eq. 17, 18): G_ij = 1 if i = j, else the mask of j."""
    n = q.shape[2]
    logits = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-2, -1)
    if key_bias is not None:
        logits = logits + key_bias[:, None, None]
    itself = torch.eye(n, device=q.device, dtype=torch.bool)
    weight = torch.where(itself, 1.0, key_mask.float()[:, None, None].expand(-1, 1, n, n))
    # The largest logit is taken over the keys that count, or one masked key could push all others to underflow.
    peak = logits.masked_fill(weight == 0, float("-inf")).amax(dim=-1, keepdim=True).detach()
    scores = torch.exp((logits - peak).clamp(max=60.0)) * weight
    return (scores / scores.sum(dim=-1, keepdim=True)).to(v.dtype) @ v
