"""Images in parts: which batches each part has, and a loader that decodes them in processes beside the model."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import Photographs, StreamedPhotographs, Unreadable
from ..data.loading import workers_of
from ..data.photographs import Broken, Sample


class Piece(NamedTuple):
    """A batch, or what is left of one: part, images [m, c, h, w] with their names, and what could not be read.

    start: the place of its first image in the data
    """

    part: int
    start: int
    images: Tensor
    files: list[str]
    skipped: list[dict[str, str]]

    @property
    def size(self) -> int:
        """Images, with those that could not be read."""
        return len(self.files) + len(self.skipped)


class _Named(Dataset):
    """Photographs with their names, which are made where they are decoded."""

    def __init__(self, photographs: Photographs):
        self.photographs = photographs

    def __getitem__(self, index: int) -> tuple[str, Sample]:
        return self.photographs.name(index), self.photographs[index]


class Batches:
    """The batches of some parts, as places in the data; batches never cross from one part into the next, so that
    those of a part are the same whichever others are done.

    parts: in order; total: images there are; size: in a part; batch: in a batch

    Example:
        >>> batches = Batches([0, 2], total=11, size=4, batch=3)
        >>> list(batches), batches.at(1)
        ([[0, 1, 2], [3], [8, 9, 10]], (0, range(3, 4)))
    """

    def __init__(self, parts: Sequence[int], total: int, size: int, batch: int):
        self.parts, self.total, self.size, self.batch = parts, total, size, batch

    def __len__(self) -> int:
        if not self.parts:
            return 0
        last = min(self.total, (self.parts[-1] + 1) * self.size) - self.parts[-1] * self.size
        return (len(self.parts) - 1) * self._in_part + -(-last // self.batch)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(self.at(number)[1]) for number in range(len(self)))

    def at(self, number: int) -> tuple[int, range]:
        """(part, places) of one batch."""
        part = self.parts[number // self._in_part]
        first = part * self.size + number % self._in_part * self.batch
        return part, range(first, min(self.total, (part + 1) * self.size, first + self.batch))

    @property
    def _in_part(self) -> int:
        return -(-self.size // self.batch)


def pieces(photographs: Photographs, batches: Batches, workers: int | None, device: torch.device) -> Iterator[Piece]:
    """The batches, decoded ahead of the model by so many processes, in order."""
    sampler: Any = batches
    beside = _beside(workers_of(workers), device)
    loader = DataLoader(_Named(photographs), batch_sampler=sampler, collate_fn=_collate, **beside)
    with _shared_with_forks():
        for number, read in enumerate(loader):
            part, places = batches.at(number)
            yield Piece(part, places[0], *read)


def piece(photographs: Photographs, batches: Batches, number: int) -> Piece:
    """One batch, decoded here."""
    part, places = batches.at(number)
    named = _Named(photographs)
    return Piece(part, places[0], *_collate(named[place] for place in places))


def streamed(
    photographs: StreamedPhotographs, size: int, batch: int, workers: int | None, device: torch.device
) -> Iterator[Piece]:
    """The same for a stream, which one process reads from its start to its end; `photographs.start` is where a part
    begins. A last part that is not full ends without saying so. Raises ValueError where the stream breaks off."""
    place, where, own = photographs.start, photographs.source.where, min(1, workers_of(workers))
    ahead: dict[str, Any] = {"prefetch_factor": 2 * batch} if own else {}
    with _shared_with_forks():
        loader = iter(DataLoader(photographs, batch_size=None, **_beside(own, device), **ahead))
        while samples := list(islice(loader, batch)):
            read = _collate((f"image {place + i} of {where}", each) for i, each in enumerate(samples))
            yield Piece(place // size, place, *read)
            place += len(samples)


@contextmanager
def _shared_with_forks() -> Generator[None]:
    """Python's garbage collector leaves alone what is there now: it writes into each object that it looks at, and would
    make each fork, and this process, copy most of the memory that they share."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
