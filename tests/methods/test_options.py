"""Options of every method: of the right kind or refused by name; given once; what runs is what is said and saved."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from settings import backbones, dense, images

import vitrim
from vitrim.core.schedule import check_keep, check_places
from vitrim.core.values import as_flag, as_number, as_several, as_whole
from vitrim.runtime.build import attach, make_method

ROWS = {b.values[0].name: b.values[0] for b in backbones()}
OPTIONS = [(cls, option) for cls in vitrim.METHODS.values() for option in cls.option_names()]
IDS = [f"{cls.name}-{option}" for cls, option in OPTIONS]

FLAGS = ("fuse", "reuse", "normalise", "proportional", "rescale")
COUNTS = ("r", "pruned", "merged", "clusters", "pairs", "neighbours", "iterations", "stages", "seed")
NUMBERS = ("tau", "momentum", "margin", "candidates")
NEVER = (
    {"a": 1},
    b"x",
    object(),
    1j,
    np.zeros((2, 2)),
    torch.zeros(2, 2),
    torch.zeros(1, device="meta")[0],
    [[1]],
    [None],
)


def wrong(option: str) -> list:
    """Values that are of no use for an option of that name."""
    if option in FLAGS:
        return [*NEVER, 0, 1, 2, "no", "True", None, 0.0, [True], np.int64(1), torch.tensor(1)]
    if option in ("at", "blocks"):
        return [
            *NEVER,
            "ab",
            "3",
            1.5,
            2.0,
            True,
            [True],
            [1, "2"],
            np.float64(1),
            np.bool_(True),
            torch.tensor(1.0),
            math.nan,
        ]
    if option == "keep":
        return [
            *NEVER,
            "0.5",
            True,
            np.bool_(True),
            math.nan,
            math.inf,
            -0.1,
            1.5,
            [0.5, math.nan],
            {0.5},
            torch.tensor(2),
        ]
    if option in NUMBERS:
        return [*NEVER, "1", True, None, math.nan, math.inf, -1, [0.5], np.bool_(True), torch.tensor(math.nan)]
    if option in COUNTS:
        return [
            *NEVER,
            "a",
            "3",
            True,
            2.5,
            3.0,
            math.nan,
            math.inf,
            np.float32(2),
            torch.tensor(True),
            torch.tensor(2.0),
        ]
    return [*NEVER[:-1], "no such", "", 0, 1.0, True, None, math.nan]  # names


@pytest.mark.parametrize(("cls", "option"), OPTIONS, ids=IDS)
def test_wrong_kinds_are_refused_where_the_method_is_made(cls, option):
    for value in wrong(option):
        with pytest.raises(ValueError) as caught:
            cls(**{option: value})
        said = str(caught.value)
        assert option in said and "\n" not in said and len(said) <= 300, said
        with pytest.raises(ValueError):
            make_method(cls.name, **{option: value})


def alike(option: str, default) -> tuple:
    """A right value for an option of that name, and the same from numpy and torch."""
    if option in FLAGS:
        return True, [np.bool_(True), torch.tensor(True), np.array(True)]
    if option in ("at", "blocks"):
        arrays = [np.array([1, 3]), torch.tensor([1, 3]), [np.int64(1), np.uint8(3)], range(1, 4, 2), {3, 1}]
        return (1, 3), [*arrays, (torch.tensor(1), torch.tensor(3))]
    if option == "keep":
        singles = [np.float64(0.7), np.float32(0.7), np.float16(0.7), torch.tensor(0.7), torch.tensor(0.7).bfloat16()]
        return 0.7, [*singles, np.array(0.7), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)]
    if option in NUMBERS:
        return 0.25, [np.float64(0.25), np.float32(0.25), torch.tensor(0.25), np.array(0.25)]
    if option in COUNTS:
        return 3, [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3), torch.tensor(3, dtype=torch.uint8)]
    return default, [np.str_(default)]


@pytest.mark.parametrize(("cls", "option"), OPTIONS, ids=IDS)
def test_numbers_of_numpy_and_torch_are_taken_for_what_they_are(cls, option):
    value, others = alike(option, inspect.signature(cls).parameters[option].default)
    plain = cls(**{option: value})
    for other in others:
        taken = getattr(cls(**{option: other}), option)
        assert taken == getattr(plain, option), (other, taken)
        assert type(taken) is type(getattr(plain, option))


@pytest.mark.parametrize(("cls", "option"), [(c, o) for c, o in OPTIONS if o in ("keep", "r", "clusters", "pairs")])
def test_one_for_each_place_may_be_an_array(cls, option):
    several = [0.9, 0.7, 0.5] if option == "keep" else [5, 4, 3]
    for given_as in (np.array, torch.tensor, tuple, list):
        method = cls(**{option: given_as(several)})
        assert getattr(method, option) == tuple(several)
        assert all(type(one) in (int, float) for one in getattr(method, option))
    assert cls(**{option: range(3, 6)}).options() if option != "keep" else True


@torch.no_grad()
def test_what_is_taken_plans_and_runs_as_the_plain_value():
    x = images(ROWS["deit"])
    pairs = [
        ("idlevit", {"keep": 0.7}, {"keep": np.float32(0.7)}),  # floor(0.7 * 10) is 7, and of 0.699999988 it is 6
        ("evit", {"keep": (0.9, 0.5), "at": (1, 3)}, {"keep": np.array([0.9, 0.5], "f4"), "at": torch.tensor([1, 3])}),
        ("tome", {"r": 3}, {"r": torch.tensor(3)}),
        ("bat", {"clusters": 3, "normalise": False}, {"clusters": np.int8(3), "normalise": np.bool_(False)}),
        ("random", {"seed": 5}, {"seed": np.uint64(5)}),
    ]
    for name, plain, other in pairs:
        one, two = attach(dense(ROWS["deit"]), name, **plain).eval(), attach(dense(ROWS["deit"]), name, **other).eval()
        assert vitrim.profile(one) == vitrim.profile(two) and torch.equal(one(x), two(x))
        assert one.methods[0].options() == two.methods[0].options()
    by_macs = [attach(dense(ROWS["deit"]), "evit", macs=macs).methods[0].keep for macs in (0.6, np.float32(0.6))]
    assert by_macs[0] == by_macs[1]


# -- given once


@pytest.mark.parametrize(("cls", "option"), OPTIONS, ids=IDS)
def test_options_are_given_once(cls, option):
    method = cls()
    before = method.options()
    for one in (method, copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        with pytest.raises(ValueError, match=rf"{option} of {cls.__name__} cannot be changed once it is made"):
            setattr(one, option, getattr(one, option))
        assert one.options() == before


def test_of_a_method_on_a_model_too_and_the_way_out_works():
    fast = vitrim.reduce(dense(ROWS["deit"]), "evit", keep=0.7)
    with pytest.raises(ValueError, match=r"keep of EViT.*vitrim.reduce\(fast.backbone, vitrim.EViT\(keep=...\)\)"):
        fast.methods[0].keep = 0.5
    assert vitrim.reduce(fast.backbone, vitrim.EViT(keep=0.5)).methods[0].keep == 0.5


def test_a_method_of_ones_own_is_closed_after_its_own_constructor():
    class Mine(vitrim.EViT):
        def __init__(self, keep=0.5, extra: int = 3):
            super().__init__(keep)
            self.extra = extra
            self.keep = 0.25

    assert Mine().keep == 0.25 and list(inspect.signature(Mine).parameters) == ["keep", "extra"]
    with pytest.raises(ValueError, match="extra of Mine cannot be changed"):
        Mine().extra = 4


def test_rates_that_a_schedule_turns_are_checked():
    method = attach(dense(ROWS["deit"]), "evit").methods[0]
    for rates in ([0.5, 0.5], [0.5, 0.5, 1.5], [0.5, 0.5, math.nan], [0.5, 0.5, None]):
        with pytest.raises(ValueError):
            method.set_rates(rates)
    method.set_rates([0.9, 0.8, 0.7])
    assert [place.keep for place in method.places] == [0.9, 0.8, 0.7]


# -- budgets


def test_a_budget_drops_nothing_without_a_word():
    model = dense(ROWS["deit"])
    with pytest.raises(ValueError, match=r"macs=0.8 solves for keep, and keep=0.5 is given: leave one out"):
        vitrim.reduce(model, "evit", keep=0.5, macs=0.8)
    with pytest.raises(ValueError, match=r"macs=0.8 solves for r, and r=3 is given: leave one out"):
        vitrim.reduce(model, "tome", r=3, macs=0.8)
    with pytest.raises(ValueError, match=r"macs=0.8 solves for the keep of evit, and it has keep=0.5: leave one"):
        vitrim.reduce(model, vitrim.EViT(keep=0.5), macs=0.8)
    with pytest.raises(ValueError, match=r"dial='evit' names the method that macs turns: give macs too"):
        vitrim.reduce(model, [vitrim.ToMe(r=2, at=0), vitrim.EViT(at=2)], dial="evit")
    fast = vitrim.reduce(model, [vitrim.ToMe(r=2, at=0), vitrim.EViT(at=2)], dial="evit", macs=0.8)
    again = vitrim.reduce(model, [vitrim.ToMe(r=2, at=0), vitrim.EViT(fast.methods[1].keep, at=2)], macs=0.8)
    assert again.methods[1].keep == fast.methods[1].keep, "what the budget comes to may be given"


# -- plain values


@given(st.integers(-(2**31), 2**31 - 1))
def test_whole_numbers(number):
    for one in (number, np.int64(number), np.array(number), torch.tensor(number)):
        assert as_whole(one) == number and type(as_whole(one)) is int
        assert as_number(one) == number and as_flag(one) is None
    for other in (float(number), np.float64(number), torch.tensor(float(number)), str(number), [number], None):
        assert as_whole(other) is None


@given(st.floats(-1e6, 1e6).filter(lambda number: number == 0 or abs(number) > 1e-6), st.integers(0, 6))
def test_numbers_are_the_shortest_decimals_that_they_stand_for(number, digits):
    plain = float(f"{number:.{digits}g}")
    for one in (
        plain,
        np.float64(plain),
        torch.tensor(plain, dtype=torch.float64),
        np.float32(plain),
        torch.tensor(plain),
    ):
        taken = as_number(one)
        assert type(taken) is float and (taken == plain or np.float32(taken) == np.float32(plain))
    assert as_number(np.float32(plain)) == as_number(torch.tensor(plain))


@given(st.floats(width=32))
def test_no_bit_of_a_narrow_number_is_lost(number):
    taken = as_number(np.float32(number))
    assert np.float32(taken) == np.float32(number) or (math.isnan(number) and math.isnan(taken))


def test_flags_and_several():
    for one in (True, np.bool_(True), torch.tensor(True), np.array(True)):
        assert as_flag(one) is True and as_whole(one) is None and as_number(one) is None
    assert [as_flag(one) for one in (1, "True", None, [True], torch.tensor([True]))] == [None] * 5
    for one in ([1, 2], (1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2]), (one for one in (1, 2))):
        assert tuple(map(as_whole, as_several(one))) == (1, 2)
    for one in (1, "ab", b"ab", {"a": 1}, {1, 2}, None, np.array(1), torch.tensor(1), np.zeros((1, 1))):
        assert as_several(one) is None


def test_places_and_rates_as_arrays():
    assert (
        check_places(np.array([1, 2]), 3) == check_places({2, 1}, 3) == check_places(torch.tensor([1, 2]), 3) == (1, 2)
    )
    assert check_keep(torch.tensor([0.5, 0.25]), 2) == check_keep(np.array([0.5, 0.25], "f2"), 2) == (0.5, 0.25)
    with pytest.raises(ValueError, match=r"blocks=7 is not a block of this model: give block numbers from 0 to 3"):
        vitrim.reduce(dense(ROWS["deit"]), "idlevit", blocks=np.array([1, 7]))
