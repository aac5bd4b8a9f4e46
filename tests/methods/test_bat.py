"""BAT: exactness against the definition written out in loops, its behaviour in a model, refusals."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import references.bat as slow
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from settings import BACKBONES, dense, images, randomise

import vitrim
from vitrim.runtime.build import attach

ROWS = {row.name: row for row in BACKBONES}

OPTIONS = {
    "default": dict(keep=0.6),
    "many": dict(keep=0.5, clusters=4, pairs=5),
    "rates": dict(keep=(0.8, 0.4), at=(0, 3), clusters=(3, 5), pairs=(2, 1), neighbours=None),
    "every block": dict(keep=0.8, at=(0, 1, 2, 3), clusters=2, neighbours=1),
    "to the letter": dict(keep=0.5, clusters=4, pairs=3, normalise=False),
    "none": dict(keep=0.6, merge="none"),
    "pack": dict(keep=0.6, merge="pack"),
    "cluster": dict(keep=0.6, merge="cluster"),
    "evit+bat": dict(keep=0.5, merge="cluster", clusters=3, normalise=False),
    "cluster everything": dict(keep=0, merge="cluster", clusters=(12, 6, 3)),
    "all are centres": dict(keep=0.5, merge="cluster", clusters=99),
    "kmeans": dict(keep=0.4, clusters=4, merger="kmeans"),
    "kmeans, once": dict(keep=0.4, clusters=4, merger="kmeans", iterations=1),
    "average": dict(keep=0.4, clusters=4, merger="average"),
    "max": dict(keep=0.4, clusters=4, merger="max", pairs=2),
    "max to the letter": dict(keep=0.4, clusters=4, merger="max", pairs=2, normalise=False),
    "spatial": dict(keep=0.4, clusters=4, merger="spatial"),
    "convolution": dict(keep=0.4, clusters=4, merger="convolution"),
    "mlp": dict(keep=0.4, clusters=4, merger="mlp"),
}


def reduced(name, **options):
    """The row's model in double precision with BAT on it, its learned parts random; and images."""
    fast = attach(dense(ROWS[name]), "bat", **options).double()
    for method in fast.methods:
        randomise(method, seed=1)
    return fast.eval(), images(ROWS[name], batch=3).double()


def class_tokens(name):
    return {"distilled": (0, 1), "gap_no_cls": ()}.get(name, (0,))


def reference(name, fast, image, options):
    weighers = getattr(fast.methods[0], "weighers", None)
    return slow.features(fast.backbone, image, class_tokens(name), weighers, **options)


