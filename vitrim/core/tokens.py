"""Tokens: the features of a batch of images and everything that travels with them.

Nothing changes the number of tokens except `Tokens.shrink` and `Tokens.restore`. Both return new `Tokens`; methods
never see or touch prefix tokens.

Shapes: b images, p prefix tokens, n patch tokens now present, n0 patches of the image, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .attention import log_sizes
from .filling import restore_by_neighbours
from .masking import Mask
from .packing import Layout, Pack
from .recording import length, once
from .reductions import Reduction, take_rows
from .rotary import rows_at


@dataclass(frozen=True)
class Step:
    """One reduction that is never undone, and (only where dense features are asked for) what stood before it."""

    reduction: Reduction
    before: Any = None


@dataclass(frozen=True)
class Tokens:
    """Features x [b, p+n, c] and their companions. A companion that is None has the value named here and costs nothing.

    prefix: p, the number of tokens in front that no method sees ([CLS], distillation token, registers)
    grid:   (height, width) of the image in patches, n0 = height * width
    size:   [b, n] patches that each token weighs in pooling; None: 1 each
    key_size: [b, n] patches that each token weighs as a key, in proportional attention (ToMe); None: 1 each
    mask:   [b, n] soft keep mask of masked training; None: all count
    rope:   rotary rows of every patch of the image, [n0, d], or [depth, heads, n0, d]; None: the model has none
    placed: whether the model must know where on the image its tokens stand (rotary rows, windows)
    position: [b, n] the patch whose place each token has taken, if `placed`; None: token j has the place of patch j.
            In a ragged batch [1, T], -1 for prefix tokens
    notes:  what methods carry from block to block, by their number in the stack: [b, n, ...] for each token, such as
            scores from outside, or [b] for each image, such as a seed
    mixed:  [n0] True for patches that mix-token training took from another image of the batch (LV-ViT); None: none
    layout: where the images lie in a ragged batch, x [1, T, c]; None: x is dense
    steps:  the reductions so far that are never undone; `owners` is composed from them when asked for
    """

    x: Tensor
    prefix: int
    grid: tuple[int, int]
    size: Tensor | None = None
    key_size: Tensor | None = None
    mask: Tensor | None = None
    rope: Tensor | None = None
    placed: bool = False
    position: Tensor | None = None
    notes: Mapping[int, Tensor] = field(default_factory=dict)
    mixed: Tensor | None = None
    layout: Layout | None = None
    steps: tuple[Step, ...] = ()

    @property
    def batch(self) -> int:
        """Images."""
        return self.x.shape[0] if self.layout is None else self.layout.batch

    @property
    def n(self) -> int:
        """Patch tokens now present; where images differ, the largest number."""
        return (length(self.x, 1) if self.layout is None else self.layout.longest) - self.prefix

    @property
    def patches(self) -> Float[Tensor, "b n c"]:
        """The patch tokens' features; of a ragged batch [1, T - b * p, c]."""
        return self.x[:, self.prefix :] if self.layout is None else self.layout.patch_rows(self.x)

    def take(self, index: Int[Tensor, "b k"]) -> Float[Tensor, "b k c"]:
        """The features of some patch tokens, of all images in a dense batch as many."""
        return take_rows(self.x, index + self.prefix)

    @property
    def sizes(self) -> Float[Tensor, "b n"]:
        """Patches that each token weighs, written out; float32 at least, since bfloat16 cannot count beyond 256."""
        if self.size is not None:
            return self.size
        dtype = torch.promote_types(self.x.dtype, torch.float32)
        return self.x.new_ones(self.x.shape[0], self.n, dtype=dtype)

    @property
    def weight(self) -> Float[Tensor, "b pn"]:
        """How much each token counts in pooling: size times mask, 1 for prefix tokens."""
        weight = self.sizes if self.mask is None else self.sizes * self.mask
        return torch.cat([weight.new_ones(weight.shape[0], self.prefix), weight], dim=1)

    @property
    def key_mask(self) -> Float[Tensor, "b pn"] | None:
        """The soft keep mask with the prefix tokens in front, for masked attention."""
        if self.mask is None:
            return None
        return torch.cat([self.mask.new_ones(self.mask.shape[0], self.prefix), self.mask], dim=1)

    @property
    def key_bias(self) -> Float[Tensor, "b pn"] | None:
        """Log sizes, where attention is proportional to size (ToMe Eq. 1)."""
        size = self.key_size
        return None if size is None else once(self, "_logs", lambda: log_sizes(size, self.prefix))

    def with_x(self, x: Tensor) -> Tokens:
        """The same tokens with new features."""
        return self._with(x=x)

    def _with(self, **changes: Any) -> Tokens:
        if torch.compiler.is_compiling():  # torch before 2.11 cannot trace the shortcut below, and needs none
            return replace(self, **changes)
        # Called three times a block: `replace` runs a frozen __init__ over all fields, seven times as slow.
        new = object.__new__(Tokens)
        new.__dict__.update(self.__dict__)
        new.__dict__.update(changes)
        if "key_size" in changes:
            new.__dict__.pop("_logs", None)
        return new

    def with_note(self, number: int, note: Tensor | None) -> Tokens:
        """The same tokens with what method `number` of the stack carries: [b, n, ...] or [b]; None: as they are."""
        return self if note is None else replace(self, notes={**self.notes, number: note})

    def image_notes(self) -> dict[int, Tensor]:
        """The notes that do not follow single tokens."""
        return {number: note for number, note in self.notes.items() if note.dim() == 1}

    def shrink(self, reduction: Reduction, *, undone: bool = False, remember: bool = False) -> Tokens:
        """Apply a reduction to the features and to all that travels with them.

        undone: the map will be undone by `restore`, so owners do not change for good
        remember: keep the features from before, for `full_grid`
        """
        step = () if undone else (Step(reduction, self.x if remember else None),)
        if isinstance(reduction, Mask):
            return replace(self, mask=reduction.mask, steps=self.steps + step)
        if isinstance(reduction, Pack) or self.layout is not None:
            return self._packed(reduction, step)
        size, key_size = self._shrunk_sizes(reduction)
        return self._with(
            x=reduction.shrink(self.x, self.prefix),
            size=size,
            key_size=key_size,
            mask=None if self.mask is None else take_rows(self.mask, reduction.representatives()),
            position=self._moved(reduction) if self.placed else None,
            notes=self._shrunk_notes(reduction) if self.notes else self.notes,
            steps=self.steps + step,
        )

    def _packed(self, reduction: Reduction, step: tuple[Step, ...]) -> Tokens:
        if not isinstance(reduction, Pack):
            raise ValueError(f"{type(reduction).__name__} cannot follow where images keep different numbers of tokens")
        if self.size is not None or self.mask is not None:
            raise ValueError("merged or masked tokens cannot be packed: keep one number for all images")
        x, steps, notes = reduction.shrink(self.x, self.prefix), self.steps + step, self.image_notes()
        position = self._packed_positions(reduction) if self.placed else None
        return replace(self, x=x, position=position, notes=notes, layout=reduction.layout, steps=steps)

    def _packed_positions(self, reduction: Pack) -> Int[Tensor, "1 t"]:
        """Places of all rows; -1 for prefix tokens."""
        places = self._patch_numbers() if self.position is None else self.position
        if self.layout is None:
            places = F.pad(places, (self.prefix, 0), value=-1)
        return reduction.shrink(places.unsqueeze(-1)).squeeze(-1)

    def _shrunk_sizes(self, reduction: Reduction) -> tuple[Tensor | None, Tensor | None]:
        """`size` and `key_size` after the reduction: one tensor for both where both are the same, as in ToMe."""
        size = self.size if self.size is None and not reduction.weighs else reduction.shrink_size(self.sizes)
        if self.key_size is None and not reduction.proportional:
            return size, None
        if self.key_size is self.size and (reduction.proportional or not reduction.weighs):
            return size, size
        before = self.sizes.new_ones(self.sizes.shape) if self.key_size is None else self.key_size
        return size, reduction.shrink_key_size(before)

    def _shrunk_notes(self, reduction: Reduction) -> dict[int, Tensor]:
        index = reduction.representatives()
        return {key: note if note.dim() == 1 else take_rows(note, index) for key, note in self.notes.items()}

    def _moved(self, reduction: Reduction) -> Int[Tensor, "b m"]:
        index = reduction.representatives()
        return index if self.position is None else take_rows(self.position, index)

    def rope_rows(self, block: int) -> Tensor | None:
        """Rotary rows of the patch tokens now present, in block `block`: to be broadcast against [b, heads, n, d].

        A merged or fused token takes the rows of its representative: the patch whose place it has taken. In a ragged
        batch the rows of all tokens; those of prefix tokens rotate by nothing.
        """
        if self.rope is None:
            return None
        table = self.rope if self.rope.dim() == 2 else self.rope[block]
        if self.position is None:
            return table
        return rows_at(table, self.position, ragged=self.layout is not None)

    def restore(self, reduction: Reduction, outside: Tokens) -> Tokens:
        """Undo `reduction`: `outside` are the tokens from before it, these are what became of the shrunk ones."""
        tokens = outside.with_x(reduction.restore(self.x, outside.x, self.prefix))
        for number, note in self.notes.items():
            if note.dim() > 1:
                before = outside.notes.get(number)
                before = note.new_zeros(note.shape[0], outside.n, *note.shape[2:]) if before is None else before
                tokens = tokens.with_note(number, reduction.restore_note(note, before))
        return tokens

    def _patch_numbers(self) -> Int[Tensor, "b n0"]:
        n0 = self.grid[0] * self.grid[1]
        return torch.arange(n0, device=self.x.device).expand(self.batch, n0)

    def owners(self) -> Int[Tensor, "b n0"]:
        """For every patch of the image the index of the token that stands for it now; -1: pruned."""
        owners = self._patch_numbers()
        n = owners.shape[1]
        for step in self.steps:
            moved = step.reduction.owners(n).gather(1, owners.clamp(min=0))
            owners = torch.where(owners < 0, owners, moved)
            n = length(step.reduction.representatives(), 1)
        return owners

    def origin(self) -> Int[Tensor, "b n"]:
        """For every patch token now present the patch of the image whose position it has; -1: no token, another
        image of the batch has more."""
        origin = self._patch_numbers()
        for step in self.steps:
            index = step.reduction.representatives()
            origin = torch.where(index < 0, -1, origin.gather(1, index.clamp(min=0)))
        return origin

    def full_grid(self, fill: str = "last") -> Float[Tensor, "b pn0 c"]:
        """Features for every patch of the image: each takes its owner's update.

        fill: what a pruned patch gets: its "last" features, "zeros", or its last features and the mean update of the
            "neighbours", the 10 kept tokens nearest to it where it left
        """
        x = self.x
        for step in reversed(self.steps):
            if fill == "neighbours":
                x = restore_by_neighbours(step.reduction, x, step.before, self.prefix)
            else:
                x = step.reduction.restore(x, step.before, self.prefix)
        if fill == "zeros":
            pruned = self.owners() < 0
            patches = x[:, self.prefix :].masked_fill(pruned.unsqueeze(-1), 0.0)
            x = torch.cat([x[:, : self.prefix], patches], dim=1)
        return x
