"""What becomes of patches, as laws over all methods: what a trace says, told for each patch and block."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from settings import dense, images, pairs, reduced

import vitrim
from vitrim.runtime.build import attach
from vitrim.view.fates import Fate, Fates, Hold, fates_of, follow, group_sizes, holds_of

WORKS = (Fate.WORK, Fate.BACK)


def followed(backbone, method, batch=3):
    """The model, its trace and the fates of the patches of a few images."""
    model, x = reduced(backbone, method), images(backbone, batch=batch)
    with torch.inference_mode():
        _, trace = model(x, trace=True)
    return model, trace, follow(model, trace, x.shape[-2:])


def tokens_left(record, image):
    owners = record.owners[image]
    return owners[owners >= 0].unique().numel()


@pytest.mark.parametrize("backbone, method", pairs("sample"))
def test_fates_say_what_the_trace_says(backbone, method):
    model, trace, every = followed(backbone, method)
    holds = holds_of(model)
    for image, fates in enumerate(every):
        assert fates.codes.shape == fates.groups.shape == (len(trace), *model.body.grid(backbone.image))
        for record in trace:
            covers = fates.codes[0].size // record.owners.shape[1]  # patches of the image to a token's own (Swin)
            codes, groups = fates.codes[record.block], fates.groups[record.block]
            assert len(np.unique(groups[groups >= 0])) == covers * tokens_left(record, image)
            assert ((codes == Fate.WAITS) | (codes == Fate.GONE)).sum() == covers * (record.owners[image] < 0).sum()
            assert ((codes >= Fate.WAITS) == (groups < 0)).all()
            assert ((codes == Fate.MERGED) == (group_sizes(groups) > 1)).all()
        gone, waits = fates.codes == Fate.GONE, fates.codes == Fate.WAITS
        assert (gone[1:] >= gone[:-1]).all(), "a pruned patch has come back"
        for block, fate in enumerate(fates.codes):
            if (fate == Fate.BACK).any():
                assert waits[holds[block].since - 1][fate == Fate.BACK].all(), "re-selected, and never idle"
        if not any(method.undoes for method in model.methods):
            assert not waits.any() and not (fates.codes == Fate.BACK).any()


@pytest.mark.parametrize("backbone, method", pairs("star", lambda b, m: m.static and not b.grid))
def test_the_counts_are_those_of_the_profile(backbone, method):
    model, _, every = followed(backbone, method)
    planned = vitrim.profile(model, backbone.image).tokens
    for fates in every:
        assert [fates.count(block)["tokens"] for block in range(len(planned))] == planned
        assert fates.work.sum() == pytest.approx(sum(planned))


# What patches may do with a method, beside working with a token of their own.
ALLOWED = {
    "evit": {Fate.MERGED},
    "topk": {Fate.GONE},
    "random": {Fate.GONE},
    "grid": {Fate.GONE},
    "dynamicvit": {Fate.GONE},
    "ats": {Fate.GONE},
    "tome": {Fate.MERGED},
    "bat": {Fate.MERGED},
    "dpcknn": {Fate.MERGED},
    "diffrate": {Fate.MERGED, Fate.GONE},
    "prunemerge": {Fate.MERGED, Fate.GONE},
    "pitome": {Fate.MERGED},
    "evovit": {Fate.MERGED},
    "idlevit": {Fate.WAITS, Fate.BACK},
    "tofe": {Fate.WAITS, Fate.BACK},
}
# Options that change it.
OTHERWISE = {"evit-drop": {Fate.GONE}, "tofe-pruning": {Fate.GONE}}


@pytest.mark.parametrize("backbone, method", pairs("star", lambda b, m: not m.more and not b.grid))
def test_every_method_does_what_its_paper_says(backbone, method):
    _, _, every = followed(backbone, method, batch=4)
    found = {Fate(code) for fates in every for code in np.unique(fates.codes)} - {Fate.WORK}
    assert found <= OTHERWISE.get(method.id, ALLOWED[method.name])
    assert found, "nothing was reduced"


def test_every_method_is_in_the_table():
    assert set(ALLOWED) == set(vitrim.METHODS)


def test_idle_and_frozen_patches_come_back_and_are_ringed():
    model = attach(dense(next(iter(pairs("cover"))).values[0]), vitrim.IdleViT(keep=0.5, blocks=(0, 1, 2)))
    with torch.inference_mode():
        _, trace = model(torch.randn(2, 3, 40, 40), trace=True)
    fates = follow(model, trace)[0]
    idle = fates.codes == Fate.WAITS
    assert idle[:3].any(axis=(1, 2)).all() and not idle[3].any()
    for block in (1, 2, 3):
        works = np.isin(fates.codes[block], WORKS)
        assert ((fates.codes[block] == Fate.BACK) == (works & idle[block - 1])).all()
    assert fates.rests == ("idle", "idle", "idle", "pruned")


def test_the_fates_of_every_kind_written_out():
    """Five patches: at work, merged into the first, idle in a block, pruned by a later method."""
    groups = np.array([[0, 1, 2, 3, 4], [0, 1, -1, 3, 4], [0, 0, 2, -1, 4], [0, 0, 2, -1, 4]])
    holds = [Hold(0, "pruned"), Hold(1, "idle"), Hold(2, "pruned"), Hold(2, "pruned")]
    work, back, merged, waits, gone = Fate
    assert fates_of(groups, holds).tolist() == [
        [work] * 5,
        [work, work, waits, work, work],
        [merged, merged, back, gone, work],
        [merged, merged, back, gone, work],
    ]


def test_a_group_keeps_its_number_while_its_first_patch_is_in_it():
    model = attach(dense(next(iter(pairs("cover"))).values[0]), vitrim.ToMe(r=4))
    with torch.inference_mode():
        _, trace = model(torch.randn(1, 3, 40, 40), trace=True)
    (fates,) = follow(model, trace)
    flat = fates.groups.reshape(len(fates.groups), -1)
    assert all((block[block] == block).all() for block in flat), "a number is that of a patch in the group"
    for before, after in pairwise(flat):
        assert all(len(np.unique(after[before == number])) == 1 for number in np.unique(before)), "a group was parted"


def test_captions_and_counts():
    def fates(groups, rest="pruned", fuses=False):
        groups = np.array([groups])
        return Fates(fates_of(groups, [Hold(0, rest)]), groups, (rest,), fuses)

    assert fates([[0, 1], [2, 3]]).caption(0) == "4 kept"
    assert fates([[0, 1], [2, 2]], fuses=True).caption(0) == "2 kept + 1 fused"
    assert fates([[0, 0], [1, 1]], fuses=True).caption(0) == "0 kept + 2 fused"  # one of an earlier block stayed
    assert fates([[0, 1], [2, 2]]).caption(0) == "2 kept + 1 merged"
    said = [fates([[0, -1], [-1, -1]], rest).caption(0) for rest in ("pruned", "idle", "frozen")]
    assert said == ["1 kept, 3 pruned", "1 kept, 3 idle", "1 kept, 3 frozen"]
    assert fates([[0, -1], [2, 2]]).work.tolist() == [[1.0, 0.0], [0.5, 0.5]]
