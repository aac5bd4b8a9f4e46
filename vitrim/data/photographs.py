"""Photographs by index or as a stream: decoding, and what becomes of files that cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from ..common.memory import give_back_memory
from ..common.text import portable
from .classes import Classes
from .decoding import decode, reason_of
from .listed import FileList
from .sources import Files, ReaderImages, Stream, TorchImages


class Unreadable(NamedTuple):
    """An image that was skipped: its name within the data set, and why it cannot be read.

    Example:
        >>> Path("photos/dog/3.png").write_bytes(b"not a picture")
        13
        >>> vitrim.data.open_dataset("photos", model)[7].name
        'dog/3.png'
    """

    name: str
    reason: str


class Broken(Unreadable):
    """The place where a stream has ended in an error: what follows was never seen."""


Sample = tuple[Tensor, int | None] | Unreadable


class Batch(NamedTuple):
    """What the loader gives: `images` [b, c, h, w] and `labels` [b] of b >= 0 photographs, and in `skipped` the names
    of those that are left out. `labels` is None where the data set has none.

    Example:
        >>> dataset = vitrim.data.open_dataset("photos", model)
        >>> batch = next(iter(vitrim.data.open_loader(dataset, batch_size=8, workers=0)))
        >>> batch.images.shape, batch.labels.tolist()
        (torch.Size([8, 3, 128, 128]), [0, 0, 0, 0, 1, 1, 1, 1])
    """

    images: Float[Tensor, "b c h w"]
    labels: Int[Tensor, " b"] | None
    skipped: tuple[Unreadable, ...]


class Photographs(Dataset):
    """Photographs by index: `(image [c, h, w], class index)`, or `Unreadable` for a file that cannot be read. Without
    labels the class index is None.

    classes: which class of the model each label is
    config:  how images are prepared: timm's data configuration
    chosen:  places in the source that a limit has left; None: all
    choice:  how they were chosen, in words

    Example:
        >>> image, label = vitrim.data.open_dataset("photos", model)[0]
        >>> image.shape, label
        (torch.Size([3, 128, 128]), 0)
    """

    def __init__(
        self,
        source: Files | FileList | ReaderImages | TorchImages,
        classes: Classes,
        config: dict,
        chosen: list[int] | None,
        choice: str = "",
    ):
        self.source, self.classes, self.config, self.chosen, self.choice = source, classes, config, chosen, choice
        self.transform = transform_of(config)

    def __len__(self) -> int:
        return len(self.source) if self.chosen is None else len(self.chosen)

    @property
    def left_out(self) -> dict[str, int]:
        """What lies among the photographs and is none that is read, or belongs to no class: how many of each kind."""
        return self.source.left_out

    def place(self, index: int) -> int:
        """Where in the source it is."""
        return index if self.chosen is None else self.chosen[index]

    def name(self, index: int) -> str:
        """What it is called within the data set, as `portable` writes it."""
        return portable(self.source.name(self.place(index)))

    def __getitem__(self, index: int) -> Sample:
        place = self.place(index)
        try:
            file, label = self.source.read(place)
            image = self.transform(decode(file, mode_of(self.config)))
        except Exception as error:  # decoders raise almost anything; no file may end an evaluation
            return Unreadable(self.name(index), reason_of(error))
        give_back_memory()
        return image, self.classes.index(label)


class StreamedPhotographs(IterableDataset):
    """Photographs from start to end, for data sets without random access; yields what `Photographs` gives.

    start: how many are passed over
    """

    left_out: ClassVar[dict[str, int]] = {}

    def __init__(self, source: Stream, classes: Classes, config: dict, limit: int | None, start: int = 0):
        self.source, self.classes, self.config, self.limit, self.start = source, classes, config, limit, start
        self.choice = "" if limit is None else "the first of the stream"
        self.transform = transform_of(config)

    @property
    def size(self) -> int | None:
        """How many images there are, where the data set says so."""
        known = len(self.source.dataset) or None
        return min(filter(None, (known, self.limit)), default=None)

    def __iter__(self) -> Iterator[Sample]:
        skipped = _SkippedByTimm(self.source.where)
        logger = logging.getLogger("timm.data.readers.reader_wds")
        logger.addFilter(skipped)
        try:
            for image, label in islice(self.source.dataset.reader, self.limit):
                yield from skipped.take(self.start)
                skipped.place += 1
                give_back_memory()
                if skipped.place > self.start:
                    yield self._sample(image, label, skipped.place - 1)
            yield from skipped.take(self.start)
        except Exception as error:  # timm decodes in the stream itself, which a failure ends
            yield Broken(f"image {skipped.place} of {self.source.where} and all that follow", reason_of(error))
        finally:
            logger.removeFilter(skipped)

    def _sample(self, image: Image.Image, label: int, place: int) -> Sample:
        try:
            return self.transform(decode(image, mode_of(self.config))), self.classes.index(label)
        except Exception as error:  # as in `Photographs`: no image may end an evaluation
            return Unreadable(f"image {place} of {self.source.where}", reason_of(error))


class _SkippedByTimm(logging.Filter):
    """Takes timm's warnings about images of a webdataset that it leaves out, so that they are counted and named."""

    def __init__(self, where: str):
        super().__init__()
        self.where, self.place = where, 0
        self.found: list[tuple[int, Unreadable]] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        reason = record.getMessage().removeprefix("Handling webdataset error (").removesuffix("). Ignoring.")
        self.found.append((self.place, Unreadable(f"image {self.place} of {self.where}", reason)))
        self.place += 1
        return False

    def take(self, start: int) -> list[Unreadable]:
        """Those found since, without those before `start`."""
        found, self.found = self.found, []
        return [entry for place, entry in found if place >= start]


def transform_of(config: dict) -> Callable[[Image.Image], Tensor]:
    """What makes of an image the tensor [c, h, w] that a model takes. config: timm's data configuration"""
    return create_transform(**config, is_training=False)


def mode_of(config: dict) -> str:
    """Pillow's mode of the images that a model takes."""
    return "L" if config["input_size"][0] == 1 else "RGB"


def collate(samples: list[Sample]) -> Batch:
    """A `Batch` of the readable samples, which are stacked; the others are named in its `skipped`. Without a readable
    image b is 0.

    Example:
        >>> samples = [(torch.zeros(3, 8, 8), 1), vitrim.data.Unreadable("b.png", "it is empty")]
        >>> batch = vitrim.data.collate(samples)
        >>> batch.images.shape, batch.labels.tolist(), batch.skipped[0].name
        (torch.Size([1, 3, 8, 8]), [1], 'b.png')
    """
    good = [sample for sample in samples if not isinstance(sample, Unreadable)]
    skipped = tuple(sample for sample in samples if isinstance(sample, Unreadable))
    if not good:
        return Batch(torch.empty(0, 3, 0, 0), torch.empty(0, dtype=torch.long), skipped)
    if any(label is None for _, label in good):
        return Batch(default_collate([image for image, _ in good]), None, skipped)
    return Batch(*default_collate(good), skipped)
