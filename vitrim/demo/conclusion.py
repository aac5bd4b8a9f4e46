"""What to conclude from a comparison, in sentences made from its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..common.text import counted

# Points to each side of an accuracy. Where some interval is wider, a method may look as good as another, or as the
# dense model, for want of pictures. With 400 no 95 % interval is wider, whatever the accuracy.
WIDEST, ENOUGH = 5.0, 400


@dataclass(frozen=True)
class Outcome:
    """How one reduced model did.

    method:   its name, as the page shows it
    share:    its cost as a share of the dense cost
    accuracy, interval: in percent; the interval is the 95 % interval
    budget:   the share of the dense cost that it was made for; None: it was made for none
    floor:    it does not look at the picture, so a method that is no better has not shown that looking helps
    trained:  it has learned parts, so it is compared with others that have not been trained
    """

    method: str
    share: float
    accuracy: float
    interval: tuple[float, float]
    budget: float | None = None
    floor: bool = False
    trained: bool = False

    @property
    def margin(self) -> float:
        """Half the width of the interval, in points."""
        return (self.interval[1] - self.interval[0]) / 2


def conclude(outcomes: Sequence[Outcome], dense: Outcome) -> list[str]:
    """Which method keeps most accuracy at the lowest budget, whether the methods that look beat those that do not, and
    the cheapest row that is about as good as the dense model. Empty where nothing was reduced. Ask `too_few` before.

    Two models count as told apart where their 95 % intervals do not overlap; a row is about as good as the dense model
    where its interval reaches the dense model's accuracy.

    Example:
        >>> dense = Outcome("dense", 1.0, 95.0, (92.7, 96.6))
        >>> rows = [Outcome("EViT", 0.4, 76.0, (72.1, 79.5), 0.4), Outcome("Grid", 0.4, 40.0, (35.8, 44.3), 0.4, True)]
        >>> conclude(rows, dense)[0]
        'At 40 % of the dense cost EViT keeps most accuracy (76.0 %, dense 95.0 %), by a clear margin.'
    """
    made_for = [o for o in outcomes if o.budget is not None]
    if not outcomes:
        return []
    sentences = []
    if made_for:
        lowest = min(o.budget or 0.0 for o in made_for)
        group = [o for o in made_for if o.budget == lowest]
        sentences = [_best(group, dense), *_untrained(group), *_above_the_floor(group)]
    return [*sentences, _like_dense(outcomes, dense)]


def too_few(outcomes: Sequence[Outcome], pictures: int) -> str:
    """Why nothing can be concluded from so many pictures, and how many to take: where the widest of the intervals
    reaches more than 5 points to a side. Empty where they are enough.

    Example:
        >>> too_few([Outcome("EViT", 0.4, 76.0, (58.0, 88.0), 0.4)], 30)
        '30 pictures leave ± 15 points on an accuracy, too much to conclude anything: take 400 or more (--limit ...'
    """
    margin = max(o.margin for o in outcomes)
    if margin <= WIDEST:
        return ""
    return (
        f"{counted(pictures, 'picture leaves', 'pictures leave')} ± {margin:.0f} points on an accuracy, too much to "
        f"conclude anything: take {ENOUGH} or more (--limit {ENOUGH}; of the digits, --images {ENOUGH})."
    )


def overlap(one: Outcome, other: Outcome) -> bool:
    """Whether two 95 % intervals share a point.

    Example:
        >>> low, high = Outcome("a", 1, 40, (35, 45)), Outcome("b", 1, 60, (55, 65))
        >>> overlap(low, high), overlap(low, low)
        (False, True)
    """
    return one.interval[0] <= other.interval[1] and other.interval[0] <= one.interval[1]


def _best(group: Sequence[Outcome], dense: Outcome) -> str:
    best = max(group, key=lambda o: o.accuracy)
    near = [o.method for o in group if o is not best and overlap(o, best)]
    start = (
        f"At {100 * _cost(best):.0f} % of the dense cost {best.method} keeps most accuracy ({_figures(best, dense)})"
    )
    if len(group) == 1:
        return f"{start}."
    if not near:
        return f"{start}, by a clear margin."
    theirs = "that" if len(near) == 1 else "those"
    return (
        f"{start}, but its 95 % interval overlaps with {theirs} of {_and(near)}: these pictures do not tell them apart."
    )


def _untrained(group: Sequence[Outcome]) -> list[str]:
    """The best of those that were not trained, where one that was is the best of all."""
    untrained = [o for o in group if not o.trained]
    if not untrained or not max(group, key=lambda o: o.accuracy).trained:
        return []
    best = max(untrained, key=lambda o: o.accuracy)
    near = [o.method for o in untrained if o is not best and overlap(o, best)]
    rest = f"; its interval overlaps with {'that' if len(near) == 1 else 'those'} of {_and(near)}" if near else ""
    return [f"Of the methods that were not trained, {best.method} keeps most ({best.accuracy:.1f} %{rest})."]


def _cost(outcome: Outcome) -> float:
    """The share by which all sentences name a row: its budget, of which it spends a little less; else what it costs."""
    return outcome.share if outcome.budget is None else outcome.budget


def _figures(best: Outcome, dense: Outcome) -> str:
    return f"{best.accuracy:.1f} %, dense {dense.accuracy:.1f} %"


def _above_the_floor(group: Sequence[Outcome]) -> list[str]:
    """Whether looking at the picture helps: against the better of the methods that do not."""
    floor = [o for o in group if o.floor]
    looking = [o for o in group if not o.floor]
    if not floor or not looking:
        return []
    best = max(floor, key=lambda o: o.accuracy)
    above = [o.method for o in looking if o.interval[0] > best.interval[1]]
    others = [o.method for o in looking if o.interval[0] <= best.interval[1]]
    start = f"{best.method}, the better of those that do not look at the picture, keeps {best.accuracy:.1f} %"
    if len(floor) == 1:
        start = f"{best.method}, which does not look at the picture, keeps {best.accuracy:.1f} %"
    if not above:
        return [f"{start} there, and no method is clearly better: these pictures do not show that looking helps."]
    rest = f"; {_and(others)} {'is' if len(others) == 1 else 'are'} not" if others else ""
    return [f"{start} there; {_and(above)} {'is' if len(above) == 1 else 'are'} clearly better{rest}."]


def _like_dense(outcomes: Sequence[Outcome], dense: Outcome) -> str:
    alike = [o for o in outcomes if o.interval[1] >= dense.accuracy]
    if not alike and not any(overlap(o, dense) for o in outcomes):
        return "Every row is clearly below the dense model."
    if not alike:
        return "No row's accuracy, within its 95 % interval, reaches the dense model's."
    cheapest = min(alike, key=lambda o: (_cost(o), -o.accuracy))
    return (
        f"The cheapest row whose accuracy, within its 95 % interval, reaches the dense model's is {cheapest.method} at "
        f"{100 * _cost(cheapest):.0f} % of the dense cost ({_figures(cheapest, dense)})."
    )


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
