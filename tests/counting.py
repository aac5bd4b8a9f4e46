"""torch's own count of multiply-accumulates: the oracle of every test about cost (law 8)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class Count:
    """What `counting` found, known once its block has ended.

    by_part: of every module that was called, by its path behind the class of the outermost
    """

    macs: int
    by_part: dict[str, int]


@contextmanager
def counting() -> Iterator[Count]:
    """Counts the products of matrices of everything that runs inside, half their FLOPs, without gradients.

    Attention runs as its two products meanwhile: before 2.15 torch counts the fused CPU kernel as nothing.
    """
    count = Count()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield count
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    count.macs = flops // 2
    count.by_part = {path: sum(found.values()) // 2 for path, found in counter.get_flop_counts().items()}


def counted_macs(model: nn.Module, *given: Any, **options: Any) -> int:
    """MACs of one forward. The model's parameters need no gradient afterwards."""
    model.requires_grad_(False)  # the counter's hooks trip over views of parameters made without gradient (SigLIP)
    with counting() as count:
        model(*given, **options)
    return count.macs
