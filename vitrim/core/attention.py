"""Attention has one seam: this function turns (q, k, v) and what the tokens bring along into the output.

Backbones call it, methods never do. Everything dense goes to PyTorch's fused kernel, which never forms the map; only
masked training writes the softmax out. A ragged batch is attended image by image, without padding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .packing import Layout
from .recording import laid_out, length

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None
# Without split-KV the order of summation, and so the result, does not depend on the longest image of the batch.
_ONE_SPLIT = {"num_splits": 1} if varlen_attn and "num_splits" in inspect.signature(varlen_attn).parameters else {}


def attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n d"],
    *,
    key_bias: Float[Tensor, "b n"] | None = None,
    key_mask: Float[Tensor, "b n"] | None = None,
    bias: Float[Tensor, "b h n n"] | None = None,
    layout: Layout | None = None,
    dropout: float = 0.0,
    written_out: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "b n hd"]:
    """softmax(q k^T / sqrt(d)) v, heads concatenated.

    key_bias: added to every logit of a key (ToMe's log size)
    key_mask: soft keep mask of masked training, 1 for prefix tokens; then q, k, v are treated as in ToFe Eq. 17 and 18
    bias:     added to the logits of a query and a key (Swin's relative positions)
    layout:   where the images lie in a ragged batch (then b = 1); each attends to itself alone
    dropout:  share of the softmaxed map that is dropped
    written_out: the layer's dropout, where it has been told not to use fused kernels: then the map is formed
    """
    if layout is not None:
        return ragged_attention(q, k, v, layout, dropout)
    if key_mask is not None:
        out = masked_attention(q, k, v, key_mask, key_bias, bias, dropout)
    elif written_out is not None:
        out = _written_out(q, k, v, key_bias, bias, written_out)
    elif key_bias is not None or bias is not None:
        if key_bias is not None:
            by_key = key_bias[:, None, None].expand(-1, 1, q.shape[2], -1)
            bias = by_key if bias is None else bias + by_key
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=_in_dtype(bias, q), dropout_p=dropout)
    else:
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    b, h, n, d = out.shape
    # In a graph with a mask ONNX needs the copy written out, whatever the layout of the example's output.
    out = out.transpose(1, 2) if bias is None else laid_out(out.transpose(1, 2))
    return out.reshape(b, n, h * d)


def _written_out(q, k, v, key_bias, bias, dropout) -> Float[Tensor, "b h n d"]:
    """In timm's own order of operations, so that the bits are the same."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if key_bias is not None:
        logits = logits + key_bias[:, None, None].to(logits.dtype)
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    return dropout(logits.softmax(dim=-1)) @ v


def masked_attention(q, k, v, key_mask, key_bias=None, bias=None, dropout=0.0) -> Float[Tensor, "b h n d"]:
    """Explicit float32 softmax weighted by G (ToFe Eq. 17, 18): G_ij = 1 if i = j, else the mask of j."""
    n = length(q, 2)
    logits = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-2, -1)
    if key_bias is not None:
        logits = logits + key_bias[:, None, None]
    if bias is not None:
        logits = logits + bias
    itself = torch.eye(n, device=q.device, dtype=torch.bool)
    weight = torch.where(itself, 1.0, key_mask.float()[:, None, None].expand(-1, 1, n, n))
    # The largest logit is taken over the keys that count, or one masked key could push all others to underflow.
    peak = logits.masked_fill(weight == 0, float("-inf")).amax(dim=-1, keepdim=True).detach()
    scores = torch.exp((logits - peak).clamp(max=60.0)) * weight
    weights = scores / scores.sum(dim=-1, keepdim=True)
    return F.dropout(weights, dropout, training=dropout > 0).to(v.dtype) @ v


def log_sizes(sizes: Float[Tensor, "b n"], prefix: int) -> Float[Tensor, "b pn"]:
    """What proportional attention adds to the logits of its keys (ToMe Eq. 1): log sizes, 0 for prefix tokens."""
    return torch.cat([sizes.new_zeros(sizes.shape[0], prefix), sizes.log()], dim=1)


def _in_dtype(bias: Tensor | None, q: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(q.dtype)


@torch.compiler.disable
def ragged_attention(q, k, v, layout: Layout, dropout: float = 0.0) -> Float[Tensor, "1 t hd"]:
    """Attention of every image of a ragged batch over its own rows; q, k, v are [1, h, T, d].

    On CUDA in half precision one variable-length kernel; elsewhere a loop of the fused kernel over the images, those of
    equal length together.
    """
    if not layout.lengths:
        return q.transpose(1, 2).flatten(2)
    if not dropout and _has_kernel(q):
        return _in_one_kernel(q, k, v, layout)
    parts = zip(*(_by_bucket(t, layout) for t in (q, k, v)), strict=True)
    outs = [F.scaled_dot_product_attention(*part, dropout_p=dropout) for part in parts]
    return torch.cat([out.transpose(1, 2).flatten(2).flatten(0, 1) for out in outs]).unsqueeze(0)


def _has_kernel(q: Tensor) -> bool:
    """Whether the variable-length kernel takes these heads."""
    if varlen_attn is None or not q.is_cuda or q.dtype not in (torch.float16, torch.bfloat16):
        return False
    return torch.cuda.get_device_capability(q.device) >= (8, 0) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256


def _in_one_kernel(q, k, v, layout: Layout) -> Float[Tensor, "1 t hd"]:
    bounds = layout.cumulative(q.device)
    q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))
    kernel: Any = varlen_attn
    out = kernel(q, k, v, bounds, bounds, layout.longest, layout.longest, **_ONE_SPLIT)
    return out.flatten(1).unsqueeze(0)


def _by_bucket(x: Float[Tensor, "1 h t d"], layout: Layout) -> list[Float[Tensor, "k h n d"]]:
    """Views of the images of equal length as dense batches."""
    parts = x.split(layout.sizes, dim=2)
    return [
        part if images == 1 else part[0].unflatten(1, (images, length)).transpose(0, 1)
        for part, (images, length) in zip(parts, layout.buckets, strict=True)
    ]


def padded_attention(q, k, v, layout: Layout) -> Float[Tensor, "1 t hd"]:
    """The same as `ragged_attention` with padding and a mask: the reference that the tests hold it to."""
    rows = layout.numbers(q.device)
    present = rows >= 0
    q, k, v = (t[0].transpose(0, 1)[rows].transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=present[:, None, None])
    flat = out.new_empty(sum(layout.lengths), out.shape[1] * out.shape[3])
    flat[rows[present]] = out.transpose(1, 2).flatten(2)[present]
    return flat.unsqueeze(0)
