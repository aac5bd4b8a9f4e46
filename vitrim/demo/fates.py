"""What became of the patches of a picture: which have a token of their own, share one, or have none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int

from ..methods import Method
from ..runtime.model import ReducedViT
from ..runtime.records import BlockTrace

# What the tokens that take no part in the last block are called; elsewhere they were dropped.
REST = {"idlevit": "idle", "tofe": "frozen"}


def last_groups(model: ReducedViT, trace: Sequence[BlockTrace]) -> Int[np.ndarray, "b rows columns"]:
    """For every patch of every image the number of the token that stands for it in the last block; -1: none.

    Example:
        >>> fast = vitrim.reduce(model, "topk", keep=0.5)
        >>> groups = last_groups(fast, fast(images, trace=True)[1])
        >>> groups.shape, int((groups[0] >= 0).sum())
        ((2, 8, 8), 8)
    """
    last = trace[-1]
    grid = model.body.grid_at(last.block, model.body.grid())
    return last.owners.reshape(-1, *grid).cpu().numpy()


def caption(groups: Int[np.ndarray, "rows columns"], methods: Sequence[Method]) -> str:
    """How many tokens are left and of what kind, as in the table's column: those kept, and those that stand for many.

    Example:
        >>> caption(np.array([[0, 1], [2, 2]]), [vitrim.EViT()])
        '2 kept + 1 fused'
        >>> caption(np.array([[0, 1], [-1, -1]]), [vitrim.IdleViT()])
        '2 kept, 2 idle'
    """
    sizes = np.bincount(groups[groups >= 0].ravel(), minlength=1)
    alone, merged, gone = int((sizes == 1).sum()), int((sizes > 1).sum()), int((groups < 0).sum())
    fuses = any(getattr(method, "fuse", False) for method in methods)
    words = f"{alone} kept"
    if merged:
        words += f" + {merged} {'fused' if fuses else 'merged'}"
    return words + (f", {gone} {rest_of(methods)}" if gone else "")


def rest_of(methods: Sequence[Method]) -> str:
    """What became of patches without a token in the last block: idle, frozen or dropped.

    Example:
        >>> rest_of([vitrim.ToFe()]), rest_of([vitrim.EViT()])
        ('frozen', 'dropped')
    """
    return next((REST[method.name] for method in methods if method.name in REST), "dropped")


def shares_token(groups: Int[np.ndarray, "rows columns"]) -> np.ndarray:
    """True for the patches whose token stands for others too.

    Example:
        >>> shares_token(np.array([[0, 1], [2, 2]])).tolist()
        [[False, False], [True, True]]
    """
    flat = torch.as_tensor(groups).flatten()
    sizes = torch.bincount(flat.clamp(min=0)[flat >= 0], minlength=1)
    return ((flat >= 0) & (sizes[flat.clamp(min=0)] > 1)).reshape(groups.shape).numpy()
