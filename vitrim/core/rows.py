"""Rows of batches: take, put and add them by index, fast on CPU as well."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from .recording import one_image


def _among_all(index: Int[Tensor, "b k"], b: int, n: int) -> Int[Tensor, "b k"]:
    """Rows of every image, of n each, as rows of all images one after the other."""
    if one_image(b):  # what is saved here is 1 % of a small model at batch 1
        return index
    return index + torch.arange(b, device=index.device).unsqueeze(1) * n


def take_rows(x: Tensor, index: Int[Tensor, "b k"]) -> Tensor:
    """Rows `index` of every image of x [b, n, ...] as [b, k, ...].

    One `index_select` over the flattened rows: on CPU more than ten times as fast as `gather` along dimension 1.
    """
    if x.dim() == 2:
        return x.gather(1, index)
    b, n = x.shape[:2]
    index = _among_all(index, b, n)
    rows = x.reshape(b * n, *x.shape[2:]).index_select(0, index.flatten())
    return rows.reshape(b, index.shape[1], *x.shape[2:])


def put_rows(x: Tensor, index: Int[Tensor, "b k"], rows: Tensor) -> Tensor:
    """A copy of x [b, n, ...] whose rows `index` are replaced by `rows` [b, k, ...]."""
    if x.dim() == 2:
        return x.scatter(1, index, rows.to(x.dtype))
    b, n = x.shape[:2]
    index = _among_all(index, b, n)
    flat = x.reshape(b * n, *x.shape[2:])
    flat = flat.index_copy(0, index.flatten(), rows.reshape(-1, *x.shape[2:]).to(x.dtype))
    return flat.reshape(x.shape)


def add_rows(x: Tensor, index: Int[Tensor, "b k"], rows: Tensor) -> Tensor:
    """A copy of x [b, n, ...] to whose rows `index` the `rows` [b, k, ...] are added; indices may repeat."""
    b, n = x.shape[:2]
    flat, rows = x.reshape(b * n, *x.shape[2:]), rows.reshape(-1, *x.shape[2:]).to(x.dtype)
    index = _among_all(index, b, n).flatten().view(-1, *[1] * (x.dim() - 2)).expand_as(rows)
    return flat.scatter_add(0, index, rows).reshape(x.shape)


def behind_prefix(index: Int[Tensor, "b k"], prefix: int) -> Int[Tensor, "b pk"]:
    """The same patch tokens counted with the prefix tokens in front, and those prefix tokens themselves."""
    if not prefix:
        return index
    front = torch.arange(prefix, device=index.device).expand(index.shape[0], prefix)
    return torch.cat([front, index + prefix], dim=1)
