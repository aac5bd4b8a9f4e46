"""EViT: logits of the published algorithm, token counts, scores, what votes and what does not."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from references.evit import published_evit
from settings import backbones, capture, dense, images, randomise

import vitrim
from vitrim import Fuse, Keep

ROWS = {b.values[0].name: b.values[0] for b in backbones()}
WITH_CLS = {"deit": (0,), "distilled": (0, 1), "deit3": (0,), "clip": (0,), "registers": (0,), "qk_norm": (0,)}
PLACES = [
    {1: 0.7},
    {0: 0.5},
    {1: 0.7, 2: 0.7, 3: 0.7},
    {0: 0.9, 2: 0.4, 3: 1.0},
    {0: 0.8, 1: 0.8, 2: 0.8, 3: 0.8},
]


def _difference(model, x, **reference) -> float:
    """Largest difference to the published algorithm in float64, relative to the largest logit."""
    ours = model(x).double()
    exact = copy.deepcopy(model.backbone).double()
    rates = {place.block: place.keep for place in model.methods[0].places}
    theirs = torch.stack([published_evit(exact, image.double(), rates, **reference) for image in x])
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.no_grad()
@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "dropped"])
@pytest.mark.parametrize("rates", PLACES, ids=str)
@pytest.mark.parametrize("name", WITH_CLS)
def test_logits_are_the_published_algorithms(name, rates, fuse):
    options = dict(keep=tuple(rates.values()), at=tuple(rates), fuse=fuse)
    model = vitrim.reduce(dense(ROWS[name]), "evit", **options)
    assert _difference(model, images(ROWS[name]), class_tokens=WITH_CLS[name], fuse=fuse) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "dropped"])
@pytest.mark.parametrize("score", ["-cls", "tokens"])
@pytest.mark.parametrize("name", ["deit", "distilled", "registers"])
def test_logits_with_other_scores(name, score, fuse):
    options = dict(keep=0.6, score=score, fuse=fuse)
    model = vitrim.reduce(dense(ROWS[name]), "evit", **options)
    assert _difference(model, images(ROWS[name]), class_tokens=WITH_CLS[name], fuse=fuse, score=score) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ["siglip", "gap_no_cls", "gap_registers"])
def test_without_cls_every_row_votes_and_weighs(name):
    options = dict(keep=0.6, at=(1, 2), score="tokens")
    model = vitrim.reduce(dense(ROWS[name]), "evit", **options)
    assert _difference(model, images(ROWS[name]), class_tokens=(), score="tokens") < 1e-5


@torch.no_grad()
def test_the_scores_make_a_difference():
    """The control of the tests above: each option gives other logits."""
    x, row = images(ROWS["distilled"]), ROWS["distilled"]
    every = [dict(), dict(fuse=False), dict(score="-cls"), dict(score="tokens"), dict(score="random"), dict(keep=0.6)]
    logits = [vitrim.reduce(dense(row), "evit", **options)(x) for options in every]
    for i, a in enumerate(logits):
        assert all((a - b).abs().max() > 1e-3 for b in logits[:i])


@torch.no_grad()
def test_topk_is_evit_without_fusion():
    x, row = images(ROWS["deit"]), ROWS["deit"]
    for options in (dict(keep=0.7), dict(keep=(0.9, 0.5), at=(0, 2)), dict(keep=0.5, score="tokens")):
        ours = vitrim.reduce(dense(row), "topk", **options)(x)
        assert torch.equal(ours, vitrim.reduce(dense(row), "evit", fuse=False, **options)(x))


@torch.no_grad()
@pytest.mark.parametrize(("fuse", "counts"), [(True, [139, 99, 71]), (False, [138, 97, 68])])
def test_token_counts_of_deit(fuse, counts):
    model = vitrim.reduce(timm.create_model("deit_tiny_patch16_224").eval(), "evit", keep=0.7, fuse=fuse)
    after = [counts[0]] * 3 + [counts[1]] * 3 + [counts[2]] * 3
    assert vitrim.profile(model).tokens == [196] * 3 + after
    _, trace = model(torch.randn(1, 3, 224, 224), trace=True)
    assert [record.kept.shape[1] for record in trace] == [196] * 3 + after


@torch.no_grad()
def test_an_earlier_fused_token_counts_as_one_and_can_be_kept_or_fused_again():
    model = vitrim.reduce(dense(ROWS["deit"]), "evit", keep=0.5, at=(0, 1, 2, 3))
    seen = capture(model)
    model(images(ROWS["deit"], batch=16))
    # 25 -> 13 + 1 -> 7 + 1 -> 4 + 1 -> 3 + 1: the fused token stands last in what each place sees.
    assert [tokens.n for tokens, *_ in seen] == [25, 14, 8, 5]
    kept_again = [(r.index == tokens.n - 1).any(dim=1) for tokens, _, _, r in seen[1:]]
    assert torch.cat(kept_again).any() and not torch.cat(kept_again).all()


@torch.no_grad()
def test_kept_tokens_stand_in_descending_order_of_class_attention():
    model = vitrim.reduce(dense(ROWS["deit"]), "evit", keep=0.5, at=2)
    seen = capture(model)
    model(images(ROWS["deit"]))
    ((tokens, evidence, _, reduction),) = seen
    attention = evidence.class_attention()
    kept = attention.gather(1, reduction.index)
    assert (kept[:, 1:] <= kept[:, :-1]).all()
    rest = reduction.weights > 0
    assert (attention[rest].max() <= kept.amax()) and torch.equal(reduction.weights[rest], attention[rest])
    assert rest.sum(dim=1).tolist() == [tokens.n - reduction.index.shape[1]] * 2


@torch.no_grad()
def test_random_scores_depend_on_image_and_seed_alone():
    row, x = ROWS["deit"], images(ROWS["deit"], batch=4)

    def kept(seed, given):
        model = vitrim.reduce(dense(row), "evit", keep=0.5, score="random", seed=seed)
        return model(given, trace=True)[1][-1].kept

    assert torch.equal(kept(0, x), kept(0, x))
    assert torch.equal(kept(0, x.flip(0)).flip(0), kept(0, x))
    assert not torch.equal(kept(0, x), kept(1, x))
    rows = {tuple(sorted(row.tolist())) for row in kept(0, x)}
    assert len(rows) == 4, "different images keep different tokens"


@torch.no_grad()
def test_random_keeps_every_patch_about_equally_often():
    row = ROWS["deit"]
    model = vitrim.reduce(dense(row), "random", keep=0.4, at=1)
    kept = model(images(row, batch=600), trace=True)[1][1].kept
    share = torch.bincount(kept.flatten(), minlength=25) / 600
    assert (share - 0.4).abs().max() < 0.1  # five standard deviations of a fair draw


@torch.no_grad()
def test_registers_never_vote():
    """Whatever the registers attend to, the decision is the same as long as [CLS] is."""
    model = vitrim.reduce(dense(ROWS["registers"]), "evit", keep=0.5, at=0)
    seen = capture(model)
    model(images(ROWS["registers"]))
    evidence = seen[0][1]
    assert evidence.prefix == 5 and evidence.class_tokens == (0,)
    own = evidence.attention_map()[:, :, 0, 5:].mean(dim=1)
    torch.testing.assert_close(evidence.class_attention(), own)


# -- scores from outside (Table 14)


@torch.no_grad()
def test_scores_from_outside_choose_and_class_attention_weighs():
    row, scores = ROWS["deit"], torch.rand(2, 25)
    model = vitrim.reduce(dense(row), "evit", keep=0.5, at=(0, 2))
    seen = capture(model)
    model(images(row), scores=scores)
    first, second = seen
    assert torch.equal(first[3].index, scores.topk(13).indices)
    rest = first[3].weights > 0
    assert torch.equal(first[3].weights[rest], first[1].class_attention()[rest])
    assert torch.equal(second[0].notes[0], scores.gather(1, second[0].origin())), "scores follow their tokens"


@torch.no_grad()
def test_another_models_class_attention_guides():
    row = ROWS["deit"]
    guide = randomise(dense(row), seed=5)
    fast = vitrim.reduce(dense(row), vitrim.EViT(keep=0.5, at=0, score=vitrim.LastClassAttention(guide)))
    seen = capture(fast)
    x = images(row)
    fast(x)
    probe = vitrim.reduce(guide, vitrim.EViT(keep=0.5, at=3))
    last = capture(probe)
    probe(x)
    assert torch.equal(seen[0][3].index, last[0][1].class_attention().topk(13).indices)


def test_scores_from_outside_are_checked():
    row = ROWS["deit"]
    x = images(row)
    with pytest.raises(ValueError, match=r"scores are \[2, 24\].*\[2, 25\]"):
        vitrim.reduce(dense(row), "evit")(x, scores=torch.rand(2, 24))
    with pytest.raises(ValueError, match="takes none from outside"):
        vitrim.reduce(dense(row), "random")(x, scores=torch.rand(2, 25))
    with pytest.raises(ValueError, match=r"no \[CLS\]"):
        vitrim.LastClassAttention(dense(ROWS["siglip"]))


@torch.no_grad()
def test_nothing_happens_where_every_token_is_kept():
    row = ROWS["deit"]
    model = vitrim.reduce(dense(row), "evit", keep=0.99, at=2)  # ceil(0.99 * 25) = 25
    seen = capture(model)
    assert torch.equal(model(images(row)), dense(row)(images(row)))
    assert seen == [], "the method is not asked"


def test_gradients_reach_the_inattentive_tokens():
    """The fused token lets gradients through to the tokens in it (section 1); dropping does not."""
    row = ROWS["deit"]
    for fuse in (True, False):
        model = vitrim.reduce(dense(row), "evit", keep=0.5, at=2, fuse=fuse)
        seen = capture(model)
        logits = model(images(row))
        tokens, _, _, reduction = seen[0]
        assert isinstance(reduction, Fuse if fuse else Keep)
        (gradient,) = torch.autograd.grad(logits.sum(), tokens.x)
        reached = gradient[:, 1:].abs().sum(dim=2) > 0
        kept = torch.zeros(2, 25, dtype=torch.bool).scatter(1, reduction.index, True)
        assert reached[kept].all() and reached[~kept].all() == fuse and reached[~kept].any() == fuse
