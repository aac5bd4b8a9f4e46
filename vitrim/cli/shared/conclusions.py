"""What a comparison says to use: the best row under a budget, the cheapest within a change, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...common.text import counted, few
from ...demo.conclusion import ENOUGH, WIDEST
from .rows import Row, accuracy_of, change_of, doubtful_speed, interval_of


def conclusions(rows: Sequence[Row], config: Any) -> list[str]:
    """A sentence for --best-under and one for --target-change, where they were asked for; `rows[0]` is the dense model.

    Raises ValueError where --best-under has no share, neither its own nor --macs.
    """
    shares = _shares(config)
    if not shares and config.more.target_change is None:
        return []
    found = [_best_under(rows, share) for share in shares]
    if config.more.target_change is not None:
        found.append(_no_choice(rows) or _cheapest_within(rows, config.more.target_change))
    return found


def _shares(config: Any) -> Sequence[float]:
    if config.more.best_under is None:
        return ()
    shares = config.more.best_under or config.method.macs
    if not shares:
        raise ValueError("--best-under: give a share of the dense cost, such as 0.6, or --macs")
    return shares


def _too_few(rows: Sequence[Row]) -> str:
    """Why rows are not told apart, where an accuracy (an agreement) may be more than 5 points off either way."""
    bounds = [found for row in rows[1:] if (found := _bounds(row)) is not None]
    margin = max(((high - low) / 2 for low, high in bounds), default=0.0)
    if margin <= WIDEST:
        return ""
    images = counted(rows[0].result.images, "image leaves", "images leave")
    return f"{images} ± {margin:.0f} points on a row, too few (take {ENOUGH} or more) to choose"


def _no_choice(rows: Sequence[Row]) -> str:
    few_images = _too_few(rows)
    return f"{few_images} by the change in accuracy" if few_images else ""


def _best_under(rows: Sequence[Row], share: float) -> str:
    fitting = [row for row in rows[1:] if row.cost.share <= share + 5e-4]
    if not fitting:
        least = min(row.cost.share for row in rows[1:])
        return f"no row costs at most {100 * share:g} % of dense; the cheapest costs {100 * least:.1f} %"
    best, most = max(fitting, key=_rank), f"at no more than {100 * share:g} % of the dense cost"
    alike = [row for row in fitting if row is not best and _overlap(row, best)]
    if alike and (few_images := _too_few(rows)):
        below = [row.short for row in fitting if row is not best and row not in alike]
        worse = f"; {few(below)} {'is' if len(below) == 1 else 'are'} clearly below it" if below else ""
        return f"no best {most}: {few_images} between {best.short} and {few([row.short for row in alike])}{worse}"
    return f"best {most}: {_in_words(best, rows[0])}{_doubt(alike, best)}"


def _doubt(alike: Sequence[Row], best: Row) -> str:
    """Which rows may be as good as the best, and which of them agrees most with the dense model: that tells more."""
    if not alike:
        return ""
    nearest = max(alike, key=lambda row: row.result.agreement or 0.0)
    closer = (nearest.result.agreement or 0.0) > (best.result.agreement or 0.0)
    most = f", of which {nearest.short} agrees most with dense ({nearest.result.agreement:.1f} %)" if closer else ""
    return f"; 95 % intervals do not tell it from {few([row.short for row in alike])}{most}"


def _cheapest_within(rows: Sequence[Row], points: float) -> str:
    judged = [row for row in rows[1:] if change_of(row.result, rows[0].result) is not None]
    if not judged:
        return "--target-change: without labels there is no change in accuracy to go by"
    fitting = [row for row in judged if (change_of(row.result, rows[0].result) or 0.0) >= -abs(points)]
    if not fitting:
        return f"no row loses at most {abs(points):g} points"
    cheapest = min(fitting, key=lambda row: (round(row.cost.share, 2), *(-value for value in _rank(row))))
    return f"cheapest that loses at most {abs(points):g} points: {_in_words(cheapest, rows[0])}"


def _rank(row: Row) -> tuple[float, float, float]:
    """What a row is worth, the better the higher: accuracy (without labels agreement or cosine), then agreement or
    cosine, then how little it costs."""
    result = row.result
    likeness = result.agreement if result.agreement is not None else result.cosine or 0.0
    accuracy = accuracy_of(result)
    return (likeness if accuracy is None else accuracy, likeness, -row.cost.share)


def _bounds(row: Row) -> tuple[float, float] | None:
    """The 95 % interval of the accuracy, without labels of the agreement, in percent."""
    return interval_of(row.result) if accuracy_of(row.result) is not None else row.result.agreement_interval


def _overlap(one: Row, other: Row) -> bool:
    a, b = _bounds(one), _bounds(other)
    return a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1]


def _in_words(row: Row, dense: Row) -> str:
    change = change_of(row.result, dense.result)
    agreement = "" if row.result.agreement is None else f", agreement {row.result.agreement:.1f} %"
    accuracy = "" if change is None else f", {change:+.1f} points"
    speed = f", {row.speed.speed_up:.2f} times as fast" if row.timed and not doubtful_speed(row) else ""
    return f"{row.short} ({100 * row.cost.share:.1f} %{accuracy}{agreement}{speed})"
