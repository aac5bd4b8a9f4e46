"""How a model's outputs are judged: against labels, against the dense model, or by their neighbours."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..backbones import LIBRARIES
from ..common.unwrapping import innermost
from ..data.photographs import Unreadable
from ..runtime.model import ReducedViT, for_images
from .intervals import MeanCosine, wilson_interval
from .neighbours import knn_hits, recall_hits

Labels = Int[Tensor, " b"] | None
RECALLS = (1, 5, 10)
BANK_NEEDS_LABELS = "nearest neighbours need labels, of the bank and of the images that are judged"


@dataclass(frozen=True)
class EvaluationResult:
    """How one model did on one data set. What does not apply is None.

    images:     how many were judged
    skipped:    those that could not be read
    nonfinite:  images whose outputs hold NaN or infinity: they count as wrong
    top1, top5: accuracies in percent, each with its 95 % interval; `top5` needs five classes
    agreement:  percent of images for which the dense model predicts the same class
    cosine:     mean cosine, in [-1, 1], of the features with the dense model's, for models without a classifier;
                without labels also of the logits
    knn:        accuracy of nearest neighbours, in percent, for models without a classifier
    recall_at_1, recall_at_5, recall_at_10: percent of images with one of the same class among so many nearest ones, as
                a search would find them; only where there are more images than that
    neighbours: how many of them vote (k)
    bank:       among how many images they are sought: those of a bank, else the judged ones, each without itself

    Without labels there are agreement and cosine alone.

    Example:
        >>> result = vitrim.evaluate.EvaluationResult(images=200, skipped=(), nonfinite=0, top1=81.5)
        >>> result.as_dict()
        {'images': 200, 'skipped': [], 'nonfinite': 0, 'top1': 81.5}
    """

    images: int
    skipped: tuple[Unreadable, ...]
    nonfinite: int
    top1: float | None = None
    top1_interval: tuple[float, float] | None = None
    top5: float | None = None
    top5_interval: tuple[float, float] | None = None
    agreement: float | None = None
    agreement_interval: tuple[float, float] | None = None
    cosine: float | None = None
    knn: float | None = None
    knn_interval: tuple[float, float] | None = None
    cosine_interval: tuple[float, float] | None = None
    recall_at_1: float | None = None
    recall_at_5: float | None = None
    recall_at_10: float | None = None
    neighbours: int | None = None
    bank: int | None = None

    def as_dict(self) -> dict:
        """What applies, ready for JSON."""
        found = {key: value for key, value in vars(self).items() if value is not None}
        return {**found, "skipped": [entry._asdict() for entry in self.skipped]}


def without_classifier(model: nn.Module) -> bool:
    """Whether a model's outputs are features: no classifier, or the image tower of a CLIP model.

    Example:
        >>> vitrim.evaluate.without_classifier(model)
        False
    """
    model = innermost(for_images(model))
    dense = model.backbone if isinstance(model, ReducedViT) else model
    known = [library for library in LIBRARIES if library.owns(dense)]  # a model of somebody's own is judged too
    classes: Any = model.num_classes
    return classes == 0 or any(library.gives_features(dense) for library in known)


class ClassifierJudge:
    """Counts top-1, top-5 and agreement over batches of logits [b, classes]; without labels agreement and cosine."""

    def __init__(self, name: str, classes: int, device: torch.device):
        self.name, self.classes, self.images = name, classes, 0
        # On the device: a sum that came to the CPU with each batch would wait for it.
        self._zero, self.counts = torch.zeros((), dtype=torch.int64, device=device), dict[str, Tensor]()
        self.compared, self.labelled, self.cosine = False, True, MeanCosine()

    def update(
        self, logits: Float[Tensor, "b k"], dense: Float[Tensor, "b k"] | None, labels: Labels, images: int
    ) -> None:
        """Raises ValueError for logits of another shape than [images, classes] and for labels that are no class."""
        _check_shape(self.name, logits, (images, self.classes))
        finite = logits.isfinite().all(dim=1)
        self.images += images
        self._count("nonfinite", (~finite).sum())
        self.labelled = labels is not None
        if labels is not None:
            self._count_hits(logits, labels, finite)
        if dense is not None:
            self.compared = True
            same = logits.argmax(dim=1).eq(dense.argmax(dim=1)) & finite & dense.isfinite().all(dim=1)
            self._count("agreement", same.sum())
            if labels is None:
                self.cosine.update(logits, dense)

    def _count(self, figure: str, found: Int[Tensor, ""]) -> None:
        self.counts[figure] = self.counts.get(figure, self._zero) + found

    def _count_hits(self, logits: Tensor, labels: Tensor, finite: Tensor) -> None:
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise ValueError(
                f"labels reach from {labels.min()} to {labels.max()} and {self.name} has {self.classes} classes"
            )
        hits = logits.topk(min(5, self.classes), dim=1).indices.eq(labels[:, None]) & finite[:, None]
        self._count("top1", hits[:, 0].sum())
        self._count("top5", hits.sum())

    @property
    def running(self) -> float | None:
        """Top-1 so far, in percent; without labels the agreement. None before the first image."""
        figure = "top1" if self.labelled else "agreement"
        if not self.images or figure not in self.counts:
            return None
        return 100 * int(self.counts[figure]) / self.images

    def result(self, skipped: tuple[Unreadable, ...]) -> EvaluationResult:
        """All figures over what was seen."""
        count = {key: int(total) for key, total in self.counts.items()}
        accuracies = ["top1", *(["top5"] if self.classes >= 5 else [])] if self.labelled else []
        shares: dict[str, Any] = {}
        for key in (*accuracies, *(["agreement"] if self.compared else [])):
            shares[key], shares[f"{key}_interval"] = _percent(count[key], self.images)
        alike: dict[str, Any] = {"cosine": self.cosine.mean, "cosine_interval": self.cosine.interval}
        return EvaluationResult(self.images, skipped, count["nonfinite"], **shares, **alike)


class FeatureJudge:
    """Keeps features [b, c] and labels; counts the cosine with the dense model's features.

    bank: features and labels among which neighbours are sought; None: among the judged images themselves
    """

    def __init__(self, name: str, neighbours: int):
        self.name, self.neighbours, self.cosine = name, neighbours, MeanCosine()
        self.features: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.finite: list[Tensor] = []
        self.bank: tuple[Tensor, Tensor] | None = None

    def update(
        self, features: Float[Tensor, "b c"], dense: Float[Tensor, "b c"] | None, labels: Labels, images: int
    ) -> None:
        """Raises ValueError for features that are no [images, c], or of another width than the dense model's."""
        _check_shape(self.name, features, (images, features.shape[-1] if dense is None else dense.shape[-1]))
        finite = features.isfinite().all(dim=1)
        self.finite.append(finite)
        if labels is None and self.bank is not None:
            raise ValueError(BANK_NEEDS_LABELS)
        if labels is not None:
            self.features.append(features[finite].float())
            self.labels.append(labels[finite])
        if dense is not None:
            self.cosine.update(features, dense)

    def keep_as_bank(self) -> None:
        """What was seen so far is the bank, and is not judged. Raises ValueError where it had no labels."""
        if not self.labels:
            raise ValueError(BANK_NEEDS_LABELS)
        self.bank = torch.cat(self.features), torch.cat(self.labels)
        self.features, self.labels, self.finite, self.cosine = [], [], [], MeanCosine()

    @property
    def running(self) -> float | None:
        """Mean cosine so far; None without a dense model, and where no image has finite features of both."""
        return self.cosine.mean

    def result(self, skipped: tuple[Unreadable, ...]) -> EvaluationResult:
        """The mean cosine and the neighbours' accuracy over what was seen."""
        finite = torch.cat(self.finite)
        alike: dict[str, Any] = {"cosine": self.cosine.mean, "cosine_interval": self.cosine.interval}
        known = self._neighbours(len(finite)) if self.labels else {}
        return EvaluationResult(len(finite), skipped, int((~finite).sum()), **alike, **known)

    def _neighbours(self, images: int) -> dict[str, Any]:
        features, labels = torch.cat(self.features), torch.cat(self.labels)
        if self.bank is None and images < 2:  # one has no neighbours
            return {}
        size = len(features) if self.bank is None else len(self.bank[0])
        others = size - 1 if self.bank is None else size
        if others < 1:
            knn, interval = _percent(0, images)
            return {"knn": knn, "knn_interval": interval, "neighbours": 0, "bank": size}
        hits = {k: recall_hits(features, labels, k, bank=self.bank) for k in RECALLS if k <= others}
        recalls = {f"recall_at_{k}": 100 * int(found.sum()) / images for k, found in hits.items()}
        knn, interval = _percent(int(knn_hits(features, labels, self.neighbours, bank=self.bank).sum()), images)
        return {
            **{"knn": knn, "knn_interval": interval, "neighbours": min(self.neighbours, others), "bank": size},
            **recalls,
        }


def _percent(successes: int, trials: int) -> tuple[float, tuple[float, float]]:
    low, high = wilson_interval(successes, trials)
    return 100 * successes / trials, (100 * low, 100 * high)


def _check_shape(name: str, output: Tensor, wanted: tuple[int, int]) -> None:
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != wanted:
        raise ValueError(f"{name} gives {shape} where [images, outputs] = {wanted} is wanted: check the model's head")
