"""Training photographs whose randomness is a function of (seed, epoch, index) alone.

Nothing depends on which process or worker reads an image, or on what was read before it: a run that is interrupted and
resumed, and a run on several processes, sees the same pictures as one that is not.
"""

from __future__ import annotations

import functools
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from timm.data import Mixup, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ..common.seeds import seed_of
from ..common.text import counted
from ..data.photographs import Photographs, Unreadable
from .recipes import Augmentation, Recipe
from .signals import SIGNALS


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch: timm's transforms draw from all three."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def keeps_random_state(run: Callable) -> Callable:
    """`run`, after which Python, NumPy and torch go on drawing as if it had not been."""

    @functools.wraps(run)
    def kept(*args, **kwargs):
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        try:
            return run(*args, **kwargs)
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])
            if on_gpus:
                torch.cuda.set_rng_state_all(on_gpus)

    return kept


class TrainingPhotographs(Dataset):
    """Photographs with training transforms, by key (epoch, index, copy). An unreadable file gives way to the next one,
    so that batches keep their size; `bad` names of this process's reader are in the sample."""

    def __init__(self, photographs: Photographs, augmentation: Augmentation, seed: int):
        self.photographs, self.seed = photographs, seed
        photographs.transform = training_transform(photographs.config, augmentation)

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(  # ty: ignore[lost-keyword-for-regular-parameter]
        self, key: tuple[int, int, int]
    ) -> tuple[Tensor, int, list[Unreadable]]:
        epoch, index, copy = key
        bad = []
        for step in range(len(self)):
            seed_everything(seed_of(self.seed, epoch, index, copy))
            sample = self.photographs[(index + step) % len(self)]
            if not isinstance(sample, Unreadable):
                image, label = sample
                return image, 0 if label is None else label, bad  # without labels no loss reads it
            bad.append(sample)
        raise ValueError(f"none of {counted(len(self), 'image')} can be read, the first because: {bad[0].reason}")


def training_transform(config: dict[str, Any], augmentation: Augmentation):
    """timm's training transform for a model's data configuration."""
    return create_transform(
        input_size=config["input_size"],
        is_training=True,
        scale=augmentation.scale,
        hflip=augmentation.hflip,
        color_jitter=augmentation.color_jitter or None,  # ty: ignore[invalid-argument-type]
        auto_augment=augmentation.rand_augment,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        re_prob=augmentation.erasing,
        re_mode="pixel",
    )


class GlobalBatches(Sampler):
    """Batches of keys for one process: every process shuffles alike and takes its part of each global batch.

    Half of a part is from the front of the batch and half are their mirror images from its end: mixup pairs an image
    with its mirror, and so finds every partner in the same process. A part of odd size is of neighbours.
    start: batches of this epoch that are done already

    Raises ValueError for a batch that the processes cannot share so.
    """

    def __init__(self, size: int, recipe: Recipe, seed: int, rank: int = 0, processes: int = 1):
        self.size, self.seed = size, seed
        self.repeated = recipe.augmentation.repeated
        self.local = part_size(size, recipe, processes)
        self.rank, self.processes = rank, processes
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        """Global batches of one epoch; images that do not fill the last one wait for the next epoch's shuffle."""
        return max(1, self.size // (self.local * self.processes))

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        order = torch.randperm(self.size, generator=generator).tolist()
        keys = [(self.epoch, index, copy) for index in order for copy in range(self.repeated)]
        part, whole = self._places(), self.local * self.processes
        for batch in range(self.start, len(self)):
            yield [keys[(batch * whole + place) % len(keys)] for place in part]

    def _places(self) -> list[int]:
        """Where in the global batch this process's images stand."""
        if self.local % 2:
            return list(range(self.rank * self.local, (self.rank + 1) * self.local))
        half, whole = self.local // 2, self.local * self.processes
        front = range(self.rank * half, (self.rank + 1) * half)
        return [*front, *(whole - 1 - place for place in reversed(front))]


def part_size(size: int, recipe: Recipe, processes: int) -> int:
    """Images of a process in every step: its share of the batch, or of the `size` photographs where they are fewer;
    even where the recipe mixes. Raises ValueError for a batch that does not divide so."""
    share, rest = divmod(recipe.batch_size, processes)
    if rest:
        raise ValueError(f"batch size {recipe.batch_size} does not divide among {processes} processes")
    whole = min(recipe.batch_size, size) // processes
    if not mixes(recipe):
        return max(1, whole)
    if share % 2:
        raise ValueError(
            f"batch size {recipe.batch_size} makes parts of {share} for {processes} process{'es' * (processes > 1)}, "
            f"and mixup pairs the images of a part: give a multiple of {2 * processes}, or set mixup and cutmix to 0"
        )
    return max(2, whole - whole % 2)


def training_loader(dataset: TrainingPhotographs, batches: GlobalBatches, workers: int) -> DataLoader:
    """The loader; workers, if any, live through the epochs' changes because keys carry the epoch."""
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=_collate, worker_init_fn=_leave_signals
    )


def _leave_signals(worker: int) -> None:
    """Signals that reach all processes of a run are answered by the one that trains: it ends the workers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _collate(samples) -> tuple[Tensor, Tensor, list[Unreadable]]:
    images, labels = default_collate([(image, label) for image, label, _ in samples])
    return images, labels, [bad for *_, found in samples for bad in found]


def mixes(recipe: Recipe) -> bool:
    """Whether images are mixed in pairs, by mixup or cutmix; without labels the teacher sees the mixed ones, too."""
    return bool(recipe.augmentation.mixup or recipe.augmentation.cutmix)


def make_mixup(recipe: Recipe, classes: int) -> Mixup | None:
    """timm's mixup and cutmix, or None where the recipe does not mix."""
    if not mixes(recipe):
        return None
    augmentation = recipe.augmentation
    return Mixup(
        augmentation.mixup, augmentation.cutmix, label_smoothing=augmentation.smoothing, num_classes=max(1, classes)
    )


def mixed(mixup: Mixup | None, images: Float[Tensor, "b c h w"], labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Images and soft targets after mixup, drawn from `seed`, which is the same on every process; unchanged without."""
    if mixup is None:
        return images, labels
    np.random.seed(seed % 2**32)
    return mixup(images, labels)
