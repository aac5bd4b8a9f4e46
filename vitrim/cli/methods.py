"""`vitrim methods`: what there is, found out by putting every method on a model of every kind."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from .._version import __version__
from ..backbones import FAMILIES, LIBRARIES, library_with
from ..common.files import check_output, write_json
from ..common.progress import counted_off
from ..methods import METHODS
from ..runtime.build import attach, make_method
from .shared.method_page import print_method
from .shared.signatures import own_signatures
from .shared.table import Printer


@dataclass(frozen=True)
class Answer:
    """Whether a method runs on a model: as it is, with one other option, or not, and why."""

    runs: bool
    needs: dict[str, str]
    reason: str = ""

    @property
    def option(self) -> str:
        """The option that it needs, as typed; empty for none."""
        return " ".join(f"--{key} {value}" for key, value in self.needs.items())


def run(config: Any) -> None:
    """List the methods."""
    check_output(config.output.json)
    if config.word is not None:
        _one(config)
        return
    answers = {kind: _answers(example) for _, kind, example in counted_off(_kinds(), "trying methods")}
    printer = Printer(config.output.json)
    _print_methods(printer)
    _print_models(printer, answers)
    write_json(config.output.json, _figures(answers))


def _one(config: Any) -> None:
    """All about the method that the word names."""
    method, answers = (
        own_signatures()[config.word],
        {kind: _answers(example, (config.word,)) for _, kind, example in counted_off(_kinds(), "trying it")},
    )
    runs = {kind: _said(by_name[config.word]) for kind, by_name in answers.items()}
    print_method(Printer(config.output.json), method, runs)
    options = {option.name: option.default for option in method.options}
    figures = {"method": method.name, "title": method.title, "dial": method.dial, "options": options, "runs": runs}
    write_json(config.output.json, figures)


def _said(answer: Answer) -> str:
    return answer.reason if not answer.runs else f"with {answer.option}" if answer.option else "yes"


def _kinds() -> list[tuple[str, str, str]]:
    """(family, kind of model, a name of that kind)."""
    return [(family.family, kind, example) for family in FAMILIES for kind, example in family.kinds.items()]


def _answers(example: str, names: Iterable[str] = METHODS) -> dict[str, Answer]:
    with torch.device("meta"):
        model = library_with(example).create(example)
    return {name: _answer(model, name) for name in names}


def _answer(model: torch.nn.Module, name: str) -> Answer:
    """Try the method as it is; where it is refused, try what the refusal advises."""
    try:
        attach(model, name)
        return Answer(True, {})
    except ValueError as refusal:
        needs, reason = getattr(refusal, "needs", {}), str(refusal)
    try:
        attach(model, make_method(name, **needs))
        return Answer(True, needs, reason)
    except ValueError:
        return Answer(False, {}, reason)


def _options(name: str) -> dict[str, Any]:
    parameters = inspect.signature(METHODS[name]).parameters
    return {key: parameter.default for key, parameter in parameters.items()}


def _print_methods(printer: Printer) -> None:
    rows = []
    for name, cls in METHODS.items():
        options = " ".join(f"--{key} {_default(value)}" for key, value in _options(name).items())
        rows.append([name, cls.title, options])
    printer.table(["method", "what it does", "options and defaults"], rows, left=3)
    printer.line()


def _default(value: Any) -> str:
    return "(its own)" if value is None else str(value)


def _print_models(printer: Printer, answers: dict[str, dict[str, Answer]]) -> None:
    found = [answer for by_name in answers.values() for answer in by_name.values()]
    options = list(dict.fromkeys(answer.option for answer in found if answer.option))
    rows = [
        [family, kind, example, *(_cell(answers[kind][name], options) for name in METHODS)]
        for family, kind, example in _kinds()
    ]
    printer.table(["family", "kind of model", "for example", *METHODS], rows, left=3 + len(METHODS))
    printer.line()
    for number, option in enumerate(options, start=1):
        printer.line(f"({number}) with {option}")
    for reason, refused in _refusals(answers).items():
        where = "; ".join(f"{kind}: {' '.join(names)}" for kind, names in refused.items())
        printer.line(f"no: {reason} [{where}]")


def _refusals(answers: dict[str, dict[str, Answer]]) -> dict[str, dict[str, list[str]]]:
    """Each reason once, with the kinds of model and the methods that it holds for."""
    found: dict[str, dict[str, list[str]]] = {}
    for kind, by_name in answers.items():
        for name, answer in by_name.items():
            if not answer.runs:
                reason = answer.reason.removeprefix(f"{name} ")
                found.setdefault(reason, {}).setdefault(kind, []).append(name)
    return found


def _cell(answer: Answer, options: list[str]) -> str:
    if not answer.runs:
        return "no"
    return f"yes ({options.index(answer.option) + 1})" if answer.option else "yes"


def _figures(answers: dict[str, dict[str, Answer]]) -> dict[str, Any]:
    methods = [
        {"method": name, "title": cls.title, "dial": cls.dial, "options": _options(name)}
        for name, cls in METHODS.items()
    ]
    models = [
        {
            "family": family,
            "kind": kind,
            "model": example,
            "methods": {name: {"runs": a.runs, "needs": a.needs} for name, a in answers[kind].items()},
        }
        for family, kind, example in _kinds()
    ]
    versions = {library.name: library.version for library in LIBRARIES}
    return {"methods": methods, "models": models, "vitrim": __version__, **versions}
