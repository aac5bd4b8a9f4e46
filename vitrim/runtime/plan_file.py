"""Plans that `vitrim tune` has found, as a file: which methods with which counts, for which model, and how good."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..backbones import Backbone, library_of
from ..common.absent import absent
from ..common.errors import OptionError
from ..common.files import write_whole
from ..common.text import reason, shortened
from ..core.values import as_number, as_whole

FORMAT, ENDING = 1, ".json"
WORDS = {"macs": "MACs", "latency": "milliseconds"}  # what budgets are shares of
DIGEST, NEAR = "sha256", 0.005  # how far a budget may be from one that was searched for


@dataclass(frozen=True)
class Plan:
    """Methods with a count for every place, found by `vitrim.tune.tune` for one model and one budget.

    methods: (name, options) of each method of the stack
    budget:  the share of the dense cost that was asked for, of MACs, or of milliseconds where `by` says so
    share:   the share of the dense model's MACs that it costs
    model:   the architecture that it was found on
    depth, patches: blocks, and patch tokens of an image, of that model
    prediction_only: as for `vitrim.reduce`
    figures: how it was judged, by name
    measured_on: of a plan for milliseconds the batch size, precision, threads and device that these belong to

    Example:
        >>> plan = Plan((("tome", {"r": [8, 8, 8, 8]}),), 0.7, 0.69, "vit_tiny", depth=4, patches=64)
        >>> vitrim.profile(vitrim.reduce(model, plan)).tokens
        [56, 48, 40, 32]
    """

    methods: tuple[tuple[str, dict[str, Any]], ...]
    budget: float
    share: float
    model: str
    depth: int
    patches: int
    prediction_only: bool = False
    by: str = "macs"
    figures: dict[str, Any] = field(default_factory=dict)
    measured_on: dict[str, Any] = field(default_factory=dict)

    def check_fits(self, body: Backbone) -> None:
        """Raise ValueError for a model with other blocks, or images with other patches, than it was found for."""
        height, width = body.grid()
        depth, patches = body.depth, height * width
        if (depth, patches) != (self.depth, self.patches):
            raise ValueError(
                f"the plan is for {self.model}, {self.depth} blocks and {self.patches} patches, and "
                f"{architecture_of(body.model)} has {depth} and {patches}: tune that model, or take a plan of it"
            )

    @property
    def names(self) -> str:
        """The methods by name."""
        return "+".join(name for name, _ in self.methods)


def architecture_of(model: nn.Module) -> str:
    """What plans call a model: its architecture's name, else its class's.

    Example:
        >>> architecture_of(model)
        'deit_tiny_patch16_224'
    """
    return library_of(model).architecture(model) or type(model).__name__


def write_plans(path: str | Path, plans: Sequence[Plan], about: Mapping[str, Any]) -> Path:
    """Write plans to a file, whole, with a digest of what is in it.

    about: what else the file says: how the plans were searched, and on what machine

    Example:
        >>> plan = Plan((("tome", {"r": [8, 8, 8, 8]}),), 0.7, 0.69, "vit_tiny", depth=4, patches=64)
        >>> read_plans(write_plans("plan.json", [plan], {"seed": 0}))[0].methods
        (('tome', {'r': [8, 8, 8, 8]}),)
    """
    content = {"vitrim_plan": FORMAT, "plans": [asdict(plan) for plan in plans], **about}
    text = json.dumps({**content, DIGEST: _digest(content)}, indent=2, allow_nan=False)
    return write_whole(path, lambda there: Path(there).write_text(text + "\n", encoding="utf-8"))


def read_plans(path: str | Path) -> tuple[Plan, ...]:
    """The plans in a file. Raises ValueError, in one line, for one that cannot be read, is none, or was changed."""
    name = shortened(path)
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(absent("plan", path, "give a file that vitrim tune has written")) from error
    except OSError as error:
        raise ValueError(f"the plan {name} cannot be read: {reason(error)}") from error
    except ValueError as error:
        raise ValueError(f"the plan {name} is no JSON: give a file that vitrim tune has written") from error
    if not isinstance(content, dict) or content.get("vitrim_plan") != FORMAT:
        raise ValueError(f"{name} is no plan of this version of vitrim: give a file that vitrim tune has written")
    digest = content.pop(DIGEST, None)
    if digest != _digest(content):
        raise ValueError(f"the plan {name} was damaged or edited: its digest is of something else; tune again")
    try:
        return tuple(_plan(entry) for entry in content["plans"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the plan {name} does not say what a plan says: tune again") from error


def pick(plans: Sequence[Plan], macs: float | None = None, latency: float | None = None) -> Plan:
    """The plan for a budget, of the kind that was searched for; where there is one plan alone, that one. Raises
    ValueError where none was searched for.

    Example:
        >>> plan = Plan((("tome", {"r": [8, 8, 8, 8]}),), 0.7, 0.69, "vit_tiny", depth=4, patches=64, by="latency")
        >>> pick([plan], latency=0.7) is plan
        True
    """
    by = plans[0].by
    wrong = {name: given for name, given in (("macs", macs), ("latency", latency)) if name != by and given is not None}
    if wrong:
        raise OptionError("the plan was searched for shares of ", WORDS[by], ": give ", {by: ...}, ", not ", wrong)
    budget = macs if by == "macs" else latency
    if budget is None and len(plans) == 1:
        return plans[0]
    budgets = ", ".join(f"{plan.budget:g}" for plan in plans)
    if budget is None:
        raise OptionError(f"the plan has a front of budgets, {budgets}: say which with ", {by: ...})
    near = min(plans, key=lambda plan: abs(plan.budget - budget))
    if abs(near.budget - budget) > NEAR:
        raise OptionError("the plan has none for ", {by: budget}, f": it was searched for {budgets}")
    return near


def _plan(entry: dict[str, Any]) -> Plan:
    methods: Any = tuple((str(method[0]), dict(method[1])) for method in entry["methods"])
    numbers = [as_number(entry[key]) for key in ("budget", "share")]
    counts = [as_whole(entry[key]) for key in ("depth", "patches")]
    if not methods or None in numbers or None in counts:
        raise ValueError("a number is missing")
    if entry.get("by", "macs") not in WORDS:
        raise ValueError("budgets of an unknown kind")
    rest: Any = {key: value for key, value in entry.items() if key != "methods"}
    return Plan(methods, **rest)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
