"""Which reduced models a command line asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...common.text import did_you_mean
from ...methods import METHODS, LastClassAttention
from ...methods.registry import AUTO
from ...runtime.build import attach, make_method, reduce
from ...runtime.describing import name_of, options_of
from ...runtime.model import ReducedViT, unwrap
from ...runtime.plan_file import Plan as SearchedPlan
from ...runtime.plan_file import pick, read_plans
from .early_methods import check_plan_alone, one
from .method_options import SHARED, given_options
from .model import Subject, open_guide

BUDGETS = ("macs", "latency")  # of plans that were searched for
DEFAULT_METHOD = "evit"
DEFAULT_RATES = (0.9, 0.7, 0.5)  # of `compare`, for methods with a keep rate


@dataclass(frozen=True)
class Plan:
    """One reduced model, what to call it, and the budget that it was solved for, if it was."""

    label: str
    model: ReducedViT
    budget: float | None = None

    @property
    def name(self) -> str:
        """The method's name; of a stack all of them."""
        return name_of(self.model.methods)

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the method, as `options_of` gives them."""
        return options_of(self.model.methods)


def one_plan(subject: Subject, config: Any, seed: int) -> Plan:
    """The reduced model of `profile` and `evaluate`: several values of the dial are one for each place.

    Raises ValueError for options that the method does not take, and for a budget beside a keep rate.
    """
    if config.plan is not None:
        given = {name: one(f"--{name}", getattr(config, name))[0] for name in BUDGETS if getattr(config, name)}
        return _searched(subject, config, pick(_front(config), **given))
    _check_plan(config)
    names, given, budgets = config.method, _given(subject, config), config.macs
    saved = _kept(subject, config, given)
    if saved is not None:
        return plan_of(saved)
    (name,) = one("--method", _known(subject, names))
    if name == AUTO:
        return _picked(subject, config, *one("--macs", budgets or (None,)))
    dial = METHODS[name].dial
    options = _options(subject, name, _singles(given), seed)
    if budgets:
        if dial in given:
            raise ValueError(f"--macs solves for --{dial}: give one of the two")
        return _budgeted(subject, name, options, *one("--macs", budgets), config.prediction_only)
    return plan_of(_reduced(subject, make_method(name, **options), prediction_only=config.prediction_only))


def many_plans(subject: Subject, config: Any, seed: int, rates: Sequence[float] = DEFAULT_RATES) -> list[Plan]:
    """The rows of `compare`: every method at every value of its dial and every budget, in that order, none twice.

    rates: values of a keep rate where none is typed; empty: the method's own
    Raises ValueError for options that none of the methods takes.
    """
    if config.plan is not None:
        front = _front(config)
        picked = [pick(front, **{name: budget}) for name in BUDGETS for budget in getattr(config, name)]
        return [_searched(subject, config, plan) for plan in picked or front]
    _check_plan(config)
    names, given, budgets = config.method, _given(subject, config), config.macs
    saved = _kept(subject, config, given)
    if saved is not None:
        return [plan_of(saved)]
    names = _known(subject, names)
    _check_taken(names, given)
    _check_dials(names, given, budgets)
    dense = [plan_of(_reduced(subject, [], prediction_only=True))] if config.prediction_only else []
    plans = [*dense, *(plan for name in names for plan in _rows(subject, config, name, given, seed, rates))]
    return list({plan.label: plan for plan in plans}.values())


def _check_plan(config: Any) -> None:
    if config.latency:
        raise ValueError(
            f"--latency {config.latency[0]:g} picks a plan of --plan: vitrim tune --latency finds them; for a method's "
            "own plan give --macs"
        )


def _front(config: Any) -> tuple[SearchedPlan, ...]:
    """The plans of `--plan`. Raises ValueError where a method, or an option of one, is typed beside it."""
    check_plan_alone(config)
    return read_plans(config.plan)


def _searched(subject: Subject, config: Any, plan: SearchedPlan) -> Plan:
    if subject.saved is not None:
        raise ValueError(f"--plan {config.plan} is for a dense model, and {subject.name} is reduced already")
    model = plan_of(_reduced(subject, plan)).model
    label = f"{plan.names} (plan, {plan.by}={plan.budget:g})"
    return Plan(label, predicting(model) if config.prediction_only else model, plan.budget)


def _picked(subject: Subject, config: Any, budget: float | None) -> Plan:
    """What `auto` picks for a budget."""
    model = _reduced(subject, AUTO, macs=budget, prediction_only=config.prediction_only)
    return Plan(f"{name_of(model.methods)} (auto, macs={budget:g})", model, budget)


def _given(subject: Subject, config: Any) -> dict[str, Any]:
    """The methods' options that were typed; with `--guide`, scores from the model that it names."""
    given = given_options(config)
    if config.guide is None:
        if config.guide_checkpoint is not None:
            raise ValueError(
                f"--guide-checkpoint {config.guide_checkpoint}: say with --guide which model it belongs to"
            )
        return given
    unguided = [name for name in config.method if name in METHODS and not METHODS[name].guided]
    if unguided or "score" in given:
        reason = f"{unguided[0]} takes none" if unguided else "leave out --score"
        guided = ", ".join(name for name, cls in METHODS.items() if cls.guided)
        raise ValueError(
            f"--guide {config.guide} gives scores from outside, and {reason}: methods that do are {guided}"
        )
    return {**given, "score": LastClassAttention(open_guide(subject, config.guide, config.guide_checkpoint))}


