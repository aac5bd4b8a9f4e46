"""The cost of a whole model, as figures and as a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..backbones import Backbone
from ..backbones.counting import count_params
from ..common.tables import Column, Table, folded
from ..common.terminal import terminal_width
from ..methods import Method
from .cost import BlockCost, plan_cost

WAY_OUT = "summary(wide=True)"
UNITS = "MACs of one image in millions; patch tokens in each block's attention > MLP, where the two differ"


@dataclass(frozen=True, repr=False)
class Profile:
    """Cost of a model for one image, in multiply-accumulates (MACs). Printed it is the table of `vitrim profile`.

    blocks:       cost of each block, with the patch tokens in its attention and its MLP
    embed_macs:   of the patch embedding or stem
    head_macs:    of the classifier
    dense_macs:   total of the same model without reduction
    patches:      patch tokens of the whole image
    params:       parameters of the model, learned parts of methods included
    dense_blocks: cost of each block without reduction
    unread_macs:  of what is computed and nobody reads: the layers behind the one that a language model reads. A reduced
                  model leaves them out
    dense_unread_macs: the same in the dense model

    Example:
        >>> cost = vitrim.profile(vitrim.reduce(model, "evit", keep=0.5))
        >>> cost.macs, cost.dense_macs, f"{cost.share:.0%}"
        (78337728, 130942848, '60%')
        >>> cost
        Profile(gmacs=0.078, dense_gmacs=0.131, share=0.598, tokens left: 33 18 10 of 64)
    """

    blocks: tuple[BlockCost, ...]
    embed_macs: int
    head_macs: int
    dense_macs: int
    patches: int
    params: int
    dense_blocks: tuple[BlockCost, ...]
    unread_macs: int = 0
    dense_unread_macs: int = 0

    @property
    def macs(self) -> int:
        """Total MACs of one image."""
        ends = self.embed_macs + self.unread_macs + self.head_macs
        return ends + sum(b.macs + b.method_macs for b in self.blocks)

    @property
    def gmacs(self) -> float:
        """Total, in units of 1e9 MACs."""
        return self.macs / 1e9

    @property
    def dense_gmacs(self) -> float:
        """The same model without reduction, in units of 1e9 MACs."""
        return self.dense_macs / 1e9

    @property
    def share(self) -> float:
        """Share of the dense cost."""
        return self.macs / self.dense_macs

    @property
    def tokens(self) -> list[int]:
        """Patch tokens in the MLP of every block."""
        return [b.mlp_tokens for b in self.blocks]

    @property
    def total(self) -> str:
        """The whole cost in a sentence."""
        if self._is_dense:
            return f"{self.gmacs:.3f} GMACs, {self.patches} patch tokens, {self.params / 1e6:.2f} M parameters"
        left = tokens_left(self.patches, self.tokens)
        return (
            f"{self.gmacs:.3f} GMACs instead of {self.dense_gmacs:.3f} ({100 * self.share:.1f} %), "
            f"{left} of {self.patches} patch tokens left, {self.params / 1e6:.2f} M parameters"
        )

    def table(self) -> Table:
        """The cost block by block, beside the dense model's where it is another."""
        columns = COLUMNS[:DENSE_COLUMNS] if self._is_dense else COLUMNS
        return Table(columns, [row[: len(columns)] for row in [*_blocks(self), *_totals(self)]])

    @property
    def _is_dense(self) -> bool:
        return self.blocks == self.dense_blocks and self.unread_macs == self.dense_unread_macs

    def summary(self, wide: bool = False) -> None:
        """Print the cost block by block.

        wide: every column, however narrow the terminal
        """
        print(self._text(None if wide else terminal_width(sys.stdout)))

    def __str__(self) -> str:
        return self._text(terminal_width(sys.stdout))

    def __repr__(self) -> str:
        left = f"tokens left: {tokens_left(self.patches, self.tokens)} of {self.patches}"
        return f"Profile(gmacs={self.gmacs:.3f}, dense_gmacs={self.dense_gmacs:.3f}, share={self.share:.3f}, {left})"

    def _text(self, width: int | None) -> str:
        return "\n".join([*folded(UNITS, width), "", self.table().fit(width, WAY_OUT), "", *folded(self.total, width)])


def cost_of_model(model: nn.Module, body: Backbone, methods: Sequence[Method], grid: tuple[int, int]) -> Profile:
    """The cost of a model, the adapter of its family and the methods on it, for images of this grid of patches."""
    blocks, left = plan_cost(body, methods, grid, prediction_only=getattr(model, "prediction_only", False))
    dense_blocks, all_left = plan_cost(body, (), grid)
    embed, head, dense_head = body.embed_macs(grid), *(body.head_macs(n + body.prefix) for n in (left, all_left))
    unread = body.unread_macs(grid)
    dense = embed + dense_head + sum(block.macs for block in dense_blocks) + unread
    costs = tuple(blocks), embed, head, dense, grid[0] * grid[1], count_params(model), tuple(dense_blocks)
    return Profile(*costs, 0 if hasattr(model, "prediction_only") else unread, unread)


def tokens_left(patches: int, tokens: Sequence[int]) -> str:
    """Patch tokens after each place where their number changes: `138 97 68`; of many, the first and the last. A last
    block that computes class tokens alone has none, which is no choice of a method.

    Example:
        >>> tokens_left(196, [196, 139, 139, 99, 71]), tokens_left(196, [183, 170, 157, 144, 131])
        ('139 99 71', '183 to 131')
    """
    after = [n for n, before in zip(tokens, [patches, *tokens], strict=False) if n not in (0, before)] or [patches]
    return " ".join(map(str, after)) if len(after) <= 4 else f"{after[0]} to {after[-1]}"


COLUMNS = (
    Column("block", text=True),
    Column("tokens"),
    Column("MACs"),
    Column("the method's", drop=1),
    Column("share"),
    Column("dense tokens", drop=3),
    Column("dense MACs", drop=2),
)
DENSE_COLUMNS = 3  # the first ones, which a model without a method has too


def _blocks(cost: Profile) -> list[list[str]]:
    return [
        [
            str(block.block),
            _tokens(block),
            _millions(block.macs + block.method_macs),
            _millions(block.method_macs) if block.method_macs else "-",
            _share(block.macs + block.method_macs, dense.macs),
            _tokens(dense),
            _millions(dense.macs),
        ]
        for block, dense in zip(cost.blocks, cost.dense_blocks, strict=True)
    ]


def _totals(cost: Profile) -> list[list[str]]:
    unread, dense_unread = cost.unread_macs, cost.dense_unread_macs
    dense_head = cost.dense_macs - cost.embed_macs - dense_unread - sum(block.macs for block in cost.dense_blocks)
    deciding = _millions(sum(block.method_macs for block in cost.blocks))
    totals = [
        ("embedding", cost.embed_macs, "-", cost.embed_macs),
        *([("read by nobody", unread, "-", dense_unread)] if dense_unread else []),
        ("head", cost.head_macs, "-", dense_head),
        ("total", cost.macs, deciding, cost.dense_macs),
    ]
    return [
        [name, "", _millions(macs), own, _share(macs, dense), "", _millions(dense)] for name, macs, own, dense in totals
    ]


def _tokens(block: BlockCost) -> str:
    attention, mlp = block.attention_tokens, block.mlp_tokens
    return str(attention) if attention == mlp else f"{attention} > {mlp}"


def _millions(macs: int) -> str:
    return f"{macs / 1e6:,.2f}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
