"""Whether what a method of the user's own decides can be: told in its words, before torch stumbles over it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.joining import Join
from ..core.masking import Mask
from ..core.packing import Pack
from ..core.reductions import Fuse, Keep, Merge, Reduction
from ..core.tokens import Tokens


def check_decision(name: str, decision: Any, tokens: Tokens) -> None:
    """Raise ValueError for what is no decision over these tokens, with the shape and the range that it should have.

    Example:
        >>> body = vitrim.reduce(model, "evit").body
        >>> check_decision("mine", vitrim.Keep(torch.tensor([[0, 63], [0, 1]])), body.embed(images))
        >>> check_decision("mine", 3, body.embed(images))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: method 'mine' decides by a int: let its forward return a Keep, Fuse, Merge, Join...
    """
    if not isinstance(decision, Reduction):
        raise ValueError(
            f"method {name!r} decides by a {type(decision).__name__}: let its forward return a Keep, Fuse, Merge, "
            "Join or Mask, such as vitrim.Keep(index), or None"
        )
    if isinstance(decision, Pack) or tokens.layout is not None:
        return
    kind, b, n = f"method {name!r} returns a {type(decision).__name__} whose", tokens.batch, tokens.n
    if isinstance(decision, (Keep, Fuse)):
        _check_numbers(f"{kind} index", decision.index, b, n, "m")
    if isinstance(decision, Merge):
        _check_numbers(f"{kind} group", decision.group, b, decision.groups, n)
        _check_numbers(f"{kind} lead", decision.lead, b, n, decision.groups)
    if isinstance(decision, Join):
        r = decision.moved.shape[-1] if decision.moved.dim() else 0
        m = decision.lead.shape[-1] if decision.lead.dim() else 0
        _check_numbers(f"{kind} lead", decision.lead, b, n, min(m, n - r))
        _check_numbers(f"{kind} moved", decision.moved, b, n, r)
        _check_numbers(f"{kind} into", decision.into, b, m, r)
    if isinstance(decision, Join) and list(decision.sizes.shape) != [b, n]:
        raise ValueError(f"{kind} sizes are {list(decision.sizes.shape)}: give one for each patch token, {[b, n]}")
    if isinstance(decision, (Fuse, Merge)) and list(decision.weights.shape) != [b, n]:
        raise ValueError(f"{kind} weights are {list(decision.weights.shape)}: give one for each patch token, {[b, n]}")
    if isinstance(decision, Mask) and list(decision.mask.shape) != [b, n]:
        raise ValueError(f"{kind} mask is {list(decision.mask.shape)}: give one number for each patch token, {[b, n]}")


def _check_numbers(what: str, index: Tensor, b: int, n: int, m: int | str) -> None:
    """Numbers below n, m of them for each of b images."""
    fits = index.dim() == 2 and len(index) == b and m in ("m", index.shape[1])
    if not fits or index.is_floating_point() or index.is_complex():
        kind = str(index.dtype).removeprefix("torch.")
        raise ValueError(f"{what} is {kind} {list(index.shape)}: give whole numbers [images, tokens], [{b}, {m}]")
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < n:
        raise ValueError(
            f"{what} goes from {int(index.min())} to {int(index.max())}: give numbers of patch tokens, 0 to {n - 1}, "
            "prefix tokens not counted"
        )
