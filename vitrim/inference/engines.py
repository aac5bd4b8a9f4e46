"""What computes the batches of a run: processes of this machine, or an engine that has many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..data import Photographs, StreamedPhotographs
from .callables import Images
from .reading import Batches, Piece, pieces, streamed


class Computed(NamedTuple):
    """A batch whose rows are there.

    start:   the place of its first image in the data
    rows:    by column, one for each of `files`; None where no image could be read
    skipped: what could not be read, and why
    """

    part: int
    start: int
    files: list[str]
    rows: dict[str, np.ndarray] | None
    skipped: list[dict[str, str]]

    @property
    def size(self) -> int:
        """Images, with those that could not be read."""
        return len(self.files) + len(self.skipped)


def computed(model: Images, piece: Piece) -> Computed:
    """The rows of a decoded batch."""
    rows = model.of_images(piece.images) if piece.files else None
    return Computed(piece.part, piece.start, piece.files, rows, piece.skipped)


class Engine(ABC):
    """Where models run.

    device: of each of them
    """

    device: torch.device

    @abstractmethod
    def of_photographs(self, model: Images, photographs: Photographs, batches: Batches) -> Iterator[Computed]:
        """All of these batches, each once, in whatever order. Raises ValueError, in one line, where it is lost."""

    def of_stream(self, model: Images, photographs: StreamedPhotographs, size: int, batch: int) -> Iterator[Computed]:
        """Those of a stream, in order; `size`: images in a part."""
        raise ValueError("the data set is a stream, which one process reads from its start to its end: leave --engine")


@dataclass
class Local(Engine):
    """This process, beside which others decode.

    workers: how many; None: one for each processor, at most 8
    """

    device: torch.device
    workers: int | None = None

    def of_photographs(self, model: Images, photographs: Photographs, batches: Batches) -> Iterator[Computed]:
        return (computed(model, piece) for piece in pieces(photographs, batches, self.workers, self.device))

    def of_stream(self, model: Images, photographs: StreamedPhotographs, size: int, batch: int) -> Iterator[Computed]:
        return (computed(model, piece) for piece in streamed(photographs, size, batch, self.workers, self.device))
