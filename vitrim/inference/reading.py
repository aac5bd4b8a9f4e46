"""Images in parts: which batches each part has, and a loader that decodes them in processes beside the model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import Photographs, StreamedPhotographs, Unreadable
from ..data.loading import workers_of
from ..data.photographs import Broken, Sample
from .tables import portable


class Piece(NamedTuple):
    """A batch, or what is left of one: part, images [m, c, h, w] with their names, and what could not be read.

    last: whether it is the last of its part
    """

    part: int
    images: Tensor
    files: list[str]
    skipped: list[dict[str, str]]
    last: bool

    @property
    def size(self) -> int:
        """Images, with those that could not be read."""
        return len(self.files) + len(self.skipped)


class _Named(Dataset):
    """Photographs with their names, which are made where they are decoded."""

    def __init__(self, photographs: Photographs):
        self.photographs = photographs

    def __getitem__(self, index: int) -> tuple[str, Sample]:
        return portable(self.photographs.name(index)), self.photographs[index]


class Batches:
    """The batches of some parts, as places in the data; batches never cross from one part into the next, so that
    those of a part are the same whichever others are done.

    total: images there are; size: in a part; batch: in a batch
    """

    def __init__(self, parts: Sequence[int], total: int, size: int, batch: int):
        self.parts, self.total, self.size, self.batch = parts, total, size, batch

    def __iter__(self) -> Iterator[list[int]]:
        return (places for _, places, _ in self.told())

    def told(self) -> Iterator[tuple[int, list[int], bool]]:
        """(part, places, whether it is the last of its part)"""
        for part in self.parts:
            start, end = part * self.size, min(self.total, (part + 1) * self.size)
            for first in range(start, end, self.batch):
                yield part, list(range(first, min(end, first + self.batch))), first + self.batch >= end


def pieces(photographs: Photographs, batches: Batches, workers: int | None, device: torch.device) -> Iterator[Piece]:
    """The batches, decoded ahead of the model by so many processes, in order."""
    sampler: Any = batches
    beside = _beside(workers_of(workers), device)
    loader = DataLoader(_Named(photographs), batch_sampler=sampler, collate_fn=_collate, **beside)
    for (part, _, last), (images, files, skipped) in zip(batches.told(), loader, strict=True):
        yield Piece(part, images, files, skipped, last)


def streamed(
    photographs: StreamedPhotographs, size: int, batch: int, workers: int | None, device: torch.device
) -> Iterator[Piece]:
    """The same for a stream, which one process reads from its start to its end; `photographs.start` is where a part
    begins. A last part that is not full ends without saying so. Raises ValueError where the stream breaks off."""
    place, where, own = photographs.start, photographs.source.where, min(1, workers_of(workers))
    ahead: dict[str, Any] = {"prefetch_factor": 2 * batch} if own else {}
    loader = iter(DataLoader(photographs, batch_size=None, **_beside(own, device), **ahead))
    while samples := list(islice(loader, batch)):
        images, files, skipped = _collate((f"image {place + i} of {where}", each) for i, each in enumerate(samples))
        part, place = place // size, place + len(samples)
        yield Piece(part, images, files, skipped, place % size == 0)


def _beside(workers: int, device: torch.device) -> dict[str, Any]:
    """How images are decoded beside the model.

    On Linux by forks: they share the names, and see that this process was killed. Those of a fork server, which newer
    Pythons take, have that server for a parent, and would wait for ever.
    """
    forks = {"multiprocessing_context": "fork"} if workers and sys.platform == "linux" else {}
    return {"num_workers": workers, "pin_memory": device.type == "cuda", **forks}


def _collate(samples: Iterable[tuple[str, Sample]]) -> tuple[Tensor, list[str], list[dict[str, str]]]:
    images, files, skipped = [], [], []
    for name, sample in samples:
        if isinstance(sample, Broken):
            raise ValueError(f"{sample.name} cannot be read: {sample.reason}; the same command goes on from there")
        if isinstance(sample, Unreadable):
            skipped.append({"file": name, "reason": sample.reason})
        else:
            images.append(sample[0])
            files.append(name)
    return torch.stack(images) if images else torch.empty(0, 3, 0, 0), files, skipped
