"""BAT: exactness against the definition written out in loops, its clusters and pairs, cost, refusals."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import _bat_reference as slow
import pytest
import timm
import torch
from settings import BACKBONES, dense, images, randomise
from torch.utils.flop_counter import FlopCounterMode

import vitrim
from vitrim.build import attach
from vitrim.methods._clusters import density_peaks, k_means, runs, z_order
from vitrim.methods.bat import match

ROOT = Path(__file__).resolve().parent.parent
ROWS = {row.name: row for row in BACKBONES}
LOGS = {0.7: 3.005, 0.6: 2.583, 0.5: 2.344, 0.4: 2.083, 0.3: 1.823, 0.2: 1.645}  # GMACs, the authors' on DeiT-S

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


def voters(name):
    return {"distilled": (0, 1), "gap_no_cls": ()}.get(name, (0,))


def reference(name, fast, image, options):
    weighers = getattr(fast.methods[0], "weighers", None)
    return slow.features(fast.backbone, image, voters(name), weighers, **options)


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


# -- clusters


def members(groups):
    return [{frozenset((row == g).nonzero().flatten().tolist()) for g in row.unique()} for row in groups.group]


def test_density_peaks_find_clusters_that_are_there():
    centres = torch.tensor([[0.0, 0.0], [40.0, 0.0], [0.0, 40.0]])
    label = torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 2, 0, 1, 2])
    z = (centres[label] + torch.randn(4, 12, 2)).float()
    expected = {frozenset((label == g).nonzero().flatten().tolist()) for g in range(3)}
    assert members(density_peaks(z, 3, 2)) == [expected] * 4


def test_equal_tokens_are_settled_by_number():
    groups = density_peaks(torch.ones(2, 7, 4), 3, 5)
    assert groups.lead.tolist() == [[0, 1, 2]] * 2
    assert groups.group.tolist() == [[0, 1, 2, 0, 0, 0, 0]] * 2


def test_neighbours_beyond_the_others_are_all_others():
    z = torch.randn(2, 6, 4)
    assert torch.equal(density_peaks(z, 2, 50).group, density_peaks(z, 2, None).group)


def test_a_large_common_part_does_not_blur_distances():
    z = torch.randn(2, 40, 16)
    assert torch.equal(density_peaks(z, 5, 5).group, density_peaks(z + 512.0, 5, 5).group)


def test_no_group_of_k_means_is_empty():
    z = torch.ones(2, 9, 4)
    assert k_means(z, 4, 3).group.tolist() == [[0, 1, 2, 3, 0, 0, 0, 0, 0]] * 2


def test_runs_are_even_and_lead_themselves():
    for q in range(1, 40):
        for m in range(1, q + 1):
            groups = runs(torch.zeros(1, q, 1), m)
            lengths = groups.group[0].bincount()
            assert len(lengths) == m and lengths.max() - lengths.min() <= 1
            assert torch.equal(groups.group[0][groups.lead[0]], torch.arange(m))


def test_the_curve_stays_close_in_both_directions():
    order = sorted(range(64), key=z_order(8, 8).__getitem__)
    for j in range(0, 64, 16):
        rows, columns = {i // 8 for i in order[j : j + 16]}, {i % 8 for i in order[j : j + 16]}
        assert len(rows) == len(columns) == 4  # a quarter of the grid, not two of its rows
    assert len(set(z_order(3, 5))) == 15


# -- pairs


def test_alike_tokens_are_matched():
    z = torch.eye(8)[None].clone()
    z[0, 4], z[0, 2] = z[0, 7] + 0.1 * z[0, 0], z[0, 1] + 0.3 * z[0, 0]
    source, target = match(z, 2)
    assert source.tolist() == [[4, 2]] and target.tolist() == [[7, 1]]


def test_where_all_propose_the_same_one_the_rest_join_it():
    z = torch.eye(7)[None].clone()
    z[0, 0::2] += 9 * z[0, 3]
    source, target = match(z, 3)
    assert len(set(source[0].tolist())) == 3 and target.tolist() == [[3, 3, 3]]


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
    assert len(seen) == 4 and set(seen) == {torch.float32}  # distances and similarities at two places


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


# -- cost


@torch.no_grad()
@pytest.mark.parametrize("choice", OPTIONS)
def test_macs_equal_torchs_counter(choice):
    fast, x = attach(dense(ROWS["distilled"]), "bat", **OPTIONS[choice]), images(ROWS["distilled"], batch=1)
    counter = FlopCounterMode(display=False)
    with counter:
        fast(x)
    assert counter.get_total_flops() == 2 * vitrim.profile(fast).macs


def on_meta(name):
    with torch.device("meta"):
        return timm.create_model(f"{name}_patch16_224" if name.startswith("deit") else name)


def deit():
    return on_meta("deit_small")


def documented():
    """The table of docs/methods/bat.md: {row: figures at 0.7 to 0.2}."""
    lines = (ROOT / "docs" / "methods" / "bat.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in cells if len(row) == 7}


def test_the_documented_gmacs_are_ours_and_near_the_authors_logs():
    table = documented()
    assert [float(keep) for keep in table["keep"]] == list(LOGS)
    for j, (keep, logged) in enumerate(LOGS.items()):
        profile = vitrim.profile(vitrim.reduce(deit(), "bat", keep=keep))
        assert table["the authors' logs"][j] == f"{logged:.3f}"
        assert table["vitrim"][j] == f"{profile.gmacs:.3f}"
        assert table["of that, deciding"][j] == f"{profile.gmacs - model_gmacs(profile):.3f}"
        # At 0.6 the log lies below even the attentive tokens alone.
        assert abs(profile.gmacs - logged) <= max(0.05, 0.011 * logged) + (0.01 if keep == 0.6 else 0)


def model_gmacs(profile):
    """Without what deciding costs: what the papers count."""
    return profile.gmacs - sum(block.method_macs for block in profile.blocks) / 1e9


def test_published_gmacs(shared):
    sizes = {"deit_t": "deit_tiny", "deit_s": "deit_small", "deit_b": "deit_base", "lvvit_s": "lvvit_s"}
    rows = [r for r in csv.DictReader(shared("spec", "published.csv").read_text().splitlines()) if r["paper"] == "bat"]
    rows = [r for r in rows if r["method"].startswith(("bat", "evit+bat")) and r["backbone"] in sizes]
    assert len(rows) == 27
    for row in rows:
        fast = attach(on_meta(sizes[row["backbone"]]), "bat", keep=float(row["keep"] or 0.7), **named(row["method"]))
        profile, printed = vitrim.profile(fast), float(row["gmacs"])
        tolerance = max(0.05, 0.011 * printed)
        assert abs(model_gmacs(profile) - printed) <= tolerance, row
        # Fig. 6 cuts its logs (2.083, 1.645) to one digit; deciding comes on top of what it prints.
        deciding = 0.005 if float(row["keep"] or 0.7) < 0.5 else 0.0
        assert abs(profile.gmacs - printed) <= tolerance + deciding, row


def named(method):
    """Options of a row of published.csv."""
    if method == "evit+bat":
        return dict(merge="cluster", normalise=False)
    mergers = {"average pooling": "average", "max pooling": "max", "spatial pooling": "spatial"}
    mergers |= {"density peaks": "density", "convolution": "convolution", "mlp": "mlp"}
    key, _, value = method.removeprefix("bat").strip().partition("=")
    if value.startswith("k-means"):
        return dict(merger="kmeans", iterations=int(value.split()[1]))
    return {key: mergers[value] if key == "merger" else value} if key else {}


def test_the_budget_solves_the_keep_rate():
    model = deit()
    fast = vitrim.reduce(model, "bat", macs=0.6)
    (method,) = fast.methods
    share = vitrim.profile(fast).share
    assert share <= 0.6
    assert vitrim.profile(vitrim.reduce(model, "bat", keep=method.keep + 0.01)).share > 0.6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(keep=-0.1), r"keep rate -0.1 is not in \[0, 1\]"),
        (dict(keep=1.2), r"not in \[0, 1\]"),
        (dict(keep=0, merge="none"), "leaves no patch token"),
        (dict(keep=(0.5, 0.0, 0.5), merge="none"), "leaves no patch token"),
        (dict(merge="pairs"), "merge 'pairs' is not one of none, pack, cluster"),
        (dict(merger="dpc"), "merger 'dpc' is not one of density, kmeans"),
        (dict(merge="pack", merger="mlp"), "nothing to group"),
        (dict(clusters=0), "clusters=0: give a whole number from 1"),
        (dict(clusters=2.5), "whole number from 1"),
        (dict(clusters=True), "whole number from 1"),
        (dict(clusters="4"), "whole number from 1"),
        (dict(clusters=(3, 2)), "2 clusters for 3 places"),
        (dict(pairs=-1), "pairs=-1: give a whole number from 0"),
        (dict(pairs=(1, 2, 3, 4)), "4 pairs for 3 places"),
        (dict(pairs=()), "0 pairs"),
        (dict(neighbours=0), "neighbours=0: give a whole number from 1"),
        (dict(iterations=0), "iterations=0"),
        (dict(score="mean"), "score 'mean' is not one of"),
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
