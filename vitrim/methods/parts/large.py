"""Maps between all pairs of tokens, where there are so many tokens that a few such maps would hold more memory than the
model itself: made for one image after the other, and worked on in parts of some rows.

Small maps are made at once, in the same operations.

Shapes: b images, q tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...core.recording import length, recording

LARGEST = {"cpu": 1 << 20, "cuda": 1 << 24}  # entries of a map that is made at once: 4 MB and 64 MB
ALL = slice(None)


def numbers(x: Tensor) -> Int[Tensor, " q"]:
    """The numbers of the tokens of x [b, q, ...]."""
    return torch.arange(length(x, 1), device=x.device)


def row_parts(q: int) -> list[slice]:
    """The rows of a map, as many at a time as a part may have; all of them where that is the whole map."""
    rows = max(1, LARGEST["cpu"] // q) if q else 1
    return [slice(begin, begin + rows) for begin in range(0, q, rows)] if rows < q else [ALL]


def by_rows(part: Callable[[slice], Tensor], q: int) -> Tensor:
    """What `part` makes of some rows, [b, r, ...], for all of them."""
    parts = [part(rows) for rows in row_parts(q)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def in_place_by_rows(whole: Float[Tensor, "b q q"], part: Callable[[slice], Tensor]) -> Float[Tensor, "b q q"]:
    """The same, where the map that it is made of is needed no longer: its rows are written over."""
    parts = row_parts(length(whole, 1))
    if len(parts) == 1:
        return part(ALL)
    for rows in parts:
        whole[:, rows] = part(rows)
    return whole


def with_transpose(x: Float[Tensor, "b q q"]) -> Float[Tensor, "b q q"]:
    """x + x^T; of a large map written over x."""
    parts = row_parts(length(x, 1))
    if len(parts) == 1:
        return x + x.transpose(1, 2)
    for i, rows in enumerate(parts):
        for columns in parts[i:]:
            both = x[:, rows, columns] + x[:, columns, rows].transpose(1, 2)
            x[:, rows, columns], x[:, columns, rows] = both, both.transpose(1, 2)
    return x


def too_large(x: Tensor) -> bool:
    """Whether the maps of all images of x [b, q, ...] are more than is made at once. Never in a graph, which serves any
    number of images."""
    return not recording() and x.shape[0] > max(1, _images_at_once(x))


def image_by_image(x: Tensor, make: Callable[[Tensor], Any]) -> Any:
    """What `make` returns of a few images at a time, tuples or dataclasses of tensors, put together again."""
    made = [make(images) for images in x.split(max(1, _images_at_once(x)))]
    if isinstance(made[0], tuple):
        return tuple(torch.cat(part) for part in zip(*made, strict=True))
    fields = {key: [vars(each)[key] for each in made] for key in vars(made[0])}
    return type(made[0])(**{key: None if value[0] is None else torch.cat(value) for key, value in fields.items()})


def _images_at_once(x: Tensor) -> int:
    return LARGEST.get(x.device.type, LARGEST["cpu"]) // max(1, x.shape[1]) ** 2
