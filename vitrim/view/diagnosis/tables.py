"""A diagnosis in tables: one section for each diagnostic, which the command prints and the page shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...common.tables import Column, Table
from ...common.text import counted
from .answers import ClassAgreement
from .diagnosing import DENSE, DIAGNOSTICS, Diagnosis, Findings

COLUMNS = 6  # blocks that a table shows; the plots and the JSON have all
CLASSES = 10  # classes that a table shows
TOP1_TELLS = "How often each model is right; the classes on which the reduced ones agree least with dense come first."
AGREES_TELLS = "Images of a class for which the reduced model says what the dense one says; the least agreement first."
BY_DENSE = " Without labels an image counts to the class that the dense model says."


@dataclass(frozen=True)
class Section:
    """A diagnostic in words and figures.

    left_out: the models that it has no meaning for, by the reason
    """

    name: str
    title: str
    source: str
    tells: str
    table: Table | None
    left_out: dict[str, list[str]]


def sections(found: Diagnosis) -> list[Section]:
    """How the models do, then every diagnostic, then the classes; those without classes end there."""
    every = [_summary(found), *(_section(each.name, found) for each in DIAGNOSTICS)]
    if not found.classes:
        return every
    tells = AGREES_TELLS + ("" if found.labelled else BY_DENSE)
    every.append(Section("classes", "Agreement by class", "", tells, _agreement(found), {}))
    if found.labelled:
        every.append(Section("top1", "Top-1 by class", "", TOP1_TELLS, _top1(found), {}))
    return every


def _section(name: str, found: Diagnosis) -> Section:
    (about,) = (each for each in DIAGNOSTICS if each.name == name)
    answers = {model: getattr(each, name) for model, each in found.models.items()}
    known = {model: answer for model, answer in answers.items() if answer is not None}
    table = TABLES[name](known) if known.keys() - {DENSE} or (known and name != "diversity") else None
    return Section(name, about.title, about.source, about.tells, table, _left_out(name, found))


def _left_out(name: str, found: Diagnosis) -> dict[str, list[str]]:
    """The reduced models by the reason; the dense one, where it has none, has nothing to ask."""
    left_out: dict[str, list[str]] = {}
    for model, each in found.models.items():
        if name in each.left_out and model != DENSE:
            left_out.setdefault(each.left_out[name], []).append(model)
    return left_out


def _summary(found: Diagnosis) -> Section:
    columns = [Column("model", text=True), Column("MACs, %")]
    columns += [Column("top-1, %")] if found.labelled and found.classes else []
    columns += [Column("agreement, %"), Column("95 %", drop=1)] if found.classes else [Column("cosine with dense")]
    rows = [[name, f"{100 * each.share:.1f}", *_judged(each, found)] for name, each in found.models.items()]
    tells = "How often each model says what the dense one says, over all images."
    alike = "The mean cosine between the features of each model and those of the dense one."
    return Section("summary", "Answers", "", tells if found.classes else alike, Table(columns, rows), {})


def _judged(each: Findings, found: Diagnosis) -> Iterator[str]:
    judged = each.agreement
    if not found.classes:
        yield "" if judged.cosine is None else f"{judged.cosine:.4f}"
        return
    if found.labelled:
        yield f"{judged.top1:.1f}"
    bounds = judged.agreement_interval
    yield "" if judged.agreement is None else f"{judged.agreement:.1f}"
    yield "" if bounds is None else f"{bounds[0]:.1f} to {bounds[1]:.1f}"


def _reselection(known: Mapping[str, Any]) -> Table:
    columns = [Column("model", text=True), *(Column(f"{each}, %") for each in ("P(A)", "P(R)", "P(L)", "R(L)"))]
    rows = []
    for name, shares in known.items():
        figures = (shares.anywhere, shares.last, shares.selected, shares.ratio)
        rows.append([name, *(_percent(figure) for figure in figures)])
    return Table(columns, rows)


def _reuse(known: Mapping[str, Any]) -> Table:
    columns = [Column("model", text=True), Column("from block"), Column("tokens"), Column("reused"), Column("ratio, %")]
    rows = []
    for name, stages in known.items():
        for stage in stages:
            figures = f"{stage.remaining:.2f}", f"{stage.reused:.2f}", _percent(stage.ratio)
            rows.append([name, str(stage.block), *figures])
            name = ""
    return Table(columns, rows)


def _usage(known: Mapping[str, Any]) -> Table:
    """A line for each model; where images differ also one for the fewest and the most."""
    columns = [Column("model", text=True), Column("images", text=True), Column("tokens by stage", text=True)]
    rows = []
    for name, stages in known.items():
        if all(stage.low == stage.high for stage in stages):
            rows.append([name, "each", " ".join(str(stage.low) for stage in stages)])
            continue
        rows.append([name, "mean", " ".join(f"{stage.mean:.1f}" for stage in stages)])
        rows.append(["", "fewest", " ".join(str(stage.low) for stage in stages)])
        rows.append(["", "most", " ".join(str(stage.high) for stage in stages)])
    return Table(columns, rows)


def _similarity(known: Mapping[str, Any]) -> Table:
    blocks = evenly(0, len(next(iter(known.values()))) - 1)
    columns = [Column("after block", text=True), *(Column(str(block)) for block in blocks)]
    rows = [[name, *(_number(means[block]) for block in blocks)] for name, means in known.items()]
    return Table(columns, rows)


def _diversity(known: Mapping[str, Any]) -> Table:
    dense = known[DENSE]
    columns = [Column("model", text=True), Column("after block"), Column("diversity"), Column("of the dense model")]
    rows = [
        [name, str(block), _number(score), _number(dense[block])]
        for name, scores in known.items()
        for block, score in scores.items()
        if name != DENSE
    ]
    return Table(columns, rows)


def _sorted_attention(known: Mapping[str, Any]) -> Table:
    titles = "block", "tokens", "the upper half pays to itself, %", "the lower half to the upper, %"
    rows = []
    for name, one in known.items():
        rows.append([name, str(one.block), str(len(one.map)), _percent(one.from_top), _percent(one.from_rest)])
    return Table([Column("model", text=True), *map(Column, titles)], rows)


def _inattentive(known: Mapping[str, Any]) -> Table:
    every = sorted({box.block for boxes in known.values() for box in boxes})
    blocks = [every[i] for i in evenly(0, len(every) - 1)]
    columns = [Column("in block", text=True), *(Column(str(block)) for block in blocks)]
    rows = []
    for name, answer in known.items():
        boxes = {box.block: box for box in answer}
        rows.append([name, *(_number(boxes[i].mean / boxes[i].every) if i in boxes else "-" for i in blocks)])
    return Table(columns, rows)


TABLES: dict[str, Callable[[Mapping[str, Any]], Table]] = {
    "reselection": _reselection,
    "reuse": _reuse,
    "usage": _usage,
    "similarity": _similarity,
    "diversity": _diversity,
    "sorted_attention": _sorted_attention,
    "inattentive": _inattentive,
}


def _agreement(found: Diagnosis) -> Table:
    return _by_class(found, [name for name in found.models if name != DENSE], lambda row: row.agreement)


def _top1(found: Diagnosis) -> Table:
    return _by_class(found, list(found.models), lambda row: row.top1 or {})


def _by_class(found: Diagnosis, models: Sequence[str], shares: Callable[[ClassAgreement], dict[str, float]]) -> Table:
    columns = [Column("class", text=True), Column("images"), *(Column(name, drop=i) for i, name in enumerate(models))]
    rows = [
        [row.name, str(row.images), *(_percent(shares(row)[name]) for name in models)]
        for row in found.classes[:CLASSES]
    ]
    return Table(columns, rows)


def more_classes(found: Diagnosis) -> str:
    """A remark on the classes that the tables do not show; empty: there are none."""
    more = len(found.classes) - CLASSES
    return f"{counted(more, 'more class', 'more classes')} agree no less: the JSON has all" if more > 0 else ""


def evenly(first: int, last: int, most: int = COLUMNS) -> list[int]:
    """Whole numbers from first to last, at most so many, spread evenly.

    Example:
        >>> evenly(0, 11), evenly(0, 2)
        ([0, 2, 4, 7, 9, 11], [0, 1, 2])
    """
    return np.linspace(first, last, min(most, last - first + 1)).round().astype(int).tolist()


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.1f}"


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def reasons_in_words(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Why a diagnostic leaves models out, a sentence for each reason.

    Example:
        >>> reasons_in_words({"the model has no [CLS] token": ["dense", "ToMe r=8"]})
        ['left out: dense, ToMe r=8 (the model has no [CLS] token)']
    """
    return [f"left out: {', '.join(models)} ({reason})" for reason, models in left_out.items()]