def _rows(
    subject: Subject, config: Any, name: str, given: dict[str, Any], seed: int, default: Sequence[float]
) -> list[Plan]:
    budgets, only = config.macs, config.prediction_only
    if name == AUTO:
        return [_picked(subject, config, budget) for budget in budgets or (None,)]
    dial = METHODS[name].dial
    mine = {key: value for key, value in given.items() if key in METHODS[name].option_names() and key != dial}
    rates = {dial: given[dial]} if dial in given else {}
    options = _options(subject, name, {**_singles(mine), **rates}, seed)
    settings = [{**options, dial: value} for value in _values(options.pop(dial, None), dial, budgets, default)]
    if not settings and not budgets:
        settings = [options]
    rows = [plan_of(_reduced(subject, make_method(name, **setting), prediction_only=only)) for setting in settings]
    return rows + [_budgeted(subject, name, options, budget, only) for budget in budgets]


def _values(value: Any, dial: str, budgets: Sequence[float], default: Sequence[float]) -> Sequence[Any]:
    """The dial's values, one for each row. A list is a saved method's own: one row with a value for each place."""
    if value is None:
        return default if dial == "keep" and not budgets else ()
    return value if isinstance(value, tuple) else (value,)


def _kept(subject: Subject, config: Any, given: dict[str, Any]) -> ReducedViT | None:
    """The model of a saved folder, where the command line leaves it as it is, or turns only what its trained method
    leaves open; its own methods may be named. None: another one is asked for."""
    saved, names = subject.saved, list(config.method)
    if saved is None or config.macs or (names and names != [method.name for method in saved.methods]):
        return None
    if not given:
        return predicting(saved) if config.prediction_only else saved
    open_options = set(saved.methods[0].switches) if len(saved.methods) == 1 and saved.methods[0].learns else set()
    if not set(given) <= open_options:
        return None
    switched = _switch(saved, _singles(given))
    return predicting(switched) if config.prediction_only else switched


def predicting(model: ReducedViT) -> ReducedViT:
    """The same model, its last block computing class tokens alone."""
    if model.prediction_only:
        return model
    alone = attach(model.backbone, list(model.methods), prediction_only=True)
    alone.methods.load_state_dict(model.methods.state_dict())
    return alone


def _switch(saved: ReducedViT, given: dict[str, Any]) -> ReducedViT:
    """The saved model with these options of its method, and with what the method has learned."""
    (method,) = saved.methods
    model = attach(saved.backbone, make_method(method.name, **{**method.options(), **given}))
    model.methods.load_state_dict(saved.methods.state_dict())
    return model


