"""What a backbone family answers: `embed`, `probe`, `attend`, `mlp`, `head`, over the unmodified modules of a model.

One class per family. It copies nothing of the model: every call goes to the model's own modules, in the model's own
order, so that without a reduction the result is the model's, bit for bit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from ..core.evidence import Evidence
from ..core.recording import recording
from ..core.tokens import Tokens
from .counting import linear_macs
from .images import trouble_with
from .visitor import Visitor


class Backbone(Visitor):
    """How one family of models computes half a block, and what that costs.

    Costs are multiply-accumulates of one image; `tokens` counts prefix tokens too.

    Example:
        >>> body = vitrim.reduce(model, "evit").body
        >>> body.depth, body.width, body.prefix, body.class_tokens, body.grid()
        (4, 192, 1, (0,), (8, 8))
    """

    family: ClassVar[str]
    models: ClassVar[tuple[type[nn.Module], ...]] = ()
    kinds: ClassVar[dict[str, str]] = {}  # kind of model -> what `Library.example` makes one of, for `vitrim methods`

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self._counts: dict[int, int] = {}

    # -- what the model is

    @classmethod
    def runs(cls, model_type: type) -> bool:
        """Whether models of exactly this type are this family's."""
        return model_type in cls.models

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
    def class_tokens(self) -> tuple[int, ...]:
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
    def default_blocks(self) -> range:
        """The blocks that the default places of a method cut evenly."""
        return range(self.depth)

    @property
    def feature_blocks(self) -> list[int]:
        """The blocks after which timm's `forward_intermediates` takes features, in the order of its indices."""
        return list(range(self.depth))

    def norm_fits(self, i: int) -> bool:
        """Whether the final norm fits features after block i."""
        return self.channels(i) == self.width

    def restore_by(self, block: int) -> int | None:
        """The block before which tokens left out at `block` must be back; None: they need not come back."""
        return None

    # -- what may run on it

    def admit(self, method) -> None:
        """Raise ValueError, with the reason, for a method that this family cannot carry."""

    def admit_places(self, method) -> None:
        """Raise ValueError, with the reason, for places that this model cannot serve; the method is bound by now."""

    def check_prediction_only(self) -> None:
        """Raise ValueError, with the reason, where the head reads more than prefix tokens."""
        name = type(self.model).__name__
        raise ValueError(f"prediction_only needs a head that reads class tokens alone, and {name}'s reads more")

    def recomputes(self, i: int) -> bool:
        """Whether the model itself has been told to recompute block i in the backward pass."""
        return bool(getattr(self.model, "grad_checkpointing", False))

    # -- running it

    def embed(self, images: Tensor) -> Tokens:
        """Images [b, 3, height, width] to tokens, positions added.

        Raises ValueError for images of another size or kind, and where somebody has put on the model, in the meantime,
        what the loop would go around.
        """
        self.look()
        if recording():
            return self._embed(images)
        try:
            return self._embed(images)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:  # torch's and timm's, in their words
            trouble = trouble_with(images, self.model)
            if trouble:
                raise ValueError(trouble) from error
            raise

    @abstractmethod
    def _embed(self, images: Tensor) -> Tokens:
        """`embed` without the look over the model."""

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
    def attend(self, i: int, tokens: Tokens, h: Tensor | None = None) -> tuple[Tokens, Evidence]:
        """x + attention(h), h = norm1(x). `h`: given where `probe` has computed it already."""

    @abstractmethod
    def mlp(self, i: int, tokens: Tokens) -> Tokens:
        """x + mlp(norm2(x))."""

    def attend_prefix(self, i: int, tokens: Tokens, h: Tensor | None = None) -> Tokens:
        """`attend` for the prefix tokens alone, which attend to all: what a head reads that looks at nothing else."""
        raise NotImplementedError

    def run_block(self, i: int, tokens: Tokens) -> Tokens:
        """The whole of block i, without a reduction."""
        tokens, _ = self.attend(i, self.enter(i, tokens))
        return self.leave(i, self.mlp(i, tokens))

    @abstractmethod
    def norm(self, x: Tensor) -> Tensor:
        """The final norm."""

    @abstractmethod
    def head(self, tokens: Tokens, pre_logits: bool = False) -> Tensor:
        """Pooling and classifier; merged tokens weigh by size in average pooling."""

    @property
    def reads(self) -> tuple[int, ...]:
        """Blocks after which somebody else, a language model, is given a token for every patch, in the order in which
        it reads them; empty: the model's own head reads the tokens that are left."""
        return ()

    def read(self, taken: Sequence[Tensor]) -> Tensor:
        """What is given to whoever reads, of the tokens [b, p+n0, c] after the blocks in `reads`."""
        raise NotImplementedError

    def as_features(self, tokens: Tokens) -> Tensor:
        """What the model's own `forward_features` returns, [b, p+n, c] or [b, height, width, c]."""
        return tokens.x

    def as_tokens(self, x: Tensor) -> Tokens:
        """Tokens of what `forward_features` has returned."""
        return Tokens(x, prefix=self.prefix, grid=self.grid())

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

    def class_query_macs(self, i: int) -> int:
        """Queries of the class tokens alone, in block i."""
        return len(self.class_tokens) * self.query_macs(i)

    def key_macs(self, i: int, patches: int) -> int:
        """Keys of all tokens in block i, projected before the attention runs."""
        return (patches + self.prefix) * self.query_macs(i)

    def class_logit_macs(self, i: int, patches: int) -> int:
        """`Evidence.class_logits` before block i: folded where the layer allows it, else with all keys projected."""
        heads, channels = self.heads(i)
        if self.foldable(i):
            return self.class_query_macs(i) + heads * channels * self.width + patches * self.width
        products = len(self.class_tokens) * heads * channels * patches
        return self.class_query_macs(i) + self.key_macs(i, patches) + products

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

    def unread_macs(self, grid: tuple[int, int]) -> int:
        """What the dense model computes of an image of `grid` patches and nobody reads; a reduced one leaves it out."""
        return 0

    def prediction_macs(self, i: int, attended: int) -> int:
        """Block i where it computes the prefix tokens alone, `attended` patch tokens in its attention."""
        raise NotImplementedError

    @abstractmethod
    def head_macs(self, tokens: int) -> int:
        """Pooling and classifier."""
