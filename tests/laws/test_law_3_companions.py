"""Law 3: companions agree. Sizes are conserved by merging, owners and origins are consistent, positions follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from settings import capture, images, pairs, reduced
from torch import Tensor

from vitrim import Absorb, Fuse, Join, Keep, Merge, Tokens

B, N, C = 2, 12, 5


def _merge(groups: list[int]) -> Merge:
    """A merge into len(set(groups)) groups, equal weights within a group, led by its first member; image 2 differs."""
    m = max(groups) + 1
    group = torch.tensor([groups, groups[::-1]])
    count = torch.zeros(B, m).scatter_add(1, group, torch.ones(B, len(groups)))
    lead = torch.tensor([[row.index(g) for g in range(m)] for row in group.tolist()])
    return Merge(group, 1 / count.gather(1, group), m, lead)


def _chain() -> tuple[Tokens, list]:
    """Tokens of a 3 x 4 grid with every companion, after a merge, a pruning, a fusion and another merge."""
    g = torch.Generator().manual_seed(0)
    tokens = Tokens(torch.randn(B, 2 + N, C, generator=g), prefix=2, grid=(3, 4), placed=True)
    tokens = replace(tokens, rope=torch.randn(N, 6, generator=g), notes={0: torch.rand(B, N, generator=g)})
    steps = [_merge([0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 2, 8])]
    steps.append(Keep(torch.tensor([[8, 1, 2, 7, 4, 5, 0], [0, 3, 2, 1, 8, 7, 6]])))
    weights = torch.rand(B, 7, generator=g)
    kept = torch.tensor([[6, 1, 2, 5], [3, 0, 4, 1]])
    steps.append(Fuse(kept, weights.scatter(1, kept, 0.0)))
    steps.append(_merge([0, 1, 1, 2, 3]))
    for step in steps:
        tokens = tokens.shrink(step)
    return tokens, steps


def slow_owners(steps: list, n: int, image: int) -> list[int]:
    """The owner of every patch, followed one by one in plain Python from the steps' own index lists."""
    owners = list(range(n))
    for step in steps:
        if isinstance(step, Join):
            lead, moved, into = (part[image].tolist() for part in (step.lead, step.moved, step.into))
            after = dict.fromkeys(owners, -1) | {j: number for number, j in enumerate(lead)}
            after |= dict(zip(moved, into, strict=True))
        elif isinstance(step, Merge):
            after = step.group[image].tolist()
        else:
            kept = step.index[image].tolist()
            gone = len(kept) if isinstance(step, Fuse) else -1
            count = max(owners) + 1 if owners else 0
            after = {j: kept.index(j) if j in kept else gone for j in range(max(count, max(kept) + 1))}
        owners = [-1 if owner < 0 else after[owner] for owner in owners]
    return owners


def slow_origin(steps: list, n: int, image: int) -> list[int]:
    """The patch whose place every token has taken, from the steps' own index lists."""
    origin = list(range(n))
    for step in steps:
        lead = (step.lead if isinstance(step, (Join, Merge)) else step.index)[image].tolist()
        if isinstance(step, Fuse):
            weights = step.weights[image].tolist()
            lead = [*lead, weights.index(max(weights))]
        origin = [origin[j] for j in lead]
    return origin


def test_owners_and_origins_compose_over_steps():
    tokens, steps = _chain()
    for image in range(B):
        assert tokens.owners()[image].tolist() == slow_owners(steps, N, image)
        assert tokens.origin()[image].tolist() == slow_origin(steps, N, image)
    assert (tokens.owners() >= -1).all() and (tokens.owners() < tokens.n).all()
    assert (tokens.owners() == -1).any(), "the chain prunes something"


def test_positions_and_guide_follow_the_tokens():
    tokens, _ = _chain()
    start = replace(_chain()[0], steps=(), position=None)
    assert torch.equal(tokens.position, tokens.origin())
    for image in range(B):
        rows = [start.rope[j] for j in tokens.origin()[image].tolist()]
        assert torch.equal(tokens.rope_rows(0)[image, 0], torch.stack(rows))


def test_a_rope_table_for_each_layer_and_head_follows_too():
    tokens, _ = _chain()
    table = torch.randn(4, 3, N, 6)
    tokens = replace(tokens, rope=table)
    rows = tokens.rope_rows(2)
    assert rows.shape == (B, 3, tokens.n, 6)
    for image in range(B):
        for head in range(3):
            assert torch.equal(rows[image, head], table[2, head, tokens.origin()[image]])


