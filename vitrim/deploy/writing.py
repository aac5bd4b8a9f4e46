"""One file of an export: written beside, compared with its model, and only then given its name."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.whole import Beside, publish_both
from .checking import compare, filled, logits_of
from .formats import Format, Run
from .int8 import Int8, judge
from .recording import record
from .seal import seal


@dataclass(frozen=True)
class Exported:
    """What `export` has written, and how it compares with the model.

    bytes:      of the file, and of the one beside it
    difference: the largest difference of a logit, over the images that stay within the tolerance; None in int8
    strays:     images beyond it: two scores were equal up to rounding, and another token was kept
    agreement:  share of the images with the same class
    int8:       what a file in int8 has lost
    """

    path: Path
    format: str
    input: tuple[int | str, ...]
    bytes: int
    images: int
    difference: float | None
    strays: int
    agreement: float
    int8: Int8 | None = None


@dataclass(frozen=True)
class Job:
    """What is to be written.

    model, dense:        as the file takes its images, with the model without reduction, which int8 is judged beside too
    size:                of the only batches that the file takes; None: any
    images, calibration: as the file takes them
    """

    kind: Format
    path: Path
    model: nn.Module
    dense: nn.Module
    about: dict[str, Any]
    size: int | None
    images: Tensor
    calibration: Tensor | None
    int8: str | None
    labels: Tensor | None

    def checked(self) -> Exported:
        """A file that answers as the model does."""
        made = self._made()
        with beside(self.kind, self.path) as files:
            run = saved(self.kind, made, self.about, files)
            found = compare(run, self.model, self.images, self.size)
            _publish(files)
        return self._exported(**found)

    def quantised(self) -> Exported:
        """A file that answers nearly so; it is written a second time, with what it has lost in its metadata."""
        batches = [] if self.calibration is None else self._batches(self.calibration)
        made = self.kind.int8[str(self.int8)](self._made(), batches)
        calibrated_on = 0 if self.calibration is None else len(self.calibration)
        with beside(self.kind, self.path) as files:
            run = saved(self.kind, made, self.about, files)
            models = (self.model, self.dense)
            found = judge(run, models, self.images, self.labels, self.size, str(self.int8), calibrated_on)
            first = logits_of(run, self.images[:1], self.size)
        with beside(self.kind, self.path) as files:
            run = saved(self.kind, made, {**self.about, "int8": found.as_dict()}, files)
            if not torch.allclose(logits_of(run, self.images[:1], self.size), first, rtol=1e-3, atol=1e-3):
                raise ValueError("the int8 file does not answer twice alike; nothing was written")
            _publish(files)
        return self._exported(difference=None, strays=0, agreement=found.agreement / 100, int8=found)

    def _made(self) -> Any:
        # Not the images themselves: a .pt2 file holds its example, and whoever gets the file would have them.
        first = torch.zeros_like(filled(self.images, self.size or 2))
        program = record(self.model, first, any_batch=self.size is None)
        return self.kind.make(program, first, self.size is None, self.about["output"])

    def _batches(self, images: Tensor) -> list[Tensor]:
        return [filled(part, self.size or 1) for part in images.split(self.size or 1)]

    def _exported(self, **found: Any) -> Exported:
        shape = ("batch" if self.size is None else self.size, *self.images.shape[1:])
        size = sum(path.stat().st_size for path in self.kind.paths(self.path))
        return Exported(self.path, self.kind.title, shape, size, len(self.images), **found)


@contextmanager
def beside(kind: Format, path: Path) -> Generator[list[Beside]]:
    """The new files of one model, open, until they are published; else they go away."""
    with ExitStack() as stack:
        yield [stack.enter_context(Beside(each)) for each in kind.paths(path)]


def saved(kind: Format, made: Any, about: dict[str, Any], files: list[Beside]) -> Run:
    """Fill the files, and seal the first; what runs them."""
    kind.save(made, about, files)
    files[0].file.flush()
    seal(files[0].name)
    for file in files:
        file.sync()
    return kind.open(*[file.name for file in files])


def _publish(files: list[Beside]) -> None:
    """Give the files their names."""
    if len(files) == 1:
        files[0].publish()
    else:
        publish_both(*files)
