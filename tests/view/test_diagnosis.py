"""Every diagnostic against its definition, written out in loops over timm's own hidden states and attention maps."""

from __future__ import annotations

import warnings
from itertools import permutations

import numpy as np
import pytest
import torch
from pictures import small
from settings import pairs

import vitrim
from vitrim.view import diagnose
from vitrim.view.diagnosis.attention import INATTENTIVE
from vitrim.view.diagnosis.diagnosing import DENSE, DIAGNOSTICS
from vitrim.view.diagnosis.reselection import reselected
from vitrim.view.fates import shares_token

pytestmark = pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")


def trained(model, name, **options):
    """A method whose learned parts have taken some values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vitrim.UntrainedWarning)
        return vitrim.reduce(model, name, **options).eval()


MODEL = small(num_classes=3)
IMAGES, LABELS = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 0])
BATCHES = [(IMAGES[:4], LABELS[:4]), (IMAGES[4:], LABELS[4:])]
REDUCED = {
    "evit": vitrim.reduce(MODEL, "evit", keep=0.5),
    "idle": vitrim.reduce(MODEL, "idlevit", keep=0.5),
    "tome": vitrim.reduce(MODEL, "tome", r=8, proportional=False),
    "ats": vitrim.reduce(MODEL, "ats", keep=0.6),
    "tofe": trained(MODEL, "tofe", keep=(0.6, 0.4, 0.3)),
    "slow": vitrim.reduce(MODEL, "evovit", keep=0.5),
}
EVERY = {DENSE: vitrim.ReducedViT(MODEL, None), **REDUCED}
DEPTH, EARLY, LATE = 4, 1, 3


@pytest.fixture(scope="module")
def found():
    return diagnose(REDUCED, BATCHES)


def traces(name):
    with torch.inference_mode():
        return EVERY[name](IMAGES, trace=True)[1]


def left_after(name, block):
    """Patch tokens of each image after a block, by a forward that ends there."""
    with torch.inference_mode():
        tokens, _ = EVERY[name].tokens_after(IMAGES, (), block, False, "last")
        if tokens.layout is None:
            return list(tokens.patches)
        lengths = (traces(name)[block].kept >= 0).sum(dim=1).tolist()
        padded = tokens.layout.patches.pad(tokens.patches)
        return [image[:length] for image, length in zip(padded, lengths, strict=True)]


def maps_of(x, block):
    """timm's own attention weights [b, h, n, n] of a block on tokens x, fused attention off."""
    attention, seen = MODEL.blocks[block].attn, []
    fused, attention.fused_attn = attention.fused_attn, False
    hook = attention.attn_drop.register_forward_hook(lambda module, given, out: seen.append(out))
    try:
        with torch.inference_mode():
            attention(MODEL.blocks[block].norm1(x))
    finally:
        hook.remove()
        attention.fused_attn = fused
    return seen[0]


def hidden(name, block):
    """All tokens before a block, of a method that leaves each patch its place."""
    with torch.inference_mode():
        if block == 0:
            return MODEL.norm_pre(MODEL._pos_embed(MODEL.patch_embed(IMAGES)))
        return EVERY[name].tokens_after(IMAGES, (), block - 1, False, "last")[0].x


# -- how alike tokens become


@pytest.mark.parametrize("name", EVERY)
def test_similarity_is_the_mean_cosine_of_all_pairs(found, name):
    for block in range(DEPTH):
        means = [
            np.mean([cosine(a, b) for a, b in permutations(image.numpy(), 2)]) for image in left_after(name, block)
        ]
        assert found.models[name].similarity[block] == pytest.approx(np.mean(means), abs=2e-5)


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def test_the_dense_models_tokens_are_timms():
    seen = []
    hooks = [block.register_forward_hook(lambda module, given, out: seen.append(out)) for block in MODEL.blocks]
    with torch.inference_mode():
        MODEL(IMAGES)
    for hook in hooks:
        hook.remove()
    for block, out in enumerate(seen):
        torch.testing.assert_close(torch.stack(left_after(DENSE, block)), out[:, 1:])


@pytest.mark.parametrize("name", REDUCED)
def test_diversity_is_eq_4_after_the_last_place(found, name):
    ((block, score),) = found.models[name].diversity.items()
    assert block == max(place.block for method in REDUCED[name].methods for place in method.places)
    for model, said in ((name, score), (DENSE, found.models[DENSE].diversity[block])):
        scores = [
            min(np.abs(z - one).sum() for one in z) / np.abs(z).sum() for z in map(np.array, left_after(model, block))
        ]
        assert said == pytest.approx(np.mean(scores), rel=1e-5)


