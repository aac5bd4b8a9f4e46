"""The layers of a vision tower of transformers, run by vitrim's loop in one step.

transformers runs its layers one by one, `for layer in self.layers: x = layer(x, ...)`. In a reduced model the list of
layers is `ReducedLayers`: it holds the same layers, and iterating over it gives one step that runs them all. What one
call knows beside the tokens is its `Passage`, handed through transformers' keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.transformers.outputs import Collector, collector_of
from ..backbones.transformers.stems import Frame
from ..core.tokens import Tokens
from .loop import Loop, Request
from .model import ReducedViT
from .turns import Turn


@dataclass
class Passage:
    """One call of a tower.

    pixels: what it was given, [b, 3, height, width] or packed patches
    frames: the grids of its images
    reads:  numbers of the hidden states that somebody reads, after which nothing runs; (): what the last norm gives;
            None: all that the tower returns
    whole:  whether the caller sees single tokens
    left:   for each frame the tokens that are left after the last layer that has run, before the last norm
    """

    pixels: Any
    frames: list[Frame]
    reads: tuple[int, ...] | None = None
    whole: bool = False
    left: list[Tokens] = field(default_factory=list)

    def each(self, pool: Callable[[Tokens], Tensor]) -> Tensor:
        """`pool` of the tokens that are left, for all images [b, ...]."""
        parts = [pool(tokens) for tokens in self.left]
        rows = [frame.rows for frame in self.frames if frame.rows is not None]
        return torch.cat(parts)[torch.cat(rows).argsort()] if rows else parts[0]


class ReducedLayers(nn.ModuleList):
    """The layers of a tower, run by vitrim's loop in one step.

    reduced: the model that they are of, with its methods
    whole:   whether whoever reads the result sees single tokens: then it has one for every patch
    """

    def __init__(self, layers: nn.ModuleList, reduced: ReducedViT, whole: bool):
        super().__init__()
        self._modules = layers._modules
        self.training = layers.training
        # Not a submodule: it holds the model that this list is a part of.
        self.__dict__["reduced"], self.whole = reduced, whole

    def __iter__(self) -> Iterator[Any]:
        return iter((self.run,))

    def run(
        self,
        hidden_states: Tensor,
        *mask: Any,
        passage: Passage | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **others: Any,
    ) -> Tensor:
        """The layers: [b, p+n0, c] to [b, p+n0, c], or to the tokens that are left."""
        reduced: ReducedViT = self.__dict__["reduced"]
        if passage is None:
            raise ValueError("call the model, not its encoder: the layers are run for images")
        body: Any = reduced.body
        body.look()
        layers = list(body.all_blocks())
        collector = collector_of(layers)
        wanted, whole = _wanted(passage, collector, len(layers)), self.whole or passage.whole
        last = max(passage.reads) if passage.reads else len(layers)
        out, states = hidden_states, {i: hidden_states for i in wanted}
        for frame in passage.frames:
            tokens, grids = self._run_frame(body, passage, frame, hidden_states, position_embeddings, wanted, last)
            passage.left.append(tokens)
            out = frame.into(out, grids[last] if whole and last in grids else _given_back(tokens, whole))
            states |= {i: frame.into(states[i], grid) for i, grid in grids.items()}
        if collector is not None:
            collector.fill(states)
        return out

    def _run_frame(
        self, body: Any, passage: Passage, frame: Frame, x: Tensor, rotation: Any, wanted: set[int], last: int
    ) -> tuple[Tokens, dict[int, Tensor]]:
        """The images of one frame: the tokens that are left, and the wanted states but the first, of every patch."""
        reduced: ReducedViT = self.__dict__["reduced"]
        planned = reduced.turns
        turns = (*planned, *(Turn(i) for i in range(len(planned), last)))[:last]  # methods plan for what is read
        images = body.dialect.stem.images_of(body.config, passage.pixels, frame)
        tokens = reduced.noted(body.tokens_of(frame.of(x), frame.grid, rotation), images, None)
        take = sorted(i - 1 for i in wanted if i)
        watched = self.whole or passage.whole or bool(wanted)
        request = Request(remember=watched, prediction=not (watched or self.training))
        tokens, _, taken = Loop(body, turns, request, reduced.grad_checkpointing).run(tokens, take)
        return tokens, {block + 1: then.full_grid() for block, then in zip(take, taken, strict=True)}

    def __getitem__(self, idx: Any) -> Any:
        layers = nn.ModuleList(self._modules.values())  # a slice of them is a plain list
        return layers[idx]


def _given_back(tokens: Tokens, whole: bool) -> Tensor:
    if whole:
        return tokens.full_grid()
    return tokens.x if tokens.layout is None else tokens.layout.prefix_rows(tokens.x)


def _wanted(passage: Passage, collector: Collector | None, layers: int) -> set[int]:
    """Numbers of the hidden states to hand over."""
    if collector is None:
        return set()
    return set(passage.reads or (range(layers + 1) if collector.wanted is None else collector.wanted))
