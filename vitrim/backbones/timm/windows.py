"""Attention in Swin's shifted windows for some of the tokens: where each token lies, and what it sees there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from timm.layers import Mlp
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention, window_partition
from torch import Tensor

from ...core.attention import attention
from ...core.evidence import Evidence
from ...core.recording import divided, length
from ...core.tokens import Tokens
from ..layers import is_bare_linear
from .checks import check_scale, check_type


@dataclass(frozen=True)
class Windows:
    """The windows of one block on one grid of n0 cells, shifted, and padded to whole windows of a slots each.

    cells: [w, a] the grid cell in every slot; n0 for padding
    slots: [n0] the slot of every cell, counted over all windows
    bias:  [w or 1, heads, a, a] relative positions, and what keeps apart the parts of a shifted window
    """

    cells: Tensor
    slots: Tensor
    bias: Tensor

    @property
    def padding(self) -> Bool[Tensor, " wa"]:
        return self.cells.flatten() == len(self.slots)

    def rows(self, tokens: Tokens) -> Int[Tensor, " r"]:
        """The slot of every token, counted over all windows of all images."""
        slots = self.slots.expand(tokens.batch, -1) if tokens.position is None else self.slots[tokens.position]
        if tokens.layout is None:
            image = torch.arange(tokens.batch, device=slots.device).unsqueeze(1)
        else:
            order, lengths = (
                torch.tensor(t, dtype=torch.int64, device=slots.device)
                for t in (tokens.layout.order, tokens.layout.lengths)
            )
            image = order.repeat_interleave(lengths).unsqueeze(0)
        return (slots + image * self.cells.numel()).flatten()

    def filled(self, rows: Int[Tensor, " r"], x: Float[Tensor, "r c"], batch: int, padding) -> Float[Tensor, "b w a c"]:
        """x in its slots, `padding` in the slots beyond the grid, 0 elsewhere."""
        empty = x.new_zeros(self.cells.numel(), x.shape[1])
        if self.cells.numel() > len(self.slots):
            padding = padding.to(x.dtype) if isinstance(padding, Tensor) else padding
            empty = empty + self.padding.to(x.dtype).unsqueeze(1) * padding
        full = empty.repeat(batch, 1).index_copy(0, rows, x)
        return full.view(batch, *self.cells.shape, x.shape[1])

    def on_grid(self, maps: Float[Tensor, "b w *h a a"]) -> Float[Tensor, "b *h n0 n0"]:
        """The maps of all windows as one over the grid, 0 between cells that never meet."""
        n = len(self.slots) + 1
        index = (self.cells.unsqueeze(2) * n + self.cells.unsqueeze(1)).flatten()
        values = maps.movedim(1, -3).flatten(-3)
        grid = values.new_zeros(*values.shape[:-1], n * n).index_copy(-1, index, values)
        return grid.unflatten(-1, (n, n))[..., :-1, :-1]


def lay_windows(block: SwinTransformerBlock, grid: tuple[int, int], like: Tensor) -> Windows:
    """As timm lays them: shift, pad behind, partition."""
    (height, width), (down, right) = grid, block.window_size
    n = height * width
    cells = torch.arange(n, device=like.device).view(1, height, width, 1)
    cells = cells.roll([-shift for shift in block.shift_size], dims=(1, 2))
    cells = F.pad(cells, (0, 0, 0, -width % right, 0, -height % down), value=n)
    size = cells.shape
    cells = window_partition(cells.contiguous(), block.window_size).view(-1, block.window_area)
    slots = cells.new_zeros(n + 1).scatter(0, cells.flatten(), torch.arange(cells.numel(), device=like.device))[:n]
    return Windows(cells, slots, _bias(block, like.new_empty(1, *size[1:3], 1)))


def _bias(block: Any, padded: Float[Tensor, "1 h w 1"]) -> Float[Tensor, "windows heads a a"]:
    shift = block.get_attn_mask(padded) if block.dynamic_mask else block.attn_mask
    bias = block.attn._get_rel_pos_bias()
    return bias if shift is None else bias + shift.unsqueeze(1)


def attend_windows(block: SwinTransformerBlock, h: Float[Tensor, "b m c"], tokens: Tokens) -> Float[Tensor, "b m c"]:
    """Window attention of the tokens present; h are their normalised features, and linear layers see them alone.

    Keys: the tokens present, each as much as its mask says; the slots beyond the grid, as in timm; always the token
    itself.
    """
    attn, windows = block.attn, lay_windows(block, tokens.grid, h)
    qkv = attn.qkv(h).flatten(0, 1)
    rows = windows.rows(tokens)
    slots = windows.filled(rows, qkv, tokens.batch, _beyond(attn, windows, h))
    counts = torch.ones_like(rows, dtype=torch.float32) if tokens.mask is None else tokens.mask.flatten()
    seen = windows.filled(rows, counts.unsqueeze(1), tokens.batch, 1.0).flatten(0, 1).squeeze(-1)
    slots = divided(slots.flatten(0, 1), 2, (3, attn.num_heads, slots.shape[-1] // (3 * attn.num_heads)))
    q, k, v = slots.permute(2, 0, 3, 1, 4).unbind(0)
    bias = windows.bias.expand(len(windows.cells), -1, -1, -1).repeat(tokens.batch, 1, 1, 1)
    dropout = attn.attn_drop.p if attn.training else 0.0
    if tokens.mask is not None:
        out = attention(q, k, v, bias=bias, key_mask=seen, dropout=dropout)
    else:
        out = attention(q, k, v, bias=_hide(bias, seen), dropout=dropout)
    out = out.flatten(0, 1).index_select(0, rows).view(*h.shape[:2], out.shape[-1])
    return attn.proj_drop(attn.proj(out))


def _beyond(attn: WindowAttention, windows: Windows, h: Float[Tensor, "b m c"]) -> Float[Tensor, " c"] | float:
    """Query, key and value of the slots beyond the grid, where timm projects zeros: the layer's bias, if it may be
    read; else what the layer gives for one row of zeros."""
    if windows.cells.numel() == len(windows.slots):
        return 0.0
    if not is_bare_linear(attn.qkv):
        return attn.qkv(h.new_zeros(1, 1, h.shape[-1])).flatten()
    return 0.0 if attn.qkv.bias is None else attn.qkv.bias


def head_channels(attn: WindowAttention) -> int:
    """Channels of a head."""
    rows = getattr(attn.qkv, "out_features", None)
    return rows // (3 * attn.num_heads) if isinstance(rows, int) else round(attn.scale**-2)


def _hide(bias: Float[Tensor, "bw heads a a"], seen: Float[Tensor, "bw a"]) -> Float[Tensor, "bw heads a a"]:
    """-infinity for keys that are not there, but for the token itself."""
    itself = torch.eye(length(seen, 1), dtype=torch.bool, device=seen.device)
    return bias.masked_fill((seen == 0)[:, None, None] & ~itself, float("-inf"))


@dataclass(frozen=True)
class WindowEvidence(Evidence):
    """Evidence of window attention; `layer` is the block. Nobody votes; the map over all tokens is for losses alone.

    grid: (height, width) of the tokens
    """

    grid: tuple[int, int] = (0, 0)

    def attention_map(self):
        logits, windows = self._logits()
        return windows.on_grid(logits.softmax(dim=-1))

    def mean_map(self, of="maps"):
        logits, windows = self._logits()
        return windows.on_grid(
            logits.softmax(dim=-1).mean(dim=2) if of == "maps" else logits.mean(dim=2).softmax(dim=-1)
        )

    def _logits(self) -> tuple[Float[Tensor, "b w heads a a"], Windows]:
        """Over all tokens, in float32."""
        attn, windows = self.layer.attn, lay_windows(self.layer, self.grid, self.h)
        tokens = Tokens(self.h, prefix=0, grid=self.grid)
        qkv = attn.qkv(self.h).flatten(0, 1)
        slots = windows.filled(windows.rows(tokens), qkv, tokens.batch, _beyond(attn, windows, self.h)).float()
        slots = divided(slots, 3, (3, attn.num_heads, slots.shape[-1] // (3 * attn.num_heads)))
        q, k, _ = slots.permute(3, 0, 1, 4, 2, 5).unbind(0)
        return (q * attn.scale) @ k.transpose(-2, -1) + windows.bias.float(), windows


def on_grid(run: Callable[[Tensor], Tensor], tokens: Tokens) -> Tokens:
    """Run on [b, height, width, c], as timm's parts get it; on [b, m, c] where some of the tokens are outside."""
    if tokens.position is not None:
        return tokens.with_x(run(tokens.x))
    return tokens.with_x(run(divided(tokens.x, 1, tokens.grid)).flatten(1, 2))


def check_windows(i: int, block: Any) -> None:
    """Raise ValueError for a block of another kind than timm's, with window attention and an MLP of timm's."""
    check_type("a block", block, SwinTransformerBlock)
    check_type("attention", block.attn, WindowAttention)
    check_type("an MLP", block.mlp, Mlp)
    check_scale(i, block.attn, head_channels(block.attn))


def padded(side: int, window: int) -> int:
    """A side of the grid filled up to whole windows."""
    return -(-side // window) * window
