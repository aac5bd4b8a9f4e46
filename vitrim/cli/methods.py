"""`vitrim methods`: what there is, found out by putting every method on a model of every kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from .._version import __version__
from ..backbones import LIBRARIES, TIMM, Library, library_of
from ..common.files import write_json
from ..common.on_meta import on_meta
from ..common.progress import counted_off
from ..methods import METHODS, is_own
from ..runtime.build import attach, make_method
from ..runtime.model import ReducedViT
from ..runtime.profile import Profile, profile
from .shared.flags import in_flags
from .shared.method_page import print_method
from .shared.table import Column, Printer

EXAMPLE = "deit_small_patch16_224"  # what a method's page gives its cost on


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
    if config.word is not None:
        _one(config)
        return
    answers = {kind: _answers(kind) for kind in counted_off(_kinds(), "trying methods")}
    printer = Printer(config.output.json, config.output.wide)
    _print_methods(printer)
    printer.line()
    _print_models(printer, answers)
    write_json(config.output.json, _figures(answers))


def _one(config: Any) -> None:
    """All about the method that the word names."""
    spec, name = _named(config)
    method = config.named.known[name]
    answers = {kind: _answers(kind, (name,)) for kind in counted_off(_kinds(), "trying it")}
    runs = {kind: _said(by_name[name]) for kind, by_name in answers.items()}
    with on_meta():
        cost = profile(attach(TIMM.create(EXAMPLE), name))
    models = {(kind.library.name, kind.name): said for kind, said in runs.items()}
    print_method(Printer(config.output.json, config.output.wide), method, models, _told(cost), spec)
    options = {option.name: option.default for option in method.options}
    about = {"method": method.name, "title": method.title, "dial": method.dial, "options": options}
    about["runs"] = {kind.title: said for kind, said in runs.items()}
    figures = {**about, "vitrim": __version__, "model": EXAMPLE, "gmacs": cost.gmacs, "share": cost.share}
    write_json(config.output.json, figures)


def _named(config: Any) -> tuple[str, str]:
    """How the method is named on a command line, and its name: a user's own by its file, if it was not by its name."""
    specs = config.named.specs
    by_name = {name: spec for spec, name in specs.items()}
    name = specs.get(config.word, config.word)
    return by_name.get(name, name), name


def _told(cost: Profile) -> str:
    """What it costs with its defaults; what it computes itself is in it."""
    own = sum(block.method_macs for block in cost.blocks) / 1e9
    return (
        f"{cost.gmacs:.2f} GMACs with the defaults on {EXAMPLE}, {100 * cost.share:.0f} % of the dense "
        f"{cost.dense_gmacs:.2f}, of which the method's own steps are {own:.4f} GMACs"
    )


def _said(answer: Answer) -> str:
    return answer.reason if not answer.runs else f"with {answer.option}" if answer.option else "yes"


@dataclass(frozen=True)
class _Kind:
    """A kind of model: its family, its name, an example, and the library that makes it."""

    family: str
    name: str
    example: str
    library: Library

    @property
    def title(self) -> str:
        """Its name, and whose it is where it is not timm's."""
        return self.name if self.library is TIMM else f"{self.name} ({self.library.name})"

    def on_meta(self) -> torch.nn.Module:
        """The example without weights: its sizes are all that is asked."""
        with on_meta():
            return self.library.example(self.example)


def _kinds() -> list[_Kind]:
    """All that there are, of the libraries that are installed."""
    families = [(family, library) for library in LIBRARIES if library.is_installed for family in library.families]
    return [
        _Kind(family.family, name, example, library)
        for family, library in families
        for name, example in family.kinds.items()
    ]


def _answers(kind: _Kind, names: Iterable[str] = METHODS) -> dict[str, Answer]:
    model = kind.on_meta()
    return {name: _answer(model, name) for name in names}


def _answer(model: torch.nn.Module, name: str) -> Answer:
    """Try the method as it is; where it is refused, try what the refusal advises."""
    try:
        _try(_put(model, name), name)
        return Answer(True, {})
    except ValueError as refusal:
        needs, reason = getattr(refusal, "needs", {}), in_flags(refusal).replace(type(model).__name__, "it")
    if not needs:
        return Answer(False, {}, reason)
    try:
        _put(model, name, **needs)
        return Answer(True, needs, reason)
    except ValueError:
        return Answer(False, {}, reason)


