"""Law 4: restore(shrink(x)) leaves kept tokens and, for `Keep`, all others as they were; dense features come back."""

from __future__ import annotations

import pytest
import timm
import torch
from settings import backbones, capture, dense, images, nothing, pairs, reduced

import vitrim
from vitrim.core.reductions import Keep


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star"))
def test_restore_undoes_shrink_on_every_decision(backbone, method):
    model = reduced(backbone, method)
    seen = capture(model)
    model(images(backbone))
    for tokens, _, _, reduction in seen:
        if reduction is None:
            continue
        p = tokens.prefix
        back = reduction.restore(reduction.shrink(tokens.x, p), tokens.x, p)
        torch.testing.assert_close(back, tokens.x, rtol=1e-5, atol=1e-5)
        if isinstance(reduction, Keep):
            assert torch.equal(back, tokens.x)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star", where=lambda b, m: m.static))
def test_restore_carries_updates_to_owners_and_to_nobody_else(backbone, method):
    model = reduced(backbone, method)
    seen = capture(model)
    model(images(backbone))
    for tokens, _, _, reduction in seen:
        if reduction is None:
            continue
        p, before = tokens.prefix, tokens.x
        after = reduction.shrink(before, p)
        update = torch.randn_like(after)
        back, owners = reduction.restore(after + update, before, p), reduction.owners(tokens.n)
        torch.testing.assert_close(back[:, :p], before[:, :p] + update[:, :p])
        rows = update[:, p:].gather(1, owners.clamp(min=0)[..., None].expand(-1, -1, update.shape[2]))
        moved = torch.where(owners[..., None] >= 0, before[:, p:] + rows, before[:, p:])
        torch.testing.assert_close(back[:, p:], moved, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star", where=lambda b, m: m.off is not None and b.timms))
def test_features_are_timms_where_nothing_is_reduced(backbone, method):
    x, ours, theirs = images(backbone), reduced(backbone, method.switched_off()), dense(backbone)
    assert torch.equal(ours.forward_features(x), theirs.forward_features(x))
    assert torch.equal(ours.forward_features(x, restore=True), theirs.forward_features(x))


@torch.no_grad()
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("backbone", backbones(lambda b: b.timms))
def test_intermediates_are_timms_where_nothing_is_reduced(backbone, norm):
    x, ours, theirs = images(backbone), nothing(backbone), dense(backbone)
    more = {} if backbone.grid else dict(output_fmt="NLC", return_prefix_tokens=True)  # timm's Swin has neither
    for options in (dict(indices=3), dict(indices=[0, 2], stop_early=True, **more)):
        final, grids = ours.forward_intermediates(x, norm=norm, **options)
        expected, wanted = theirs.forward_intermediates(x, norm=norm, **options)
        assert torch.equal(final, expected)
        for got, want in zip(grids, wanted, strict=True):
            assert all(map(torch.equal, got, want)) if isinstance(want, tuple) else torch.equal(got, want)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star", where=lambda b, m: m.static))
def test_restored_features_cover_the_image(backbone, method):
    x, model = images(backbone), reduced(backbone, method)
    _, trace = model(x, trace=True)
    n0, p = trace[-1].owners.shape[1], model.num_prefix_tokens
    filled = [model.forward_features(x, restore=True, fill=fill) for fill in ("last", "zeros", "neighbours")]
    whole, _, near = filled = [f.flatten(1, 2) if backbone.grid else f for f in filled]
    assert all(f.shape == (2, p + n0, model.num_features) and f.isfinite().all() for f in filled)
    gone = trace[-1].owners < 0
    if not model.methods[-1].undoes and "evit" not in method.names:  # what idles is put back as it is
        assert torch.equal(near[:, p:][~gone], whole[:, p:][~gone]), "no patch that has a token is filled"
        assert (near[:, p:][gone] != whole[:, p:][gone]).any(dim=-1).all() and gone.any() == (near != whole).any()
    left = model.forward_features(x).reshape(2, -1, model.num_features)
    if left.shape[1] == p + n0:  # everything was undone on the way
        torch.testing.assert_close(whole, left)
        return
    if not method.says("weighs") and "evit" not in method.names:  # kept tokens are patches of their own
        own = whole[:, p:].gather(1, trace[-1].kept[..., None].expand(-1, -1, whole.shape[2]))
        torch.testing.assert_close(own, left[:, p:])
    torch.testing.assert_close(whole[:, :p], left[:, :p])


@torch.no_grad()
def test_pruned_patches_keep_their_last_features_or_become_zero():
    row = next(b.values[0] for b in backbones())
    x, model = images(row), vitrim.reduce(dense(row), "random", keep=0.5, at=2)
    dense_grids = dense(row).forward_intermediates(x, intermediates_only=True, output_fmt="NLC")
    pruned = model(x, trace=True)[1][-1].owners < 0
    last = model.forward_intermediates(x, intermediates_only=True, output_fmt="NLC")
    zeros = model.forward_intermediates(x, intermediates_only=True, output_fmt="NLC", fill="zeros")
    for i in (0, 1):
        assert torch.equal(last[i], dense_grids[i]) and torch.equal(zeros[i], dense_grids[i])
    for i in (2, 3):
        assert torch.equal(zeros[i][pruned], torch.zeros_like(zeros[i][pruned]))
        assert torch.equal(last[i][~pruned], zeros[i][~pruned])
    # Between attention and MLP of block 2 the pruned patches had had that block's attention, and nothing after it.
    assert torch.equal(last[2][pruned], last[3][pruned])
    assert not torch.equal(last[2][pruned], last[1][pruned])


@torch.no_grad()
def test_idle_tokens_pass_their_block_unchanged():
    row = next(b.values[0] for b in backbones())
    x, model = images(row), vitrim.reduce(dense(row), "idlevit", keep=0.5)
    grids = model.forward_intermediates(x, intermediates_only=True, output_fmt="NLC")
    for i, record in enumerate(model(x, trace=True)[1]):
        idle = record.owners < 0
        assert idle.any() == (i > 0)
        if i:
            assert torch.equal(grids[i][idle], grids[i - 1][idle])
            assert (grids[i][~idle] - grids[i - 1][~idle]).abs().amax(dim=-1).min() > 0


@torch.no_grad()
def test_intermediates_have_the_grid_of_the_image_at_hand():
    model = timm.create_model("test_vit", dynamic_img_size=True).eval()
    fast = vitrim.reduce(model, "evit", keep=0.5, at=(1, 2))
    grids = fast.forward_intermediates(torch.randn(1, 3, 96, 160), intermediates_only=True)
    assert {tuple(g.shape) for g in grids} == {(1, model.embed_dim, 6, 10)}


def test_unknown_fill_and_format_are_refused():
    row = next(b.values[0] for b in backbones())
    model, x = vitrim.reduce(dense(row), "random"), images(row)
    with pytest.raises(ValueError, match="fill='mean': choose one of last, zeros, neighbours"):
        model.forward_features(x, restore=True, fill="mean")
    with pytest.raises(ValueError, match="fill='mean'"):
        model.forward_intermediates(x, fill="mean")
    with pytest.raises(ValueError, match="NCHW or NLC"):
        model.forward_intermediates(x, output_fmt="NHWC")
