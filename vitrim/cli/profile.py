"""`vitrim profile`: the cost of a model with a method, block by block, from shapes alone."""

from __future__ import annotations

from typing import Any

from .._version import __version__
from ..common.files import check_output, write_json
from ..runtime.profile import Profile
from ..runtime.profile import profile as cost_of
from .shared.config_file import asked
from .shared.model import open_model_without_weights
from .shared.plans import Plan, one_plan
from .shared.table import Printer, tokens_left


def run(config: Any) -> None:
    """Print the cost of what the arguments name."""
    check_output(config.output.json)
    subject = open_model_without_weights(config.model)
    plan = one_plan(subject, config.method, config.run.seed)
    cost, dense = cost_of(plan.model), cost_of(subject.dense)
    _print(Printer(config.output.json), subject.name, plan, cost, dense)
    write_json(config.output.json, {**asked(config), **_figures(subject.name, plan, cost, dense)})


def _print(printer: Printer, name: str, plan: Plan, cost: Profile, dense: Profile) -> None:
    printer.line(f"{name}, {plan.label}: MACs of one image in millions, patch tokens in each block's attention and MLP")
    printer.line()
    columns = ["block", "tokens", "MACs", "the method's", "share", "dense tokens", "dense MACs"]
    printer.table(columns, [*_blocks(cost, dense), *_totals(cost, dense)])
    printer.line()
    left = tokens_left(cost.patches, cost.tokens)
    printer.line(
        f"{cost.gmacs:.3f} GMACs instead of {dense.gmacs:.3f} ({100 * cost.share:.1f} %), "
        f"{left} of {cost.patches} patch tokens left, {cost.params / 1e6:.2f} M parameters"
    )


def _blocks(cost: Profile, dense: Profile) -> list[list[str]]:
    return [
        [
            str(block.block),
            _tokens(block.attention_tokens, block.mlp_tokens),
            _millions(block.macs + block.method_macs),
            _millions(block.method_macs) if block.method_macs else "-",
            _share(block.macs + block.method_macs, all_.macs),
            _tokens(all_.attention_tokens, all_.mlp_tokens),
            _millions(all_.macs),
        ]
        for block, all_ in zip(cost.blocks, dense.blocks, strict=True)
    ]


def _totals(cost: Profile, dense: Profile) -> list[list[str]]:
    ends = [("embedding", cost.embed_macs, dense.embed_macs), ("head", cost.head_macs, dense.head_macs)]
    rows = [
        [name, "", _millions(deciding), "-", _share(deciding, all_), "", _millions(all_)]
        for name, deciding, all_ in ends
    ]
    deciding = sum(block.method_macs for block in cost.blocks)
    total = [
        "total",
        "",
        _millions(cost.macs),
        _millions(deciding),
        _share(cost.macs, dense.macs),
        "",
        _millions(dense.macs),
    ]
    return [*rows, total]


def _tokens(attention: int, mlp: int) -> str:
    return str(attention) if attention == mlp else f"{attention} > {mlp}"


def _millions(macs: int) -> str:
    return f"{macs / 1e6:,.2f}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


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
