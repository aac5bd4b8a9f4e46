"""How a model's outputs are judged: against labels, against the dense model, or by their neighbours."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize, one_hot
from torchmetrics import MeanMetric, SumMetric

from ..backbones import LIBRARIES
from ..common.unwrapping import innermost
from ..data.photographs import Unreadable
from ..runtime.model import ReducedViT


@dataclass(frozen=True)
class EvaluationResult:
    """How one model did on one data set. What does not apply is None.

    images:     how many were judged
    skipped:    those that could not be read
    nonfinite:  images whose outputs hold NaN or infinity: they count as wrong
    top1, top5: accuracies in percent, each with its 95 % interval; `top5` needs five classes
    agreement:  percent of images for which the dense model predicts the same class
    cosine:     mean cosine, in [-1, 1], of the features with the dense model's, for models without a classifier
    knn:        leave-one-out accuracy of nearest neighbours, in percent, for models without a classifier

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

    def as_dict(self) -> dict:
        """What applies, ready for JSON."""
        found = {key: value for key, value in vars(self).items() if value is not None}
        return {**found, "skipped": [entry._asdict() for entry in self.skipped]}


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a proportion (E. B. Wilson, JASA 22, 1927), as shares; z = 1.96 for 95 %.

    Raises ValueError where `successes` is not in 0 .. `trials` or there are no trials.

    Example:
        >>> low, high = vitrim.evaluate.wilson_interval(80, 100)
        >>> f"{low:.3f} to {high:.3f}"
        '0.711 to 0.867'
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials}: give 0 <= successes <= trials and at least one trial")
    share, square = successes / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


@torch.no_grad()
def knn_hits(
    features: Float[Tensor, "n c"], labels: Int[Tensor, " n"], k: int = 20, temperature: float = 0.07, chunk: int = 1024
) -> Bool[Tensor, " n"]:
    """For each row, whether its k nearest other rows (by cosine) vote for its own label.

    Votes weigh exp(cosine / temperature), as in Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination" (CVPR 2018), section 3.4. At most `chunk` x n cosines are held at a time. With fewer than k other
    rows, all others vote. Raises ValueError for fewer than two rows or k below 1.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> vitrim.evaluate.knn_hits(features, torch.tensor([0, 0, 1, 1]), k=1).tolist()
        [True, True, True, True]
    """
    if len(features) < 2 or k < 1:
        raise ValueError(f"{len(features)} rows and k = {k}: nearest neighbours need two rows and k of at least 1")
    features, (classes, targets) = normalize(features.float(), dim=1), labels.unique(return_inverse=True)
    rows = torch.arange(len(features), device=features.device).split(chunk)
    return torch.cat([_vote(features, targets, len(classes), row, k, temperature) for row in rows])


