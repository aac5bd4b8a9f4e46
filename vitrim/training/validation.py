"""What a run is judged by: after every epoch, and at its end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..common.progress import hidden, progress
from ..evaluate.accuracy import evaluate_many, in_words
from ..runtime.model import ReducedViT
from .settings import Settings

DENSE, UNTRAINED = "dense_", "untrained_"  # before the names of the dense model's figures, and of those before training
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Validation:
    """Accuracy and agreement of the student, on validation photographs, beside the dense model where there is one.

    prepare: the student to what is judged in its place, the model as it would be saved now
    between: called after every batch; may raise to leave
    """

    def __init__(
        self,
        dense: nn.Module | None,
        loader: DataLoader,
        settings: Settings,
        prepare: Callable[[ReducedViT], ReducedViT] = lambda student: student,
        between: Callable[[], None] = lambda: None,
    ):
        self.dense, self.loader, self.prepare, self.between = dense, loader, prepare, between
        self.show = settings.show
        self.dtype = DTYPES.get(settings.precision, torch.float32)
        self.figures: dict[str, float] = {}
        self.untrained: dict[str, float] = {}

    def begin(self, student: ReducedViT) -> None:
        """Judge what the student was before it learned anything, the dense model with its methods; where that means
        something: these need no training to decide."""
        if self.dense is None or any(method.learns for method in student.methods):
            return
        before = ReducedViT(self.dense, list(student.methods), student.prediction_only)
        figures = self._judge(before, self.loader, torch.float32)
        self.untrained = {f"{UNTRAINED}{name}": value for name, value in figures.items() if not name.startswith(DENSE)}

    def __call__(self, student: ReducedViT) -> dict[str, float]:
        """Figures of the student as it is now, in the precision that it trains in."""
        self.figures = self._judge(self.prepare(student), self.loader, self.dtype)
        return self.figures

    def final(self, trained: ReducedViT) -> dict[str, float]:
        """Figures of the model that has been saved, in its own precision (those of the last epoch, where they are
        that), and those of `begin`."""
        if not self.figures or self.dtype != torch.float32:
            self.figures = self._judge(trained, self.loader, torch.float32)
        return self.figures | self.untrained

    def try_out(self, student: ReducedViT) -> None:
        """Judge one batch, so that what judging needs is missed before training and not after its first epoch.

        Raises ValueError as `evaluate_many` does.
        """
        batches = []
        for batch in self.loader:
            batches.append(batch)
            if len(batch[0]):
                break
        for dtype in dict.fromkeys((self.dtype, torch.float32)):
            self._judge(student, batches, dtype)

    def _judge(self, student: ReducedViT, batches: Iterable, dtype: torch.dtype) -> dict[str, float]:
        device = next(student.parameters()).device
        dense = {} if self.dense is None else {"dense": self.dense.to(device)}
        with hidden(not self.show), progress("judging") as report:

            def shown(done: int, total: int | None, running: Mapping[str, float]) -> None:
                report(done, in_words(running), total)
                self.between()

            where: dict[str, Any] = {"device": device, "dtype": dtype, "progress": shown}
            results = evaluate_many({**dense, "student": student}, batches, **where)
        for name, result in results.items():
            if result.nonfinite:
                warnings.warn(
                    f"{name}: the outputs for {result.nonfinite} of {result.images} validation photographs hold NaN or "
                    "infinity and count as wrong",
                    stacklevel=3,
                )
        fields, beside = results["student"].as_dict(), results["dense"].as_dict() if dense else {}
        names = [name for name in ("top1", "top5", "agreement", "cosine", "knn") if fields.get(name) is not None]
        figures = {name: fields[name] for name in names}
        shared = [name for name in ("top1", "knn") if name in figures and name in beside]
        return figures | {f"{DENSE}{name}": beside[name] for name in shared}
