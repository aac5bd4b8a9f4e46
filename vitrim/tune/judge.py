"""How far a plan takes a model from its dense self, on photographs held in memory; no label is asked for.

Two things make it fast. Bad plans are stopped early: after each batch the plan is compared with the best one on the
same photographs. And work is reused: blocks before the first place in which a plan differs from the best one are not
run again, since the tokens there are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.tokens import Tokens
from ..methods import Method
from ..runtime.loop import Loop, Request
from ..runtime.model import ReducedViT
from .space import Shape, Space

STANDARD_ERRORS = 1.0  # by which a plan must be worse to be stopped before all photographs are seen
REMEMBERED = 600 * 2**20  # bytes of tokens of the best plan
BATCH, OTHER_BATCH = 32, 256  # photographs at a time: on a CPU, and elsewhere


@dataclass
class Verdict:
    """What is known of a plan: `distances` [seen] of the photographs in their order. whole: all were seen."""

    distances: Tensor
    whole: bool
    entries: list[dict[int, Tokens]] = field(default_factory=list, repr=False)

    @property
    def mean(self) -> float:
        """The mean distance."""
        return float(self.distances.mean())


class Judge:
    """Judges plans by the mean distance of outputs from the dense model's: KL of the classes, or without a classifier
    1 - cosine of the features.

    images: [b, c, height, width], as the model takes them
    Raises ValueError for no image.

    Example:
        >>> space = Space(model, ["tome"])
        >>> judge = Judge(space, images)
        >>> judge.distances(Shape((0,) * 4, (0.0,) * 4)).abs().max() < 1e-5  # nothing leaves
        tensor(True)
    """

    def __init__(self, space: Space, images: Tensor, classes: bool = True):
        if not len(images):
            raise ValueError("no photograph to judge by: give some")
        self.space, self.classes = space, classes
        self.batches = images.split(BATCH if images.device.type == "cpu" else OTHER_BATCH)
        self.best: tuple[Shape, Verdict] | None = None
        self.evaluations = self.images_run = 0
        self.dense = self._run(ReducedViT(space.body.model, None).eval())

    def figures(self, model: ReducedViT) -> tuple[float, float | None]:
        """Of any reduced form of the model: the mean distance, and percent of equal classes where there are some."""
        pairs = list(zip(self.dense, self._run(model.eval()), strict=True))
        distances = torch.cat([_distance(dense, output, self.classes) for dense, output in pairs])
        same = torch.cat([dense.argmax(dim=-1) == output.argmax(dim=-1) for dense, output in pairs])
        return float(distances.mean()), 100 * float(same.float().mean()) if self.classes else None

    @torch.inference_mode()
    def _run(self, model: nn.Module) -> list[Tensor]:
        return [model(batch).float() for batch in self.batches]

    def settle(self, shape: Shape) -> float:
        """Judge a plan on all photographs, and make it the best one."""
        verdict = self.judge(shape, stop=False)
        self.best = shape, verdict
        return verdict.mean

    def better(self, shape: Shape) -> tuple[bool, float]:
        """Whether a plan is better than the best one, which it then takes the place of; and its mean distance, on as
        many photographs as it took to tell."""
        verdict = self.judge(shape)
        won = verdict.whole and verdict.mean < self._best.mean
        if won:
            self.best = shape, verdict
        return won, verdict.mean

    @property
    def _best(self) -> Verdict:
        assert self.best is not None, "settle a plan first"
        return self.best[1]

    @torch.inference_mode()
    def judge(self, shape: Shape, stop: bool = True) -> Verdict:
        """Distances of a plan. stop: as soon as it is clearly worse than the best one."""
        self.evaluations += 1
        methods, first = self.space.methods(shape), self._first_change(shape)
        runner = _Runner(self.space, methods, first)
        distances: list[Tensor] = []
        entries: list[dict[int, Tokens]] = []
        for j, batch in enumerate(self.batches):
            output, entered = runner.run(batch, self._entries(j))
            self.images_run += len(batch)
            entries.append(entered)
            distances.append(_distance(self.dense[j], output, self.classes))
            seen = torch.cat(distances)
            if stop and j + 1 < len(self.batches) and self._clearly_worse(seen):
                return Verdict(seen, False)
        return Verdict(torch.cat(distances), True, entries)

    def distances(self, shape: Shape) -> Float[Tensor, " b"]:
        """Of every photograph, whatever the best plan."""
        return self.judge(shape, stop=False).distances

    def _clearly_worse(self, seen: Tensor) -> bool:
        worse = seen - self._best.distances[: len(seen)]
        error = float(worse.std(unbiased=True)) / len(worse) ** 0.5 if len(worse) > 1 else 0.0
        return float(worse.mean()) > STANDARD_ERRORS * error

    def _first_change(self, shape: Shape) -> int:
        """The first block in which a plan differs from the best one."""
        if self.best is None:
            return 0
        before, blocks = self.best[0], self.space.blocks
        pairs = zip(before.removed, before.dropped, shape.removed, shape.dropped, strict=True)
        changed = (blocks[j] for j, (r, d, new, now) in enumerate(pairs) if (r, d) != (new, now))
        return next(changed, self.space.body.depth - 1)

    def _entries(self, batch: int) -> dict[int, Tokens]:
        return {} if self.best is None or not self._best.entries else self._best.entries[batch]


class _Runner:
    """One plan's forward, from the last block before `first` of which the tokens are known."""

    def __init__(self, space: Space, methods: Sequence[Method], first: int):
        self.model = ReducedViT(space.body.model, methods, space.prediction_only).eval()
        self.body, self.first = self.model.body, first
        self.loop = Loop(self.body, self.model.turns, Request(prediction=True))
        self.every = _spacing(self.body, sum(1 for _ in self.model.turns))

    def run(self, images: Tensor, known: dict[int, Tokens]) -> tuple[Tensor, dict[int, Tokens]]:
        """Outputs, and the tokens at the start of some blocks."""
        start = max((block for block in known if block <= self.first), default=None)
        if start is None:
            tokens = self.body.begin(self.model.noted(self.body.embed(self.body.receive(images)), images, None))
        else:
            tokens = known[start]
        entered = {block: there for block, there in known.items() if start is not None and block <= start}
        span: Any = None
        for turn in self.model.turns[start or 0 :]:
            if span is None and turn.block % self.every == 0:
                entered[turn.block] = tokens
            tokens, span, _ = self.loop.block(turn, tokens, span)
        tokens = self.body.finish(tokens if span is None else tokens.restore(span.reduction, span.outside))
        outputs = self.body.deliver(self.body.head(tokens.with_x(self.body.norm(tokens.x))))
        return outputs.float(), entered


def _spacing(body: Any, depth: int) -> int:
    """Tokens are remembered at every so many-th block, so that they fit into the memory that is given to them."""
    height, width = body.grid()
    needed = depth * BATCH * height * width * body.width * 4
    return max(1, -(-needed * 16 // REMEMBERED))


def _distance(dense: Tensor, output: Tensor, classes: bool) -> Float[Tensor, " b"]:
    if not classes:
        return 1 - torch.cosine_similarity(dense, output, dim=-1)
    log_dense, log_output = dense.log_softmax(dim=-1), output.log_softmax(dim=-1)
    return (log_dense.exp() * (log_dense - log_output)).sum(dim=-1)
