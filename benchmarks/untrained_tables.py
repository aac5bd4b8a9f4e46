"""Tables of what was measured without training, by untrained.py and dense_features.py."""

from __future__ import annotations

from typing import Any

from table_text import markdown


def untrained(found: dict[str, Any]) -> str:
    """Every row at every budget: agreement, top-1 and KL."""
    by_name: dict[str, list[str]] = {}
    for each in found["rows"]:
        cells = by_name.setdefault(each["row"], [each["row"]])
        cells += [f"{each['agreement']:.1f}", f"{each['change']:+.1f}", f"{each['kl']:.3f}"]
    titles = ["", *(f"{b:g}: {what}" for b in found["budgets"] for what in ("agreement", "top-1", "KL"))]
    return markdown(titles, list(by_name.values())) + measured(found)


def dense_features(found: dict[str, Any]) -> str:
    """Every method, with every way of filling that tells a difference."""
    by_name: dict[tuple[str, str], list[str]] = {}
    several = {row["method"] for row in found["rows"] if row["fill"] != "last"}
    for each in found["rows"]:
        fill = each["fill"] if each["method"] in several else "-"
        cells = by_name.setdefault(
            (each["method"], fill), [f"{each['method']}, {fill}" if fill != "-" else each["method"]]
        )
        cells += [f"{each['cosine']:.1f}", f"{each['matches']:.1f}"]
    titles = ["", *(f"{b:g}: {what}" for b in found["budgets"] for what in ("cosine", "matches"))]
    return markdown(titles, list(by_name.values())) + measured(found)


def measured(found: dict[str, Any]) -> str:
    return f"\n\n{found['images']:,} photographs, crop 1; {found['processor']}, float32; torch {found['torch']}."
