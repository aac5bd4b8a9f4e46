"""Plain values: Python's own numbers, numpy's and torch's, taken for what they are and never for anything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
from torch import Tensor


def as_whole(value: Any) -> int | None:
    """The whole number that `value` is (of Python, numpy or torch, without dimensions), else None; a flag is none."""
    plain = _plain(value)
    return plain if isinstance(plain, int) and not isinstance(plain, bool) else None


def as_number(value: Any) -> float | int | None:
    """The number that `value` is (nan and infinity among them), else None; a flag is none.

    Of a float32 or narrower the shortest decimal that it stands for: 0.7, where its exact value is 0.699999988.
    """
    plain = _plain(value)
    return plain if isinstance(plain, (int, float)) and not isinstance(plain, bool) else None


def as_flag(value: Any) -> bool | None:
    """True or False, if `value` is one of them (of Python, numpy or torch), else None; a number is none."""
    plain = _plain(value)
    return plain if isinstance(plain, bool) else None


def as_several(value: Any) -> tuple[Any, ...] | None:
    """The members of a sequence, a range or an array of one dimension; None for a single value, for text, for mappings,
    and for sets, which have no order."""
    if isinstance(value, (np.ndarray, Tensor)):
        return tuple(value) if value.ndim == 1 else None
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping, Set)):
        return None
    return tuple(value)


def shown(value: Any) -> str:
    """What was given, on one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(value: Any) -> Any:
    """Python's own scalar for one of numpy's or torch's; anything else as it is."""
    if isinstance(value, Tensor):
        if value.ndim or value.is_meta:
            return value
        return _shortest(value.detach()) if value.is_floating_point() else value.item()
    if isinstance(value, np.ndarray):
        return value if value.ndim else _plain(value[()])
    if isinstance(value, np.floating):
        return _shortest(value)
    return value.item() if isinstance(value, np.generic) else value


def _shortest(value: Any) -> float:
    """The decimal number with the fewest digits that is `value` in its own precision."""
    exact = float(value)
    back = value.new_tensor if isinstance(value, Tensor) else type(value)
    with np.errstate(over="ignore"):
        for digits in range(1, 10):
            short = float(f"{exact:.{digits}g}")
            if back(short) == value:
                return short
    return exact