# -- what comes back


def selected(name):
    """[image][block] -> the patches that have a token of their own."""
    owners = [record.owners.numpy() for record in traces(name)]
    return [[set(np.flatnonzero((o[i] >= 0) & ~shares_token(o[i]))) for o in owners] for i in range(len(IMAGES))]


@pytest.mark.parametrize("name", ["idle", "tofe", "slow"])
def test_reselection_is_table_4_of_idlevit(found, name):
    every, patches = selected(name), 64
    back = [[now - set.intersection(*blocks[: i + 1]) for i, now in enumerate(blocks)] for blocks in every]
    shares = found.models[name].reselection
    assert shares.anywhere == pytest.approx(np.mean([len(set.union(*blocks)) for blocks in back]) / patches)
    assert shares.last == pytest.approx(np.mean([len(blocks[-1]) for blocks in back]) / patches)
    assert shares.selected == pytest.approx(np.mean([len(blocks[-1]) for blocks in every]) / patches)
    assert shares.ratio == shares.last / shares.selected and shares.last <= min(shares.anywhere, shares.selected)


def test_p_l_of_idlevit_is_its_keep_rate_cubed(found):
    assert found.models["idle"].reselection.selected == 0.5**3
    assert found.models["idle"].reselection.anywhere > 0, "the test shows nothing"


