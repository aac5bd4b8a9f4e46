"""What a comparison says to use: the best row under a budget, the cheapest within a change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .measure import Row, change_of


def conclusions(rows: Sequence[Row], config: Any) -> list[str]:
    """A sentence for --best-under and one for --target-change, where they were asked for; `rows[0]` is the dense model.

    Raises ValueError where --best-under has no share, neither its own nor --macs.
    """
    found = []
    if config.more.best_under is not None:
        shares = config.more.best_under or config.method.macs
        if not shares:
            raise ValueError("--best-under: give a share of the dense cost, such as 0.6, or --macs")
        found += [_best_under(rows, share) for share in shares]
    if config.more.target_change is not None:
        found.append(_cheapest_within(rows, config.more.target_change))
    return found


def _best_under(rows: Sequence[Row], share: float) -> str:
    fitting = [row for row in rows[1:] if row.cost.share <= share + 5e-4]
    if not fitting:
        least = min(row.cost.share for row in rows[1:])
        return f"no row costs at most {100 * share:g} % of dense; the cheapest costs {100 * least:.1f} %"
    best = max(fitting, key=lambda row: (_worth(row), -row.cost.share))
    return f"best at no more than {100 * share:g} % of the dense cost: {_in_words(best, rows[0])}"


def _cheapest_within(rows: Sequence[Row], points: float) -> str:
    judged = [row for row in rows[1:] if change_of(row.result, rows[0].result) is not None]
    if not judged:
        return "--target-change: without labels there is no change in accuracy to go by"
    fitting = [row for row in judged if (change_of(row.result, rows[0].result) or 0.0) >= -abs(points)]
    if not fitting:
        return f"no row loses at most {abs(points):g} points"
    cheapest = min(fitting, key=lambda row: (row.cost.share, -_worth(row)))
    return f"cheapest that loses at most {abs(points):g} points: {_in_words(cheapest, rows[0])}"


def _worth(row: Row) -> float:
    """Accuracy; without labels agreement or cosine with the dense model."""
    result = row.result
    values = (result.top1, result.knn, result.agreement, result.cosine)
    return next((value for value in values if value is not None), 0.0)


def _in_words(row: Row, dense: Row) -> str:
    change = change_of(row.result, dense.result)
    agreement = "" if row.result.agreement is None else f", agreement {row.result.agreement:.1f} %"
    accuracy = agreement if change is None else f", {change:+.1f} points"
    return f"{row.label} ({100 * row.cost.share:.1f} %{accuracy}, {row.speed.speed_up:.2f} times as fast)"
