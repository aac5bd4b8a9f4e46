"""What can be told of the methods that a command line names, before PyTorch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .signatures import own_signatures
from .spec import PLACES, Command

KEEP_HINT = "give the share of the patch tokens to keep, such as 0.7"


def check_methods(command: Command, config: Any) -> None:
    """Raise ValueError for budgets and keep rates that cannot be, for several where one is taken, and for options that
    do not go together."""
    method = getattr(config, "method", None)
    if method is None:
        return
    macs = method.macs if isinstance(method.macs, tuple) else (method.macs,)
    for share in macs:
        if not 0 < share <= 1:
            raise ValueError(f"--macs {share:g} is no share of the dense cost: give a number in (0, 1], such as 0.6")
    for rate in _several(method.options.get("keep", ())):
        if isinstance(rate, float) and not 0 < rate <= 1:
            raise ValueError(f"--keep {rate:g} is not in (0, 1]: {KEEP_HINT}")
    check_plan_alone(method)
    if command.dial == PLACES:
        folder = config.model.checkpoint
        if folder is None or not folder.expanduser().is_dir():  # of which all methods may be named
            one("--method", method.method)
        one("--macs", macs)
        _check_dial(method)
    if getattr(method, "guide_checkpoint", None) is not None and method.guide is None:
        raise ValueError(f"--guide-checkpoint {method.guide_checkpoint}: say with --guide which model it belongs to")


def check_plan_alone(method: Any) -> None:
    """Raise ValueError where a method, or an option of one, is typed beside a plan."""
    plan = getattr(method, "plan", None)
    if plan is not None:
        beside = ["method"] * bool(method.method) + list(method.options) + ["guide"] * (method.guide is not None)
        if beside:
            raise ValueError(f"--plan {plan} says which method with which options: leave out --{beside[0]}")


def one(option: str, given: Sequence[Any]) -> Sequence[Any]:
    """The only value. Raises ValueError where there are several."""
    if len(given) > 1:
        raise ValueError(f"{option} {' '.join(map(str, given))}: give one here; vitrim compare takes several")
    return given


def _check_dial(method: Any) -> None:
    """Raise ValueError for a budget beside what it is solved for."""
    known = own_signatures()
    dials = {known[name].dial for name in method.method if name in known}
    if method.macs and dials & method.options.keys():
        raise ValueError(f"--macs solves for --{dials.pop()}: give one of the two")


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,)
