"""Where a method acts and how much it keeps there: places, keep rates, counts, warm-up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..common.errors import OptionError
from .values import as_number, as_several, as_whole

SLACK = 1e-9  # 0.7 * 10 is 7.000000000000001 in floating point; no token more for that


@dataclass(frozen=True)
class Place:
    """The `index`-th place of a method: block `block` (from 0), and the keep rate there.

    patches: patch tokens of the whole image, filled in where a plan is costed (a running method asks `Tokens.grid`)

    Example:
        >>> fast = vitrim.reduce(model, "evit", keep=(0.9, 0.8, 0.7))
        >>> fast.methods[0].places[0]
        Place(index=0, block=1, keep=0.9, patches=None)
    """

    index: int
    block: int
    keep: float = 1.0
    patches: int | None = None

    @property
    def whole(self) -> int:
        """`patches`, for methods whose keep rates are shares of them."""
        if self.patches is None:
            raise ValueError(f"the place at block {self.block} does not know the patches of the image")
        return self.patches


def even_places(depth: int, places: int) -> tuple[int, ...]:
    """The even cut of `depth` blocks: 12 blocks and 3 places give 3, 6, 9 (the papers' 4th, 7th, 10th).

    Raises ValueError for a model with no more blocks than places.

    Example:
        >>> even_places(12, 3)
        (3, 6, 9)
    """
    if depth <= places:
        raise ValueError(f"a model of {depth} blocks has no room for {places} places: give at=(...) yourself")
    return tuple(round(depth * (j + 1) / (places + 1)) for j in range(places))


def ceil_count(share: float, n: int) -> int:
    """ceil(share * n), safe against rounding: at least 1 unless the share is 0.

    Example:
        >>> ceil_count(0.7, 196), ceil_count(0.01, 10), ceil_count(0, 196)
        (138, 1, 0)
    """
    return max(math.ceil(share * n - SLACK), int(share > 0 and n > 0))


def floor_count(share: float, n: int) -> int:
    """floor(share * n), safe against rounding.

    Example:
        >>> floor_count(0.7, 196), floor_count(0.7, 10)
        (137, 7)
    """
    return math.floor(share * n + SLACK)


def round_count(share: float, n: int) -> int:
    """share * n to the nearest whole number, halves up, safe against rounding.

    Example:
        >>> round_count(0.25, 10), round_count(0.25, 12)
        (3, 3)
    """
    return math.floor(share * n + 0.5 + SLACK)


def as_places(at: Iterable[int] | int, option: str = "at") -> tuple[int, ...]:
    """One block number or several, as a tuple; ValueError, naming the option, for what is no whole number.

    Example:
        >>> as_places(3), as_places([3, 6]), as_places({9, 6})
        ((3,), (3, 6), (6, 9))
    """
    several = tuple(sorted(at)) if isinstance(at, (set, frozenset)) else as_several(at)
    places = tuple(map(as_whole, (at,) if several is None else several))
    if None in places:
        wrong = at if several is None else several[places.index(None)]
        raise OptionError({option: wrong}, " is no block: give block numbers from 0, such as ", {option: (3, 6, 9)})
    return tuple(place for place in places if place is not None)


def check_places(at: Iterable[int] | int, depth: int, option: str = "at") -> tuple[int, ...]:
    """`at` as sorted block numbers; ValueError for places outside the model or named twice.

    Example:
        >>> check_places((3, 12), depth=12)
        Traceback (most recent call last):
        vitrim.common.errors.OptionError: at=12 is not a block of this model: give block numbers from 0 to 11
    """
    places = as_places(at, option)
    wrong = [i for i in places if not 0 <= i < depth]
    if wrong or not places:
        given = {option: wrong[0]} if wrong else f"{option}: no place"
        raise OptionError(given, f" is not a block of this model: give block numbers from 0 to {depth - 1}")
    if list(places) != sorted(set(places)):
        raise OptionError({option: places}, ": give blocks that rise, each named once")
    return places


def check_keep(
    keep: float | Sequence[float], places: int | None = None, *, zero: bool = False
) -> tuple[float, ...] | float:
    """`keep` as one rate, or one for each place; ValueError outside (0, 1] or with another number of rates.

    zero: 0 is allowed too

    Example:
        >>> check_keep(1.2)
        Traceback (most recent call last):
        vitrim.common.errors.OptionError: keep=1.2 is not in (0, 1]: give the share of the patch tokens to keep, ...
    """
    rates = _rates(keep, places, zero)
    return rates[0] if as_several(keep) is None else rates


def shares(keep: float | Sequence[float], places: int, stages: Sequence[int] | None = None) -> list[float]:
    """The share of all N patch tokens that each of `places` keeps.

    keep:   κ, and a place of stage s keeps κ^s; or the shares themselves, one for all or one for each place
    stages: the stage of each place, from 1; default: every place is the next one

    Raises ValueError for another number of shares than of places.

    Example:
        >>> shares(0.5, 3)
        [0.5, 0.25, 0.125]
        >>> shares(0.5, 4, stages=(1, 1, 2, 2))
        [0.5, 0.5, 0.25, 0.25]
        >>> shares((0.9, 0.4), 2)
        [0.9, 0.4]
    """
    if as_several(keep) is None:
        return [rate_at(keep, 0) ** stage for stage in stages or range(1, places + 1)]
    rates = _rates(keep, places)
    return list(rates) * (places if len(rates) == 1 else 1)


def alone(keep: float | Sequence[float]) -> float | Sequence[float]:
    """A list of one number as that number.

    Example:
        >>> alone([0.7]), alone([0.9, 0.7])
        (0.7, [0.9, 0.7])
    """
    several = as_several(keep)
    return several[0] if several is not None and len(several) == 1 else keep


def _rates(keep: Any, places: int | None, zero: bool = False) -> tuple[float, ...]:
    several = as_several(keep)
    rates = tuple(_rate(rate, zero) for rate in ((keep,) if several is None else several))
    if places is not None and len(rates) not in (1, places):
        raise OptionError(
            {"keep": rates}, f": {len(rates)} keep rates for {places} places: give one rate, or one for each place"
        )
    return rates


def _rate(given: Any, zero: bool) -> float:
    rate = as_number(given)
    if rate is None or not 0 <= rate <= 1 or (rate == 0 and not zero):
        allowed = "[0, 1]" if zero else "(0, 1]"
        text = " is text" if isinstance(given, str) else f" is not in {allowed}"
        raise OptionError({"keep": given}, f"{text}: give the share of the patch tokens to keep, such as 0.7")
    return float(rate)


def rate_at(keep: Any, index: int) -> Any:
    """The keep rate, or count, of the `index`-th place, of one for all places or one for each.

    Example:
        >>> rate_at(0.7, 2), rate_at((0.9, 0.8, 0.7), 2)
        (0.7, 0.7)
    """
    if isinstance(keep, (int, float)):
        return keep
    return keep[index] if len(keep) > 1 else keep[0]


def cosine_keep(keep: float, step: int, start: int, steps: int) -> float:
    """Keep rate in training: 1 until step `start`, a cosine down to `keep` over `steps` steps, then flat (EViT,
    section 4).

    Example:
        >>> [cosine_keep(0.5, step, start=10, steps=100) for step in (0, 60, 110)]
        [1.0, 0.75, 0.5]
    """
    if step < start:
        return 1.0
    if step >= start + steps:
        return keep
    return keep + (1 - keep) * (1 + math.cos(math.pi * (step - start) / steps)) / 2
