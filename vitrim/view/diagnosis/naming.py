"""What the images of a loader are called, and their classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.utils.data import SequentialSampler

from ...data import Photographs, StreamedPhotographs, Unreadable
from ...data.classes import names_by_index, names_of_classes
from ...data.config import carried_config


class ImageNames:
    """The names of the images of a loader, batch after batch: those of their files where it gives the data set of
    `open_dataset` in its order, else their numbers.

    Example:
        >>> loader = vitrim.data.open_loader(vitrim.data.open_dataset("photos", model), batch_size=3, workers=0)
        >>> names = ImageNames(loader)
        >>> names.take(3, ()), names.take(1, [vitrim.data.Unreadable("cat/3.png", "it is empty")])
        (['cat/0.png', 'cat/1.png', 'cat/2.png'], ['dog/0.png'])
    """

    def __init__(self, batches: Iterable):
        dataset, self.place = getattr(batches, "dataset", None), 0
        in_order = isinstance(getattr(batches, "sampler", None), SequentialSampler)
        self.known = dataset if isinstance(dataset, Photographs) and in_order else None
        self.stream = dataset.source.where if isinstance(dataset, StreamedPhotographs) else None

    def take(self, images: int, skipped: Sequence[Unreadable]) -> list[str]:
        """Those of the next batch, of so many images; others were skipped."""
        places = range(self.place, self.place + images + len(skipped))
        self.place, gone = places.stop, {entry.name for entry in skipped}
        names = [name for place in places if (name := self._name(place)) not in gone]
        return names if len(names) == images else [f"image {place}" for place in places[:images]]

    def _name(self, place: int) -> str:
        if self.known is not None:
            return self.known.name(place)
        return f"image {place}" if self.stream is None else f"image {place} of {self.stream}"


def class_names(batches: Iterable, dense: nn.Module) -> Mapping[int, str]:
    """Class index -> name, for people: the model's own, else those of the data set."""
    model: Any = dense
    own = names_of_classes(carried_config(model).get("label_names"), model.num_classes)
    classes = getattr(getattr(batches, "dataset", None), "classes", None)
    known = hasattr(classes, "mapping") and not classes.unlabelled
    return own or (names_by_index(classes, model.num_classes) if known else {})