def _put(model: torch.nn.Module, name: str, **options: Any) -> ReducedViT:
    """The method on the model itself, of whatever library: no more than that is asked."""
    return ReducedViT(model, [make_method(name, **options)])


def _try(model: ReducedViT, name: str) -> None:
    """Run a method of the user's own once, on shapes alone: what it reads in its forward, its constructor may not say.
    Raises ValueError where the method refuses the model."""
    if is_own(METHODS[name]):
        return
    size = library_of(model.backbone).data_config(model.backbone)["input_size"]
    try:
        with torch.no_grad():
            model(torch.empty(1, *size, device="meta"))
    except (NotImplementedError, RuntimeError, IndexError):
        pass  # what needs values cannot be tried on shapes


def _options(name: str) -> dict[str, Any]:
    return {key: parameter.default for key, parameter in METHODS[name].option_parameters().items()}


def _print_methods(printer: Printer) -> None:
    rows = []
    for name, cls in METHODS.items():
        options = " ".join(_typed(key.replace("_", "-"), value) for key, value in _options(name).items())
        rows.append([name, cls.title, options])
    columns = [
        Column("method", text=True),
        Column("what it does", text=True),
        Column("options and defaults", text=True, drop=1),
    ]
    printer.table(columns, rows)
    printer.line()
    printer.line("vitrim methods NAME shows one method's options, models and cost.")


def _typed(option: str, default: Any) -> str:
    """An option with its default, as one would type it, if it is the same for every model."""
    if isinstance(default, bool):
        return f"--{'' if default else 'no-'}{option}"
    return f"--{option} {'(by model)' if default is None else default}"


def _print_models(printer: Printer, answers: dict[_Kind, dict[str, Answer]]) -> None:
    """The kinds of model, then what does not simply run on them, said once for all kinds of which it is true."""
    rows = [[kind.title, kind.example, kind.family] for kind in answers]
    columns = [Column("model", text=True), Column("for example", text=True), Column("family", text=True, drop=1)]
    printer.table(columns, rows)
    printer.line()
    for library in LIBRARIES:
        if not library.is_installed:
            printer.line(f'Models of {library.name}: pip install "vitrim[{library.extra}]" shows them here.')
            printer.line()
    printer.line("Every method runs on every model, as it is, with these exceptions:")
    by_exceptions: dict[tuple[str, ...], list[str]] = {}
    for kind, by_name in answers.items():
        by_exceptions.setdefault(tuple(_exceptions(by_name)), []).append(kind.title)
    for exceptions, alike in by_exceptions.items():
        if exceptions:
            printer.line()
            printer.line(f"{'; '.join(alike)}:")
        for exception in exceptions:
            printer.line(f"  {exception}", indent="    ")


def _exceptions(by_name: dict[str, Answer]) -> list[str]:
    """What is not simply "yes" on one kind of model, methods of the same answer together: `evit, bat: with --score
    tokens`."""
    found: dict[str, list[str]] = {}
    for name, answer in by_name.items():
        if not answer.runs:
            found.setdefault(f"no, {answer.reason.removeprefix(f'{name} ')}", []).append(name)
        elif answer.option:
            found.setdefault(f"with {answer.option}", []).append(name)
    return [f"{', '.join(names)}: {what}" for what, names in found.items()]


def _figures(answers: dict[_Kind, dict[str, Answer]]) -> dict[str, Any]:
    methods = [
        {"method": name, "title": cls.title, "dial": cls.dial, "options": _options(name)}
        for name, cls in METHODS.items()
    ]
    models = [
        {
            "family": kind.family,
            "kind": kind.title,
            "model": kind.example,
            "methods": {name: {"runs": a.runs, "needs": a.needs} for name, a in by_name.items()},
        }
        for kind, by_name in answers.items()
    ]
    versions = {library.name: library.version for library in LIBRARIES if library.in_use}
    return {"methods": methods, "models": models, "vitrim": __version__, **versions}