def test_a_patch_is_reselected_when_an_earlier_block_left_it_out():
    rows = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]]).bool()
    said = reselected(rows.T[None])[0].T.int().tolist()
    assert said == [[0, 0, 0], [0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("name", ["idle", "tofe", "slow"])
def test_reuse_is_table_vii_of_tofe(found, name):
    every, stages = selected(name), found.models[name].reuse
    places = [place.block for place in REDUCED[name].methods[0].places]
    assert [stage.block for stage in stages] == places
    for number, stage in enumerate(stages):
        now = [blocks[stage.block] for blocks in every]
        before = [blocks[places[number - 1]] if number else set(range(64)) for blocks in every]
        assert stage.remaining == pytest.approx(np.mean([len(a) for a in now]))
        assert stage.reused == pytest.approx(np.mean([len(a - b) for a, b in zip(now, before, strict=True)]))
        assert stage.ratio == pytest.approx(stage.reused / stage.remaining)


@pytest.mark.parametrize("name", REDUCED)
def test_usage_counts_the_tokens_of_every_image(found, name):
    planned = vitrim.profile(REDUCED[name]).tokens
    for stage in found.models[name].usage:
        counts = [len(np.unique(o[o >= 0])) for o in traces(name)[stage.block].owners.numpy()]
        assert sorted(n for n, images in stage.images.items() for _ in range(images)) == sorted(counts)
        assert stage.mean == pytest.approx(np.mean(counts)) and stage.deviation == pytest.approx(np.std(counts))
        assert name == "ats" or (stage.low, stage.high) == (planned[stage.block],) * 2
    assert name != "ats" or any(stage.low < stage.high for stage in found.models[name].usage)


# -- attention


@pytest.mark.parametrize("name", [DENSE, "evit", "idle", "tome", "tofe"])
def test_attention_is_sorted_by_class_attention(found, name):
    answer, sums = found.models[name].sorted_attention, 0.0
    assert answer.block == LATE
    with torch.inference_mode():
        x = EVERY[name].tokens_after(IMAGES, (), LATE - 1, False, "last")[0].x
    for map_ in maps_of(x, LATE).mean(dim=1).numpy():
        order = np.argsort(-map_[0, 1:], kind="stable")
        sums = sums + map_[1:, 1:][order][:, order]
    np.testing.assert_allclose(answer.map.numpy(), sums / len(IMAGES), rtol=1e-4, atol=1e-6)
    half = (len(answer.map) + 1) // 2
    top, rest = answer.map[:half], answer.map[half:]
    assert answer.from_top == pytest.approx((top[:, :half].sum() / top.sum()).item())
    assert answer.from_rest == pytest.approx((rest[:, :half].sum() / rest.sum()).item())


@pytest.mark.parametrize("name", [DENSE, "idle", "tofe"])
def test_inattentive_tokens_are_followed(found, name):
    boxes = found.models[name].inattentive
    assert [box.block for box in boxes] == list(range(DEPTH))
    class_rows = [maps_of(hidden(name, block), block).mean(dim=1)[:, 0, 1:].numpy() for block in range(DEPTH)]
    chosen = np.argsort(class_rows[EARLY], axis=1)[:, :INATTENTIVE]
    for box in boxes:
        theirs = np.take_along_axis(class_rows[box.block], chosen, axis=1)
        quantiles = np.quantile(theirs, (0, 0.25, 0.5, 0.75, 1), axis=1).mean(axis=1)
        said = box.low, box.first, box.median, box.third, box.high
        np.testing.assert_allclose(said, quantiles, rtol=1e-4)
        assert box.mean == pytest.approx(theirs.mean(), rel=1e-4)
        assert box.every == pytest.approx(class_rows[box.block].mean(), rel=1e-4)


# -- answers


@pytest.fixture(scope="module")
def logits():
    with torch.inference_mode():
        return {name: model(IMAGES) for name, model in EVERY.items()}


def test_agreement_by_class_is_counted(found, logits):
    said = {name: each.argmax(dim=1).tolist() for name, each in logits.items()}
    assert sum(row.images for row in found.classes) == len(IMAGES) and found.labelled
    for row in found.classes:
        mine = [i for i, label in enumerate(LABELS.tolist()) if label == row.index]
        assert row.images == len(mine)
        for name in REDUCED:
            assert row.agreement[name] == np.mean([said[name][i] == said[DENSE][i] for i in mine])
        for name in EVERY:
            assert row.top1[name] == np.mean([said[name][i] == row.index for i in mine])
    for name in REDUCED:
        overall = sum(row.images * row.agreement[name] for row in found.classes) / len(IMAGES)
        assert found.models[name].agreement.agreement == pytest.approx(100 * overall)
    least = [sum(row.agreement.values()) for row in found.classes]
    assert least == sorted(least)


def test_without_labels_a_class_is_what_the_dense_model_says(logits):
    found = diagnose(REDUCED, [IMAGES[:1], IMAGES[1:]])
    said = logits[DENSE].argmax(dim=1)
    assert not found.labelled and {row.index: row.images for row in found.classes} == {
        int(c): int((said == c).sum()) for c in said.unique()
    }
    for row in found.classes:
        mine = said == row.index
        assert row.top1 is None and row.agreement["idle"] == (
            (logits["idle"].argmax(dim=1) == said)[mine].float().mean().item()
        )


@pytest.mark.parametrize("most", [0, 2, 99])
def test_the_photographs_that_differ_are_found_and_the_surest_kept(logits, most):
    found = diagnose(REDUCED, BATCHES, differing=most)
    said = torch.stack([each.argmax(dim=1) for each in logits.values()])
    differ = (said != said[0]).any(dim=0).nonzero().flatten().tolist()
    sure = logits[DENSE].softmax(dim=1).amax(dim=1)
    wanted = sorted(differ, key=lambda i: -sure[i].item())[:most]
    assert found.found == len(differ) > 2
    assert [one.name for one in found.differing] == [f"image {i}" for i in wanted]
    for i, one in zip(wanted, found.differing, strict=True):
        assert one.dense.probability == pytest.approx(sure[i].item(), rel=1e-5) and one.pixels.shape == (64, 64, 3)
        assert one.label == ("tench", "golf ball", "cat")[LABELS[i]]
        assert one.reduced["evit"].probability == pytest.approx(logits["evit"][i].softmax(dim=0).max().item(), rel=1e-5)


# -- laws of the whole


def test_a_forward_that_is_watched_is_the_forward():
    class Nobody:
        def before(self, block, tokens): ...

        def after(self, block, tokens): ...

    for model in EVERY.values():
        with torch.inference_mode():
            output, trace = model.watched(IMAGES, Nobody())
            again, records = model(IMAGES, trace=True)
        assert torch.equal(output, again)
        assert all(torch.equal(a.owners, b.owners) for a, b in zip(trace, records, strict=True))


def test_batches_may_be_cut_anywhere(found):
    alone = diagnose(REDUCED, [(IMAGES[i : i + 1], LABELS[i : i + 1]) for i in range(len(IMAGES))])
    assert alone.classes == found.classes and alone.found == found.found
    for name in EVERY:
        one, other = alone.models[name], found.models[name]
        np.testing.assert_allclose(one.similarity, other.similarity, rtol=1e-5)
        assert one.usage == other.usage and one.reselection == other.reselection and one.reuse == other.reuse


REASONS = {
    ("evit", "reselection"): "no token that it leaves out comes back",
    ("tome", "reuse"): "no token that it leaves out comes back",
    ("evit", "inattentive"): "patches that it leaves out or merges get no attention of their own",
    ("ats", "sorted_attention"): "its images come to this block with numbers of tokens of their own",
    (DENSE, "usage"): "nothing is reduced",
}


@pytest.mark.parametrize(
    "asked, reason", REASONS.items(), ids=lambda key: "-".join(key) if isinstance(key, tuple) else ""
)
def test_what_has_no_meaning_is_left_out_with_the_reason(found, asked, reason):
    name, diagnostic = asked
    assert found.models[name].left_out[diagnostic] == reason and getattr(found.models[name], diagnostic) is None


@pytest.mark.parametrize("backbone, method", pairs("cover"))
def test_every_method_and_every_model_is_diagnosed(backbone, method):
    model = vitrim.reduce(backbone.build().eval(), method.make())
    images = torch.randn(2, 3, *backbone.image)
    found = diagnose(vitrim.runtime.model.unwrap(model), [images])
    for each in found.models.values():
        for diagnostic in DIAGNOSTICS:
            assert (getattr(each, diagnostic.name) is None) == (diagnostic.name in each.left_out)
    assert ("sorted_attention" in found.models[DENSE].left_out) == (not backbone.cls)
    assert np.isfinite(found.models[DENSE].similarity).all() and found.images == 2


def test_without_a_classifier_features_are_compared():
    model = small(num_classes=0)
    fast = vitrim.reduce(model, "evit", keep=0.5)
    found = diagnose(fast, BATCHES, differing=2)
    with torch.inference_mode():
        cosines = torch.cosine_similarity(model(IMAGES), fast(IMAGES), dim=1)
    assert found.classes == () and [one.cosines["EViT keep=0.5"] for one in found.differing] == pytest.approx(
        cosines.sort().values[:2].tolist(), rel=1e-4
    )
    assert found.models["EViT keep=0.5"].agreement.cosine == pytest.approx(cosines.mean().item(), rel=1e-4)


def test_models_alike_are_numbered_and_modes_come_back():
    fast = vitrim.reduce(MODEL, "evit", keep=0.5)
    fast.train()
    assert list(diagnose([fast, fast], [IMAGES]).models) == [DENSE, "EViT keep=0.5", "EViT keep=0.5 (2)"]
    assert fast.training
    fast.eval()


def test_not_a_number_agrees_with_nothing():
    model = small()
    fast = vitrim.reduce(model, "evit", keep=0.5)
    with torch.no_grad():
        model.head.bias.fill_(torch.nan)
    found = diagnose(fast, BATCHES)
    assert found.models["EViT keep=0.5"].agreement.agreement == 0
    assert {share for row in found.classes for share in row.agreement.values()} == {0.0}


REFUSED = {
    "a dense model": (lambda: diagnose(MODEL, BATCHES), "VisionTransformer is no reduced model"),
    "no model": (lambda: diagnose([], BATCHES), "give at least one model of vitrim.reduce"),
    "two dense ones": (
        lambda: diagnose([REDUCED["evit"], vitrim.reduce(small(), "evit")], BATCHES),
        "reductions of several dense ones",
    ),
    "a taken name": (
        lambda: diagnose({"dense": REDUCED["evit"]}, BATCHES),
        "what the dense model is called",
    ),
    "no image": (lambda: diagnose(REDUCED["evit"], []), "there is no image that can be read"),
    "none that can be read": (
        lambda: diagnose(REDUCED["evit"], [vitrim.data.collate([vitrim.data.Unreadable("b.png", "it is empty")])]),
        "there is no image that can be read: b.png: it is empty",
    ),
    "some labels": (
        lambda: diagnose(REDUCED["evit"], [BATCHES[0], IMAGES]),
        "some batches have labels and some",
    ),
    "a label beyond": (lambda: diagnose(REDUCED["evit"], [(IMAGES, LABELS + 1)]), "labels reach from 1 to 3"),
}


@pytest.mark.parametrize("call, said", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_diagnosed_is_refused_in_a_line(call, said):
    with pytest.raises(ValueError, match=said) as refused:
        call()
    assert "\n" not in str(refused.value) and len(str(refused.value)) <= 300
