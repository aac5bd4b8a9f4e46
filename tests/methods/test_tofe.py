"""ToFe: exactness against Algorithm 1 written out, what it costs, refusals and stacks."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
from counting import counted_macs
from references.tofe import slow_tofe
from references.tofe_setup import OPTIONS, ROWS, kept_of, put_on
from settings import dense, images

import vitrim
from vitrim.common.on_meta import on_meta
from vitrim.methods.parts.tofe_modules import Mlp
from vitrim.runtime.build import attach

# -- the paper, one image, one token at a time


@torch.no_grad()
def test_the_approximators_mlp_is_timms_bit_for_bit():
    torch.manual_seed(0)
    ours, theirs, x = Mlp(12, 6), timm.layers.Mlp(12, 6), torch.randn(2, 5, 12)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(x), theirs(x))
    torch.manual_seed(0)
    assert torch.equal(timm.layers.Mlp(12, 6).fc2.weight, ours.fc2.weight)  # first weights are drawn in the same order


@torch.no_grad()
@pytest.mark.parametrize("adaptive", ["batch", "instance"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["deit", "siglip"])
def test_tofe_equals_algorithm_1_written_out(name, options, adaptive):
    fast, x = put_on(name, adaptive, **options), images(ROWS[name], batch=3)
    logits, trace = fast(x, trace=True)
    for image, kept in enumerate(kept_of(trace, fast.methods[0])):
        slow, decisions = slow_tofe(fast, x[image : image + 1])
        torch.testing.assert_close(logits[image : image + 1], slow, rtol=1e-5, atol=1e-5)
        assert kept == decisions
        assert any(len(d) < trace[0].owners.shape[1] for d in decisions)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["distilled", "registers", "gap", "gap_registers", "avgmax", "max", "gated", "dynamic"]
)
def test_algorithm_1_on_every_pooling_in_true_batches(name):
    fast, x = put_on(name, "instance"), images(ROWS[name], batch=4)
    slow = torch.cat([slow_tofe(fast, x[j : j + 1])[0] for j in range(4)])
    torch.testing.assert_close(fast(x), slow, rtol=1e-5, atol=1e-5)


# -- what it costs

# Kept shares per stage and printed GFLOPs of the paper's Tables III, IV and V, DeiT-S.
TABLES = [
    (dict(keep=(0.49, 0.25, 0.14)), 2.3),
    (dict(keep=(0.5, 0.25, 0.125)), 2.3),
    (dict(keep=(0.4, 0.4, 0.1)), 2.3),
    (dict(keep=(0.33, 0.33, 0.33)), 2.3),
    (dict(keep=(0.4, 0.3, 0.3)), 2.3),
    (dict(keep=(0.59, 0.26, 0.14), approximator="identity"), 2.3),
    (dict(keep=(0.55, 0.25, 0.14), approximator="conv"), 2.3),
    (dict(keep=(0.27, 0.11, 0.07), approximator="block"), 2.4),
    (dict(keep=(0.47, 0.21, 0.11), selector="dynamicvit"), 2.3),
]


@pytest.fixture(scope="module")
def deit_small():
    with on_meta():
        return timm.create_model("deit_small_patch16_224")


@pytest.mark.parametrize(("options", "gflops"), TABLES, ids=str)
def test_published_shares_cost_what_the_paper_prints(deit_small, options, gflops):
    assert vitrim.profile(attach(deit_small, "tofe", **options)).gmacs == pytest.approx(gflops, rel=0.04)


def test_the_papers_shares_are_the_default(deit_small):
    profile = vitrim.profile(attach(deit_small, "tofe"))
    assert profile.tokens == [196] * 3 + [96] * 3 + [49] * 3 + [27] * 3
    assert profile == vitrim.profile(attach(deit_small, "tofe", keep=(0.49, 0.25, 0.14)))
    assert vitrim.profile(attach(deit_small, "tofe", at=(4, 8))).tokens[4::4] == [98, 49]
    assert vitrim.profile(attach(deit_small, "tofe", keep=0.6)).tokens[3::3] == [118, 71, 42]


@pytest.mark.parametrize("macs", [0.4, 0.5, 0.7, 0.9, 1.0])
def test_a_budget_turns_the_shares(deit_small, macs):
    share = vitrim.profile(attach(deit_small, "tofe", macs=macs)).share
    assert macs - 0.01 < share <= macs


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_batch_adaptive_macs_are_counted_exactly(options):
    fast, x = put_on("deit", **options), images(ROWS["deit"], batch=2)
    assert counted_macs(fast, x) == 2 * vitrim.profile(fast).macs


def test_macs_of_own_counts_follow_equation_4_with_gradient(deit_small):
    fast = attach(deit_small, "tofe")
    kept = torch.tensor([[96.0, 49.0, 27.0], [150.0, 80.0, 10.0]], requires_grad=True)
    macs = vitrim.image_macs(fast, kept)
    assert macs[0].item() == vitrim.profile(fast).macs
    c, hidden = 384, 1536
    blocks = [4 * n * c**2 + 2 * n**2 * c + 2 * n * c * hidden for n in (151, 81, 11)]
    selectors = 3 * 196 * (c * c // 2 + c // 2 * c // 4 + c // 4 * 2)
    approximators = (46 + 116) * c * c
    ends = 196 * 768 * c + 1000 * c
    dense_blocks = 3 * (4 * 197 * c**2 + 2 * 197**2 * c + 2 * 197 * c * hidden)
    assert macs[1].item() == ends + dense_blocks + 3 * sum(blocks) + selectors + approximators
    macs[1].backward()
    slopes = [3 * (4 * c**2 + 4 * n * c + 2 * c * hidden) for n in (151, 81, 11)]
    assert kept.grad[1].tolist() == pytest.approx([slopes[0] - c * c, slopes[1] - c * c, slopes[2]])
    assert kept.grad[0].abs().sum() == 0


def test_macs_of_own_counts_refuse_what_has_none(deit_small):
    for model in (deit_small, attach(deit_small, "evit")):
        with pytest.raises(ValueError, match="such as tofe"):
            vitrim.image_macs(model, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"kept is \[2, 2\]: give \[images, 3\]"):
        vitrim.image_macs(attach(deit_small, "tofe"), torch.ones(2, 2))


# -- refusals and stacks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(selector="cnn"), 'selector="cnn": choose one of mlp, dynamicvit'),
        (dict(approximator="rnn"), 'approximator="rnn": choose one of bottleneck, identity, conv, block'),
        (dict(adaptive="yes"), 'adaptive="yes": choose one of batch, instance'),
        (dict(tau=0), "tau=0: give a temperature above 0"),
        (dict(keep=1.2), "keep=1.2 is not in"),
        (dict(keep=(0.5, 0.4)), "2 keep rates for 3 places"),
        (dict(at=(1, 9)), "9 is not a block of this model"),
        (dict(rate=0.5), "tofe has no option rate"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attach(dense(ROWS["deit"]), "tofe", **options)


def test_ragged_batches_are_refused_where_images_return_their_tokens():
    model = dense(ROWS["deit"])
    model.reset_classifier(0, "")
    with pytest.raises(ValueError, match=r'tofe with adaptive="instance": .*pooling.*adaptive="batch"'):
        attach(model, "tofe", adaptive="instance")
    assert attach(model, "tofe").eval()(images(ROWS["deit"])).shape == (2, 1 + 4, 48)


def test_stacks_that_ragged_batches_cannot_carry_are_refused():
    model, ragged = dense(ROWS["deit"]), vitrim.ToFe(adaptive="instance", at=(1, 2))
    with pytest.raises(ValueError, match="evit cannot work on such a batch"):
        attach(model, [ragged, vitrim.EViT(at=3)])
    with pytest.raises(ValueError, match="evovit cannot work on such a batch"):
        attach(model, [vitrim.EvoViT(blocks=1), vitrim.ToFe(adaptive="instance", at=(2, 3))])
    with pytest.raises(ValueError, match="tome has merged tokens, which cannot be packed"):
        attach(model, [vitrim.ToMe(r=2, at=0), ragged])
    with pytest.raises(ValueError, match="evit at block 1 would act while tofe holds tokens outside"):
        attach(model, [vitrim.ToFe(at=(1, 3)), vitrim.EViT(at=1)])


@torch.no_grad()
@pytest.mark.parametrize("adaptive", ["batch", "instance"])
def test_tofe_follows_a_pruning(adaptive):
    fast = attach(dense(ROWS["deit"]), [vitrim.TopK(keep=0.8, at=0), vitrim.ToFe(at=(1, 3), adaptive=adaptive)]).eval()
    x = images(ROWS["deit"], batch=3)
    together = fast(x)
    torch.testing.assert_close(together, torch.cat([fast(x[j : j + 1]) for j in range(3)]), rtol=1e-5, atol=1e-5)
    if adaptive == "batch":
        assert counted_macs(fast, x) == 3 * vitrim.profile(fast).macs
    grid = attach(
        dense(ROWS["deit"]), [vitrim.TopK(keep=0.8, at=0), vitrim.ToFe(at=(1, 3), approximator="conv")]
    ).eval()
    with pytest.raises(ValueError, match='approximator="conv" needs all 25 patches, and 20 are left'):
        grid(x)


def test_reduce_says_once_that_the_selectors_are_random():
    with pytest.warns(vitrim.UntrainedWarning, match="tofe: .*random until they are trained") as caught:
        vitrim.reduce(dense(ROWS["deit"]), "tofe")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(dense(ROWS["deit"]), "tofe")