def _vote(
    features: Float[Tensor, "n c"],
    targets: Int[Tensor, " n"],
    classes: int,
    rows: Int[Tensor, " r"],
    k: int,
    temperature: float,
) -> Bool[Tensor, " r"]:
    cosines = features[rows] @ features.T
    cosines[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
    near = cosines.topk(min(k, len(features) - 1), dim=1)
    votes = torch.einsum(
        "rk,rkc->rc", (near.values / temperature).exp(), one_hot(targets[near.indices], classes).float()
    )
    return votes.argmax(dim=1) == targets[rows]


def without_classifier(model: nn.Module) -> bool:
    """Whether a model's outputs are features: no classifier, or the image tower of a CLIP model of timm's.

    Example:
        >>> vitrim.evaluate.without_classifier(model)
        False
    """
    model = innermost(model)
    dense = model.backbone if isinstance(model, ReducedViT) else model
    known = [library for library in LIBRARIES if library.owns(dense)]  # a model of somebody's own is judged too
    classes: Any = model.num_classes
    return classes == 0 or any(library.gives_features(dense) for library in known)


class ClassifierJudge:
    """Counts top-1, top-5 and agreement over batches of logits [b, classes]."""

    def __init__(self, name: str, classes: int, device: torch.device):
        self.name, self.classes, self.images = name, classes, 0
        # One process judges all images, also where others train beside it: nothing to sum with theirs.
        self.counts = {
            key: SumMetric(sync_on_compute=False).to(device) for key in ("top1", "top5", "agreement", "nonfinite")
        }
        self.compared = False

    def update(
        self, logits: Float[Tensor, "b k"], dense: Float[Tensor, "b k"] | None, labels: Int[Tensor, " b"]
    ) -> None:
        """Raises ValueError for logits of another shape than [b, classes] and for labels that are no class."""
        _check_shape(self.name, logits, (len(labels), self.classes))
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise ValueError(
                f"labels reach from {labels.min()} to {labels.max()} and {self.name} has {self.classes} classes"
            )
        finite = logits.isfinite().all(dim=1)
        hits = logits.topk(min(5, self.classes), dim=1).indices.eq(labels[:, None]) & finite[:, None]
        self.images += len(labels)
        self.counts["top1"].update(hits[:, 0].sum())
        self.counts["top5"].update(hits.sum())
        self.counts["nonfinite"].update((~finite).sum())
        if dense is not None:
            self.compared = True
            same = logits.argmax(dim=1).eq(dense.argmax(dim=1)) & finite & dense.isfinite().all(dim=1)
            self.counts["agreement"].update(same.sum())

    @property
    def running(self) -> float | None:
        """Top-1 so far, in percent; None before the first image."""
        return 100 * float(self.counts["top1"].compute()) / self.images if self.images else None

    def result(self, skipped: tuple[Unreadable, ...]) -> EvaluationResult:
        """All figures over what was seen."""
        count = {key: int(metric.compute()) for key, metric in self.counts.items() if metric.update_called}
        wanted = ["top1", *(["top5"] if self.classes >= 5 else []), *(["agreement"] if self.compared else [])]
        shares = {}
        for key in wanted:
            shares[key], shares[f"{key}_interval"] = _percent(count[key], self.images)
        return EvaluationResult(self.images, skipped, count["nonfinite"], **shares)


class FeatureJudge:
    """Keeps features [b, c] and labels; counts the cosine with the dense model's features."""

    def __init__(self, name: str, neighbours: int, device: torch.device):
        self.name, self.neighbours = name, neighbours
        self.cosine = MeanMetric(sync_on_compute=False).to(device)
        self.features: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.finite: list[Tensor] = []

    def update(
        self, features: Float[Tensor, "b c"], dense: Float[Tensor, "b c"] | None, labels: Int[Tensor, " b"]
    ) -> None:
        """Raises ValueError for features that are no [b, c], or of another width than the dense model's."""
        _check_shape(self.name, features, (len(labels), features.shape[-1] if dense is None else dense.shape[-1]))
        finite = features.isfinite().all(dim=1)
        self.features.append(features[finite].float())
        self.labels.append(labels[finite])
        self.finite.append(finite)
        both = finite if dense is None else finite & dense.isfinite().all(dim=1)
        if dense is not None and both.any():
            self.cosine.update(cosine_similarity(features[both].float(), dense[both].float(), dim=1))

    @property
    def running(self) -> float | None:
        """Mean cosine so far; None without a dense model, and where no image has finite features of both."""
        return float(self.cosine.compute()) if self.cosine.update_called else None

    def result(self, skipped: tuple[Unreadable, ...]) -> EvaluationResult:
        """The mean cosine and the neighbours' accuracy over what was seen."""
        features, labels, finite = torch.cat(self.features), torch.cat(self.labels), torch.cat(self.finite)
        hits = int(knn_hits(features, labels, self.neighbours).sum()) if len(features) > 1 else 0
        knn, interval = _percent(hits, len(finite)) if len(finite) > 1 else (None, None)  # one has no neighbours
        return EvaluationResult(
            len(finite), skipped, int((~finite).sum()), cosine=self.running, knn=knn, knn_interval=interval
        )


def _percent(successes: int, trials: int) -> tuple[float, tuple[float, float]]:
    low, high = wilson_interval(successes, trials)
    return 100 * successes / trials, (100 * low, 100 * high)


def _check_shape(name: str, output: Tensor, wanted: tuple[int, int]) -> None:
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != wanted:
        raise ValueError(f"{name} gives {shape} where [images, outputs] = {wanted} is wanted: check the model's head")
