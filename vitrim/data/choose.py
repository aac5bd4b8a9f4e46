"""Which photographs a limit takes: the same ones for the same seed, and some of every class."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..common.errors import OptionError
from ..common.seeds import seed_of


def first_of_each(labels: Sequence[int], count: int) -> list[int]:
    """The places of the first `count` photographs of each class, in order."""
    seen: dict[int, int] = {}
    chosen = []
    for place, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= count:
            chosen.append(place)
    return chosen


def drawn(size: int, limit: int | None, seed: int, labels: Sequence[int] | None = None) -> list[int] | None:
    """`limit` of `size` places drawn at random, in order; None where all are taken.

    With `labels` as many of each class as there can be: all classes have the same number to within one, or all of
    their photographs. Raises ValueError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise OptionError({"limit": limit}, ": give a whole number from 1")
    if limit is None or limit >= size:
        return None
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed_of(seed, size))).tolist()
    if labels is None:
        return sorted(order[:limit])
    rounds: dict[int, int] = {}
    turns = []  # the first photograph drawn of every class comes before the second of any
    for position, place in enumerate(order):
        turn = rounds.get(labels[place], 0)
        rounds[labels[place]] = turn + 1
        turns.append((turn, position, place))
    return sorted(place for _, _, place in sorted(turns)[:limit])
