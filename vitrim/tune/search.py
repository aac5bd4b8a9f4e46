"""The best plan for a budget, or for a front of budgets, without training and without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..common.kinds_given import check_several, told
from ..common.progress import progress
from ..common.text import counted
from ..core.values import as_number, as_whole
from ..evaluate.judges import without_classifier
from ..runtime.model import ReducedViT, for_images, unwrap
from ..runtime.plan_file import Plan, architecture_of
from .exchange import Cost, Exchange
from .judge import Judge
from .latency import Latency, measured_cost, timed
from .own_plans import OwnPlans
from .row import Row
from .space import Shape, Space
from .trials import Trials

TRIALS = 300
FEWEST_PHOTOGRAPHS = 16


def tune(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    methods: Sequence[str] = ("prunemerge",),
    budgets: Sequence[float] = (0.5,),
    *,
    held_out: Float[Tensor, "b c h w"] | None = None,
    trials: int = TRIALS,
    seed: int = 0,
    prediction_only: bool | None = None,
    latency: Latency | None = None,
    journal: str | Path | None = None,
    restart: bool = False,
) -> list[Row]:
    """Search the counts of every block, for each method and each budget; the best rows of each budget come first.

    model:    a dense model of timm or transformers, as `vitrim.reduce` takes it
    images:   photographs to search on, as the model takes them; some hundred; no labels
    methods:  names; `tome+evit` is a stack, the first method in the first half of the blocks
    budgets:  shares of the dense cost, such as (0.7, 0.5); from the largest on, each begins where the last ended
    held_out: other photographs, on which the plans are judged in the end
    trials:   plans that are judged for each method and budget
    prediction_only: as for `vitrim.reduce`; None: where the model allows it
    latency:  budgets are shares of milliseconds, in that batch size and precision, on the device of the images; each
              stack's table is measured first, and what was found is timed in the end
    journal:  a file where trials are kept, so that a search that was killed goes on; restart: throw it away

    The same seed finds the same plans.
    Raises ValueError for a budget out of reach, methods without a plan to search, and too few photographs.

    Example:
        >>> from vitrim.tune import tune
        >>> rows = tune(model, torch.rand(16, 3, 128, 128), ["tome"], [0.7], trials=4)
        >>> rows[0].plan.budget, rows[0].plan.share <= 0.7, rows[0].distance <= rows[0].flat["distance"]
        (0.7, True, True)
    """
    _check_kinds(model, images, methods, budgets)
    dense = _dense(model)
    wanted = sorted({_share(budget) for budget in budgets}, reverse=True)
    _check(images, wanted, trials)
    only = _allowed(dense, methods) if prediction_only is None else prediction_only
    asked: dict[str, Any] = {
        "methods": list(methods),
        "budgets": wanted,
        "trials": trials,
        "seed": seed,
        "prediction_only": only,
    }
    asked |= {} if latency is None else {"latency": latency.asked(images.device)}
    asked |= {"model": architecture_of(dense), "images": [*images.shape], "sum": float(images.double().sum())}
    kept = Trials(None if journal is None else Path(journal), asked, restart)
    rows: list[Row] = []
    with progress("searching", len(methods) * len(wanted) * trials) as report:
        for number, name in enumerate(methods):
            space = Space(dense, name.split("+"), only)
            cost = Cost(space.share) if latency is None else measured_cost(latency, space, images, kept)
            one = _Search(space, images, held_out, cost, kept, trials, seed, not without_classifier(dense))
            done = number * len(wanted) * trials
            found = one.front(wanted, lambda k, note, done=done: report(done + k, note))
            rows += found if latency is None else _timed(found, latency, one, images)
    kept.end()
    return sorted(rows, key=lambda row: (-row.plan.budget, row.distance))


def _timed(rows: Sequence[Row], latency: Latency, search: _Search, images: Tensor) -> list[Row]:
    plans = timed([row.plan for row in rows], latency, search.space, search.own, images)
    return [replace(row, plan=plan) for row, plan in zip(rows, plans, strict=True)]


class _Search:
    """The search of one stack."""

    def __init__(
        self,
        space: Space,
        images: Tensor,
        held_out: Tensor | None,
        cost: Cost,
        kept: Trials,
        trials: int,
        seed: int,
        classes: bool,
    ):
        self.space, self.kept, self.trials, self.seed = space, kept, trials, seed
        self.judge = Judge(space, images, classes)
        self.held_out = None if held_out is None or not len(held_out) else Judge(space, held_out, classes)
        self.cost, self.own = cost, OwnPlans(space, cost)

    def front(self, budgets: Sequence[float], report: Callable[[int, Sequence[str]], Any]) -> list[Row]:
        """A row for each budget, from the largest on."""
        rows, before = [], None
        for number, budget in enumerate(budgets):
            exchange = Exchange(self.space, self.cost, budget, self.seed)
            shape = self._start(exchange, before)
            shape = self._descend(exchange, shape, lambda k, note, n=number: report(n * self.trials + k, note))
            rows.append(self._row(budget, shape))
            before = shape
        return rows

    def _start(self, exchange: Exchange, before: Shape | None) -> Shape:
        """The best of the plans to begin with: the method's own, an even one, and the last budget's."""
        flat = self.own(exchange.budget)
        tries = [exchange.scaled(shape) for shape in (before, *self._even()) if shape is not None]
        tries += [] if flat is None else [self.space.shape_of(list(flat.methods))]
        found = list(dict.fromkeys(shape for shape in tries if shape is not None and exchange.holds(shape)))
        if not found:
            low = self._least()
            raise ValueError(
                f"{self.space.name} cannot cost {exchange.budget:g} of the dense model: its plans go from {low:.3f} on"
            )
        self.judge.best = None
        of = f"{self.space.name} {exchange.budget:g}"
        distances = {}
        for shape in found:
            known = self.kept.known(of, shape)
            distances[shape] = known[1] if known else self.judge.judge(shape, stop=False).mean
            if not known:
                self.kept.add(of, shape, False, distances[shape])
        return min(found, key=lambda shape: distances[shape])

    def _even(self) -> list[Shape]:
        """As many tokens at every place; where a place costs something by itself, also at every second, third and so on
        alone."""
        numbers = range(self.space.places)
        every = (1, 2, 3, 4, 6) if self.cost.opening else (1,)
        return [Shape(tuple(8 * k * (j % k == 0) for j in numbers), (0.5,) * len(numbers)) for k in every]

    def _least(self) -> float:
        """The least that a plan can cost."""
        all_of_them, places = self.space.patches, self.space.places
        shapes = (Shape((all_of_them,) * k + (0,) * (places - k), (0.0,) * places) for k in range(places, 0, -1))
        return min(self.cost.share(shape) for shape in shapes)

    def _descend(self, exchange: Exchange, shape: Shape, report: Callable[[int, Sequence[str]], Any]) -> Shape:
        """The best of the plans that a chain of moves leads to, each taken only where it is better."""
        of, begun, best, tried = f"{self.space.name} {exchange.budget:g}", False, float("nan"), {shape}
        for trial in range(self.trials):
            report(trial, [] if best != best else [f"best so far {best:.4f}"])
            new = exchange.propose(shape)
            if new is None:
                break
            if new in tried:
                continue
            tried.add(new)
            known = self.kept.known(of, new)
            if known is None:
                if not begun:
                    best, begun = self.judge.settle(shape), True
                known = self.judge.better(new)
                self.kept.add(of, new, *known)
            if known[0]:
                shape, best = new, known[1]
        return shape

    # -- what was found

    def _row(self, budget: float, shape: Shape) -> Row:
        flat = self.own(budget)
        found, flat_figures = self._figures(self.space.model(shape)), None if flat is None else self._figures(flat)
        share, body = self.space.share(shape), self.space.body
        plan = Plan(
            self.space.options(shape), budget, share, architecture_of(body.model), body.depth, self.space.patches,
            self.space.prediction_only, self.cost.by, {**found, "flat": flat_figures},
        )  # fmt: skip
        figures: Any = found
        return Row(
            plan, **figures, flat=flat_figures, evaluations=self.judge.evaluations, tokens=self.space.tokens(shape)
        )

    def _figures(self, model: ReducedViT) -> dict[str, float | None]:
        distance, _ = self.judge.figures(model)
        held, same = (None, None) if self.held_out is None else self.held_out.figures(model)
        return {"distance": distance, "held_out_distance": held, "held_out_agreement": same}


def _dense(model: nn.Module) -> nn.Module:
    """The model for images alone, of whatever library. Raises ValueError for one that is reduced."""
    inner: Any = unwrap(for_images(model))
    if isinstance(inner, ReducedViT):
        raise ValueError("the model is reduced already: give the dense one")
    return inner


def _allowed(model: nn.Module, methods: Sequence[str]) -> bool:
    """Whether the head reads class tokens alone, so that the last block may compute nothing else."""
    try:
        Space(model, methods[0].split("+"), prediction_only=True)
    except ValueError:
        Space(model, methods[0].split("+"))  # says what is wrong with the methods, if that was the reason
        return False
    return True


def _check_kinds(model: Any, images: Any, methods: Any, budgets: Any) -> None:
    """Raise ValueError for arguments of another kind than `tune` takes."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {told(model)}: give a dense model of timm or transformers")
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        kind = f"{str(images.dtype)[6:]} {list(images.shape)}" if isinstance(images, Tensor) else told(images)
        raise ValueError(f"images is {kind}: give prepared photographs, floats [images, channels, height, width]")
    check_several("methods", methods, 'give names, such as ["tome", "evit"]')
    check_several("budgets", budgets, "give shares of the dense cost, such as (0.7, 0.5)")
    wrong = next((name for name in methods if not isinstance(name, str)), None)
    if wrong is not None or not methods:
        raise ValueError(f"methods has {'none' if not methods else told(wrong)}: give names, such as tome")


def _check(images: Tensor, budgets: Sequence[float], trials: int) -> None:
    if not budgets:
        raise ValueError("no budget: give shares of the dense cost, such as (0.7, 0.5)")
    if as_whole(trials) is None or trials < 1:
        raise ValueError(f"trials={trials!r}: give a whole number from 1")
    if len(images) < FEWEST_PHOTOGRAPHS:
        raise ValueError(
            f"the search has {counted(len(images), 'photograph')}: give {FEWEST_PHOTOGRAPHS} or more, better 256"
        )
    if not torch.isfinite(images).all():
        raise ValueError("the photographs hold NaN or infinity")


def _share(budget: Any) -> float:
    share = as_number(budget)
    if share is None or not 0 < share < 1:
        raise ValueError(f"budget {budget!r} is no share of the dense cost: give numbers between 0 and 1, such as 0.5")
    return float(share)
