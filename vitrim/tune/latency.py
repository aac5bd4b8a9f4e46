"""A search for milliseconds at its two ends: the table that it goes by, in the user's batch size, precision and threads
on the user's machine, and what its plans take in truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..common.progress import progress
from ..evaluate.timing import Throughput, as_dtype, inference, processor_name, throughput_in_turn
from ..runtime.build import attach
from ..runtime.plan_file import Plan
from .exchange import Cost
from .measuring import Measuring, Stopwatch, in_turn
from .own_plans import OwnPlans
from .space import Space
from .table import Table, cost_of
from .trials import Trials

ROUNDS_IN_THE_END = 15  # of whole models


@dataclass(frozen=True)
class Latency:
    """Budgets in milliseconds, for `tune`: what to measure, and how.

    batch_size: images at a time
    precision:  float32, bfloat16 or float16
    stopwatch:  pieces by name to milliseconds of each; the default times them in turn
    tables:     by stack what was measured, once a search has run, for JSON

    Raises ValueError for a batch without images.

    Example:
        >>> Latency(batch_size=1).asked(torch.device("cpu"))["batch_size"]
        1
    """

    batch_size: int = 1
    precision: str = "float32"
    stopwatch: Stopwatch | None = None
    tables: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False)

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: give a whole number from 1")

    def asked(self, device: torch.device) -> dict[str, Any]:
        """What milliseconds depend on, beside the model."""
        where = {"threads": torch.get_num_threads()} if device.type == "cpu" else {}
        return {"batch_size": self.batch_size, "precision": self.precision, **where, "device": processor_name(device)}

    def batch(self, images: Tensor) -> Tensor:
        """A batch of that size; fewer images are repeated."""
        some = images[: self.batch_size]
        return some.repeat(-(-self.batch_size // len(some)), 1, 1, 1)[: self.batch_size]

    def measure(self, space: Space, images: Tensor) -> Table:
        """The table of a stack. Raises ValueError for a precision that the device does not compute in, and for models
        whose blocks have several grids."""
        batch = self.batch(images)
        with inference(batch.device, as_dtype(self.precision, batch.device)):
            return Measuring(space, batch, self.stopwatch or in_turn).table()

    def real(self, models: Mapping[Any, nn.Module], images: Tensor) -> dict[Any, Throughput]:
        """Whole models timed in turn, the dense one first."""
        batch = self.batch(images)
        return throughput_in_turn(
            models, batch, ROUNDS_IN_THE_END, device=batch.device, dtype=self.precision, progress=True
        )


def measured_cost(latency: Latency, space: Space, images: Tensor, kept: Trials) -> Cost:
    """What a stack's plans cost by its table: by that of the search that goes on, where one does."""
    known = kept.table(space.name)
    if known is None:
        with progress("measuring milliseconds"):
            known = latency.measure(space, images).as_dict()
        kept.add_table(space.name, known)
    latency.tables[space.name] = known
    return cost_of(Table.from_dict(known), space)


def timed(plans: Sequence[Plan], latency: Latency, space: Space, own: OwnPlans, images: Tensor) -> list[Plan]:
    """Plans with what they take in truth, each beside the method's own plan, in turn with the dense model.

    `figures["latency"]` has shares of the dense model's milliseconds: "promised" by the table, "measured" of the whole
    model, with "low" and "high", the tenth and ninetieth percentile of the rounds; the same of the method's own plan
    with "flat_" in front. `measured_on` has what was measured on, and the dense model's milliseconds.
    """
    models: dict[Any, Any] = {"dense": space.body.model}
    for plan in plans:
        models[plan.budget, ""] = attach(space.body.model, plan)
        flat = own(plan.budget)
        models |= {} if flat is None else {(plan.budget, "flat_"): flat}
    speeds = latency.real(models, images)
    shares: dict[float, dict[str, float]] = {plan.budget: {} for plan in plans}
    for (budget, which), model in list(models.items())[1:]:
        speed, promised = speeds[budget, which], own.cost.share(space.shape_of(list(model.methods)))
        found = {"promised": promised, "measured": 1 / speed.speed_up, "low": 1 / speed.high, "high": 1 / speed.low}
        shares[budget] |= {which + name: value for name, value in found.items()}
    at = {**latency.asked(images.device), "dense_ms": 1000 * latency.batch_size / speeds["dense"].images_per_s}
    return [replace(plan, figures={**plan.figures, "latency": shares[plan.budget]}, measured_on=at) for plan in plans]
