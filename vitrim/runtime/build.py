"""`reduce`: put token reduction on a model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..backbones import Backbone, TransformersBackbone, find_family
from ..backbones.admission import unwrapped, warn_of_unseen
from ..backbones.layers import own_copy
from ..backbones.transformers.wrapper import timm_inside
from ..common.errors import OptionError
from ..common.order import check_order
from ..common.progress import remark
from ..common.text import did_you_mean
from ..methods import METHODS, Method
from ..methods.registry import AUTO
from .auto import choose
from .budget import solve
from .model import REDUCED, ReducedViT, unwrap
from .plan_file import ENDING, Plan, architecture_of, pick, read_plans
from .pretrained import as_pretrained, shared_copy
from .stack import as_stack
from .wrapped_timm import as_wrapper


class UntrainedWarning(UserWarning):
    """The method's learned parts are random, so its decisions mean nothing yet: run `vitrim finetune`, or load trained
    weights.

    Example:
        >>> vitrim.reduce(model, "dynamicvit").methods[0].learns  # so this call warns
        True
    """


def reduce(
    model: nn.Module,
    method: str | Path | Method | Sequence[Method] | Plan,
    *,
    macs: float | None = None,
    latency: float | None = None,
    dial: str | None = None,
    copy: bool = False,
    prediction_only: bool = False,
    **options: Any,
) -> ReducedViT:
    """Put token reduction on a supported model of timm or transformers: the result has the same inputs, outputs and
    weights. Of a model of transformers it is of the same class (`runtime/pretrained.py`); its vision tower is reduced,
    and a language model around it is left alone.

    model:   a timm or transformers model; wrappers of torch.compile and DistributedDataParallel are taken off
    method:  `vitrim.EViT(keep=0.7)`; or a name with its options: `reduce(model, "evit", keep=0.7)`;
             or a list of methods that act one after the other: `[ToMe(r=8, at=range(6)), EViT(keep=0.6, at=8)]`;
             or a plan that `vitrim tune` has found, or its file: `reduce(model, "plan.json", macs=0.5)`;
             or "auto", which picks method and plan for `macs` by what was measured, and says in a line on standard
             error, and in `print(fast)`, what it picked
    macs:    a share of the dense cost, in (0, 1]: sets the method's dial (keep, r) for the largest plan not above it;
             of a model of images and text a share of the vision tower's cost
    latency: of a file of plans for milliseconds, the budget of the one that is wanted
    dial:    in a stack, the name of the method whose dial `macs` sets; default the last
    copy:    give the result weights of its own; by default it shares the model's
    prediction_only: for models whose head reads nothing but class tokens: the last block computes these alone, which
             changes the logits by rounding only and saves 7 % of a dense DeiT-S. Whoever asks for features, a trace or
             losses still gets all tokens. With it `method` may be [], the dense model

    Raises ValueError for unsupported models, methods and options, and for a budget out of reach. Warns
    (`UntrainedWarning`) where a method has learned parts: they are random until trained.

    Example:
        >>> fast = vitrim.reduce(model, "evit", keep=0.5)
        >>> fast(images).shape, vitrim.profile(fast).tokens
        (torch.Size([2, 2]), [64, 33, 18, 10])
    """
    wrapper = _wrapper_of(model, copy)
    dense, copy = (model, copy) if wrapper is None else (wrapper.timm_model, False)
    reduced = attach(
        dense, method, macs=macs, latency=latency, dial=dial, copy=copy, prediction_only=prediction_only, **options
    )
    learning = [m.name for m in reduced.methods if m.learns]
    if learning:
        warnings.warn(
            f"{', '.join(learning)}: the learned parts that decide are random until they are trained: run "
            "`vitrim finetune`, or load trained weights",
            UntrainedWarning,
            stacklevel=2,
        )
    return as_given(reduced) if wrapper is None else as_wrapper(reduced, wrapper)


def as_given(reduced: ReducedViT) -> Any:
    """The reduced model as `reduce` gives it: one of transformers is of the dense one's class. Its backbone must be
    nobody else's."""
    return as_pretrained(reduced) if is_of_transformers(reduced) else reduced


def is_of_transformers(reduced: ReducedViT) -> bool:
    """Whether the model is one of transformers."""
    return isinstance(reduced.body, TransformersBackbone)


def _wrapper_of(model: nn.Module, copy: bool) -> Any:
    """transformers' wrapper around a timm model, as nobody else's, over the same weights or a copy; None for every
    other model."""
    outer = unwrapped(model)
    if not isinstance(outer, nn.Module) or REDUCED in vars(outer) or timm_inside(outer) is None:
        return None
    return own_copy(outer) if copy else shared_copy(outer)


