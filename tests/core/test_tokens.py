"""Tokens: what travels with the features, and what it costs where there is nothing to carry."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch

from vitrim import Keep, Mask, Merge, Tokens

B, N, C = 2, 12, 4


def tokens(**more) -> Tokens:
    return Tokens(torch.randn(B, 1 + N, C), prefix=1, grid=(3, 4), **more)


def halves(**more) -> Merge:
    """Neighbours merge, two by two."""
    group = (torch.arange(N) // 2).expand(B, N)
    return Merge(group, torch.full((B, N), 0.5), N // 2, torch.arange(0, N, 2).expand(B, N // 2), **more)


def test_tokens_are_frozen():
    with pytest.raises(FrozenInstanceError):
        tokens().x = torch.zeros(1)


def test_trivial_companions_cost_nothing():
    t = tokens()
    after = t.shrink(Keep(torch.arange(5).expand(B, 5)))
    for name in ("size", "mask", "rope", "position", "key_size"):
        assert getattr(t, name) is None and getattr(after, name) is None
    assert t.key_bias is None and t.key_mask is None and t.notes == after.notes == {}
    assert t.n == N and after.n == 5 and t.patches.shape == (B, N, C)
    assert torch.equal(t.weight, torch.ones(B, 1 + N)) and torch.equal(t.sizes, torch.ones(B, N))


def test_shrink_makes_new_tokens_and_leaves_the_old():
    t = tokens(notes={0: torch.rand(B, N)})
    before = {f.name: getattr(t, f.name) for f in fields(t)}
    t.shrink(Keep(torch.arange(5).expand(B, 5)))
    assert all(getattr(t, name) is value for name, value in before.items())


def test_sizes_are_counted_in_float32_at_least():
    """bfloat16 cannot count beyond 256."""
    many = Tokens(torch.zeros(1, 400, 1, dtype=torch.bfloat16), prefix=0, grid=(20, 20))
    one = Merge(torch.zeros(1, 400, dtype=torch.int64), torch.full((1, 400), 1 / 400), 1, torch.zeros(1, 1).long())
    assert many.shrink(one).sizes.item() == 400


def test_key_bias_is_the_log_size_and_zero_for_the_prefix():
    t = tokens().shrink(halves(proportional=True))
    expected = torch.cat([torch.zeros(B, 1), torch.full((B, N // 2), 2.0).log()], dim=1)
    assert torch.equal(t.key_bias, expected)
    assert tokens().key_bias is None, "nothing is merged yet"
    assert tokens().shrink(halves()).key_bias is None, "not asked for"


def test_only_proportional_merges_weigh_as_keys():
    first = tokens().shrink(halves())  # 2 patches each, in pooling
    pairs = Merge(torch.tensor([[0, 0, 1, 2, 3, 4]] * B), torch.ones(B, 6) / 2, 5, torch.tensor([[0, 2, 3, 4, 5]] * B))
    second = first.shrink(replace(pairs, proportional=True))
    assert torch.equal(second.size, torch.tensor([[4.0, 2, 2, 2, 2]] * B))
    assert torch.equal(second.key_size, torch.tensor([[2.0, 1, 1, 1, 1]] * B)), "the first merge was not proportional"
    third = second.shrink(
        replace(pairs, group=pairs.group[:, :5], weights=pairs.weights[:, :5], lead=pairs.lead[:, :4], groups=4)
    )
    assert torch.equal(third.size, torch.tensor([[6.0, 2, 2, 2]] * B))
    assert torch.equal(third.key_size, torch.tensor([[2.0, 1, 1, 1]] * B)), "a group weighs what its lead weighed"


def test_notes_of_tokens_outside_stay_and_those_inside_come_back():
    note, seeds = torch.rand(B, N), torch.arange(B)
    t, idle = tokens(notes={0: note, 1: seeds}), Keep(torch.tensor([[3, 1], [0, 5]]))
    inside = t.shrink(idle, undone=True)
    back = inside.with_note(0, inside.notes[0] + 1).with_note(2, torch.ones(B, 2)).restore(idle, t)
    moved = torch.zeros(B, N).scatter(1, idle.index, 1.0)
    assert torch.equal(back.notes[0], note + moved) and back.notes[1] is seeds
    assert torch.equal(back.notes[2], moved), "made inside: 0 for the tokens that it has not seen"
    masked = t.shrink(Mask(moved), undone=True)
    assert torch.equal(masked.with_note(0, note + 1).restore(Mask(moved), t).notes[0], note + moved)


def test_weights_are_size_times_mask():
    t = replace(tokens().shrink(halves()), mask=torch.tensor([[1.0, 0, 1, 0, 1, 0]] * B))
    assert torch.equal(t.weight, torch.tensor([[1.0, 2, 0, 2, 0, 2, 0]] * B))
    assert torch.equal(t.key_mask, torch.tensor([[1.0, 1, 0, 1, 0, 1, 0]] * B))


def test_a_mask_travels_with_the_tokens():
    mask = torch.rand(B, N)
    t = tokens().shrink(Mask(mask))
    assert t.x.shape == (B, 1 + N, C) and t.mask is mask
    index = torch.tensor([[3, 1, 7], [0, 2, 11]])
    assert torch.equal(t.shrink(Keep(index)).mask, mask.gather(1, index))


def test_undone_maps_leave_no_step():
    t, idle = tokens(), Keep(torch.arange(5).expand(B, 5))
    inside = t.shrink(idle, undone=True)
    assert inside.steps == ()
    back = inside.with_x(inside.x + 1).restore(idle, t)
    assert back.steps == t.steps and back.n == N
    assert torch.equal(back.x[:, 6:], t.x[:, 6:]) and torch.equal(back.x[:, :6], t.x[:, :6] + 1)


def test_full_grid_needs_to_have_been_remembered_and_comes_back_in_order():
    t = tokens()
    after = t.shrink(halves(), remember=True)
    after = after.shrink(Keep(torch.tensor([[5, 2, 0], [1, 3, 4]])), remember=True)
    assert torch.equal(after.full_grid(), t.x.clone()) or torch.allclose(after.full_grid(), t.x, atol=1e-6)
    moved = after.with_x(after.x + 1).full_grid() - t.x
    standing = (after.owners() >= 0).float()[..., None].expand(-1, -1, C)
    torch.testing.assert_close(moved[:, 1:], standing)
    zeros = after.full_grid("zeros")[:, 1:]
    assert torch.equal(zeros == 0, standing == 0)
