"""What a backbone family answers: `embed`, `probe`, `attend`, `mlp`, `head`, over the unmodified modules of a model.

One class per family. It copies nothing of the model: every call goes to the model's own modules, in the model's own
order, so that without a reduction the result is the model's, bit for bit. What sits on the modules that it goes around
is run or refused (`admission`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from ..core.evidence import Evidence
from ..core.tokens import Tokens
from . import hooks
from .admission import Around, look_over
from .counting import linear_macs


def add_residual(x: Tensor, branch: Tensor) -> Tensor:
    """x + branch, of a branch that nobody else holds. Where no gradient is asked for the sum is written into its memory:
    on CPU a fresh [b, n, c] costs more than the addition. The bits are the same, and so must be the strides: kernels
    add in the order in which numbers lie."""
    alike = branch.dtype == x.dtype and branch.stride() == x.stride()
    if branch.requires_grad or x.requires_grad or not alike:
        return x + branch
    return branch.add_(x)


def _same_shape(module: nn.Module, x: Tensor, given: Tensor) -> Tensor:
    if not isinstance(given, Tensor) or given.shape != x.shape:
        shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"a hook of {type(module).__name__} turns {list(x.shape)} into {shape}: give the same shape")
    return given


class Backbone(ABC):
    """How one family of models computes half a block, and what that costs.

    Costs are multiply-accumulates of one image; `tokens` counts prefix tokens too.
    """

    family: ClassVar[str]
    models: ClassVar[tuple[type[nn.Module], ...]] = ()
    kinds: ClassVar[dict[str, str]] = {}  # kind of model -> a timm name of that kind, for `vitrim methods`

    def __init__(self, model: nn.Module):
        self.model = model
        self.looked, self.hooked, self.held = False, False, True
        self._inside: dict[nn.Module, hooks.Inside] = {}
        self._counts: dict[int, int] = {}

    # -- what the model is

    @classmethod
    @abstractmethod
    def check(cls, model: nn.Module) -> None:
        """Raise ValueError, naming what is not supported, if this exact model cannot be run by half blocks."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of blocks."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Channels of a token."""

    @property
    @abstractmethod
    def prefix(self) -> int:
        """Number of prefix tokens."""

    @property
    @abstractmethod
    def voters(self) -> tuple[int, ...]:
        """Prefix tokens whose attention scores the patches: [CLS] and the distillation token; empty without [CLS]."""

    @abstractmethod
    def heads(self, i: int) -> tuple[int, int]:
        """(number of heads, channels of a head) in block i."""

    @abstractmethod
    def grid(self, image_size: tuple[int, int] | None = None) -> tuple[int, int]:
        """(height, width) in patches of an image of that size in pixels (default: the model's own)."""

    def channels(self, i: int) -> int:
        """Channels of a token in block i."""
        return self.width

    def grid_at(self, i: int, grid: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in tokens before block i, of an image of `grid` patches (hierarchical: fewer)."""
        return grid

    @property
    def within(self) -> range:
        """The blocks that the default places of a method cut evenly."""
        return range(self.depth)

    @property
    def taps(self) -> list[int]:
        """The blocks after which timm's `forward_intermediates` takes features, in the order of its indices."""
        return list(range(self.depth))

    def normed_tap(self, i: int) -> bool:
        """Whether the final norm fits features after block i."""
        return self.channels(i) == self.width

    def whole_by(self, block: int) -> int | None:
        """The block before which tokens left out at `block` must be back; None: they need not come back."""
        return None

    # -- what may run on it

    def admit(self, method) -> None:  # noqa: B027  most families carry any
        """Raise ValueError, with the reason, for a method that this family cannot carry."""

    def admit_places(self, method) -> None:  # noqa: B027
        """Raise ValueError, with the reason, for places that this model cannot serve; the method is bound by now."""

    @abstractmethod
    def around(self) -> Around:
        """The modules that the loop goes around, with the types that they may have."""

    def recomputes(self, i: int) -> bool:
        """Whether the model itself has been told to recompute block i in the backward pass."""
        return bool(getattr(self.model, "grad_checkpointing", False))

    # -- running it

    def embed(self, images: Tensor) -> Tokens:
        """Images [b, 3, height, width] to tokens, positions added.

        Raises ValueError for images of another size, and where somebody has put on the model, in the meantime, what
        the loop would go around.
        """
        self._look()
        return self._embed(images)

    @abstractmethod
    def _embed(self, images: Tensor) -> Tokens:
        """`embed` without the look over the model."""

    def _look(self) -> None:
        if self.looked:  # an adapter serves one forward
            return
        trouble, self.hooked, self.held = look_over(self.model, type(self))
        if trouble:
            raise ValueError(trouble)
        self.looked = True

    def receive(self, images: Tensor) -> Tensor:
        """The images after the pre-hooks of the model itself, where all of it is run."""
        self._look()
        if self.hooked:
            images, self._inside[self.model] = hooks.before(self.model, images)
        return images

    def deliver(self, out: Any) -> Any:
        """The model's output after its hooks."""
        return hooks.after(self.model, self._inside.pop(self.model), out) if self.hooked else out

    def begin(self, tokens: Tokens) -> Tokens:
        """Before the first block: hooks of the module that holds all blocks, where the model calls it."""
        return tokens

    def enter(self, i: int, tokens: Tokens) -> Tokens:
        """What happens to all tokens before block i: its hooks, and patch merging where a new stage begins."""
        return tokens

    def leave(self, i: int, tokens: Tokens) -> Tokens:
        """What happens to all tokens after block i: its hooks."""
        return tokens

    def finish(self, tokens: Tokens) -> Tokens:
        """After the last block, as `begin`."""
        return tokens

    @abstractmethod
    def probe(self, i: int, tokens: Tokens) -> Evidence:
        """The evidence of block i before its attention has run."""

    @abstractmethod
    def attend(self, i: int, tokens: Tokens, normed: Tensor | None = None) -> tuple[Tokens, Evidence]:
        """x + attention(norm1(x)). `normed`: norm1(x), where `probe` has computed it already."""

    @abstractmethod
    def mlp(self, i: int, tokens: Tokens) -> Tokens:
        """x + mlp(norm2(x))."""

    @abstractmethod
    def norm(self, x: Tensor) -> Tensor:
        """The final norm."""

    @abstractmethod
    def head(self, tokens: Tokens, pre_logits: bool = False) -> Tensor:
        """Pooling and classifier; merged tokens weigh by size in average pooling."""

    def as_features(self, tokens: Tokens) -> Tensor:
        """What the model's own `forward_features` returns, [b, p+n, c] or [b, height, width, c]."""
        return tokens.x

    def as_tokens(self, x: Tensor) -> Tokens:
        """Tokens of what `forward_features` has returned."""
        return Tokens(x, prefix=self.prefix, grid=self.grid())

    def before(self, module: nn.Module, x: Tensor) -> Tensor:
        """x after the pre-hooks of a module that the loop goes around and is about to run the parts of."""
        if not self.hooked:
            return x
        given, self._inside[module] = hooks.before(module, x)
        return _same_shape(module, x, given)

    def after(self, module: nn.Module, x: Tensor) -> Tensor:
        """x after the hooks of that module, whose parts have run."""
        inside = self._inside.pop(module, None)
        return x if inside is None else _same_shape(module, x, hooks.after(module, inside, x))

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        """x + branch."""
        return x + branch if self.held else add_residual(x, branch)

    # -- what it costs

    def linear_macs(self, module: nn.Module | None, width: int) -> int:
        """Multiply-accumulates of a part of linear layers for one token of `width` channels; counted once."""
        if id(module) not in self._counts:
            self._counts[id(module)] = linear_macs(module, width)
        return self._counts[id(module)]

    def query_macs(self, i: int) -> int:
        """One token's query alone, in block i."""
        heads, channels = self.heads(i)
        return self.width * heads * channels

    def voter_query_macs(self, i: int) -> int:
        """Queries of the voters alone, in block i."""
        return len(self.voters) * self.query_macs(i)

    def key_macs(self, i: int, patches: int) -> int:
        """Keys of all tokens in block i, projected before the attention runs."""
        return (patches + self.prefix) * self.query_macs(i)

    def class_logit_macs(self, i: int, patches: int) -> int:
        """`Evidence.class_logits` before block i: folded where the layer allows it, else with all keys projected."""
        heads, channels = self.heads(i)
        if self.foldable(i):
            return self.voter_query_macs(i) + heads * channels * self.width + patches * self.width
        products = len(self.voters) * heads * channels * patches
        return self.voter_query_macs(i) + self.key_macs(i, patches) + products

    def check_ragged(self) -> None:
        """Raise ValueError where the images of one batch cannot keep different numbers of tokens."""
        raise ValueError(f"the {self.family} family runs no ragged batches")

    def foldable(self, i: int) -> bool:
        """Whether q . k of block i is one bilinear form of its inputs (no norm per head, no rotation)."""
        return False

    @abstractmethod
    def embed_macs(self, grid: tuple[int, int]) -> int:
        """Patch embedding."""

    @abstractmethod
    def attention_macs(self, i: int, tokens: int) -> int:
        """Projections and attention products of block i."""

    @abstractmethod
    def mlp_macs(self, i: int, tokens: int) -> int:
        """MLP of block i."""

    def block_macs(self, i: int, attended: int, left: int, grid: tuple[int, int]) -> int:
        """Block i with `attended` patch tokens in its attention, `left` in its MLP, of an image of `grid` patches."""
        return self.attention_macs(i, attended + self.prefix) + self.mlp_macs(i, left + self.prefix)

    @abstractmethod
    def head_macs(self, tokens: int) -> int:
        """Pooling and classifier."""
