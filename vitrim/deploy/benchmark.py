"""Dense and reduced models timed in turn, and held against what their MACs promise and what the machine can do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.quiet import quiet
from ..evaluate.timing import as_dtype, evaluation_mode, inference, times_in_turn
from ..runtime.profile import Profile, profile
from .instead import Alternatives, Candidate, fitted, nearest_in_time
from .memory import peak_bytes
from .opened import FileCost, OpenedFile
from .roofline import Roofline, measure_roofline
from .runtimes import Run, prepare

LOOKS = 5  # rounds that tell about how long the reduced models take, to choose alternatives by


@dataclass(frozen=True)
class Case:
    """What is the same for all models that are timed in turn; but exported files run in what they were made for."""

    batch_size: int
    runtime: str
    precision: str

    def __str__(self) -> str:
        return f"batch {self.batch_size}, {self.runtime}, {self.precision}"


@dataclass(frozen=True)
class Timed:
    """One model in one case, whose runtime is that of the file where the model is one.

    ms, p10, p95: milliseconds of a batch: median, tenth and ninety-fifth percentile of the rounds
    speed_up:     median over the rounds of the dense model's time in the same round, divided by this one's
    promised:     MACs of the dense model, divided by this one's
    roofline:     the least time on this machine, divided by the median
    least_ms:     that least time, in milliseconds of a batch
    peak_bytes:   most that one forward holds at once, as `vitrim.deploy.memory.peak_bytes` says; None: not known
    kind:         of what a user might do instead of reducing, one of `vitrim.deploy.instead.KINDS`; else empty
    instead_of:   labels of the reduced models beside which that stands
    """

    label: str
    case: Case
    cost: Profile | FileCost
    ms: float
    p10: float
    p95: float
    speed_up: float
    promised: float
    roofline: float
    least_ms: float = math.nan
    peak_bytes: int | None = None
    kind: str = ""
    instead_of: tuple[str, ...] = ()

    @property
    def kept(self) -> float:
        """The speed-up, divided by what the MACs promise."""
        return self.speed_up / self.promised


@dataclass(frozen=True)
class _Entry:
    """A model ready to run on its own images, whatever images it is called with."""

    model: nn.Module
    run: Run
    batch: Tensor
    kind: str = ""
    instead_of: tuple[str, ...] = ()

    def __call__(self, _: Tensor) -> Any:
        return self.run(self.batch)

    def case(self, case: Case) -> Case:
        """With what this one runs in."""
        return replace(case, runtime=self.model.runtime) if isinstance(self.model, OpenedFile) else case

    @property
    def cost(self) -> Profile | FileCost:
        if isinstance(self.model, OpenedFile):
            return self.model.cost
        height, width = self.batch.shape[-2:]
        return profile(self.model, (height, width))

    def peak_bytes(self, runtime: str) -> int | None:
        """As `vitrim.deploy.memory.peak_bytes`; PyTorch does not see what a file holds."""
        return None if isinstance(self.model, OpenedFile) else peak_bytes(self.run, self.batch, runtime)


Entries = dict[str, _Entry]


def benchmark(
    models: Mapping[str, nn.Module],
    images: Tensor,
    case: Case,
    rounds: int = 15,
    seconds: float = 0.2,
    instead: Alternatives | None = None,
) -> tuple[list[Timed], dict[str, str]]:
    """Time models in turn on one batch; the first is the dense one, which the others are compared with.

    models:  by label; an exported file (`vitrim.deploy.open_exported`) runs by itself, whatever the case's runtime
    images:  [b, c, height, width], at least `case.batch_size` of them
    instead: time with them, of the alternatives to each reduced model, those that take about as long: they are chosen
             by their MACs, and of those timed the nearest of each kind stays
    Returns the rows, alternatives last, and of models that the runtime cannot run the reason by label. Raises
    ValueError where it cannot run the first.

    Example:
        >>> models = {"dense": model, "evit": vitrim.reduce(model, "evit")}
        >>> rows, refused = benchmark(models, images, Case(2, "eager", "float32"), rounds=1, seconds=0.01)
        >>> [row.label for row in rows], f"{rows[1].promised:.2f}", refused
        (['dense', 'evit'], '1.36', {})
    """
    batch = images[: case.batch_size]
    dtype = as_dtype(case.precision, batch.device)
    first = next(iter(models))
    remarks = quiet() if case.runtime == "compiled" else nullcontext()  # dynamo's, on graphs that it compiles again
    with evaluation_mode(models), inference(batch.device, dtype), remarks:
        entries, refused = _prepared({label: (model, batch) for label, model in models.items()}, case, first)
        reduced = [label for label in list(entries)[1:] if not isinstance(entries[label].model, OpenedFile)]
        candidates: list[Candidate] = []
        if instead is not None and reduced:
            looked_at = {label: entries[label] for label in (first, *reduced)}
            candidates = _candidates(looked_at, instead, min(LOOKS, rounds), seconds)
            made = {c.label: (instead.model(c), fitted(batch, c.image_size)) for c in candidates}
            others, not_run = _prepared(made, case)
            entries, refused = entries | others, refused | not_run
        roof = measure_roofline(models[first], _rows(models[first], batch), dtype)
        times = times_in_turn(entries, batch, rounds, seconds)
        entries = _at_equal_time(entries, reduced, candidates, _medians(times))
        peaks = {label: entry.peak_bytes(case.runtime) for label, entry in entries.items()}
    dense = entries[first].cost
    return [_timed(label, entry, case, times, dense, roof, peaks[label]) for label, entry in entries.items()], refused


def _prepared(
    models: Mapping[str, tuple[nn.Module, Tensor]], case: Case, first: str | None = None
) -> tuple[Entries, dict[str, str]]:
    entries, refused = {}, {}
    for label, (model, batch) in models.items():
        try:
            entries[label] = _Entry(model, prepare(model, case.runtime, batch), batch)
        except ValueError as error:
            if label == first:
                raise
            refused[label] = str(error)
    return entries, refused


def _candidates(entries: Entries, instead: Alternatives, looks: int, seconds: float) -> list[Candidate]:
    """What may take about as long as the reduced models: of each kind the nearest by the share of the dense time that
    those take, and by the share of MACs, since what is smaller keeps no more of its promise."""
    first, *reduced = entries
    looked = times_in_turn(entries, entries[first].batch, looks, seconds)
    shares = [float(np.median([each[label] / each[first] for each in looked])) for label in reduced]
    return instead.nearest([*shares, *(entries[label].cost.share for label in reduced)])


def _at_equal_time(
    entries: Entries, reduced: Sequence[str], candidates: Sequence[Candidate], seconds: Mapping[str, float]
) -> Entries:
    """Without the candidates that do not come nearest to any reduced model; the others know beside which they stand."""
    beside = nearest_in_time(candidates, seconds, {label: seconds[label] for label in reduced})
    tried = {candidate.label: candidate.kind for candidate in candidates}
    return {
        label: replace(entry, kind=tried.get(label, ""), instead_of=tuple(beside.get(label, ())))
        for label, entry in entries.items()
        if label in beside or label not in tried
    }


def _medians(times: list[dict[str, float]]) -> dict[str, float]:
    return {label: float(np.median([each[label] for each in times])) for label in times[0]}


def _rows(model: nn.Module, batch: Tensor) -> int:
    """Rows of the dense model's products: the tokens of all images."""
    height, width = batch.shape[-2:]
    return len(batch) * (profile(model, (height, width)).patches + 1)


def _timed(
    label: str,
    entry: _Entry,
    case: Case,
    times: list[dict[str, float]],
    dense: Profile | FileCost,
    roof: Roofline,
    peak: int | None,
) -> Timed:
    own, cost, first = np.array([each[label] for each in times]), entry.cost, next(iter(times[0]))
    ratios = np.array([each[first] for each in times]) / own
    p10, middle, p95 = map(float, 1000 * np.quantile(own, (0.1, 0.5, 0.95)))
    size = torch.finfo(getattr(torch, case.precision)).bits / 8
    least = 1000 * roof.seconds(case.batch_size * cost.macs, cost.params * size)
    speed_up, promised = float(np.median(ratios)), dense.macs / cost.macs
    beside: Any = {"peak_bytes": peak, "kind": entry.kind, "instead_of": entry.instead_of}
    return Timed(label, entry.case(case), cost, middle, p10, p95, speed_up, promised, least / middle, least, **beside)
