"""A diagnosis as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...evaluate import environment
from ...view.diagnosis.answers import Differing
from ...view.diagnosis.diagnosing import DENSE, Diagnosis, Findings
from .measure import Setting
from .plans import Plan


def figures_of(name: str, found: Diagnosis, plans: Sequence[Plan], setting: Setting) -> dict[str, Any]:
    """Everything but the pixels of photographs and the entries of attention maps.

    plans: of the reduced models, in their order
    """
    rows = []
    for plan, (title, each) in zip([None, *plans], found.models.items(), strict=True):
        chosen = {} if plan is None else {"options": plan.options}
        rows.append({"name": title, "method": DENSE if plan is None else plan.name, **chosen, **_findings(each)})
    return {
        "model": name,
        "images": found.images,
        "skipped": [entry._asdict() for entry in found.skipped],
        "rows": rows,
        "classes_found": [asdict(row) for row in found.classes],
        "differing": found.found,
        "photographs": [_photograph(each) for each in found.differing],
        "batch_size": setting.batch_size,
        **environment(setting.device, setting.seed),
    }


def _findings(each: Findings) -> dict[str, Any]:
    judged = {key: value for key, value in each.agreement.as_dict().items() if key not in ("images", "skipped")}
    shares, sorted_one = each.reselection, each.sorted_attention
    return {
        "share": each.share,
        **judged,
        "reselection": None if shares is None else {**asdict(shares), "ratio": shares.ratio},
        "reuse": None if each.reuse is None else [{**asdict(stage), "ratio": stage.ratio} for stage in each.reuse],
        "usage": None if each.usage is None else [asdict(stage) for stage in each.usage],
        "similarity": each.similarity,
        "diversity": each.diversity,
        "sorted_attention": None
        if sorted_one is None
        else {
            "block": sorted_one.block,
            "tokens": len(sorted_one.map),
            "from_top": sorted_one.from_top,
            "from_rest": sorted_one.from_rest,
        },
        "inattentive": None if each.inattentive is None else [asdict(box) for box in each.inattentive],
        "left_out": dict(each.left_out),
    }


def _photograph(one: Differing) -> dict[str, Any]:
    return {
        "file": one.name,
        "label": one.label,
        "dense": None if one.dense is None else asdict(one.dense),
        "reduced": {name: asdict(answer) for name, answer in one.reduced.items()},
        **({"cosines": one.cosines} if one.cosines else {}),
    }
