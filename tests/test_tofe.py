"""ToFe: exactness against Algorithm 1 written out, ragged batches, costs, counts that travel, training, refusals."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings

import pytest
import timm
import torch
from _tofe_reference import slow_tofe
from settings import BACKBONES, dense, images, level, randomise
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import vitrim
from vitrim.build import attach
from vitrim.losses import macs_budget

ROWS = {row.name: row for row in BACKBONES}
OPTIONS = {
    "default": dict(),
    "places": dict(keep=(0.7, 0.2), at=(0, 2)),
    "identity": dict(keep=0.6, approximator="identity"),
    "conv": dict(keep=0.6, approximator="conv"),
    "block": dict(keep=0.6, approximator="block"),
    "predictor": dict(keep=0.7, selector="dynamicvit"),
    "no-reuse": dict(keep=0.7, reuse=False),
    "no-reuse-predictor": dict(keep=0.7, reuse=False, selector="dynamicvit"),
}


def put_on(name: str, adaptive: str = "batch", **options) -> vitrim.ReducedViT:
    """ToFe with random parameters on the row's model, in eval mode; its selectors keep about half of the tokens."""
    fast = attach(dense(ROWS[name]), "tofe", adaptive=adaptive, **options)
    randomise(fast.methods[0], seed=1)
    return level(fast.eval(), images(ROWS[name], batch=8, seed=2)).requires_grad_(False)


def kept_of(trace, method) -> list[list[list[int]]]:
    """For every image the patches that each place kept."""
    kept = [trace[place.block].kept.tolist() for place in method.places]
    return [[sorted(j for j in stage[image] if j >= 0) for stage in kept] for image in range(len(kept[0]))]


def counted_macs(model: nn.Module, x: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2


# -- the paper, one image, one token at a time


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


# -- ragged batches


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["deit", "distilled", "siglip", "gap", "avgmax", "lvvit"])
def test_a_ragged_batch_costs_its_own_tokens_and_equals_one_by_one(name, options):
    fast, x = put_on(name, "instance", **options), images(ROWS[name], batch=5)
    logits, trace = fast(x, trace=True)
    alone = torch.cat([fast(x[j : j + 1]) for j in range(5)])
    torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-5)
    counts = torch.tensor([[len(stage) for stage in image] for image in kept_of(trace, fast.methods[0])])
    assert len({tuple(row) for row in counts.tolist()}) > 1, "the images must differ for this to say anything"
    singles = [counted_macs(fast, x[j : j + 1]) for j in range(5)]
    assert counted_macs(fast, x) == sum(singles)
    assert vitrim.image_macs(fast, counts).tolist() == singles


@torch.no_grad()
def test_linear_layers_see_no_padding_and_approximators_frozen_tokens_alone():
    fast, x = put_on("deit", "instance"), images(ROWS["deit"], batch=5)
    rows: dict[str, list[int]] = {}
    for name, module in fast.named_modules():
        if isinstance(module, nn.Linear):
            record = rows.setdefault(name, [])
            module.register_forward_hook(lambda _, given, out, record=record: record.append(given[0][..., 0].numel()))
    _, trace = fast(x, trace=True)
    kept = [sum(map(len, stage)) for stage in zip(*kept_of(trace, fast.methods[0]), strict=True)]
    for place, count in zip(fast.methods[0].places, kept, strict=True):
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            assert rows[f"backbone.blocks.{place.block}.{layer}"] == [count + 5]
    for stage in range(2):
        assert rows[f"methods.0.approximators.{stage}.mlp.fc1"] == [5 * 25 - kept[stage]]