def _known(subject: Subject, names: Sequence[str]) -> list[str]:
    """The methods named, each once; else the saved folder's; else EViT."""
    for name in names:
        if name not in METHODS and name != AUTO:
            hint = did_you_mean(name, METHODS)
            raise ValueError(f"method {name!r} is not known: {hint}methods are {', '.join(METHODS)} (vitrim methods)")
    saved = [method.name for method in subject.saved.methods] if subject.saved is not None else [DEFAULT_METHOD]
    if not names and len(saved) > 1:
        raise ValueError(
            f"the saved model is a stack of {' and '.join(saved)}: give no options of methods, or a --method"
        )
    return list(dict.fromkeys(names or saved))


def _options(subject: Subject, name: str, given: dict[str, Any], seed: int) -> dict[str, Any]:
    """A method's options: those typed, over those of a saved folder if it is the same method."""
    saved = [] if subject.saved is None else [method for method in subject.saved.methods if method.name == name]
    if any(True for method in saved for _ in method.parameters()):
        free = "".join(f" but --{option}" for option in METHODS[name].switches)
        raise ValueError(f"the saved {name} has learned parts that go with its options: give none{free}")
    start = saved[0].options() if saved else {}
    seeds = {key: seed for key in SHARED if key in METHODS[name].option_names()}
    return {**start, **seeds, **given}


def _check_taken(names: Sequence[str], given: dict[str, Any]) -> None:
    taken = {key for name in names if name in METHODS for key in METHODS[name].option_names()}
    for key in given:
        if key not in taken:
            option = key.replace("_", "-")
            raise ValueError(f"--{option} is no option of {' or '.join(names)}: vitrim methods lists them")


def _check_dials(names: Sequence[str], given: dict[str, Any], budgets: Sequence[float]) -> None:
    """Raise ValueError where some methods would have a row for each value that was typed, and others one by default."""
    dials = {name: METHODS[name].dial for name in names if name in METHODS}
    left = [name for name, dial in dials.items() if dial not in given]
    typed = [dial for dial in dict.fromkeys(dials.values()) if dial in given]
    if typed and left and not budgets:
        values = " ".join(f"{value:g}" for value in given[typed[0]])
        others = " and ".join(dict.fromkeys(f"--{dials[name]}" for name in left))
        raise ValueError(
            f"--{typed[0]} {values} is no option of {' or '.join(left)}: give {others} too, or for all methods --macs, "
            "shares of the dense cost such as 0.9 0.7 0.5"
        )


def remarks(plans: Sequence[Plan], config: Any) -> list[str]:
    """What the rows of `compare` do not show: options that not all methods take, and methods with a single row."""
    given = given_options(config)
    found = ["every reduced row computes class tokens alone in the last block"] if config.prediction_only else []
    names = [name for name in dict.fromkeys(plan.name for plan in plans) if name in METHODS]
    for option in given:
        without = [name for name in names if option not in METHODS[name].option_names()]
        if option in {METHODS[name].dial for name in names}:
            without = [name for name in without if METHODS[name].dial not in given]
        if without:
            found.append(f"--{option.replace('_', '-')} is no option of {' and '.join(without)}")
    for name in names:
        rows = [plan for plan in plans if plan.name == name]
        if len(rows) == 1 < len(plans) and not config.macs and METHODS[name].dial not in given:
            found.append(f"{rows[0].label} is the method's default: --{METHODS[name].dial} or --macs gives more rows")
    return found


def _singles(given: dict[str, Any]) -> dict[str, Any]:
    """One value alone is the value for all places."""
    alone = {key: value[0] for key, value in given.items() if isinstance(value, tuple) and len(value) == 1}
    return {**given, **alone}


def _budgeted(subject: Subject, name: str, options: dict[str, Any], budget: float, only: bool = False) -> Plan:
    free = {key: value for key, value in options.items() if key != METHODS[name].dial}
    return plan_of(_reduced(subject, make_method(name, **free), macs=budget, prediction_only=only), budget)


def _reduced(subject: Subject, method: Any, **options: Any) -> ReducedViT:
    """The model for images alone, of whatever library."""
    reduced: Any = unwrap(reduce(subject.dense, method, **options))
    return reduced


def plan_of(model: ReducedViT, budget: float | None = None) -> Plan:
    """The plan of a model that is reduced already."""
    label = " + ".join(f"{method.name} {method.dial_setting}" for method in model.methods) or "dense, prediction only"
    return Plan(label if budget is None else f"{label} (macs={budget:g})", model, budget)
