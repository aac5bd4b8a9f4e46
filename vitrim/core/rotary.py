"""Rotary rows of tokens that have moved: a row for each token, of the patch whose place it has taken."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .recording import divided


def rows_at(table: Float[Tensor, "*heads n0 d"], position: Int[Tensor, "b n"], ragged: bool) -> Tensor:
    """Rows of the table at these positions, to be broadcast against [b, heads, n, d].

    ragged: position -1 stands for a token that is not rotated
    """
    first = 0
    if ragged:
        table, first = _with_still_row(table), 1
    rows = table.index_select(-2, position.flatten() + first)
    rows = divided(rows, rows.dim() - 2, tuple(position.shape))
    return rows.unsqueeze(1) if rows.dim() == 3 else rows.transpose(0, 1)


def _with_still_row(table: Float[Tensor, "*heads n0 d"]) -> Float[Tensor, "*heads n1 d"]:
    """A rotary table (sines, then cosines) with a first row that rotates by nothing."""
    half = table.shape[-1] // 2
    row = torch.cat([table.new_zeros(half), table.new_ones(half)])
    return torch.cat([row.expand(*table.shape[:-2], 1, -1), table], dim=-2)