@torch.no_grad()
def test_dense_features_of_a_ragged_batch_are_those_of_its_images():
    fast, x = put_on("registers", "instance"), images(ROWS["registers"], batch=4)
    for fill in ("last", "zeros"):
        whole = fast.forward_features(x, restore=True, fill=fill)
        alone = torch.cat([fast.forward_features(x[j : j + 1], restore=True, fill=fill) for j in range(4)])
        assert whole.shape == (4, 5 + 25, 48)
        torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-5)
    grids = fast.forward_intermediates(x, intermediates_only=True)
    assert {tuple(grid.shape) for grid in grids} == {(4, 48, 5, 5)}
    with pytest.raises(ValueError, match="restore=True"):
        fast.forward_features(x)


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "gap_no_cls"])
def test_an_image_that_would_keep_nothing_keeps_its_best_token(name):
    fast, x = put_on(name, "instance"), images(ROWS[name], batch=3)
    for selector in fast.methods[0].selectors:
        selector.decide.bias[0] -= 1e4
    logits, trace = fast(x, trace=True)
    assert [[len(stage) for stage in image] for image in kept_of(trace, fast.methods[0])] == [[1, 1, 1]] * 3
    assert logits.isfinite().all()


@torch.no_grad()
def test_everything_kept_is_the_dense_model():
    fast, x = put_on("deit", "instance"), images(ROWS["deit"])
    for selector in fast.methods[0].selectors:
        selector.decide.bias[0] += 1e4
    torch.testing.assert_close(fast(x), dense(ROWS["deit"])(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_images_decide_for_themselves_whatever_their_batch():
    fast, x = put_on("deit", "instance"), images(ROWS["deit"], batch=6)
    decided = kept_of(fast(x, trace=True)[1], fast.methods[0])
    for group in ([0, 3], [5, 1, 2], [4]):
        assert kept_of(fast(x[group], trace=True)[1], fast.methods[0]) == [decided[j] for j in group]


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
    with torch.device("meta"):
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
    masks = torch.stack([w.selected for w in learned.witnesses])
    assert masks.shape == (3, 4, 25) and set(masks.unique().tolist()) == {0.0, 1.0}
    assert 0.2 < masks.mean() < 0.8 and len({tuple(m.tolist()) for m in masks.sum(dim=2)}) > 1
    macs = vitrim.image_macs(fast, masks.sum(dim=2).T)
    (logits.square().mean() + macs_budget(macs, 0.0, 1e7)).backward()
    for name, parameter in fast.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_frozen_tokens_can_come_back_and_without_reuse_cannot():
    x = images(ROWS["deit"], batch=4)
    for reuse in (True, False):
        masks = [w.selected for w in _learned(put_on("deit", reuse=reuse), x).witnesses]
        back = [((later > 0.5) & (earlier < 0.5)).sum().item() for earlier, later in itertools.pairwise(masks)]
        assert all(count > 0 for count in back) if reuse else back == [0, 0]


def test_restored_tokens_of_training_are_equation_16():
    fast, x = put_on("deit"), images(ROWS["deit"], batch=3)
    learned = _learned(fast, x)
    first = learned.witnesses[0]
    body, method = fast.body, fast.methods[0]
    tokens = body.embed(x)
    tokens = body.mlp(0, body.attend(0, tokens)[0])
    blocks = body.mlp(1, body.attend(1, tokens.shrink(vitrim.Mask(first.selected)))[0]).x
    approximator, mask = method.approximators[0], first.selected.unsqueeze(-1)
    frozen = tokens.patches + approximator.mlp(approximator.norm(tokens.patches))
    torch.testing.assert_close(first.restored[:, 1:], mask * blocks[:, 1:] + (1 - mask) * frozen)
    torch.testing.assert_close(first.restored[:, 0], blocks[:, 0])
    assert learned.witnesses[2].restored is None


def test_training_draws_and_tau_sharpens():
    x = images(ROWS["deit"], batch=4)
    draws = {}
    for tau in (0.1, 5.0):
        fast = put_on("deit", tau=tau).requires_grad_(True)
        torch.manual_seed(0)
        masks = _learned(fast, x).witnesses[0].selected
        assert not torch.equal(masks, _learned(fast, x).witnesses[0].selected)
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
    assert len(_learned(fast, x).witnesses) == 3


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


# -- refusals and stacks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(selector="cnn"), "selector 'cnn' is not one of mlp, dynamicvit"),
        (dict(approximator="rnn"), "approximator 'rnn' is not one of bottleneck, identity, conv, block"),
        (dict(adaptive="yes"), "adaptive 'yes' is not one of batch, instance"),
        (dict(tau=0), "tau=0: give a temperature above 0"),
        (dict(keep=1.2), "keep rate 1.2 is not in"),
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
