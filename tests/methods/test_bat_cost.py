"""What BAT costs: torch's counter, the authors' logs, the published tables, budgets."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import timm
import torch
from counting import counted_macs
from settings import BACKBONES, dense, images

import vitrim
from vitrim.common.on_meta import Undrawn
from vitrim.runtime.build import attach

ROOT = Path(__file__).resolve().parents[2]
ROWS = {row.name: row for row in BACKBONES}
LOGS = {0.7: 3.005, 0.6: 2.583, 0.5: 2.344, 0.4: 2.083, 0.3: 1.823, 0.2: 1.645}  # GMACs, the authors' on DeiT-S


OPTIONS = {
    "default": dict(keep=0.6),
    "many": dict(keep=0.5, clusters=4, pairs=5),
    "none": dict(keep=0.6, merge="none"),
    "pack": dict(keep=0.6, merge="pack"),
    "cluster": dict(keep=0.6, merge="cluster"),
    "to the letter": dict(keep=0.5, clusters=4, normalise=False),
    "cluster everything": dict(keep=0, merge="cluster", clusters=(12, 6, 3)),
    "all are centres": dict(keep=0.5, merge="cluster", clusters=99),
    "tokens": dict(keep=0.5, score="tokens"),
    "kmeans": dict(keep=0.4, clusters=4, merger="kmeans"),
    "kmeans, once": dict(keep=0.4, clusters=4, merger="kmeans", iterations=1),
    "spatial": dict(keep=0.4, clusters=4, merger="spatial"),
    "max": dict(keep=0.4, clusters=4, merger="max"),
    "convolution": dict(keep=0.4, clusters=4, merger="convolution"),
    "mlp": dict(keep=0.4, clusters=4, merger="mlp"),
}


@pytest.mark.parametrize("choice", OPTIONS)
def test_macs_equal_torchs_counter(choice):
    fast, x = attach(dense(ROWS["distilled"]), "bat", **OPTIONS[choice]), images(ROWS["distilled"], batch=1)
    assert counted_macs(fast, x) == vitrim.profile(fast).macs


def on_meta(name):
    with torch.device("meta"), Undrawn():
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
