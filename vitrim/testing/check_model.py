"""`check_model`: whether a model, with the weights that it has, keeps vitrim's laws with every method that it takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..backbones import find_family
from ..common.errors import OptionError, UnfitModel
from ..common.kinds_given import one_or_several
from ..common.order import check_order
from ..common.progress import counted_off
from ..common.text import counted, cut, first_line
from ..core.values import as_number
from ..methods import METHODS, Method
from ..runtime.build import UntrainedWarning, make_method, reduce
from ..runtime.model import ReducedViT, unwrap
from ..runtime.profile import profile
from ..runtime.words import options_in_words
from .check_method import random_images
from .findings import BROKEN, HOLDS, NOT_ASKED, Finding, MethodReport, ask
from .model_laws import LAWS, Pair, weights_digest
from .outputs import Outputs, outputs_of

MACS = 0.7  # of the dense cost: what methods are checked at
IMAGES = 2  # random ones: the fewest that are a batch
Stack = str | Method | Sequence[Method]


@dataclass(frozen=True)
class MethodOnModel(MethodReport):
    """What was found of one method on a model. Printed, it is a line, and one for each law that does not hold.

    share:   its cost, as a share of the dense model's
    remarks: why it was checked with other options than wanted; empty where it was not
    """

    share: float
    remarks: tuple[ValueError, ...] = ()

    def __str__(self) -> str:
        strays = [f"  {finding}" for finding in self.findings if finding.state != HOLDS]
        return "\n".join([f"{self.method}: {len(self.findings) - len(strays)} of {len(self.findings)} hold", *strays])


@dataclass(frozen=True)
class ModelReport:
    """What `check_model` found. Printed, it is a line for each method, and one for each law that does not hold.

    methods: what was found of each method that runs on the model
    refused: by the name of a method that the model cannot take, why
    """

    methods: tuple[MethodOnModel, ...]
    refused: dict[str, ValueError]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all methods, one after the other."""
        return tuple(finding for method in self.methods for finding in method.findings)

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The laws that do not hold."""
        return tuple(finding for finding in self.findings if finding.state == BROKEN)

    def count(self, state: str) -> int:
        """How many laws ended in that state."""
        return sum(finding.state == state for finding in self.findings)

    @property
    def conclusion(self) -> str:
        """All of it in a sentence."""
        broken, skipped = (self.count(state) or "none" for state in (BROKEN, NOT_ASKED))
        held = counted(self.count(HOLDS), "check")
        return f"{held} passed, {broken} failed, {skipped} skipped; {counted(len(self.methods), 'method')}"

    def __str__(self) -> str:
        return "\n".join([*map(str, self.methods), self.conclusion])


@torch.no_grad()
def check_model(
    model: nn.Module,
    methods: str | Method | Sequence[Stack] | None = None,
    *,
    images: Tensor | None = None,
    macs: float = MACS,
    export: str | None = "first",
) -> ModelReport:
    """Check a dense model of timm or transformers against its reduced self, on images: nothing reduced is the model bit
    for bit; and with every method outputs are whole and finite, costs are what torch counts, an image alone is the same
    in a batch, weights are shared and untouched, what is saved comes back, an ONNX file agrees.

    model:   in eval mode, with its weights
    methods: names, which run at `macs`, and methods or stacks as they are, one or several; default: all that there
             are. A model that does not take one is no failure; it stands among the `refused`
    images:  [b, channels, height, width], at least two, prepared as for the model; default: random ones
    macs:    a share of the dense cost, in (0, 1]. A method that cannot meet it is checked with its defaults, and its
             `remarks` say so
    export:  whose ONNX file is written, which takes long: the "first" method's that has fixed counts, "all", or None

    Raises ValueError for a model that is not supported or in train mode, for fewer than two images, and for names,
    methods and shares that are not allowed.

    Example:
        >>> report = vitrim.testing.check_model(model, ["evit", "tome"], export=None)
        >>> report.broken
        ()
        >>> print(report)
        evit keep=0.65: 6 of 6 hold
        tome r=10: 6 of 6 hold
        12 checks passed, none failed, none skipped; 2 methods
    """
    check_order("check_model", model, methods, "methods")
    model = _checked(model, images, macs, export)
    images = random_images(model, IMAGES) if images is None else images
    stacks = list(METHODS) if methods is None else one_or_several(methods)
    wanted, before = _wanted(model, images), weights_digest(model)
    reports: list[MethodOnModel] = []
    refused: dict[str, ValueError] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)  # decisions of random parts must keep the laws too
        for stack in counted_off(stacks, "checking"):
            try:
                fast, remarks = _fitted(model, stack, macs)
            except ValueError as refusal:
                if methods is not None:
                    raise
                refused[str(stack)] = refusal
                continue
            pair = Pair(model, fast, images, wanted, before)
            exports = export == "all" or (export == "first" and not (pair.own_counts or any(map(_exported, reports))))
            reports.append(_report(pair, remarks, exports))
    return ModelReport(tuple(reports), refused)


def _checked(model: nn.Module, images: Tensor | None, macs: float, export: str | None) -> nn.Module:
    """The dense model, without wrappers. Raises ValueError for what cannot be checked."""
    model = unwrap(model)
    if isinstance(model, ReducedViT):
        raise ValueError("the model is reduced already: give the dense one, and beside it the methods")
    find_family(model)  # refuses what is not supported
    if model.training:
        raise ValueError("the model is in train mode, and the checks are those of inference: call model.eval()")
    if images is not None and (images.dim() != 4 or len(images) < 2):
        raise ValueError(f"images are {list(images.shape)}: give [b, channels, height, width] with two images or more")
    share = as_number(macs)
    if share is None or not 0 < share <= 1:
        raise OptionError({"macs": macs}, " is no share of the dense cost: give a number in (0, 1], such as 0.7")
    if export not in ("first", "all", None):
        raise ValueError(f'export={export!r} is not "first", "all" or None')
    return model


def _wanted(model: nn.Module, images: Tensor) -> Outputs:
    """What the dense model gives. Raises ValueError for one that takes more than images, as those of a language."""
    try:
        return outputs_of(model, images)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        name, said = type(model).__name__, cut(first_line(error), 120)
        raise ValueError(
            f"{name} cannot be checked, since it does not take images alone ({said}): check a class of its vision tower"
        ) from error


def _fitted(model: nn.Module, stack: Stack, macs: float) -> tuple[nn.Module, tuple[ValueError, ...]]:
    """The reduced model, and why it is another than wanted. Raises ValueError where the model does not take the
    method, not even with the option that its refusal asks for."""
    if not isinstance(stack, str):
        return reduce(model, stack).eval(), ()
    method, remarks = make_method(stack), ()
    try:
        reduce(model, method)
    except UnfitModel as refusal:
        method, remarks = make_method(stack, **refusal.needs), (refusal,)
    try:
        return reduce(model, method, macs=macs).eval(), remarks
    except OptionError as unmet:
        return reduce(model, method).eval(), (*remarks, unmet)


def _report(pair: Pair, remarks: tuple[ValueError, ...], exports: bool) -> MethodOnModel:
    name = " + ".join(f"{method.name} {options_in_words(method)}" for method in pair.methods)
    findings = tuple(ask(law, pair) for law in (LAWS if exports else LAWS[:-1]))
    return MethodOnModel(name, findings, profile(pair.fast).share, remarks)


def _exported(report: MethodOnModel) -> bool:
    return report.findings[-1].law == LAWS[-1].__name__
