"""Dense and reduced models timed in turn, and held against what their MACs promise and what the machine can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..evaluate.timing import as_dtype, evaluation_mode, inference, times_in_turn
from ..runtime.profile import Profile, profile
from .roofline import Roofline, measure_roofline
from .runtimes import Run, prepare


@dataclass(frozen=True)
class Case:
    """What is the same for all models that are timed in turn."""

    batch_size: int
    runtime: str
    precision: str

    def __str__(self) -> str:
        return f"batch {self.batch_size}, {self.runtime}, {self.precision}"


@dataclass(frozen=True)
class Timed:
    """One model in one case.

    ms, p10, p95: milliseconds of a batch: median, tenth and ninety-fifth percentile of the rounds
    speed_up:     median over the rounds of the dense model's time in the same round, divided by this one's
    promised:     MACs of the dense model, divided by this one's
    roofline:     the least time on this machine, divided by the median
    """

    label: str
    case: Case
    cost: Profile
    ms: float
    p10: float
    p95: float
    speed_up: float
    promised: float
    roofline: float

    @property
    def kept(self) -> float:
        """The speed-up, divided by what the MACs promise."""
        return self.speed_up / self.promised


def benchmark(
    models: Mapping[str, nn.Module], images: Tensor, case: Case, rounds: int = 15, seconds: float = 0.2
) -> tuple[list[Timed], dict[str, str]]:
    """Time models in turn on one batch; the first is the dense one, which the others are compared with.

    images: [b, c, height, width], at least `case.batch_size` of them
    Returns the rows, and of models that the runtime cannot run the reason by label. Raises ValueError where it cannot
    run the first.

    Example:
        >>> models = {"dense": model, "evit": vitrim.reduce(model, "evit")}
        >>> rows, refused = benchmark(models, images, Case(2, "eager", "float32"), rounds=1, seconds=0.01)
        >>> [row.label for row in rows], f"{rows[1].promised:.2f}", refused
        (['dense', 'evit'], '1.36', {})
    """
    batch = images[: case.batch_size]
    dtype = as_dtype(case.precision, batch.device)
    first = next(iter(models))
    with evaluation_mode(models), inference(batch.device, dtype):
        runs, refused = _prepared(models, batch, case, first)
        roof = measure_roofline(models[first], _rows(models[first], batch), dtype)
        times = times_in_turn(runs, batch, rounds, seconds)
    height, width = batch.shape[-2:]
    costs = {label: profile(models[label], (height, width)) for label in runs}
    return [_timed(label, case, costs, times, first, roof) for label in runs], refused


def _prepared(
    models: Mapping[str, nn.Module], batch: Tensor, case: Case, first: str
) -> tuple[dict[str, Run], dict[str, str]]:
    runs, refused = {}, {}
    for label, model in models.items():
        try:
            runs[label] = prepare(model, case.runtime, batch)
        except ValueError as error:
            if label == first:
                raise
            refused[label] = str(error)
    return runs, refused


def _rows(model: nn.Module, batch: Tensor) -> int:
    """Rows of the dense model's products: the tokens of all images."""
    height, width = batch.shape[-2:]
    return len(batch) * (profile(model, (height, width)).patches + 1)


def _timed(
    label: str, case: Case, costs: Mapping[str, Profile], times: list[dict[str, float]], first: str, roof: Roofline
) -> Timed:
    own, cost = np.array([each[label] for each in times]), costs[label]
    ratios = np.array([each[first] for each in times]) / own
    p10, middle, p95 = 1000 * np.quantile(own, (0.1, 0.5, 0.95))
    size = torch.finfo(getattr(torch, case.precision)).bits / 8
    least = roof.seconds(case.batch_size * cost.macs, cost.params * size)
    return Timed(
        label,
        case,
        cost,
        float(middle),
        float(p10),
        float(p95),
        float(np.median(ratios)),
        costs[first].macs / cost.macs,
        1000 * least / float(middle),
    )
