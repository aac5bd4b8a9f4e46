"""Batches: seeded draws, shared among processes so that nothing depends on how many there are."""

import pytest
import torch

from vitrim.training import get_recipe, override
from vitrim.training.photographs import GlobalBatches, make_mixup, mixed, seed_of


def recipe_of(recipe="distill", **changes):
    return override(get_recipe(recipe, small=True), **changes)


def parts_of(size, recipe, processes):
    return [GlobalBatches(size, recipe, seed=3, rank=rank, processes=processes) for rank in range(processes)]


@pytest.mark.parametrize(("batch_size", "processes"), [(6, 2), (8, 2), (12, 3), (3, 3)])
def test_processes_share_each_global_batch_of_one(batch_size, processes):
    recipe = recipe_of(batch_size=batch_size, repeated=2)
    one = GlobalBatches(20, recipe, seed=3)
    for whole, *parts in zip(one, *parts_of(20, recipe, processes), strict=True):
        assert {len(part) for part in parts} == {batch_size // processes}
        assert sorted(key for part in parts for key in part) == sorted(whole)


def test_even_parts_hold_the_partners_of_their_images_in_mirrored_order():
    recipe = recipe_of(batch_size=12)
    for whole, *parts in zip(GlobalBatches(20, recipe, seed=3), *parts_of(20, recipe, 3), strict=True):
        partner = dict(zip(whole, reversed(whole), strict=True))
        assert all([partner[key] for key in part] == part[::-1] for part in parts)


def test_two_processes_mix_what_one_mixes():
    recipe = recipe_of("evit_finetune", batch_size=8, mixup=0.8, cutmix=1.0)
    images, labels = torch.randn(20, 3, 16, 16), torch.arange(20) % 3
    whole, left, right = (next(iter(b)) for b in [GlobalBatches(20, recipe, seed=3), *parts_of(20, recipe, 2)])

    def mix(keys, seed):
        chosen = [index for _, index, _ in keys]
        return mixed(make_mixup(recipe, 3), images[chosen].clone(), labels[chosen], seed)

    order = [whole.index(key) for key in left + right]
    for seed in range(8):  # mixup and cutmix
        both = [torch.cat(pair) for pair in zip(mix(left, seed), mix(right, seed), strict=True)]
        one = [part[order] for part in mix(whole, seed)]
        assert all(map(torch.equal, both, one))
        assert not torch.equal(one[0], images[[index for _, index, _ in left + right]])


@pytest.mark.parametrize("classes", [0, 5])
def test_images_without_labels_are_mixed_too(classes):
    images, labels = torch.randn(8, 3, 16, 16), torch.zeros(8, dtype=torch.long)
    together, _ = mixed(make_mixup(recipe_of(mixup=0.8), classes), images.clone(), labels, seed=1)
    assert not torch.equal(together, images)
    assert torch.allclose(together + together.flip(0), images + images.flip(0), atol=1e-6), "each with its partner"


def test_odd_parts_are_refused_where_they_would_be_mixed_and_rounded_where_photographs_are_few():
    mixing = {"recipe": "evit_finetune", "cutmix": 1.0}
    with pytest.raises(ValueError, match=r"parts of 3 for 2 processes, .*: give a multiple of 4, or set mixup and"):
        GlobalBatches(20, recipe_of(**mixing, batch_size=6), seed=0, processes=2)
    with pytest.raises(ValueError, match=r"parts of 7 for 1 process, .*: give a multiple of 2, or"):
        GlobalBatches(20, recipe_of(**mixing, batch_size=7), seed=0)
    few = recipe_of(**mixing, batch_size=32)
    assert [GlobalBatches(n, few, seed=0, processes=2).local for n in (1, 7, 10, 20, 40)] == [2, 2, 4, 10, 16]
    assert len(next(iter(GlobalBatches(1, few, seed=0)))) == 2
    assert GlobalBatches(10, recipe_of(batch_size=32), seed=0, processes=2).local == 5


def test_a_later_start_gives_the_same_later_batches():
    batches = GlobalBatches(20, recipe_of(batch_size=4), seed=1)
    batches.epoch = 5
    every = list(batches)
    batches.start = 3
    assert list(batches) == every[3:]
    batches.epoch, batches.start = 6, 0
    assert list(batches) != every


def test_repeated_augmentation_shows_copies_of_an_image_within_a_batch():
    first = next(iter(GlobalBatches(20, recipe_of(batch_size=6, repeated=3), seed=0)))
    assert len({index for _, index, _ in first}) == 2
    assert sorted(copy for *_, copy in first) == [0, 0, 1, 1, 2, 2]


def test_batches_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="batch size 5 does not divide among 2"):
        GlobalBatches(20, recipe_of(batch_size=5), seed=0, rank=0, processes=2)


def test_seeds_differ():
    assert len({seed_of(0, a, b) for a in range(30) for b in range(30)}) == 900
