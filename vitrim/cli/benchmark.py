"""`vitrim benchmark`: dense and reduced models timed in turn, beside what their MACs promise."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import library_of
from ..common.extras import require
from ..common.files import write_json
from ..common.progress import counted_off, progress
from ..common.text import counted
from ..deploy.benchmark import Case, Timed, benchmark
from ..deploy.detail import Detail, detail
from ..deploy.instead import FAMILY, Alternatives, Resized
from ..evaluate import EvaluationResult, environment
from ..evaluate.accuracy import evaluate_many
from ..evaluate.timing import as_device, best_device
from .commands.benchmark import read_run
from .shared.config_file import asked
from .shared.early_extras import each_extra
from .shared.exported import FilePlan, any_method, check_fits, check_same_model, file_plans
from .shared.measure import Setting, open_images
from .shared.model import Subject, open_model, open_untrained
from .shared.options import ModelOptions
from .shared.plans import Plan, many_plans
from .shared.report import images_in_words
from .shared.rows import DENSE
from .shared.speed_picture import draw_speeds
from .shared.speed_report import (
    figures_of,
    judged_figures,
    show_detail,
    show_instead,
    show_other_run,
    show_speeds,
    write_csv,
)
from .shared.table import Printer


@dataclass
class Bench:
    """One dense model with its reduced ones, ready to be timed, and what has been found of them."""

    subject: Subject
    plans: list[Plan]
    files: list[FilePlan]
    images: Tensor
    instead: Alternatives | None
    judged: set[str] = field(default_factory=set)  # smaller models with weights of their own
    timed: list[tuple[Case, list[Timed]]] = field(default_factory=list)
    details: dict[Case, list[Detail]] = field(default_factory=dict)
    results: dict[str, EvaluationResult] = field(default_factory=dict)

    @property
    def models(self) -> dict[str, nn.Module]:
        """By label, the dense one first."""
        return {DENSE: self.subject.dense, **{plan.label: plan.model for plan in self.plans}}

    @property
    def timed_models(self) -> dict[str, nn.Module]:
        """And the exported files."""
        return {**self.models, **{plan.label: plan.model for plan in self.files}}


def run(config: Any) -> None:
    """Time what the arguments name."""
    options = config.run
    each_extra(require, config)
    before = None if options.vs is None else read_run(options.vs)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = as_device(options.device or best_device())
    with progress("preparing the models"):
        benches = [_prepare(config, model, device) for model in _models(config.model)]
    printer = Printer(config.output.json, config.output.wide)
    where = environment(device, options.seed)
    for bench in benches:
        _tell(printer, bench, where)
        _time(printer, bench, config, alone=len(benches) == 1)
        _judge(printer, bench, config, device)
        for case, rows in bench.timed:
            show_instead(printer, case, rows, bench.results)
    if not any(bench.timed for bench in benches):
        raise ValueError("none of these cases can be measured: give another --runtime or --precision")
    _finish(printer, benches, config, before, where)


def _models(options: Any) -> list[ModelOptions]:
    """The options of each model that is named; of one from a saved folder without a name."""
    given = {key: value for key, value in vars(options).items() if key != "model"}
    return [ModelOptions(model=name, **given) for name in dict.fromkeys(options.model or (None,))]


def _prepare(config: Any, options: ModelOptions, device: torch.device) -> Bench:
    """With weights where they are given, or images are to be judged; else random ones."""
    weights = options.checkpoint is not None or config.data.data is not None
    subject = open_model(options) if weights else open_untrained(options, config.run.seed)
    files = file_plans(config.show.file)
    for plan in files:
        check_same_model(plan.model, library_of(subject.dense).architecture(subject.dense) or subject.name)
        check_fits(plan.model, subject.dense)
    plans = [] if files and not any_method(config.method) else many_plans(subject, config.method, config.run.seed)
    for model in (subject.dense, *(plan.model for plan in plans)):
        model.to(device)
    images = _images(subject, max(config.run.batch_size), config.run.seed).to(device)
    bench = Bench(subject, plans, files, images, Alternatives(subject.dense) if config.show.instead else None)
    for file in config.show.smaller_checkpoint:
        bench.judged.add(_read_smaller(bench, file))
    return bench


def _images(subject: Subject, count: int, seed: int) -> Tensor:
    library = library_of(subject.dense)
    channels, height, width = library.data_config(subject.dense)["input_size"]
    size = library.image_size(subject.dense) or (height, width)
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def _read_smaller(bench: Bench, file: Path) -> str:
    """The name of the smaller model that a checkpoint fits, which now has these weights."""
    instead: Any = bench.instead
    names = []
    for candidate in instead.by_kind[FAMILY]:
        names.append(candidate.name)
        model = instead.smaller(candidate.name, candidate.image_size)
        try:
            library_of(model).load_checkpoint(model, file.expanduser())
        except ValueError:
            continue
        instead.put(candidate.name, model.to(bench.images.device))
        return candidate.name
    fits = f"none of the smaller {', '.join(names)}" if names else f"nothing: {bench.subject.name} has no smaller model"
    raise ValueError(f"--smaller-checkpoint {file} fits {fits}")


def _tell(printer: Printer, bench: Bench, where: dict[str, Any]) -> None:
    threads = f", {counted(where['threads'], 'thread')}" if bench.images.device.type == "cpu" else ""
    printer.line(f"{bench.subject.name}: {where['processor']}{threads}, torch {where['torch']}")
    for kind, reason in (bench.instead.missing if bench.instead is not None else {}).items():
        printer.line(f"no {kind}: {reason}")


def _time(printer: Printer, bench: Bench, config: Any, alone: bool) -> None:
    """Every case, printed as it is done; `alone`: there is no other model."""
    options = config.run
    cases = [Case(*each) for each in product(options.batch_size, options.runtime, options.precision)]
    for case in counted_off(cases, "benchmark"):
        try:
            rows, refused = benchmark(bench.timed_models, bench.images, case, options.rounds, instead=bench.instead)
        except ValueError as error:  # the others may still be measured
            if len(cases) == 1 and alone:
                raise
            printer.line(f"{case} is left out: {error}")
            continue
        bench.timed.append((case, rows))
        show_speeds(printer, case, rows, refused, bench.images.device.type)
        if config.show.detail:
            bench.details[case], _ = detail(bench.models, bench.images, case, options.rounds)
            show_detail(printer, case, bench.details[case])


def _judge(printer: Printer, bench: Bench, config: Any, device: torch.device) -> None:
    """Dense, reduced and alternative models in one pass over the images, where there are any."""
    if config.data.data is None or not bench.timed:
        return
    setting = Setting(device, "float32", max(config.run.batch_size), config.run.rounds, config.run.seed)
    loader: Any = open_images(bench.subject, config.data, setting)
    others, unknown = _alternatives(bench)
    models: dict[str, nn.Module] = {**bench.models, **others}
    bench.results = evaluate_many(models, loader, device=device, progress=True)
    printer.line()
    printer.line(f"judged on {images_in_words(loader.dataset)}, which alternatives resize")
    for name in unknown:
        printer.line(f"{name} is not judged, since its weights here are random: give --smaller-checkpoint FILE")


def _alternatives(bench: Bench) -> tuple[dict[str, Resized], list[str]]:
    """What has been timed beside the reduced models, by label, and of these the names of models without weights."""
    instead: Any = bench.instead
    sizes = {c.label: c for candidates in instead.by_kind.values() for c in candidates}
    timed = dict.fromkeys(row.label for _, rows in bench.timed for row in rows if row.instead_of)
    unknown = [label for label in timed if sizes[label].name and label not in bench.judged]
    known = [label for label in timed if label not in unknown]
    return {label: Resized(instead.model(sizes[label]), sizes[label].image_size) for label in known}, unknown


def _finish(printer: Printer, benches: Sequence[Bench], config: Any, before: Any, where: dict[str, Any]) -> None:
    figures = [row for bench in benches for row in _figures(bench)]
    options, names = config.run, [bench.subject.name for bench in benches]
    if before is not None:
        show_other_run(printer, figures, before, where)
    if options.csv is not None:
        write_csv(options.csv, figures)
    if options.out is not None:
        panels = [(f"{b.subject.name}, {case}", rows) for b in benches for case, rows in b.timed]
        printer.line()
        printer.line(f"the picture is {draw_speeds(options.out, panels)}")
    write_json(config.output.json, {**asked(config), "model": ", ".join(names), **where, "rows": figures})


def _figures(bench: Bench) -> Generator[dict[str, Any]]:
    for case, rows in bench.timed:
        details = {each.label: dict(each.ms) for each in bench.details.get(case, ())}
        for row in rows:
            judged = judged_figures(bench.results.get(row.label), bench.results.get(DENSE))
            parts = {"detail": details[row.label]} if row.label in details else {}
            yield {**figures_of(bench.subject.name, row, [*bench.plans, *bench.files]), **judged, **parts}
