"""`vitrim profile`: the cost of a model with a method, block by block, from shapes alone."""

from __future__ import annotations

from typing import Any

from .._version import __version__
from ..common.files import write_json
from ..runtime.model_cost import UNITS, Profile
from ..runtime.profile import profile as cost_of
from .shared.config_file import asked
from .shared.model import open_model_without_weights
from .shared.plans import Plan, one_plan
from .shared.table import Printer


def run(config: Any) -> None:
    """Print the cost of what the arguments name."""
    subject = open_model_without_weights(config.model)
    plan = one_plan(subject, config.method, config.run.seed)
    cost, dense = cost_of(plan.model), cost_of(subject.dense)
    _print(Printer(config.output.json, config.output.wide), subject.name, plan, cost)
    write_json(config.output.json, {**asked(config), **_figures(subject.name, plan, cost, dense)})


def _print(printer: Printer, name: str, plan: Plan, cost: Profile) -> None:
    printer.line(f"{name}, {plan.label}: {UNITS}")
    printer.line()
    printer.show(cost.table())
    printer.line()
    printer.line(cost.total)


def _figures(name: str, plan: Plan, cost: Profile, dense: Profile) -> dict[str, Any]:
    return {
        "model": name,
        "method": plan.name,
        "options": plan.options,
        **({} if plan.budget is None else {"budget": plan.budget}),
        "gmacs": cost.gmacs,
        "dense_gmacs": dense.gmacs,
        "share": cost.share,
        "tokens": cost.tokens,
        "patches": cost.patches,
        "params": cost.params,
        "embed_macs": cost.embed_macs,
        "head_macs": cost.head_macs,
        "blocks": [vars(block) for block in cost.blocks],
        "dense_blocks": [vars(block) for block in dense.blocks],
        "vitrim": __version__,
    }
