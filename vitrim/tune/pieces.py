"""The pieces that the forwards of all plans are made of, each ready to be timed by itself: a block by tokens, its MLP,
a block in which a method acts, both ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..core.tokens import Tokens
from ..runtime.loop import Loop, Request
from ..runtime.model import ReducedViT
from ..runtime.turns import Step, Turn, plan_turns
from .space import Shape, Space

LEAVING = 12  # one of so many tokens leaves at a place while it is timed
Run = Callable[[Tensor], Any]
Runs = Mapping[Any, Run]


class Pieces:
    """The pieces of a stack's plans on one batch; what comes to a block has come through the method's own reductions,
    since merged tokens weigh in attention, and scores may follow tokens.

    images: [b, c, height, width], the batch that is timed

    Example:
        >>> pieces = Pieces(Space(model, ["tome"]), images)
        >>> n, runs = pieces.plain(2, 40)
        >>> n, sorted(runs), torch.is_tensor(runs["mlp"](images).x)
        (40, ['block', 'mlp'], True)
    """

    def __init__(self, space: Space, images: Tensor):
        self.space, self.images, self.body = space, images, space.body

    def ends(self) -> Runs:
        """What comes before the first block, and behind the last."""
        body = self.body
        tokens = body.begin(body.embed(body.receive(self.images)))
        return {
            "embed": lambda _: body.begin(body.embed(body.receive(self.images))),
            "head": lambda _: body.deliver(body.head(tokens.with_x(body.norm(tokens.x)))),
        }

    def dense(self, block: int) -> Run:
        """A block of the dense model."""
        loop = Loop(self.body, plan_turns((), self.body.depth), Request(prediction=True))
        tokens = self.body.begin(self.body.embed(self.body.receive(self.images)))
        return lambda _: loop.block(loop.turns[block], tokens, None)

    def plain(self, block: int, wanted: int) -> tuple[int, Runs]:
        """The tokens that come to a block, as many as are wanted or as near as the methods come, and there a block in
        which nothing leaves, and its MLP."""
        loop, turn, tokens = self._entered(self._shape(block, wanted), block)
        runs: dict[str, Run] = {"block": lambda _: loop.block(turn, tokens, None)}
        if not turn.predicts:
            runs["mlp"] = lambda _: self.body.mlp(block, tokens)
        return tokens.n, runs

    def acting(self, step: Step, wanted: int) -> tuple[int, int, Run]:
        """(tokens before a place, tokens behind it, the block with it). Of a method that puts tokens back, `wanted` are
        inside."""
        block, j = step.place.block, self.space.steps.index(step)
        undone = step.restore_before is not None
        shape = self._shape(block, self.space.patches if undone else wanted)
        shape = shape.with_removed(j, self.space.patches - wanted if undone else max(1, wanted // LEAVING))
        loop, turn, tokens = self._entered(shape, block)
        behind = next(left for each, _, _, left in self.space.walk(shape) if each.block == block)
        return tokens.n, behind, lambda _: loop.block(turn, tokens, None)

    def _shape(self, block: int, wanted: int) -> Shape:
        """As many tokens as are not wanted in a block leave before it, as early as they may."""
        removed, n = [], self.space.patches
        for step in self.space.steps:
            may = step.place.block < block and step.restore_before is None
            removed.append(min(n - wanted, n // 2) if may else 0)
            n -= removed[-1]
        return Shape(tuple(removed), (0.5,) * self.space.places)

    def _entered(self, shape: Shape, block: int) -> tuple[Loop, Turn, Tokens]:
        """The plan's loop, its turn in a block, and the tokens that come to it."""
        model = ReducedViT(self.body.model, self.space.methods(shape), self.space.prediction_only).eval()
        loop = Loop(model.body, model.turns, Request(prediction=True))
        embedded = model.body.embed(model.body.receive(self.images))
        tokens: Tokens = model.body.begin(model.noted(embedded, self.images, None))
        span: Any = None
        for turn in loop.turns[:block]:
            tokens, span, _ = loop.block(turn, tokens, span)
        return loop, loop.turns[block], tokens
