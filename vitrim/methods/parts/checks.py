"""Options of methods: what is allowed, and the one line for what is not.

Each checker takes the option's name and what was given, and hands back a plain value of Python's: numpy's and torch's
numbers are taken for what they are, a flag is never a number and a number never a flag.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

from ...common.errors import OptionError
from ...core.values import as_flag, as_number, as_several, as_whole


def check_one_of(option: str, value: str, allowed: Collection[str]) -> str:
    """`value`; ValueError if it is not one of those allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise OptionError({option: value}, f": choose one of {', '.join(allowed)}")
    return str(value)


def check_flag(option: str, value: bool) -> bool:
    """`value`; ValueError if it is not True or False."""
    flag = as_flag(value)
    if flag is None:
        raise OptionError({option: value}, ": give True or False")
    return flag


def check_count(option: str, value: int, lowest: int) -> int:
    """`value`; ValueError if it is no whole number from `lowest`."""
    count = as_whole(value)
    if count is None or count < lowest:
        raise OptionError({option: value}, f": give a whole number from {lowest}")
    return count


def check_counts(option: str, value: Any, lowest: int, places: int | None = None) -> Any:
    """`value` as one count, or one for each place; None stays. ValueError for anything else, or too many of them."""
    if value is None:
        return None
    several = as_several(value)
    checked = tuple(check_count(option, item, lowest) for item in ((value,) if several is None else several))
    if not checked or (places is not None and len(checked) not in (1, places)):
        raise OptionError(
            {option: value}, f": {len(checked)} for {places or 'several'} places: give one, or one for each place"
        )
    return checked[0] if several is None else checked


def check_seed(value: int) -> int:
    """The seed; ValueError if it is no whole number."""
    seed = as_whole(value)
    if seed is None:
        raise OptionError({"seed": value}, ": give a whole number, such as 0")
    return seed


def check_number(option: str, value: float, fits: Callable[[float], bool], allowed: str) -> float:
    """`value`; ValueError if it is no finite number that fits. `allowed` says in words what does."""
    number = as_number(value)
    if number is None or not math.isfinite(number) or not fits(number):
        raise OptionError({option: value}, f": give {allowed}")
    return float(number)


def check_score(score: Any, allowed: Collection[str]) -> Any:
    """A score's name, or a callable that makes scores from images; ValueError for anything else."""
    if callable(score):
        return score
    if not isinstance(score, str) or score not in allowed:
        raise OptionError({"score": score}, f": choose one of {', '.join(allowed)}, or in Python a function of images")
    return str(score)
