"""Where the answers of reduced models part from the dense model's: by class, and on which photographs."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ..looking import Answer, answer_of


@dataclass(frozen=True)
class ClassAgreement:
    """One class: how many images it has, and for how many of them a reduced model agrees with the dense one.

    agreement: by model, shares in [0, 1]
    top1:      by model, the dense one among them; None without labels
    """

    index: int
    name: str
    images: int
    agreement: dict[str, float]
    top1: dict[str, float] | None


class ByClass:
    """Counts agreement, and with labels hits, by class: that of the label, or without labels the one that the dense
    model says.

    names: of the models, the dense one first
    """

    def __init__(self, names: Sequence[str], classes: int):
        self.names, self.classes = list(names), classes
        self.images, self.labelled = torch.zeros(classes, dtype=torch.int64), False
        self.agreed = {name: torch.zeros(classes, dtype=torch.int64) for name in names}
        self.hits = {name: torch.zeros(classes, dtype=torch.int64) for name in names}

    def update(self, logits: Mapping[str, Float[Tensor, "b k"]], labels: Int[Tensor, " b"] | None) -> None:
        """Outputs with NaN or infinity agree with nothing, and hit nothing."""
        said = {name: each.argmax(dim=1).cpu() for name, each in logits.items()}
        finite = {name: each.isfinite().all(dim=1).cpu() for name, each in logits.items()}
        dense, self.labelled = self.names[0], labels is not None
        group = said[dense] if labels is None else labels.cpu()
        self.images += group.bincount(minlength=self.classes)
        for name in self.names:
            same = said[name].eq(said[dense]) & finite[name] & finite[dense]
            self.agreed[name] += group[same].bincount(minlength=self.classes)
            if labels is not None:
                self.hits[name] += group[said[name].eq(group) & finite[name]].bincount(minlength=self.classes)

    def result(self, class_names: Mapping[int, str]) -> tuple[ClassAgreement, ...]:
        """The classes that have images, those with the least agreement first."""
        rows = [self._row(int(index), class_names) for index in self.images.nonzero().flatten()]
        return tuple(sorted(rows, key=lambda row: (sum(row.agreement.values()), -row.images, row.index)))

    def _row(self, index: int, class_names: Mapping[int, str]) -> ClassAgreement:
        images = int(self.images[index])
        agreement = {name: int(self.agreed[name][index]) / images for name in self.names[1:]}
        top1 = {name: int(self.hits[name][index]) / images for name in self.names} if self.labelled else None
        return ClassAgreement(index, class_names.get(index, f"class {index}"), images, agreement, top1)


@dataclass(frozen=True)
class Differing:
    """A photograph on which some reduced model and the dense one differ.

    name:   of the file
    pixels: as the models get it
    label:  its class's name; None without labels
    dense:  what the dense model says; None: it has no classifier
    reduced: what each reduced model says, by its name
    cosines: without a classifier: between its features and the dense model's
    """

    name: str
    pixels: UInt8[np.ndarray, "h w *channels"]
    label: str | None
    dense: Answer | None
    reduced: dict[str, Answer]
    cosines: dict[str, float]


class SurestDifferences:
    """Keeps a bounded number of photographs: those on which a reduced model says another class than the dense one, the
    surer that was the better; without a classifier those whose features have the smallest cosine.

    Example: the dense model's probability orders them.
        >>> kept = SurestDifferences(1, True, {})
        >>> logits = {"dense": torch.tensor([[0.0, 3.0], [0.0, 9.0]]), "evit": torch.tensor([[1.0, 0.0], [1.0, 0.0]])}
        >>> kept.update(logits, None, ["a.png", "b.png"], lambda i: np.zeros((2, 2, 3), dtype=np.uint8))
        >>> kept.found, [photograph.name for photograph in kept.result()]
        (2, ['b.png'])
    """

    def __init__(self, most: int, classifies: bool, class_names: Mapping[int, str]):
        self.most, self.classifies, self.class_names, self.found = most, classifies, class_names, 0
        self._kept: list[tuple[float, int, Differing]] = []
        self._order = count(0, -1)  # of two as sure the first stays

    def update(
        self,
        outputs: Mapping[str, Float[Tensor, "b k"]],
        labels: Int[Tensor, " b"] | None,
        names: Sequence[str],
        pixels: Callable[[int], UInt8[np.ndarray, "h w *channels"]],
    ) -> None:
        """outputs: by model, the dense one first; names: of the images; pixels: those of image i of the batch."""
        outputs = {name: each.float().cpu() for name, each in outputs.items()}
        (_, dense), *others = outputs.items()
        differs, surprise = self._judged(dense, [each for _, each in others])
        self.found += int(differs.sum())
        for i in differs.nonzero().flatten().tolist():
            key = surprise[i].item()
            if self.most and (len(self._kept) < self.most or key > self._kept[0][0]):
                label = None if labels is None else self._class(int(labels[i]))
                entry = self._differing(outputs, i, names[i], pixels(i), label)
                put = heapq.heappush if len(self._kept) < self.most else heapq.heapreplace
                put(self._kept, (key, next(self._order), entry))

    def result(self) -> tuple[Differing, ...]:
        """The most telling first."""
        return tuple(entry for _, _, entry in sorted(self._kept, key=lambda kept: kept[:2], reverse=True))

    def _judged(self, dense: Tensor, others: Sequence[Tensor]) -> tuple[Bool[Tensor, " b"], Float[Tensor, " b"]]:
        """Which images differ, and how telling each is."""
        if self.classifies:
            differs = torch.stack([each.argmax(dim=1) != dense.argmax(dim=1) for each in others]).any(dim=0)
            return differs, dense.softmax(dim=1).amax(dim=1).nan_to_num(0.0)
        least = torch.stack([F.cosine_similarity(each, dense, dim=1) for each in others]).amin(dim=0)
        return torch.ones(len(dense), dtype=torch.bool), -least.nan_to_num(-1.0)

    def _differing(self, outputs: Mapping[str, Tensor], i: int, name: str, pixels: np.ndarray, label: str | None):
        (_, dense), *others = outputs.items()
        if self.classifies:
            said = {model: answer_of(each[i], self.class_names) for model, each in others}
            return Differing(name, pixels, label, answer_of(dense[i], self.class_names), said, {})
        cosines = {model: F.cosine_similarity(each[i], dense[i], dim=0).item() for model, each in others}
        return Differing(name, pixels, label, None, {}, cosines)

    def _class(self, index: int) -> str:
        return self.class_names.get(index, f"class {index}")
