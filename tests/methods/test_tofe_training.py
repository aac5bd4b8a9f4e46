"""ToFe: counts that are learned and travel, the masked training form, precision."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import timm
import torch
from counting import counted_macs
from references.tofe_setup import ROWS, put_on
from settings import dense, images
from torch import Tensor

import vitrim
from vitrim.runtime.build import attach
from vitrim.training.losses import macs_budget

# -- counts that are learned


def test_counts_move_with_what_training_kept_and_travel_with_the_weights(tmp_path):
    fast = attach(timm.create_model("test_vit", num_classes=3), "tofe", at=(1, 2), keep=0.5)
    n = vitrim.profile(fast).patches
    method = fast.methods[0]
    method.update_counts(torch.tensor([[60.0, 20.0], [70.0, 30.0]]), n, momentum=1.0)
    assert [method.count(place, n) for place in method.places] == [65, 25]
    method.update_counts(torch.tensor([[85.0, 35.0]]), n, momentum=0.5)
    assert [method.count(place, n) for place in method.places] == [75, 30]
    fast.eval().save(tmp_path)
    again = vitrim.load(tmp_path)
    assert vitrim.profile(again).tokens == vitrim.profile(fast).tokens == [n, 75, *[30] * 4]
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(again(x), fast(x))
    fresh = attach(timm.create_model("test_vit", num_classes=3), "tofe", at=(1, 2), keep=0.9)
    fresh.load_state_dict(fast.state_dict())
    assert vitrim.profile(fresh).tokens == [n, 75, *[30] * 4]
    with pytest.raises(ValueError, match=r"kept is \[2\]: give \[images, 2\]"):
        method.update_counts(torch.ones(2), n)


def test_counts_survive_copies_casts_and_averaged_weights():
    fast = put_on("deit", keep=(0.37, 0.52, 0.11))
    shares = fast.methods[0].kept_shares.clone()
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast).bfloat16().float()):
        assert torch.equal(other.methods[0].kept_shares, shares)
        assert vitrim.profile(other) == vitrim.profile(fast)
    assert fast.bfloat16().methods[0].kept_shares.dtype == torch.float32
    averaged = copy.deepcopy(fast)
    averaged.methods[0].kept_shares.fill_(0.8)  # as an average of weights writes into buffers
    assert vitrim.profile(averaged.eval()).tokens[1:] == [20, 20, 20]
    assert vitrim.profile(copy.deepcopy(fast).to("meta")) == vitrim.profile(fast)


@torch.no_grad()
def test_batch_adaptive_counts_follow_the_size_of_the_image():
    fast = put_on("dynamic", keep=(0.5, 0.3, 0.2))
    for x in (torch.randn(1, 3, 32, 32), torch.randn(2, 3, 64, 40)):
        n = x.shape[2] * x.shape[3] // 64
        kept = [record.kept.shape[1] for record in fast(x, trace=True)[1]]
        assert kept == [n, *(int(share * n + 0.5) for share in (0.5, 0.3, 0.2))]
        assert counted_macs(fast, x) == len(x) * vitrim.profile(fast, tuple(x.shape[2:])).macs


@torch.no_grad()
def test_untrained_approximators_add_nothing():
    x = images(ROWS["deit"])
    for approximator in ("bottleneck", "conv", "block"):
        torch.manual_seed(0)
        fast = attach(dense(ROWS["deit"]), "tofe", approximator=approximator).eval()
        plain = attach(dense(ROWS["deit"]), "tofe", approximator="identity").eval()
        plain.methods[0].selectors.load_state_dict(fast.methods[0].selectors.state_dict())
        torch.testing.assert_close(fast(x), plain(x))


# -- training


def _learned(fast: vitrim.ReducedViT, x: Tensor):
    return fast.train()(x, losses=True)[1]


def test_training_masks_all_tokens_and_every_part_learns():
    fast, x = put_on("deit", keep=0.6).requires_grad_(True), images(ROWS["deit"], batch=4)
    logits, learned = fast.train()(x, losses=True)
    masks = torch.stack([w.selected for w in learned.place_records])
    assert masks.shape == (3, 4, 25) and set(masks.unique().tolist()) == {0.0, 1.0}
    assert 0.2 < masks.mean() < 0.8 and len({tuple(m.tolist()) for m in masks.sum(dim=2)}) > 1
    macs = vitrim.image_macs(fast, masks.sum(dim=2).T)
    (logits.square().mean() + macs_budget(macs, 0.0, 1e7)).backward()
    for name, parameter in fast.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_frozen_tokens_can_come_back_and_without_reuse_cannot():
    x = images(ROWS["deit"], batch=4)
    for reuse in (True, False):
        masks = [w.selected for w in _learned(put_on("deit", reuse=reuse), x).place_records]
        back = [((later > 0.5) & (earlier < 0.5)).sum().item() for earlier, later in itertools.pairwise(masks)]
        assert all(count > 0 for count in back) if reuse else back == [0, 0]


def test_restored_tokens_of_training_are_equation_16():
    fast, x = put_on("deit"), images(ROWS["deit"], batch=3)
    learned = _learned(fast, x)
    first = learned.place_records[0]
    body, method = fast.body, fast.methods[0]
    tokens = body.embed(x)
    tokens = body.mlp(0, body.attend(0, tokens)[0])
    blocks = body.mlp(1, body.attend(1, tokens.shrink(vitrim.Mask(first.selected)))[0]).x
    approximator, mask = method.approximators[0], first.selected.unsqueeze(-1)
    frozen = tokens.patches + approximator.mlp(approximator.norm(tokens.patches))
    torch.testing.assert_close(first.restored[:, 1:], mask * blocks[:, 1:] + (1 - mask) * frozen)
    torch.testing.assert_close(first.restored[:, 0], blocks[:, 0])
    assert learned.place_records[2].restored is None


def test_training_draws_and_tau_sharpens():
    x = images(ROWS["deit"], batch=4)
    draws = {}
    for tau in (0.1, 5.0):
        fast = put_on("deit", tau=tau).requires_grad_(True)
        torch.manual_seed(0)
        masks = _learned(fast, x).place_records[0].selected
        assert not torch.equal(masks, _learned(fast, x).place_records[0].selected)
        masks.sum().backward()
        draws[tau] = fast.methods[0].selectors[0].decide.bias.grad.abs().max()
    assert draws[0.1] != draws[5.0]


def test_checkpointing_recomputes_the_same_draw():
    x, gradients = images(ROWS["deit"], batch=3), []
    for checkpointing in (False, True):
        fast = put_on("deit").requires_grad_(True).train()
        fast.set_grad_checkpointing(checkpointing)
        torch.manual_seed(7)
        fast(x).square().mean().backward()
        gradients.append([p.grad for p in fast.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_training_starts_from_all_tokens_too():
    fast, x = put_on("deit", keep=1.0), images(ROWS["deit"])
    assert torch.equal(fast(x), dense(ROWS["deit"])(x))
    assert len(_learned(fast, x).place_records) == 3


@torch.no_grad()
@pytest.mark.parametrize("adaptive", ["batch", "instance"])
def test_scores_are_float32_under_autocast(adaptive):
    fast, x = put_on("deit", adaptive), images(ROWS["deit"])
    exact = fast(x, trace=True)[1][1].scores
    with torch.autocast("cpu", torch.bfloat16):
        logits, trace = fast(x, trace=True)
    scores = trace[1].scores
    assert scores.dtype == torch.float32 and logits.isfinite().all()
    assert not torch.equal(scores, scores.bfloat16().float()), "a last layer in bfloat16 would leave 8 bits"
    torch.testing.assert_close(scores, exact, rtol=0.1, atol=0.1)


@torch.no_grad()
def test_half_precision_models_run():
    x = images(ROWS["deit"])
    for adaptive in ("batch", "instance"):
        fast, exact = put_on("deit", adaptive).bfloat16(), put_on("deit", adaptive)
        assert (fast(x.bfloat16()).float() - exact(x)).abs().max() < 0.5
        assert fast.methods[0].selectors[0].decide.weight.dtype == torch.bfloat16