def test_a_note_is_that_of_the_representative():
    guide = torch.rand(B, N)
    tokens = replace(_chain()[0], notes={0: guide, 1: torch.arange(B)}, steps=())
    tokens = replace(tokens, x=torch.randn(B, 2 + N, C), size=None, position=None)
    for step in _chain()[1]:
        tokens = tokens.shrink(step)
    assert torch.equal(tokens.notes[0], guide.gather(1, tokens.origin()))
    assert torch.equal(tokens.notes[1], torch.arange(B)), "one for each image: it stays"


def test_merging_conserves_the_sum_of_sizes():
    tokens = Tokens(torch.randn(B, N, C), prefix=0, grid=(3, 4))
    first = tokens.shrink(_merge([0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 2, 8]))
    second = first.shrink(_merge([0, 1, 1, 2, 3, 3, 3, 0, 4]))
    for merged in (first, second):
        assert torch.equal(merged.sizes.sum(dim=1), torch.full((B,), float(N)))
        members = torch.stack([torch.bincount(row, minlength=merged.n) for row in merged.owners()])
        assert torch.equal(merged.sizes, members.float())


def test_merged_features_are_the_mean_of_their_patches():
    tokens = Tokens(torch.randn(B, 1 + N, C), prefix=1, grid=(3, 4))
    merged = tokens.shrink(_merge([0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 2, 8]))
    for image in range(B):
        for j in range(merged.n):
            members = tokens.patches[image, merged.owners()[image] == j]
            torch.testing.assert_close(merged.patches[image, j], members.mean(dim=0))
    assert torch.equal(merged.x[:, 0], tokens.x[:, 0])


# -- over the table


def _check_decision(tokens: Tokens, reduction) -> None:
    owners, lead = reduction.owners(tokens.n), reduction.representatives()
    after = tokens.shrink(reduction)
    assert owners.shape == (tokens.batch, tokens.n)
    assert lead.shape == (tokens.batch, after.n)
    own, there = torch.arange(after.n).expand_as(lead), lead >= 0  # an image may have fewer than another
    standing = owners.gather(1, lead.clamp(min=0))
    assert torch.equal(standing[there], own[there]), "a token is owned by the one that took its place"
    assert (owners < after.n).all() and (owners >= -1).all()
    if reduction.weighs:
        _check_sizes(tokens, reduction, after)


def _check_sizes(tokens: Tokens, reduction, after: Tokens) -> None:
    owners = reduction.owners(tokens.n)
    theirs = tokens.sizes.masked_fill(owners < 0, 0.0)  # dropped ones weigh nothing any more
    members = torch.zeros_like(after.sizes).scatter_add(1, owners.clamp(min=0), theirs)
    if isinstance(reduction, Absorb):  # those that join add less than all of their size
        lead = tokens.sizes.gather(1, reduction.representatives())
        assert (lead <= after.sizes).all() and (after.sizes <= members + 1e-5).all() and (lead < after.sizes).any()
        return
    torch.testing.assert_close(after.sizes.sum(dim=1), theirs.sum(dim=1))
    torch.testing.assert_close(after.sizes, members)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star"))
def test_every_decision_is_consistent(backbone, method):
    model = reduced(backbone, method)
    seen = capture(model)
    _, trace = model(images(backbone), trace=True)
    decisions = [(tokens, reduction) for tokens, _, _, reduction in seen if reduction is not None]
    assert decisions
    for tokens, reduction in decisions:
        _check_decision(tokens, reduction)
    for record in trace:
        _check_trace(record.owners, record.kept)


def _check_trace(owners: Tensor, kept: Tensor) -> None:
    n0 = owners.shape[1]
    assert (kept < n0).all() and (kept >= 0).any(dim=0).all()
    for own, row in zip(owners, kept, strict=True):
        there = row[row >= 0]
        assert len(set(there.tolist())) == there.numel(), "every token has a place of its own"
        assert own[there].tolist() == list(range(there.numel())), "and stands for the patch there"


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star", where=lambda b, m: m.static and not m.says("undoes")))
def test_trace_owners_are_the_decisions_composed(backbone, method):
    model = reduced(backbone, method)
    seen = capture(model)
    _, trace = model(images(backbone), trace=True)
    n0 = trace[0].owners.shape[1]
    steps = [reduction for *_, reduction in seen if isinstance(reduction, (Keep, Fuse, Join, Merge))]
    for image in range(2):
        assert trace[-1].owners[image].tolist() == slow_owners(steps, n0, image)
        assert trace[-1].kept[image].tolist() == slow_origin(steps, n0, image)
