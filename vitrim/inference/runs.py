"""A run over a data set: images in, rows out, in parts; what is done is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.progress import progress
from ..common.tensor_files import digest
from ..common.text import counted
from ..data import Photographs, StreamedPhotographs
from .callables import Images
from .engines import Computed, Engine
from .outputs import Output
from .processes import Processes
from .reading import Batches

SHARD_BYTES, SHARD_IMAGES = 1 << 26, 4096
PREPARED = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")  # of timm's data configuration


@dataclass(frozen=True)
class Done:
    """What a run came to.

    images:     that it was asked for
    unreadable: of these
    before:     images that an earlier try had done
    seconds:    that this one took for the others
    """

    images: int
    unreadable: int
    before: int
    seconds: float

    @property
    def rows(self) -> int:
        return self.images - self.unreadable

    @property
    def images_per_s(self) -> float:
        return (self.images - self.before) / self.seconds if self.seconds else 0.0


@dataclass
class Run:
    """A model, images and a place for the rows.

    part:    images in a part, a multiple of the model's batch size; what a kill loses at most of each process
    engine:  what computes
    restart: throw away an unfinished run that was asked something else
    """

    model: Images
    images: Photographs | StreamedPhotographs
    output: Output
    part: int
    engine: Engine
    restart: bool = False
    processes: Processes = field(default_factory=Processes)

    def run(self, asked: dict[str, Any], begun: Callable[[int, int | None], None] = lambda before, total: None) -> Done:
        """Compute what is missing and publish; of many processes the first publishes.

        asked: what tells this run from another one; begun: called with the images that are done already, and all

        Raises ValueError for an output that another run has begun, and `Unfinished` where the disk refuses.
        """
        if self.processes.world > 1 and self.total is None:
            raise ValueError("the data set is a stream, which is read from its start to its end: start one process")
        self.processes.agree(asked.get("listing"), "files")
        with ExitStack() as stack:
            todo = self.processes.decided(lambda: self._begin(asked, stack))
            before = self._images_before(todo)
            begun(before, self.total)
            start = time.monotonic()
            images = self._compute(todo, before) if todo is not None else None
            self.processes.wait()
            return self.processes.decided(lambda: self._publish(images, before, start))

    @property
    def total(self) -> int | None:
        """How many images there are; None where a stream does not know until its end."""
        return len(self.images) if isinstance(self.images, Photographs) else None

    def _begin(self, asked: dict[str, Any], stack: ExitStack) -> list[int] | None:
        """The parts to do; None where all is done and not yet published. Of a stream the first of them alone."""
        journal = self.output.journal
        stack.enter_context(journal.alone())
        journal.begin(asked, self.restart)
        if journal.ended:
            return None
        done = journal.done()
        if self.total is None:
            first = next(number for number in range(len(done) + 1) if number not in done)
            return [max(0, first - 1)]  # the last one again: it may be the end of the stream, and not full
        return [number for number in range(-(-self.total // self.part)) if number not in done]

    def _images_before(self, todo: list[int] | None) -> int:
        if todo is None:
            return int(self.output.journal.found()["images"])
        if self.total is None:
            return todo[0] * self.part
        return self.total - sum(min(self.part, self.total - number * self.part) for number in todo)

    def _compute(self, todo: list[int], before: int) -> int:
        """All that is missing of this process's share; how many images there are, as far as it has seen."""
        seen, start, skipped = before, time.monotonic(), 0
        waiting = Waiting(self.model, self.output, self.part, self.total)
        with progress("images", self.total, before) as report:
            for found in self._found(todo):
                waiting.add(found)
                seen, skipped = seen + found.size, skipped + len(found.skipped)
                rate = (seen - before) / (time.monotonic() - start)
                report(self._shown(seen), _note(rate * self.processes.world, skipped), self.total)
            waiting.end()
        return self.total or seen

    def _found(self, todo: list[int]) -> Iterator[Computed]:
        batch = self.model.batch_size or 1
        if isinstance(self.images, Photographs):
            mine = todo[self.processes.rank :: self.processes.world]
            batches = Batches(mine, len(self.images), self.part, batch)
            return self.engine.of_photographs(self.model, self.images, batches)
        self.images.start = todo[0] * self.part
        return self.engine.of_stream(self.model, self.images, self.part, batch)

    def _shown(self, seen: int) -> int:
        """What all processes have done, as far as the disk tells the first of them."""
        if self.processes.world == 1:
            return seen
        return len(self.output.journal.done()) * self.part

    def _publish(self, images: int | None, before: int, start: float) -> Done:
        journal = self.output.journal
        if images is not None:
            self.output.end({"images": images})
        found = journal.found()
        self.output.publish()
        return Done(found["images"], found["unreadable"], before, time.monotonic() - start)


