"""What a method is: it decides which tokens become which, from what evidence; the core applies the decision.

A method is an nn.Module, `(Tokens, Evidence, Place) -> Reduction`. Its file reads like its paper; everything else here
tells the core when to ask it and the cost model what it will answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.reductions import Reduction
from ..core.schedule import Place, as_places, check_keep, check_places, even_places, rate_at
from ..core.tokens import Tokens
from .parts.scorer import Scorer, check_followed
from .parts.sealed import Sealed

# What patches without a token are called, where they are lost, and where they come back after the block.
PRUNED, IDLE = "pruned", "idle"


class Method(Sealed, nn.Module):
    """Base of all methods: an nn.Module whose `forward(tokens, evidence, place)` gives a `Reduction`, or None where
    nothing happens, and whose `count(place, n)` says how many of n patch tokens are left.

    acts:    "between" attention and MLP of a block, or "before" a block
    dial:    the option that `macs=` sets, so that the model fits a budget
    guided:  whether it has a scorer, and so takes scores from outside
    weighs:  whether it leaves tokens that weigh more than one patch in pooling
    counts:  "fixed": a plan says how many tokens are left; "own": each image may keep a count of its own, and `macs`
             then takes these counts as `kept`
    trains_masked: whether it trains on soft masks over all tokens instead of gathers
    switches: options that may change after training: its learned parts serve any of their values

    Example:
        >>> fast = vitrim.reduce(model, vitrim.EViT(keep=0.5))
        >>> [(method.name, method.options()) for method in fast.methods]
        [('evit', {'keep': 0.5})]
        >>> [(place.block, place.keep) for place in fast.methods[0].places]
        [(1, 0.5), (2, 0.5), (3, 0.5)]
    """

    name: ClassVar[str]
    title: ClassVar[str]
    acts: ClassVar[Literal["between", "before"]] = "between"
    dial: ClassVar[str] = "keep"
    guided: ClassVar[bool] = False
    weighs: bool = False
    counts: ClassVar[Literal["fixed", "own"]] = "fixed"
    trains_masked: bool = False
    switches: ClassVar[tuple[str, ...]] = ()
    default_keep: float = 1.0  # where an option `keep` is None
    follows: str | None = None  # what it scores tokens by how far they move in: a "block", or its "mlp"; None: nothing
    number: int = 0  # of the method in its stack; what it carries in `Tokens.notes` goes by it

    def __init__(self, keep: Any = 1.0, at: Any = None, *, scorer: Scorer | None = None, zero: bool = False):
        """keep: keep rates, in (0, 1]; with `zero` 0 as well
        at:     blocks of the places; None: the default ones
        scorer: what it chooses by, if it takes scores: then from outside, too
        """
        super().__init__()
        self._zero = zero
        self.keep = check_keep(keep, zero=zero)
        self.at = at if at is None else as_places(at)
        self.places: tuple[Place, ...] = ()
        self.scorer = scorer
        self.guide: Callable[[Tensor], Tensor] | None = None if scorer is None else scorer.guide
        self.follows = None if scorer is None else scorer.follows
        if scorer is not None:  # a guide may be a module: it is registered as `guide`, not a second time as `score`
            object.__setattr__(self, "score", scorer.score)
        self._masked: bool | None = None

    # -- told by the model it is put on

    def bind(self, body: Backbone) -> None:
        """Settle what depends on the model: places, learned parts. Raises ValueError where the model cannot serve."""
        at = self.blocks_of(body)
        rates = check_keep(self.default_keep if self.keep is None else self.keep, len(at), zero=self._zero)
        if self.scorer is not None:
            self.scorer.bind(body, self.name)
        self.places = tuple(Place(j, block, rate_at(rates, j)) for j, block in enumerate(at))
        check_followed(self, body)

    def build(self, body: Backbone) -> None:
        """Make the learned parts, if the method has any; called once, after `bind`."""

    @property
    def learns(self) -> bool:
        """Whether it has learned parts of its own: fresh from `build` they are random, and `reduce` says so."""
        return any(not name.startswith("guide.") for name, _ in self.named_parameters())

    def blocks_of(self, body: Backbone) -> tuple[int, ...]:
        """The blocks of its places: those given, or the default cut of the blocks that the backbone names."""
        if self.at is not None:
            return check_places(self.at, body.depth)
        return tuple(body.default_blocks.start + block for block in self.default_places(len(body.default_blocks)))

    def default_places(self, depth: int) -> tuple[int, ...]:
        """Three places, evenly."""
        return even_places(depth, 3)

    def fit_again(self, body: Backbone) -> None:
        """Keep its places on a model that has got another size of images, or fewer blocks."""
        patches = {place.block: math.prod(body.grid_at(place.block, body.grid())) for place in self._places_in(body)}
        self.places = tuple(
            place if place.patches is None else replace(place, patches=patches[place.block])
            for place in self._places_in(body)
        )

    def _places_in(self, body: Backbone) -> tuple[Place, ...]:
        return tuple(place for place in self.places if place.block < body.depth)

    def set_rates(self, rates: Sequence[float]) -> None:
        """Set the keep rate of every place, for schedules of training. A model is saved with the rates it runs at.

        Raises ValueError for rates out of range, and for another number of them than of places.
        """
        check_keep(rates, zero=self._zero)
        self.places = tuple(replace(place, keep=rate) for place, rate in zip(self.places, rates, strict=True))

    @property
    def rates(self) -> float | list[float]:
        """The keep rates as they are now: of the places, or one where all have the same."""
        rates = [place.keep for place in self.places]
        return rates[0] if len(set(rates)) == 1 else rates

    def place(self, block: int) -> Place | None:
        """The place at this block, if there is one."""
        return next((place for place in self.places if place.block == block), None)

    # -- the decision

    def start_note(self, images: Tensor, scores: Tensor | None) -> Tensor | None:
        """What it carries in `Tokens.notes` from the start of a forward: [b, n0, ...] for each patch, or [b] for each
        image; None: nothing.

        images: [b, 3, height, width]
        scores: [b, n0] from outside, given with the call; only for methods with a scorer
        """
        return None if self.scorer is None else self.scorer.start_note(images, scores)

    @property
    def masked(self) -> bool:
        """Whether decisions are given as `Mask` over all tokens: by default in train mode, if the method trains so.

        Set it to True or False to ask for one form whatever the mode (law 2: both give the same logits for the same
        decision), to None for the default.
        """
        return self.trains_masked and self.training if self._masked is None else self._masked

    @masked.setter
    def masked(self, value: bool | None) -> None:
        if value and not self.trains_masked:
            raise ValueError(f"{self.name} has no masked form: it trains through its gathers")
        self._masked = value

    @property
    def ragged(self) -> bool:
        """Whether it leaves another number of tokens in every image of a batch."""
        return self.counts == "own"

    @property
    def losses(self) -> dict[str, float]:
        """Parts of the loss that this method adds to a recipe for any method, each with its weight. Weight 0: the
        method can have this part, where a recipe asks for it, and is trained without it otherwise."""
        return {"ratio": 2.0} if self.trains_masked else {}

    def acts_on(self, place: Place, n: int) -> bool:
        """Whether anything happens at this place, with n patch tokens before it; if not, `forward` is not called. For
        a method without a `count` it always is."""
        return type(self).count is Method.count or self.count(place, n) != n

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction | None:
        """Which tokens become which; None: nothing happens here."""
        raise NotImplementedError

    def restore_before(self, place: Place) -> int | None:
        """The block before which the reduction of this place is undone; None: never."""
        return None

    @property
    def undoes(self) -> bool:
        """Whether it can put tokens back: it idles or freezes them."""
        return type(self).restore_before is not Method.restore_before

    @property
    def rest_word(self) -> str:
        """What patches are called that it leaves without a token: pruned, or idle where it puts them back."""
        return IDLE if self.undoes else PRUNED

    def update_outside(self, outside: Tokens, reduction: Reduction, place: Place) -> Tokens:
        """The tokens left outside, as they are when they are put back: unchanged, unless a method overrides this."""
        return outside

    def observe(self, tokens: Tokens, evidence: Evidence, block: int) -> Tensor | None:
        """Its new note [b, n, ...] from the attention of a block, for decisions in later ones; None: as it was. Called
        in every block of methods that override it."""
        return None

    @property
    def observes(self) -> bool:
        """Whether it looks at the attention of every block."""
        return type(self).observe is not Method.observe

    def moved(self, before: Tensor, tokens: Tokens) -> Tensor | None:
        """Its new note [b, n, 1], how far every patch token is from where it was `before` [b, p+n, c]: the Euclidean
        distance. None: it has scores from outside. Called in the block before each place of methods that follow."""
        note = tokens.notes.get(self.number)
        if note is not None and note.dim() == 2:
            return None
        way = (tokens.x - before)[:, tokens.prefix :].detach()
        return way.to(torch.promote_types(way.dtype, torch.float32)).norm(dim=2, keepdim=True)

    # -- what it will cost

    def count(self, place: Place, n: int) -> int:
        """Patch tokens after this place, of n before it."""
        raise NotImplementedError

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        """Multiply-accumulates of deciding and applying at this place, with n patch tokens, for one image; where it
        acts."""
        return 0

    def apply_macs(self, place: Place, n: int, body: Backbone) -> int:
        """Those of `macs` that are spent on applying the decision to features."""
        return 0

    def undo_macs(self, place: Place, n: int, body: Backbone) -> int:
        """Multiply-accumulates of putting back, after the block, what this place has left outside."""
        return 0

    def observe_macs(self, block: int, n: int, body: Backbone) -> int:
        """Multiply-accumulates of `observe`, with n patch tokens in the block's attention."""
        return 0

    def update_counts(self, kept: Tensor, patches: int) -> None:
        """Learn from the numbers of patch tokens [b, places] that images of `patches` patches kept (ToFe)."""

    # -- what it was made with

    def options(self) -> dict[str, Any]:
        """The options that differ from the defaults, as given; enough to make the method again."""
        defaults = {key: parameter.default for key, parameter in self.option_parameters().items()}
        given = {key: value for key, value in self.option_values().items() if value != defaults[key]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}

    @classmethod
    def has_defaults(cls) -> bool:
        """Whether it can be made without giving any option."""
        return all(p.default is not p.empty for p in cls.option_parameters().values())

    @property
    def dial_setting(self) -> str:
        """The dial and its value, or its values for each place; of one that was left out what the method chose."""
        value = getattr(self, self.dial)
        value = self.rates if value is None else value
        values = value if isinstance(value, (tuple, list)) else (value,)
        return f"{self.dial}={' '.join(f'{value:g}' for value in values)}"

    def with_dial(self, value: Any) -> Method:
        """The same method with its dial set to `value`, not bound to a model yet."""
        return type(self)(**{**self.options(), self.dial: value})

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.options().items() if not callable(value))

    @classmethod
    def dial_values(cls, body: Backbone) -> tuple[float, ...] | None:
        """Values of the dial from cheapest to dearest; None: any keep rate in (0, 1]."""
        return None


def top(scores: Tensor, k: int) -> Tensor:
    """Indices [b, k] of the k largest scores [b, n], largest first."""
    return torch.topk(scores, k, dim=1).indices
