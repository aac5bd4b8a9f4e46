"""What a run is judged by after every epoch."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..evaluate.accuracy import evaluate_many
from ..runtime.model import ReducedViT
from .settings import Settings


class Judge:
    """Accuracy and agreement of the student, on validation photographs, beside the dense model where there is one."""

    def __init__(self, dense: nn.Module | None, loader: DataLoader, settings: Settings):
        self.dense, self.loader, self.settings = dense, loader, settings
        self.figures: dict[str, float] = {}

    def __call__(self, student: ReducedViT) -> dict[str, float]:
        device = next(student.parameters()).device
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.settings.precision, torch.float32)
        dense = {} if self.dense is None else {"dense": self.dense.to(device)}
        results = evaluate_many({**dense, "student": student}, self.loader, device=device, dtype=dtype)
        for name, result in results.items():
            if result.nonfinite:
                warnings.warn(
                    f"{name}: the outputs for {result.nonfinite} of {result.images} validation photographs hold NaN or "
                    "infinity and count as wrong",
                    stacklevel=2,
                )
        fields, beside = results["student"].as_dict(), results["dense"].as_dict() if dense else {}
        names = [name for name in ("top1", "top5", "agreement", "cosine", "knn") if fields.get(name) is not None]
        self.figures = {name: fields[name] for name in names}
        self.figures |= {f"dense_{name}": beside[name] for name in names if name in beside and name in ("top1", "knn")}
        return self.figures