class Waiting:
    """The rows of parts that are being computed, until all of a part are there; in whatever order they come.

    size: images in a part; total: in the data, None where its end says so
    """

    def __init__(self, model: Images, output: Output, size: int, total: int | None):
        self.output, self.size, self.total = output, size, total
        self._nothing = model.nothing()
        self._parts: dict[int, _Part] = {}
        self._written: set[int] = set()

    def add(self, found: Computed) -> None:
        """A batch; with the last one of its part that part is on the disk. One that comes twice counts once."""
        if found.part in self._written:
            return
        images = self._images_in(found.part)
        if found.part not in self._parts:
            self._parts[found.part] = _Part(self._nothing, found.part * self.size, images)
        part = self._parts[found.part]
        part.add(found)
        if part.seen == images:
            self._write(found.part)

    def end(self) -> None:
        """All has come. The last part of a stream may be smaller than the others; a part that lacks a batch was lost.

        Raises ValueError for such a part.
        """
        if self.total is not None and self._parts:
            raise ValueError(f"part {min(self._parts)} is not complete: the same command goes on")
        for part in list(self._parts):
            self._write(part)

    def _images_in(self, part: int) -> int:
        return self.size if self.total is None else min(self.size, self.total - part * self.size)

    def _write(self, number: int) -> None:
        part = self._parts.pop(number)
        self._written.add(number)
        self.output.add(number, part.files, part.rows(), part.skipped)


class _Part:
    """One part, in arrays as long as it is: thousands of small ones would lie strewn among the large ones that come and
    go with every batch, whose memory could then not be given back."""

    def __init__(self, nothing: dict[str, np.ndarray], first: int, images: int):
        self.first = first
        self._columns = {name: np.empty((images, *each.shape[1:]), each.dtype) for name, each in nothing.items()}
        self._batches: dict[int, Computed] = {}

    def add(self, found: Computed) -> None:
        start = found.start - self.first
        for name, rows in (found.rows or {}).items():
            self._columns[name][start : start + len(rows)] = rows
        self._batches[found.start] = found._replace(rows=None)

    @property
    def seen(self) -> int:
        """Images, with those that could not be read."""
        return sum(each.size for each in self._batches.values())

    @property
    def files(self) -> list[str]:
        return [file for each in self._ordered() for file in each.files]

    @property
    def skipped(self) -> list[dict[str, str]]:
        return [entry for each in self._ordered() for entry in each.skipped]

    def rows(self) -> dict[str, np.ndarray]:
        """A row for each of `files`."""
        kept = [place for each in self._ordered() for place in range(each.start, each.start + len(each.files))]
        taken = np.array(kept, dtype=int) - self.first
        return {name: column[taken] for name, column in self._columns.items()}

    def _ordered(self) -> list[Computed]:
        return [each for _, each in sorted(self._batches.items())]


def part_size(model: Images, wanted: int) -> int:
    """Images in a part: about as many as wanted, in whole batches, and not more than fit some 64 MB."""
    row = sum(column.nbytes for column in model.of_images(_black(model)).values())
    batch = model.batch_size or 1
    return max(1, min(wanted, SHARD_BYTES // row) // batch) * batch


def told_of(images: Photographs | StreamedPhotographs, model: Images) -> dict[str, Any]:
    """What tells data and model from others."""
    files = getattr(images.source, "files", None)
    return {
        "images": len(images) if isinstance(images, Photographs) else None,
        "listing": files.digest if files is not None else None,
        "chosen": images.choice,
        **{key: images.config[key] for key in PREPARED},
        "weights": digest(model.ready.model.state_dict()),
        "precision": model.precision,
        "batch_size": model.batch_size,
    }


def with_batch_for(model: Images, images: Photographs | StreamedPhotographs, batch: int) -> Images:
    """The same model for batches of that size, or of all images, where these are fewer."""
    model.batch_size = min(batch, len(images)) if isinstance(images, Photographs) else batch
    return model


def _black(model: Images) -> Tensor:
    return torch.zeros(1, *model.ready.config["input_size"])


def _note(rate: float, skipped: int) -> list[str]:
    words = [f"{rate:,.0f} images/s"] if rate >= 10 else [f"{rate:.1f} images/s"]
    return words + ([f"{counted(skipped, 'image')} unreadable"] if skipped else [])
