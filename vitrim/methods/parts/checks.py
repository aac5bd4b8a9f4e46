"""Options of methods: what is allowed, and the one line for what is not."""

from __future__ import annotations

from collections.abc import Sequence


def check_one_of(option: str, value: str, allowed: Sequence[str]) -> str:
    """`value`; ValueError if it is not one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{option} {value!r} is not one of {', '.join(allowed)}")
    return value


def check_count(option: str, value: int, lowest: int) -> int:
    """`value`; ValueError if it is no whole number from `lowest`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{option}={value!r}: give a whole number from {lowest}")
    return value


def check_counts(
    option: str, value: int | Sequence[int] | None, lowest: int, places: int | None = None
) -> tuple[int, ...] | int | None:
    """`value` as one count, or one for each place; None stays. ValueError for anything else, or too many of them."""
    if value is None:
        return None
    several = isinstance(value, Sequence) and not isinstance(value, str)
    checked = tuple(check_count(option, one, lowest) for one in (value if several else (value,)))
    if not checked or (places is not None and len(checked) not in (1, places)):
        raise ValueError(f"{len(checked)} {option} for {places or 'several'} places: give one, or one for each place")
    return checked if several else checked[0]