def check(name, options):
    fast, x = reduced(name, **options)
    ours = fast.forward_features(x)
    for one, image in zip(ours, x, strict=True):
        theirs, _, _ = reference(name, fast, image, options)
        torch.testing.assert_close(one, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_bat_equals_the_definition_written_out(options):
    check("deit", options)


@torch.no_grad()
@pytest.mark.parametrize("name", ["distilled", "registers", "rectangle", "gap_no_cls"])
@pytest.mark.parametrize("choice", ["default", "many", "to the letter", "spatial"])
def test_on_other_models(name, choice):
    check(name, {**OPTIONS[choice], "score": "tokens" if name == "gap_no_cls" else "cls"})


@torch.no_grad()
def test_logits_in_float32():
    options = OPTIONS["many"]
    fast, x = reduced("deit", **options)
    features = torch.stack([reference("deit", fast, image, options)[0] for image in x])
    logits = fast.backbone.forward_head(features).float()
    torch.testing.assert_close(fast.float()(x.float()), logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("choice", ["many", "max", "evit+bat"])
def test_average_pooling_weighs_by_size(choice):
    options = OPTIONS[choice]
    fast, x = reduced("gap", **options)
    pooled = []
    for image in x:
        features, sizes, _ = reference("gap", fast, image, options)
        assert sum(sizes) == 25
        pooled.append(torch.tensor(sizes).double() @ features[1:] / 25)
    model = fast.backbone
    torch.testing.assert_close(fast(x), model.head(model.fc_norm(torch.stack(pooled))), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("choice", ["default", "rates", "to the letter", "cluster everything", "kmeans", "spatial"])
def test_sizes_owners_and_places_agree_with_the_definition(choice):
    fast, x = reduced("deit", **OPTIONS[choice])
    _, trace = fast(x, trace=True)
    tokens = fast(x, losses=True)[1].tokens
    for j, image in enumerate(x):
        _, sizes, places = reference("deit", fast, image, OPTIONS[choice])
        assert tokens.size[j].tolist() == sizes and trace[-1].kept[j].tolist() == places
        assert trace[-1].owners[j].bincount(minlength=len(sizes)).tolist() == sizes


@torch.no_grad()
def test_on_photographs(shared):
    weights, folder = shared("weights", "deit_tiny_patch16_224.safetensors"), shared("data", "imagenette", "val")
    model = timm.create_model("deit_tiny_patch16_224").eval()
    model.load_state_dict(load_file(weights))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    photographs = [next(iter(sorted(c.iterdir()))) for c in sorted(folder.iterdir())[:1]]
    x = torch.stack([transform(Image.open(path).convert("RGB")) for path in photographs])
    ours = vitrim.reduce(model, "bat", keep=0.5)(x)
    exact = copy.deepcopy(model).double()
    theirs = [exact.head(slow.features(exact, image, at=(3, 6, 9), keep=0.5)[0][0]) for image in x.double()]
    assert (ours - torch.stack(theirs)).abs().max() < 1e-5 * ours.abs().max()


# -- its relation to EViT


@torch.no_grad()
@pytest.mark.parametrize("score", ["cls", "tokens"])
def test_packing_by_the_letter_is_evit(score):
    model, x = dense(ROWS["deit"]), images(ROWS["deit"])
    evit = vitrim.reduce(model, "evit", keep=0.6, score=score)(x)
    packed = vitrim.reduce(model, "bat", keep=0.6, score=score, merge="pack", normalise=False)(x)
    torch.testing.assert_close(packed, evit)
    one_cluster = vitrim.reduce(model, "bat", keep=0.6, score=score, merge="cluster", clusters=1, normalise=False)(x)
    torch.testing.assert_close(one_cluster, evit)


@torch.no_grad()
def test_merging_nothing_is_topk():
    model, x = dense(ROWS["deit"]), images(ROWS["deit"])
    assert torch.equal(
        vitrim.reduce(model, "bat", keep=0.6, merge="none")(x), vitrim.reduce(model, "topk", keep=0.6)(x)
    )


# -- how it behaves in a model


@torch.no_grad()
def test_bfloat16_autocast_clusters_in_float32(monkeypatch):
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "bat", keep=0.5, at=(1, 2), clusters=3), images(ROWS["deit"])
    seen, bmm = [], torch.bmm

    def watched(a, b):
        out = bmm(a, b)
        seen.append(out.dtype)
        return out

    monkeypatch.setattr(torch, "bmm", watched)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast(x)
    assert len(seen) >= 4 and set(seen) == {torch.float32}  # distances and similarities at two places, at least


@pytest.mark.parametrize("merger", ["density", "max", "convolution", "mlp"])
def test_gradients_reach_every_token_and_parameter(merger):
    fast = attach(dense(ROWS["gap"]), "bat", keep=0.5, clusters=4, merger=merger).train()
    x = images(ROWS["gap"])
    randomise(fast.methods[0])
    fast(x.requires_grad_()).square().sum().backward()
    patches = x.grad.unfold(2, 8, 8).unfold(3, 8, 8).abs().amax(dim=(1, 4, 5))
    assert (patches > 0).all()
    # A bias that all tokens of a softmax share moves nothing.
    still = [n for n, p in fast.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not still


def test_learned_mergers_start_as_the_average():
    model, x = dense(ROWS["deit"]), images(ROWS["deit"])
    average = vitrim.reduce(model, "bat", keep=0.5, merger="average")(x)
    for merger in ("convolution", "mlp"):
        with pytest.warns(vitrim.UntrainedWarning):
            fast = vitrim.reduce(model, "bat", keep=0.5, merger=merger)
        torch.testing.assert_close(fast(x), average)


@torch.no_grad()
def test_options_survive_saving(tmp_path):
    given = dict(keep=(0.8, 0.5, 0.0), merge="cluster", clusters=(3, 2, 4), neighbours=None, normalise=False)
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "bat", **given), images(ROWS["deit"])
    assert fast.methods[0].options() == {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
    again = vitrim.methods.bat.BAT(**fast.methods[0].options())
    assert torch.equal(vitrim.reduce(fast.backbone, again)(x), fast(x))


@torch.no_grad()
def test_keep_0_leaves_the_clusters_alone():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "bat", keep=0), images(ROWS["deit"])
    _, trace = fast(x, trace=True)
    assert [t.kept.shape[1] for t in trace] == [25, 2, 1, 1]  # a tenth each time, at least one


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(keep=-0.1), r"keep=-0.1 is not in \[0, 1\]"),
        (dict(keep=1.2), r"not in \[0, 1\]"),
        (dict(keep=0, merge="none"), "leaves no patch token"),
        (dict(keep=(0.5, 0.0, 0.5), merge="none"), "leaves no patch token"),
        (dict(merge="pairs"), 'merge="pairs": choose one of none, pack, cluster'),
        (dict(merger="dpc"), 'merger="dpc": choose one of density, kmeans'),
        (dict(merge="pack", merger="mlp"), "nothing to group"),
        (dict(clusters=0), "clusters=0: give a whole number from 1"),
        (dict(clusters=2.5), "whole number from 1"),
        (dict(clusters=True), "whole number from 1"),
        (dict(clusters="4"), "whole number from 1"),
        (dict(clusters=(3, 2)), ": 2 for 3 places"),
        (dict(pairs=-1), "pairs=-1: give a whole number from 0"),
        (dict(pairs=(1, 2, 3, 4)), ": 4 for 3 places"),
        (dict(pairs=()), ": 0 for several places"),
        (dict(neighbours=0), "neighbours=0: give a whole number from 1"),
        (dict(iterations=0), "iterations=0"),
        (dict(score="mean"), 'score="mean": choose one of '),
        (dict(at=(9,)), "not a block"),
        (dict(r=3), "no option r"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(ValueError, match=says):
        vitrim.reduce(dense(ROWS["deit"]), "bat", **options)


def test_a_model_without_cls_needs_another_score():
    with pytest.raises(ValueError, match='score="tokens"'):
        vitrim.reduce(dense(ROWS["siglip"]), "bat")


def test_merged_maps_are_undone():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "bat", keep=0.5, at=2, clusters=4, merger="max"), images(ROWS["deit"])
    seen = []
    fast.methods[0].register_forward_hook(lambda _, given, reduction: seen.append((given[0], reduction)))
    fast(x)
    (tokens, reduction) = seen[0]
    y = reduction.shrink(tokens.x, 1)
    torch.testing.assert_close(reduction.restore(y, tokens.x, 1), tokens.x)
    plain = dataclasses.replace(reduction, moved=None)
    torch.testing.assert_close(plain.shrink(tokens.x, 1), y)
