"""Plans for milliseconds: the table says what its pieces take, plans keep its budgets and stand on its steps, and a
kill changes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

import vitrim
from vitrim.evaluate import Throughput
from vitrim.runtime.plan_file import Plan, pick
from vitrim.tune import Latency, tune
from vitrim.tune import latency as latency_file
from vitrim.tune.exchange import Cost, Exchange
from vitrim.tune.search import Judge
from vitrim.tune.space import Shape, Space
from vitrim.tune.table import Curve, Table, cost_of

METHODS = ("prunemerge", "tome", "evit", "dpcknn", "idlevit", "tome+evit")
DECIDING, ENDS = 0.7, 0.5


@pytest.fixture(scope="module")
def model(small_vit) -> torch.nn.Module:
    return small_vit(64)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(24, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def smooth(n: int) -> float:
    return n / 16


def stairs(n: int) -> float:
    """Kernels that work on sixteen tokens at a time."""
    return 1.0 * -(-n // 16)


def stopwatch(
    attention: Callable[[int], float] = smooth, mlp: Callable[[int], float] = smooth, runs_too: bool = False
) -> Any:
    """A clock that knows beforehand what each piece takes, whether or not it is run; pieces: ("end", name),
    ("dense", kind), (kind, n, part), (method, tokens before)."""

    def look(runs: Any, batch: torch.Tensor) -> dict[Any, float]:
        for run in runs.values() if runs_too else ():
            run(batch)  # it can be run, at least
        return {key: taken(*key) for key in runs}

    def taken(name: str, n: Any, part: str = "") -> float:
        if name == "end":
            return ENDS / 2
        if name == "dense":
            return attention(64) + mlp(64)
        if part == "mlp":
            return mlp(n)
        if part:
            return attention(n) + (0.0 if name == "last block" else mlp(n))
        left = n if name.startswith("idlevit") else n - max(1, n // 12)
        attended = left if name.startswith("dpcknn") else n
        return DECIDING + attention(attended) + (0.0 if name.endswith("last block") else mlp(left))

    return look


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch):
    """Whole models are not timed: a plan takes what it promises."""

    def instead(models, batch, rounds, **where):
        return {name: Throughput(10.0, 1.0 if name == "dense" else 2.0, 1.5, 2.5) for name in models}

    monkeypatch.setattr(latency_file, "throughput_in_turn", instead)


@pytest.mark.parametrize("name", METHODS)
def test_a_table_adds_up_what_a_plan_takes(name, model, images):
    space = Space(model, name.split("+"), prediction_only=True)
    table = Latency(2, stopwatch=stopwatch(runs_too=True)).measure(space, images)
    assert table.dense == pytest.approx(ENDS + 5 * 2 * smooth(64))
    draw = random.Random(name)
    for _ in range(5):
        shape = Shape(tuple(draw.choice((0, 0, 3, 6)) for _ in range(space.places)), (0.5,) * space.places)
        fast = vitrim.profile(space.model(shape))
        expected, before = ENDS, 64
        acting = {place.block for place, left in zip(_places(space), shape.removed, strict=True) if left}
        for block in fast.blocks:
            predicts = block.mlp_tokens == 0
            expected += smooth(block.attention_tokens) + (0 if predicts else smooth(block.mlp_tokens))
            expected += DECIDING * (block.block in acting)
            before = block.mlp_tokens
        assert before == 0  # the last block
        assert table.ms(space, shape) == pytest.approx(expected, abs=0.02 * table.dense)


def _places(space: Space) -> list[Any]:
    return [step.place for step in space.steps]


@pytest.mark.parametrize("name", METHODS)
def test_what_is_found_keeps_its_promise_by_the_table(name, model, images):
    latency = Latency(2, stopwatch=stopwatch(stairs, smooth))
    rows = tune(model, images, [name], [0.5, 0.8], held_out=images[:8], trials=4, latency=latency)
    space = Space(model, name.split("+"), prediction_only=True)
    table = Table.from_dict(latency.tables[name])
    assert [row.plan.budget for row in rows] == [0.8, 0.5]
    for row in rows:
        fast: Any = vitrim.reduce(model, row.plan)
        shares: Any = row.latency
        promised = table.ms(space, space.shape_of(list(fast.methods))) / table.dense
        assert promised == pytest.approx(shares["promised"]) and promised <= row.plan.budget
        assert row.plan.share == pytest.approx(vitrim.profile(fast).share) and row.plan.by == "latency"
        assert shares["measured"] == 0.5 and ("flat_promised" in shares) == ("+" not in name)
        assert row.flat is None or shares["flat_promised"] <= row.plan.budget
        assert row.plan.measured_on["batch_size"] == 2 and row.plan.measured_on["dense_ms"] == pytest.approx(200.0)


@pytest.mark.parametrize("name", ["prunemerge", "tome", "evit"])
def test_plans_stand_on_the_edges_of_steps(name, model, images):
    """One token more behind any place would cost a step, or there is no place left to move it from."""
    space = Space(model, [name], prediction_only=True)
    table = Table(ENDS, ENDS + 5 * 2 * stairs(64), _stairs_of(name))
    exchange = Exchange(space, cost_of(table, space), 0.6, seed=0)
    shape = exchange.scaled(Shape((8,) * space.places, (0.5,) * space.places))
    for _ in range(12):
        assert shape is not None
        shape = exchange.propose(shape)
        assert shape is not None and exchange.holds(shape)
        behind = [left for _, step, _, left in space.walk(shape) if step is not None]
        assert behind and all(left % 16 == 0 for left in behind), (shape, behind)


def _stairs_of(name: str) -> dict[str, Curve]:
    counts = tuple(range(1, 65))
    curve = Curve(counts, tuple(map(stairs, counts)))
    free = Curve(counts, (0.0,) * 64)
    return {"attention": curve, "mlp": curve, "last block": curve, name: free}


def test_a_place_that_costs_is_closed_where_that_is_cheaper(model, images):
    """Where a place costs as much as a block, few places are better than many: the search finds that."""
    dear, free = ({**_stairs_of("tome"), "tome": Curve((1, 64), (cost, cost))} for cost in (6.0, 0.0))
    few, many = (_searched(model, images, Table(ENDS, ENDS + 40, curves)) for curves in (dear, free))
    assert sum(r > 0 for r in few) == 1 < sum(r > 0 for r in many)


def _searched(model: Any, images: Any, table: Table) -> tuple[int, ...]:
    class Known(Latency):
        def measure(self, space, images):
            return table

    (row,) = tune(model, images, ["tome"], [0.7], trials=12, latency=Known(2))
    return tuple(row.plan.methods[0][1]["r"])


def test_the_grid_is_finer_where_the_staircase_shows(model, images):
    space = Space(model, ["tome"], prediction_only=True)

    def step(n: int) -> float:
        return 1.0 if n <= 30 else 2.0

    curve = Latency(2, stopwatch=stopwatch(step, step)).measure(space, images).curves["attention"]
    gaps = {a: b - a for a, b in zip(curve.tokens[:-1], curve.tokens[1:], strict=True)}
    around = max(count for count in curve.tokens if count <= 30)
    assert gaps[around] <= 2 and max(gap for count, gap in gaps.items() if abs(count - 30) > 6) >= 3
    straight = Latency(2, stopwatch=stopwatch()).measure(space, images).curves["attention"]
    assert len(straight.tokens) < len(curve.tokens)


def test_more_tokens_never_take_less():
    draw = random.Random(0)
    for _ in range(50):
        counts = sorted(draw.sample(range(1, 65), 12))
        curve = Curve(tuple(counts), tuple(n + draw.uniform(-9, 9) for n in counts))
        taken = [curve(n) for n in range(counts[-1])]
        assert taken == sorted(taken)
        assert sum(curve(n) for n in counts) == pytest.approx(sum(curve.ms))  # no more and no less in sum


class Killed(Exception):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("after", [0, 3])
def test_a_search_that_was_killed_goes_on_with_the_same_table(after, model, images, tmp_path, monkeypatch):
    asked: Any = (model, images, ["tome"], [0.7, 0.5])
    whole = tune(*asked, trials=5, latency=Latency(2, stopwatch=stopwatch(stairs)))
    path, judge, seen = tmp_path / "trials.jsonl", Judge.judge, []

    def dying(self, *given, **options):
        seen.append(given)
        if len(seen) > after:
            raise Killed
        return judge(self, *given, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Judge, "judge", dying)
        tune(*asked, trials=5, latency=Latency(2, stopwatch=stopwatch(stairs)), journal=path)

    def never(runs, batch):
        raise AssertionError("measured again")

    again = tune(*asked, trials=5, latency=Latency(2, stopwatch=never), journal=path)
    assert [row.plan for row in again] == [row.plan for row in whole] and not path.exists()


def test_another_batch_is_another_search(model, images, tmp_path, monkeypatch):
    path = tmp_path / "trials.jsonl"

    def dying(self, *given, **options):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Judge, "judge", dying)
        tune(model, images, ["tome"], [0.5], latency=Latency(2, stopwatch=stopwatch()), journal=path)
    for other in (Latency(4, stopwatch=stopwatch()), Latency(2, "bfloat16", stopwatch=stopwatch()), None):
        with pytest.raises(ValueError, match="asked something else"):
            tune(model, images, ["tome"], [0.5], latency=other, journal=path)


def test_a_budget_out_of_reach(model, images):
    with pytest.raises(ValueError, match=r"tome cannot cost 0.1 of the dense model: its plans go from 0\.\d+ on"):
        tune(model, images, ["tome"], [0.1], latency=Latency(2, stopwatch=stopwatch()))
    with pytest.raises(ValueError, match="batch_size=0: give a whole number from 1"):
        Latency(0)


PLANS = [
    Plan((("tome", {"r": [8] * 5}),), budget, 0.69, "vit_tiny", depth=5, patches=64, by="latency")
    for budget in (0.7, 0.5)
]


@pytest.mark.parametrize(
    ("plans", "given", "said"),
    [
        (PLANS, {"macs": 0.5}, r"searched for shares of milliseconds: give latency, not macs=0.5"),
        (PLANS, {}, r"front of budgets, 0.7, 0.5: say which with latency"),
        (PLANS, {"latency": 0.6}, r"none for latency=0.6: it was searched for 0.7, 0.5"),
        ([Plan((), 0.5, 0.5, "vit", 5, 64)], {"latency": 0.5}, r"shares of MACs: give macs, not latency=0.5"),
    ],
)
def test_which_plan_of_a_front(plans, given, said):
    with pytest.raises(ValueError, match=said):
        pick(plans, **given)
    assert pick(PLANS, latency=0.5) is PLANS[1] and pick(PLANS[:1]) is PLANS[0]


def test_a_latency_without_a_plan_is_refused(model):
    with pytest.raises(ValueError, match=r"latency=0\.5 picks a plan of vitrim tune's"):
        vitrim.reduce(model, "tome", latency=0.5)


def test_a_real_clock_measures_every_piece(model, images, monkeypatch):
    monkeypatch.setattr("vitrim.tune.measuring.ROUNDS", 2)
    monkeypatch.setattr("vitrim.tune.measuring.SECONDS", 1e-6)
    space = Space(model, ["tome"], prediction_only=True)
    table = Latency(1).measure(space, images)
    assert set(table.curves) == {"attention", "mlp", "last block", "tome"} and table.dense > table.ends > 0
    assert all(ms >= 0 for curve in table.curves.values() for ms in curve.ms)
    cost: Cost = cost_of(table, space)
    assert cost.share(Shape((20, 0, 0, 0), (0.0,) * 4)) > 0 and cost.by == "latency"
