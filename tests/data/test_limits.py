"""A limit takes the same photographs for the same seed, and some of every class."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_pictures import fill, small_vit

from vitrim.common.seeds import seed_of
from vitrim.data import open_dataset
from vitrim.data.choose import drawn, first_of_each
from vitrim.training import Settings, get_recipe
from vitrim.training.finetune import open_photographs


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 45), st.integers(0, 3))
def test_classes_have_the_same_number_to_within_one_or_all_that_they_have(labels, limit, seed):
    places = drawn(len(labels), limit, seed, labels)
    if limit >= len(labels):
        assert places is None
        return
    assert places == sorted(set(places)) and len(places) == limit
    assert places == drawn(len(labels), limit, seed, labels)
    taken, there = Counter(labels[place] for place in places), Counter(labels)
    most = max(taken.values())
    assert all(taken[label] in (most, most - 1, there[label]) for label in there)
    assert all(taken[label] <= there[label] for label in there)


def test_without_labels_all_photographs_are_alike_and_seeds_differ():
    draws = [drawn(100, 10, seed) for seed in range(50)]
    assert len({tuple(draw) for draw in draws}) == 50
    assert min(Counter(place for draw in draws for place in draw).values()) >= 1
    expected = torch.randperm(100, generator=torch.Generator().manual_seed(seed_of(3, 100)))[:10].tolist()
    assert draws[3] == sorted(expected), "runs of finetune draw as they did before"


def test_the_first_of_each_class():
    assert first_of_each([0, 0, 1, 0, 1, 2], 1) == [0, 2, 5] and first_of_each([0, 0, 1], 5) == [0, 1, 2]


@pytest.mark.parametrize("limit", [0, -3])
def test_limits_below_one_are_refused(limit):
    with pytest.raises(ValueError, match=f"limit={limit}: give a whole number from 1"):
        drawn(10, limit, 0)


def test_evaluation_and_training_draw_the_same(tmp_path):
    root, model = fill(tmp_path, ["a", "b", "c"], each=8), small_vit()
    dataset = open_dataset(root, model, limit=7, seed=5)
    counts = Counter(dataset.source.labels()[place] for place in dataset.chosen)
    assert sorted(counts.values()) == [2, 2, 3] and dataset.choice == "drawn at random, alike from every class, seed 5"
    recipe = get_recipe("evit_finetune", small=True)
    learned = open_photographs(root, model, recipe, Settings(tmp_path / "out", seed=5), 7)
    assert learned.photographs.chosen == dataset.chosen
    others = [open_dataset(root, model, limit=7, seed=seed).chosen for seed in range(4)]
    assert len({tuple(other) for other in others}) > 1


@pytest.mark.parametrize("limit, alike", [(1, False), (2, False), (3, True), (4, True)])
def test_fewer_than_there_are_classes_are_not_said_to_be_alike(tmp_path, limit, alike):
    root, model = fill(tmp_path, ["a", "b", "c"], each=4), small_vit()
    said = "drawn at random, alike from every class, seed 0" if alike else "drawn at random, seed 0"
    assert open_dataset(root, model, limit=limit).choice == said
    assert open_dataset(root, model, limit=limit, limit_per_class=2).choice == f"the first 2 of each class, {said}"


def test_a_limit_goes_on_what_limit_per_class_has_left(tmp_path):
    root, model = fill(tmp_path, ["a", "b", "c"], each=8), small_vit()
    dataset = open_dataset(root, model, limit=3, limit_per_class=2)
    names = [dataset.source.name(place) for place in dataset.chosen]
    assert [name[0] for name in names] == ["a", "b", "c"] and all(name[2] in "01" for name in names)
    assert dataset.choice == "the first 2 of each class, drawn at random, alike from every class, seed 0"
    assert open_dataset(root, model, limit_per_class=2).choice == "the first 2 of each class"
    assert open_dataset(root, model).choice == ""
