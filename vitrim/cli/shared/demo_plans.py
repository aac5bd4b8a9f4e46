"""Which reduced models the demo compares: on its digits with trained parts, on a user's own model without training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from ...common.errors import UnfitModel
from ...demo.parts import TRAINED, with_trained_parts
from ...methods import METHODS
from ...runtime.fitting import attach_fitting
from ...runtime.model import ReducedViT
from .model import Subject
from .plans import Plan, plan_of

SHOWN_METHODS = ("evit", "bat", "idlevit", "tofe", "tome", "random", "grid")  # the four papers, ToMe, the floor
FLOOR = ("random", "grid")  # these do not look at the picture
COSTS = (0.7, 0.5, 0.4)  # shares of the dense cost
TRAINED_MARK = " (trained)"
DIGIT_NOTES = (
    "ToFe has learned parts: its selectors and approximators were trained for each cost, on digits of the same kind, "
    "with the model's own weights frozen (benchmarks/train_demo_parts.py). So its rows are marked as trained.",
    "All other methods run untrained, on the weights as they are. The papers report fine-tuned models too; vitrim "
    "finetune makes such models.",
)
DIGIT_CAUTION = (
    "Do not choose a method by these digits. On photographs the order is another one: there, without training, IdleViT "
    "loses most (docs/choose.md has the figures). For a model and images of your own: vitrim demo --model NAME --data "
    "FOLDER."
)


def digit_plans(dense: nn.Module, seed: int) -> list[Plan]:
    """Every method at every cost, ToFe with the parts that come with the package."""
    models = {
        (name, cost): with_trained_parts(dense, cost)
        if name == TRAINED
        else attach_fitting(dense, name, seed, macs=cost)
        for name in SHOWN_METHODS
        for cost in COSTS
    }
    return [_plan(model, cost) for (_, cost), model in models.items()]


def is_trained(model: ReducedViT) -> bool:
    """Whether a method of the model has learned parts: beside it the others, untrained, are at a disadvantage."""
    return any(method.learns for method in model.methods)


def _plan(model: ReducedViT, cost: float) -> Plan:
    plan = plan_of(model, cost)
    name, _, rest = plan.label.partition(" (macs=")
    return replace(plan, label=f"{name}{TRAINED_MARK} (macs={rest}") if is_trained(model) else plan


def own_plans(subject: Subject, seed: int) -> tuple[list[Plan], list[str]]:
    """The methods that a user's model can run without training, at every cost; and which are left out, and why.

    The reduced model of a saved folder is a row of its own. Raises ValueError where not one method is left.
    """
    plans, left_out = [], []
    for name in SHOWN_METHODS:
        found = list(_fitting(subject.dense, name, seed))
        plans += [plan for plan in found if isinstance(plan, Plan)]
        left_out += [f"{METHODS[name].__name__} {reason}" for reason in found if isinstance(reason, str)]
    if subject.saved is not None:
        plans.append(plan_of(subject.saved))
    if not plans:
        raise ValueError(f"{subject.name} runs none of the methods without training: {left_out[0]}")
    return plans, left_out


def _fitting(dense: nn.Module, name: str, seed: int) -> Iterator[Plan | str]:
    """A plan for each cost, or the reason why there is none; a reason that holds for the method ends it."""
    for cost in COSTS:
        try:
            model = attach_fitting(dense, name, seed, macs=cost)
        except UnfitModel as unfit:
            yield f"is left out: {unfit}"
            return
        except ValueError as error:
            yield f"at {100 * cost:g} % is left out: {error}"
            continue
        if is_trained(model):
            yield "is left out: on this model it has learned parts, which must be trained first (vitrim finetune)"
            return
        yield plan_of(model, cost)
