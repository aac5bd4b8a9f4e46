"""The figures of one model beside the dense one: as they were measured, or as the JSON of an earlier run has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

from ...data import Unreadable
from ...deploy.opened import FileCost
from ...evaluate.accuracy import EvaluationResult, Throughput
from ...runtime.measured import learned_figures
from ...runtime.profile import Profile

DENSE = "dense"
SHARED = ("images", "skipped", "neighbours", "bank")  # of a result: the same in every row
DIALS = ("keep", "r")  # one of them names a row of a run that was written without labels of its rows
SPEED = {"images_per_s": "images_per_s", "speed_up": "speed_up", "low": "speed_up_p10", "high": "speed_up_p90"}


@dataclass(frozen=True)
class Row:
    """One model's figures."""

    label: str
    plan: Any  # `Plan`, or `FilePlan` of an exported file; None for the dense model
    cost: Profile | FileCost
    result: EvaluationResult
    speed: Throughput

    @property
    def short(self) -> str:
        """The label without the budget that it was made for, which its cost tells as well."""
        return self.label.partition(" (macs=")[0]

    @property
    def timed(self) -> bool:
        """Whether its speed was measured."""
        return math.isfinite(self.speed.speed_up)

    @property
    def promise_kept(self) -> float:
        """Speed-up over dense, divided by what the MACs promise."""
        return self.speed.speed_up * self.cost.share

    def figures(self, dense: Row) -> dict[str, Any]:
        """The row for JSON."""
        plan, is_dense = self.plan, self is dense
        found = {key: value for key, value in self.result.as_dict().items() if key not in SHARED}
        return {
            "label": self.label,
            "method": DENSE if plan is None else plan.name,
            "options": {} if plan is None else plan.options,
            **({"budget": plan.budget} if plan is not None and plan.budget is not None else {}),
            "gmacs": self.cost.gmacs,
            "dense_gmacs": self.cost.dense_gmacs,
            "share": self.cost.share,
            "patches": self.cost.patches,
            "tokens": self.cost.tokens,
            "params": self.cost.params,
            **({} if plan is None else learned_figures(getattr(plan.model, "methods", None))),
            **found,
            **({} if is_dense else {"change": change_of(self.result, dense.result)}),
            **{told: getattr(self.speed, name) for name, told in SPEED.items()},
            "promise_kept": self.promise_kept,
        }


def rows_of(run: Mapping[str, Any]) -> list[Row]:
    """The rows of a run's JSON, the dense model first. Raises KeyError and TypeError for what is no such row."""
    shared = {key: run[key] for key in SHARED if key in run and key != "skipped"}
    skipped = tuple(Unreadable(**entry) for entry in run["skipped"])
    return [_row(row, {**shared, "skipped": skipped}) for row in run["rows"]]


def _row(row: Mapping[str, Any], shared: dict[str, Any]) -> Row:
    known = {field.name for field in fields(EvaluationResult)} - set(SHARED)
    result = EvaluationResult(**shared, **{key: _pair(value) for key, value in row.items() if key in known})
    patches = row.get("patches") or max(row["tokens"])
    cost = FileCost(row["gmacs"], row["dense_gmacs"], row["tokens"], patches, row["params"])
    speed = {name: math.nan if row.get(told) is None else row[told] for name, told in SPEED.items()}
    plan = None if row["method"] == DENSE else SimpleNamespace(name=row["method"], budget=row.get("budget"))
    return Row(row.get("label") or _label(row), plan, cost, result, Throughput(**speed))


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _label(row: Mapping[str, Any]) -> str:
    """`evit keep=0.7`."""
    options = row["options"]
    return " ".join([row["method"], *(f"{dial}={options[dial]}" for dial in DIALS if dial in options)])


def change_of(result: EvaluationResult, dense: EvaluationResult) -> float | None:
    """Percentage points of top-1 (kNN accuracy without a classifier) gained over the dense model."""
    now, before = accuracy_of(result), accuracy_of(dense)
    return None if now is None or before is None else now - before


def accuracy_of(result: EvaluationResult) -> float | None:
    """Top-1 in percent; without a classifier the nearest neighbours' accuracy."""
    return result.top1 if result.top1 is not None else result.knn


def interval_of(result: EvaluationResult) -> tuple[float, float] | None:
    """The 95 % interval of `accuracy_of`."""
    return result.top1_interval if result.top1 is not None else result.knn_interval


def doubtful_speed(row: Row) -> bool:
    """Whether the rounds tell no one speed-up: they differ, or there is only one."""
    return row.timed and row.plan is not None and (row.speed.disturbed or row.speed.low == row.speed.high)


def disturbed(rows: Sequence[Row]) -> str:
    """A remark on the speed-ups that `report` marks by `~`; empty where there are none."""
    doubtful = [row for row in rows if doubtful_speed(row)]
    if not doubtful:
        return ""
    worst = max(doubtful, key=lambda row: (row.speed.high - row.speed.low) / row.speed.speed_up)
    if not worst.speed.disturbed:
        return "~: timed in one round, so nobody knows how far this speed-up varies; give more --rounds, such as 9"
    return (
        f"~: the machine was busy, and the speed-ups so marked are not to be relied on (from {worst.speed.low:.2f} to "
        f"{worst.speed.high:.2f} over the rounds for {worst.short}). Time again when nothing else runs, or with more "
        "--rounds"
    )
