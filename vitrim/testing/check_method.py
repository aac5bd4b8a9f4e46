"""`check_method`: whether a method keeps the laws that vitrim's own methods keep."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import find_family, library_of
from ..common.kinds_given import told
from ..common.order import is_model
from ..common.text import shortened
from ..methods import Method
from ..runtime.build import attach, make_method
from ..runtime.model import unwrap
from .findings import Finding, MethodReport, ask
from .laws import LAWS, Subject, small_model

LONGEST, REASON = 300, 120  # characters of what is raised, and of one reason in it
REST = "; print check_method(..., raises=False) for the rest"


@torch.no_grad()
def check_method(
    method: str | Method | type[Method],
    model: nn.Module | None = None,
    *,
    images: Tensor | None = None,
    raises: bool = True,
    **options: Any,
) -> MethodReport:
    """Ask a method of one's own the laws that vitrim's methods keep. One line in a test is enough.

    All laws are asked, also after one that is broken. Its learned parts, if it has any, are as they are made.

    method:  a class, a name, or a method with its options: `Mine`, "mine", `Mine(keep=0.5)`
    model:   a supported model in eval mode; default: a small Vision Transformer with random weights (`small_model`)
    images:  [b, channels, height, width], at least two; default: random ones of the model's own size
    raises:  False: return the report also where a law is broken
    options: of the method, where it is given by class or name

    Raises ValueError in one line: how many laws are broken, which, and why, as far as 300 characters take it; and as
    `vitrim.reduce` does, for a name that is not known, and for a model and a method that do not fit.
    """
    if is_model(method) and not is_model(model):
        raise ValueError(f"the method comes first, and a model stands there: give check_method({_word(model)}, model)")
    model = small_model() if model is None else unwrap(model)
    if not is_model(model):
        raise ValueError(f"model is {told(model)}: give a model in eval mode, or leave it out for a small one")
    if model.training:
        raise ValueError("the model is in train mode, and the laws are those of inference: call model.eval()")
    made = _made(method, options)
    reduced = attach(model, made).eval()
    subject = Subject(reduced.methods[0], reduced, random_images(model) if images is None else images)
    report = MethodReport(
        f"{made.name} {subject.method.extra_repr()}".strip(), tuple(ask(law, subject) for law in LAWS)
    )
    if raises and report.broken:
        raise ValueError(_in_one_line(made.name, report.broken))
    return report


def _in_one_line(name: str, broken: tuple[Finding, ...]) -> str:
    """What is broken, as much of it as fits; the first reason always."""
    start, said = f"{name} breaks {len(broken)} of {len(LAWS)} laws. ", _by_reason(broken, REASON)
    whole = [start + "; ".join(found) for found in (_by_reason(broken, LONGEST), said)]
    parts = [f"{start}{'; '.join(said[:count])}{REST}" for count in range(len(said) - 1, 0, -1)]
    return next((line for line in (*whole, *parts) if len(line) <= LONGEST), [*whole, *parts][-1])


def _by_reason(broken: tuple[Finding, ...], length: int) -> list[str]:
    """Each reason once, behind its laws: one mistake often breaks many."""
    laws: dict[str, list[str]] = {}
    for finding in broken:
        laws.setdefault(finding.reason, []).append(finding.law)
    return [f"{', '.join(names)}: {shortened(reason, length)}" for reason, names in laws.items()]


def _made(method: str | Method | type[Method], options: dict[str, Any]) -> Method:
    if isinstance(method, Method):
        if options:
            raise ValueError(f"{method.name} is made already: give its options there, not beside it")
        return method
    if isinstance(method, str):
        return make_method(method, **options)
    if not isinstance(method, type) or not issubclass(method, Method):
        raise ValueError(f"{told(method)} is no method: give a subclass of vitrim.Method, one that is made, or a name")
    return method(**options)


def _word(given: Any) -> str:
    return f'"{given}"' if isinstance(given, str) else "method"


def random_images(model: nn.Module, count: int = 3) -> Tensor:
    """Random images that the model takes, the same at every call."""
    body, parameter = find_family(model)(model), next(model.parameters())
    height, width = library_of(model).image_size(model) or tuple(16 * side for side in body.grid())
    channels = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)
    images = torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(0))
    return images.to(parameter.device, parameter.dtype)
