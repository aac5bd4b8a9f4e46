"""Which photographs limits take: the same ones for the same seed, and some of every class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def check_positive(**limits: int | None) -> None:
    """Raise ValueError for a limit below 1."""
    for name, value in limits.items():
        if value is not None and value < 1:
            raise OptionError({name: value}, ": give a whole number from 1")


def choose(
    size: int, labels_of: Callable[[], list[int] | None] | None, per_class: int | None, limit: int | None, seed: int
) -> tuple[list[int] | None, str]:
    """The places that the limits leave (None: all), and how they were chosen, in words."""
    if per_class is None and limit is None:
        return None, ""
    labels, words, chosen = labels_of() if labels_of else None, [], None
    if per_class is not None:
        if labels is None:
            raise OptionError(
                "the data set does not list its labels: for ", {"limit_per_class": per_class}, " give ", {"limit": ...}
            )
        chosen = first_of_each(labels, per_class)
        words.append(f"the first {per_class} of each class")
        labels = [labels[place] for place in chosen]
    places = drawn(size if chosen is None else len(chosen), limit, seed, labels)
    if places is None:
        return chosen, ", ".join(words)
    # Fewer than there are classes leave out some of these: nothing is alike then.
    alike = labels is not None and len(places) >= len(set(labels))
    words.append("drawn at random, alike from every class" if alike else "drawn at random")
    return [place if chosen is None else chosen[place] for place in places], f"{', '.join(words)}, seed {seed}"
