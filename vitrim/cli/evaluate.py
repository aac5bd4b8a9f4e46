"""`vitrim evaluate`: one method beside the dense model, on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..common.files import write_json
from ..common.progress import progress
from ..evaluate import EvaluationResult
from ..evaluate.judges import RECALLS
from ..runtime.measured import weights_figures
from ..runtime.sharing import write_card
from .shared.bank import bank_figures, open_bank
from .shared.baseline import beside_figures, judge_beside, open_baseline, tell_beside
from .shared.config_file import asked
from .shared.exported import file_plans, named_file, on_cpu, open_dense_of
from .shared.file_alone import evaluate_file
from .shared.measure import check_run, common_figures, data_figures, measure, open_images
from .shared.model import Subject, open_model
from .shared.plans import one_plan
from .shared.report import about, judged, speed_up
from .shared.rows import Row, accuracy_of, change_of, disturbed
from .shared.table import Column, Printer, interval, percent, signed, tokens_left
from .shared.zero_shot import names_figures, on_names, open_names


def run(config: Any) -> None:
    """Evaluate what the arguments name."""
    path = named_file(config)
    if path is not None:
        on_cpu(config.run, path)
    if path is not None and config.more.baseline is None:
        evaluate_file(config, path)
        return
    setting = check_run(config.run)
    with progress("preparing the models"):
        subject, plan, baseline = _models(config, path, setting.seed)
    if config.more.card:
        _check_own(subject, plan)
    weights = weights_figures(subject.dense)
    loader = open_images(subject, config.data, setting)
    bank, names = open_bank(subject, config.data, setting, loader), open_names(subject, config.data, loader)
    printer = Printer(config.output.json, config.output.wide)
    about(printer, subject.name, loader, setting)
    dense, reduced = rows = measure(subject, [plan], loader, setting, bank, **on_names(names))
    printer.line()
    columns = [Column("", text=True), Column(dense.label), Column(reduced.short), Column("change")]
    printer.table(columns, _lines(dense, reduced))
    printer.line()
    judged(printer, rows, loader, config.data)
    if names is not None:
        printer.line(names.words)
    if remark := disturbed(rows):
        printer.line(remark)
    common = {
        **asked(config),
        **data_figures(config.model, config.data, loader),
        **common_figures(subject.name, rows, setting),
        **weights,
        **bank_figures(rows[0].result, config.data),
        **names_figures(names),
    }
    figures = {**common, **reduced.figures(dense), "dense": dense.figures(dense), "dense_label": dense.label}
    if baseline is not None and config.more.baseline is not None:
        beside = judge_beside(baseline, plan, loader, setting, bank, **on_names(names))
        tell_beside(printer, config.more.baseline, beside)
        figures |= beside_figures(config.more.baseline, beside)
    write_json(config.output.json, figures)
    if config.more.card:
        printer.line(f"the model card is {write_card(config.model.checkpoint.expanduser(), plan.model, figures)}")


def _check_own(subject: Subject, plan: Any) -> None:
    """Raise ValueError where what is judged is not the model of the folder, whose card it would go into."""
    if plan.model is not subject.saved:
        held = ", ".join(map(repr, subject.saved.methods)) if subject.saved is not None else "no reduced model"
        raise ValueError(f"--card is of the saved model, {held}: leave out --method and its options")


def _models(config: Any, path: Path | None, seed: int) -> tuple[Subject, Any, nn.Module | None]:
    """The dense model, what is judged beside it, and another dense model to show."""
    given = config.more.baseline
    if path is not None:
        plan = file_plans([path])[0]
        return open_dense_of(plan.model, given), plan, None
    subject = open_model(config.model)
    plan = one_plan(subject, config.method, seed)
    return subject, plan, None if given is None else open_baseline(given, subject)


def _lines(dense: Row, reduced: Row) -> list[list[str]]:
    """The table, row by row."""
    return [*_accuracies(dense, reduced), *_costs(dense, reduced)]


def _accuracies(dense: Row, reduced: Row) -> list[list[str]]:
    a, b = dense.result, reduced.result
    if accuracy_of(a) is None:
        return _likeness(dense, b)
    if a.top1 is None:
        lines = [["nearest-neighbour accuracy, %", percent(a.knn), percent(b.knn), signed(change_of(b, a))]]
        lines.append(["  95 % interval", interval(a.knn_interval), interval(b.knn_interval), ""])
        for k in RECALLS:
            before, after = (getattr(each, f"recall_at_{k}") for each in (a, b))
            if before is not None and after is not None:
                lines.append([f"recall@{k}, %", percent(before), percent(after), signed(after - before)])
        return [*lines, [f"cosine with the features of {dense.label}", "", percent(b.cosine, 4), ""]]
    lines = [["top-1, %", percent(a.top1), percent(b.top1), signed(change_of(b, a))]]
    lines.append(["  95 % interval", interval(a.top1_interval), interval(b.top1_interval), ""])
    if a.top5 is not None and b.top5 is not None:
        lines.append(["top-5, %", percent(a.top5), percent(b.top5), signed(b.top5 - a.top5)])
        lines.append(["  95 % interval", interval(a.top5_interval), interval(b.top5_interval), ""])
    lines.append([f"agreement with {dense.label}, %", "", percent(b.agreement), ""])
    return [*lines, ["  95 % interval", "", interval(b.agreement_interval), ""]]


def _likeness(dense: Row, b: EvaluationResult) -> list[list[str]]:
    """Without labels: how like the dense model's the outputs are."""
    what, lines = "features", []
    if b.agreement is not None:
        what, lines = "logits", [[f"agreement with {dense.label}, %", "", percent(b.agreement), ""]]
        lines.append(["  95 % interval", "", interval(b.agreement_interval), ""])
    lines.append([f"cosine with the {what} of {dense.label}", "", percent(b.cosine, 4), ""])
    return [*lines, ["  95 % interval", "", interval(b.cosine_interval, 4), ""]]


def _costs(dense: Row, reduced: Row) -> list[list[str]]:
    a, b = dense.cost, reduced.cost
    left = [tokens_left(cost.patches, cost.tokens) for cost in (a, b)]
    lines = [
        ["GMACs", f"{a.gmacs:.3f}", f"{b.gmacs:.3f}", f"{100 * (b.share - 1):+.1f} %"],
        ["patch tokens left", *left, ""],
    ]
    if not reduced.timed:
        return lines
    speeds = [f"{row.speed.images_per_s:.1f}" for row in (dense, reduced)]
    return [
        *lines,
        ["images/s", *speeds, speed_up(reduced)],
        ["promise kept", "", f"{reduced.promise_kept:.2f}", ""],
    ]
