"""The loop over the blocks of a model, in which methods may change the number of tokens.

A method is an nn.Module: calling it with (tokens, evidence, place) runs its `forward`, and the hooks that somebody has
put on it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..backbones import Backbone
from ..core.evidence import Evidence
from ..core.reductions import Keep, Reduction
from ..core.tokens import Tokens
from .records import BlockTrace, PlaceRecord, Span, record_place, trace_block
from .turns import Step, Turn


class Watcher(Protocol):
    """Somebody who looks at the tokens while a forward runs."""

    def before(self, block: int, tokens: Tokens) -> None:
        """Those that come to a block, before any method acts in it; what a method holds outside is not among them."""

    def after(self, block: int, tokens: Tokens) -> None:
        """Those that are there after a block; what a method holds outside is in its place, as it was left."""


@dataclass(frozen=True)
class Request:
    """What the caller wants of a forward.

    trace:    a `BlockTrace` for every block
    remember: features from before every reduction, so that dense features can be restored
    prediction: nothing but the prediction
    losses:   a `PlaceRecord` for every place: with the attention "maps" that the cut loss looks at, the same from mean
              "logits" (the authors' code), or "masks" alone; None: no records
    watcher:  who looks at the tokens meanwhile
    """

    trace: bool = False
    remember: bool = False
    prediction: bool = False
    losses: Literal["maps", "logits", "masks"] | None = None
    watcher: Watcher | None = None


@dataclass
class BlockRecord:
    """What one block leaves behind: its last decision; where asked for, its trace and the records of its places."""

    decision: Reduction | None = None
    trace: BlockTrace | None = None
    place_records: list[PlaceRecord] = field(default_factory=list)


@dataclass(frozen=True)
class Loop:
    """One forward: what is fixed while it runs.

    checkpointing: recompute each block in the backward pass instead of storing its activations; None: as the model
                   itself has been told
    """

    body: Backbone
    turns: Sequence[Turn]
    request: Request
    checkpointing: bool | None = None

    def run(self, tokens: Tokens, take: Collection[int] = ()) -> tuple[Tokens, list[BlockRecord], list[Tokens]]:
        """The tokens after the last block, the records of all blocks, and the tokens after the blocks in `take`; what
        a method holds outside just then is put back into those."""
        span, records, taken = None, [], []
        for turn in self.turns:
            tokens, span, record = self._step(turn, tokens, span)
            records.append(record)
            if self.request.watcher is not None:
                self.request.watcher.after(turn.block, _whole(tokens, span))
            if turn.block in take:
                taken.append(_whole(tokens, span))
        return _whole(tokens, span), records, taken

    def _step(self, turn: Turn, *args):
        told = self.body.recomputes(turn.block) if self.checkpointing is None else self.checkpointing
        if told and torch.is_grad_enabled():
            return checkpoint(self.block, turn, *args, use_reentrant=False)
        return self.block(turn, *args)

    def block(self, turn: Turn, tokens: Tokens, span: Span | None) -> tuple[Tokens, Span | None, BlockRecord]:
        """One block: its two halves, and what methods do before, between and after them."""
        i, body, record = turn.block, self.body, BlockRecord()
        tokens = body.enter(i, tokens)
        if self.request.watcher is not None:
            self.request.watcher.before(i, tokens)
        tokens, span, h = self._before(turn, tokens, span, record)
        if turn.predicts and self._only_predicts(tokens):
            return body.mlp(i, body.attend_prefix(i, tokens, h)), None, record
        start = tokens if turn.followers else None  # kept no longer than somebody asks for it
        tokens, evidence = body.attend(i, tokens, h)  # x + attention(h), h = norm1(x)
        tokens = self._between(turn, tokens, evidence, record)
        del evidence  # queries and keys are gone before the MLP runs
        tokens = _followed(turn, start, tokens, body.mlp(i, tokens))  # x + mlp(norm2(x))
        if self.request.trace:
            record.trace = trace_block(i, tokens, span, record.decision)
        if turn.closes and span is not None:
            tokens, span = _close(tokens, span, record), None
        return body.leave(i, tokens), span, record

    def _only_predicts(self, tokens: Tokens) -> bool:
        """Whether the head, and nobody else, reads what the last block computes; ragged and masked batches, and hooks
        on the model, get all of it."""
        plain = self.request.prediction and tokens.layout is None and tokens.mask is None
        return plain and not self.body.hooks_of_its_own() and not self.body.hooks_at_the_end()

    def _before(self, turn: Turn, tokens: Tokens, span: Span | None, record: BlockRecord):
        """Steps before the attention. Also returns h = norm1 of the tokens that go in, where it is known already."""
        h = None
        for step in turn.before:
            # Some methods count in shares of the whole image, and this image may have another size than the model's.
            place = step.place_on(_patches(tokens))
            if not step.acts_on(place, tokens.n):
                continue
            evidence = self.body.probe(turn.block, tokens)
            decision = step.decide(tokens, evidence, place)
            if decision is None:
                continue
            place_record = self._record(step, tokens, evidence, decision)
            if step.restore_before is not None:
                span = Span(tokens, decision, step, place_record)
            elif place_record is not None:
                record.place_records.append(place_record)
            record.decision, undone = decision, step.restore_before is not None
            tokens = tokens.shrink(decision, undone=undone, remember=self.request.remember)
            # A norm is computed token by token, so kept tokens keep their rows of h; fused and merged tokens are new.
            # If the method did not ask for h, it is left to the attention: here it would be computed for all tokens.
            known = isinstance(decision, Keep) and evidence.asked
            h = decision.shrink(evidence.h, tokens.prefix) if known else None
        return tokens, span, h

    def _between(self, turn: Turn, tokens: Tokens, evidence: Evidence, record: BlockRecord) -> Tokens:
        """Who looks at the attention, and the steps between attention and MLP."""
        for method in turn.observers:
            tokens = tokens.with_note(method.number, method.observe(tokens, evidence, turn.block))
        for step in turn.between:
            # The size of this image counts, as in `_before`.
            place = step.place_on(_patches(tokens))
            if not step.acts_on(place, tokens.n):
                continue
            decision = step.decide(tokens, evidence, place)
            if decision is None:
                continue
            left = self._record(step, tokens, evidence, decision)
            if left is not None:
                record.place_records.append(left)
            record.decision = decision
            tokens = tokens.shrink(decision, remember=self.request.remember)
        return tokens

    def _record(self, step: Step, tokens: Tokens, evidence: Evidence, decision: Reduction) -> PlaceRecord | None:
        losses = self.request.losses
        return None if losses is None else record_place(step, tokens.n, evidence, decision, losses)


def _followed(turn: Turn, start: Tokens | None, middle: Tokens, tokens: Tokens) -> Tokens:
    """With notes of how far the block has moved every token, from before its attention (`start`) or its MLP."""
    for method in turn.followers:
        before = middle.x if start is None or method.follows == "mlp" else _as_shrunk(start, middle)
        tokens = tokens.with_note(method.number, method.moved(before, tokens))
    return tokens


def _as_shrunk(start: Tokens, tokens: Tokens) -> Tensor:
    """The features of `start`, in the tokens that have been made of them since."""
    x = start.x
    for step in tokens.steps[len(start.steps) :]:
        x = step.reduction.shrink(x, start.prefix)
    return x


def _patches(tokens: Tokens) -> int:
    """Patches of the whole image there."""
    return tokens.grid[0] * tokens.grid[1]


def _close(tokens: Tokens, span: Span, record: BlockRecord) -> Tokens:
    """Put back what was left outside."""
    step = span.step
    tokens = tokens.restore(span.reduction, step.method.update_outside(span.outside, span.reduction, step.place))
    if span.place_record is not None:
        record.place_records.append(replace(span.place_record, restored=tokens.x))
    return tokens


def _whole(tokens: Tokens, span: Span | None) -> Tokens:
    """The tokens inside, and those outside as they were left."""
    return tokens if span is None else tokens.restore(span.reduction, span.outside)


def features_of_every_patch(tokens: Tokens, body: Backbone, fill: str, norm: bool = True) -> Tokens:
    """One token for every patch of the image again, after the final norm.

    fill: what a pruned patch gets, before the norm: as for `Tokens.full_grid`
    """
    grid: Tensor = tokens.full_grid(fill)
    return tokens.with_x(body.norm(grid) if norm else grid)
