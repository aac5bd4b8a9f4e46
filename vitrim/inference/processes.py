"""Many processes at one run, as torchrun, `accelerate launch` or srun number them: each has its share, one decides."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

PATIENCE = timedelta(days=7)  # of those who are done, until the slowest is


class Processes:
    """This process among those of its run; alone, where the environment says of no others.

    rank, world: its number, and how many there are
    """

    def __init__(self) -> None:
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._started = self.world > 1 and not distributed.is_initialized()
        if self._started:
            distributed.init_process_group("gloo", timeout=PATIENCE)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def decided(self, decide: Callable[[], Any]) -> Any:
        """What the first process decides, in all of them. Raises ValueError in all of them where it does so there."""
        found: list[Any] = [None, None]
        if self.first:
            try:
                found[0] = decide()
            except ValueError as error:
                found[1] = error
        if self.world > 1:
            _together(lambda: distributed.broadcast_object_list(found, src=0))
        if found[1] is not None:
            raise found[1]
        return found[0]

    def agree(self, mine: Any, what: str) -> None:
        """Raise ValueError, in all of them, where they do not all see the same."""
        if self.world == 1:
            return
        seen: list[Any] = [None] * self.world
        _together(lambda: distributed.all_gather_object(seen, mine))
        others = [rank for rank, each in enumerate(seen) if each != seen[0]]
        if others:
            raise ValueError(f"process {others[0]} sees other {what} than process 0: give all of them the same")

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            _together(distributed.barrier)

    def close(self) -> None:
        if self._started:
            distributed.destroy_process_group()


def _together(meet: Callable[[], Any]) -> None:
    """Raise ValueError where a process that is waited for has gone."""
    try:
        meet()
    except RuntimeError as error:
        raise ValueError("another process of this run has ended: start all again, and they go on") from error


def own_device(device: str | None) -> str | None:
    """The GPU of this process, of those on its machine, where it is one of many and none is named by number."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or device not in (None, "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{int(local) % torch.cuda.device_count()}"
