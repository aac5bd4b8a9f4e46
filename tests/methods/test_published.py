"""Published GMACs: every row of published.csv that vitrim builds comes out as printed, or as the paper's text gives.

The csv lies in VITRIM_SHARED and not in the repository.
"""

from __future__ import annotations

import pytest
import timm
from references.published import APART, METHODS, TEXT, as_the_papers_count, key_of, model_of, published_rows
from shared_folder import SHARED

import vitrim
from vitrim.common.on_meta import on_meta

ROWS = published_rows(SHARED)
IDS = ["-".join(row[name] for name in ("paper", "table", "method", "backbone", "image_size", "keep")) for row in ROWS]


def tolerance(row: dict[str, str], printed: float) -> float:
    """0.05 or 1.1 %; ToFe's stage shares, which are rounded means over images, 4 %; Evo-ViT's stage cut is not told."""
    if row["method"].startswith("tofe"):
        return 0.04 * printed
    return max(0.05, (0.03 if row["method"] == "evo-vit" else 0.011) * printed)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_published_gmacs(row):
    ours, printed, text = as_the_papers_count(model_of(row)), float(row["gmacs"]), TEXT.get(key_of(row))
    if row["method"] in APART:
        assert 0.04 * printed < ours - printed < APART[row["method"]] * printed
    elif text is not None:
        assert ours == pytest.approx(text, abs=0.0101 if row["method"] == "dynamicvit" else 0.0051)
    else:
        assert abs(ours - printed) <= tolerance(row, printed)


IDLING = [row for row in ROWS if row["method"] == "idlevit" and row["keep"] != "1.0"]


@pytest.mark.parametrize("row", IDLING, ids=lambda row: f"{row['table']}-{row['backbone']}-{row['keep']}")
def test_our_idlevit_costs_no_more_than_printed_or_listed(row):
    """What vitrim computes, with the folded score."""
    ours = vitrim.profile(model_of(row)).gmacs
    assert ours <= max(float(row["gmacs"]), TEXT.get(key_of(row), 0.0)) + 0.05


def test_the_rows_are_walked():
    """Not one row is lost to a renamed column or method."""
    if not ROWS:
        pytest.skip(f"{SHARED / 'spec' / 'published.csv'} is not there")
    assert {r["table"] for r in ROWS if r["paper"] == "evit"} >= {
        "2",
        "3",
        "5a",
        "5b",
        "8",
        "9",
        "10",
        "12",
        "13",
        "14",
        "15",
    }
    assert {r["method"] for r in ROWS} >= set(METHODS) - {"topk (no fusion, no training)"}
    assert len(ROWS) >= 165
    assert {key_of(r) for r in ROWS} >= set(TEXT)


def test_guided_from_outside_in_the_first_block():
    """Table 14 prints 2.2: tokens chosen before the first block. Here they leave between its attention and its MLP."""
    with on_meta():
        model = vitrim.reduce(timm.create_model("deit_small_patch16_224"), "evit", keep=0.5, at=0)
    assert vitrim.profile(model).gmacs == pytest.approx(2.35, abs=0.0051)
    block = vitrim.profile(model).blocks[1].macs
    assert (12 * block + vitrim.profile(model).embed_macs) / 1e9 == pytest.approx(2.2, abs=0.08)