def attach(
    model: nn.Module,
    method: str | Path | Method | Sequence[Method] | Plan,
    *,
    macs: float | None = None,
    latency: float | None = None,
    dial: str | None = None,
    copy: bool = False,
    prediction_only: bool = False,
    **options: Any,
) -> ReducedViT:
    """`reduce` without its warning, for those who load trained weights next."""
    _check_order(model, method)
    model = unwrap(model)
    if isinstance(model, ReducedViT):
        way = "give the dense one" if is_of_transformers(model) else "give its `.backbone`"
        raise ValueError(f"the model is reduced already: {way}, and a list of methods to stack them")
    plan = _plan_of(method, macs, latency)
    family = find_family(model)
    model = own_copy(model) if copy else model
    model = shared_copy(model) if family is TransformersBackbone and not copy else model
    body = family(model)
    warn_of_unseen(model, body.around())
    if plan is not None:
        if options:
            raise ValueError(f"the plan says which options its methods have: leave out {', '.join(options)}")
        plan.check_fits(body)
        if plan.model != architecture_of(model):
            remark(f"the plan was searched on {plan.model}, and this is {architecture_of(model)}: judge it before use")
        return ReducedViT(model, [make_method(name, **options) for name, options in plan.methods], plan.prediction_only)
    if isinstance(method, str) and method == AUTO:
        options = {"dial": dial, **options} if dial is not None else options
        return _chosen(model, body, macs, prediction_only, options)
    if prediction_only and isinstance(method, Sequence) and not method and macs is None and not options:
        return ReducedViT(model, [], prediction_only)
    methods = _as_methods(method, options)
    _check_budget(methods, macs, dial, options)
    if macs is not None:
        methods = solve(body, methods, macs, dial, prediction_only)
    return ReducedViT(model, methods, prediction_only)


def _check_order(model: Any, method: Any) -> None:
    """Raise ValueError for a method in the model's place."""
    check_order("vitrim.reduce", model, method, "method")
    if isinstance(model, str) and model in METHODS:
        raise ValueError(f'{model!r} is a method, and the model comes first: give vitrim.reduce(model, "{model}")')
    if isinstance(model, Method):
        raise ValueError(f"{model.name} is a method, and the model comes first: give vitrim.reduce(model, method)")


def _chosen(
    model: nn.Module, body: Backbone, macs: float | None, prediction_only: bool, options: dict[str, Any]
) -> ReducedViT:
    """What `auto` picks, which is said. It lets the last block compute class tokens alone wherever that is allowed."""
    if options:
        raise ValueError(f"auto chooses the method with its options: leave out {', '.join(options)}, or name a method")
    if prediction_only:
        body.check_prediction_only()  # says why not
    choice = choose(body, macs)
    reduced = ReducedViT(model, choice.methods, choice.prediction_only)
    reduced.chosen = choice.said
    remark(choice.said)
    return reduced


def _plan_of(method: Any, macs: float | None, latency: float | None) -> Plan | None:
    """The plan that is given, as one or as its file; None: a method is."""
    if isinstance(method, Plan):
        return method
    if isinstance(method, Path) or (isinstance(method, str) and method.endswith(ENDING)):
        return pick(read_plans(method), macs, latency)
    if latency is not None:
        raise OptionError({"latency": latency}, " picks a plan of vitrim tune's: give its file, or ", {"macs": ...})
    return None


def _as_methods(method: Any, options: dict[str, Any]) -> list[Method]:
    if isinstance(method, str):
        return [make_method(method, **options)]
    given = as_stack(list(method) if isinstance(method, Sequence) else [method])
    if options:
        raise ValueError(f"options {', '.join(options)} go with a method's name; here they belong into {given[0]}")
    return given


def _check_budget(methods: Sequence[Method], macs: float | None, dial: str | None, options: dict[str, Any]) -> None:
    """Raise ValueError where one of two answers to the same question would be dropped."""
    if macs is None and dial is not None:
        raise ValueError(f"dial={dial!r} names the method that macs turns: give macs too, such as macs=0.6")
    turned = methods[-1].dial
    if macs is not None and turned in options:
        raise OptionError(
            {"macs": macs},
            " solves for ",
            {turned: ...},
            ", and ",
            {turned: options[turned]},
            " is given: leave one out",
        )


def make_method(name: str, **options: Any) -> Method:
    """The method of that name with those options; ValueError naming what is not known and what would be.

    Example:
        >>> make_method("evit", keep=0.5)
        EViT(keep=0.5)
        >>> make_method("evitt")
        Traceback (most recent call last):
        ValueError: method 'evitt' is not known: did you mean evit? methods are evit, bat, idlevit, tofe, tome, ...
    """
    if name not in METHODS:
        raise ValueError(
            f"method {name!r} is not known: {did_you_mean(name, METHODS)}methods are {', '.join(METHODS)}, or your own "
            "once you have imported its file"
        )
    allowed, dial = METHODS[name].option_names(), METHODS[name].dial
    wrong = [key for key in options if key not in allowed]
    if wrong:
        near = did_you_mean(wrong[0], allowed)
        if wrong[0] in {cls.dial for cls in METHODS.values()}:  # another method's
            near = f"give {dial}, or for every method macs=0.6; "
        raise ValueError(
            f"{name} has no option {', '.join(wrong)}: {near}its options are {', '.join(allowed) or 'none'}"
        )
    return METHODS[name](**options)
