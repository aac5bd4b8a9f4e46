"""ToFe: freeze tokens for a stage, reuse them at the next (Zhang, Zhang and Guo, "ToFe: Lagged Token Freezing and
Reusing for Efficient Vision Transformer Inference", 2025)."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones.base import Backbone
from ..common.errors import UnfitModel
from ..core.evidence import Evidence
from ..core.masking import Mask
from ..core.packing import pack
from ..core.recording import refuse_recording
from ..core.reductions import Keep, Reduction
from ..core.schedule import Place, alone, round_count, shares
from ..core.tokens import Tokens
from .base import PRUNED, Method
from .parts.checks import check_flag, check_number, check_one_of
from .parts.masks import drawn
from .parts.stored_shares import StoredShares
from .parts.tofe_modules import APPROXIMATORS, SELECTORS, decide, keep_scores, shift, start_at
from .registry import register_method

OPTIMISED = (0.49, 0.25, 0.14)  # what the paper's training found for DeiT-S at half its cost (Table V)
ADAPTIVE = ("batch", "instance")


@register_method
class ToFe(StoredShares, Method):
    """Before the first block of every stage a learned selector divides the patch tokens in two. The kept ones go
    through the blocks of the stage. The frozen ones skip them: a small learned network, the approximator, estimates
    what the blocks would have added, and they are put back in their places before the next selector. The frozen tokens
    of the last stage are not put back, since nothing reads them (in Swin they are: its windows need the whole grid).

    Source: Zhang et al., "ToFe: Lagged Token Freezing and Reusing", 2025, Algorithm 1 and Eq. 6.

    Args:
        keep: share of all patch tokens that each stage keeps; one number, 0.7, is short for 0.7, 0.7^2, 0.7^3.
            Training starts there and moves the counts (default: 0.49 0.25 0.14)
        at: first blocks of the stages, counted from 0 (default: evenly, 3 6 9 of 12)
        selector: what selects tokens: "mlp", or "dynamicvit", its predictor (Table III)
        approximator: what stands in for the blocks that frozen tokens skip: "bottleneck", a small MLP; "identity",
            nothing; "conv", a 3 x 3 convolution; "block", a transformer block (Table IV)
        reuse: frozen tokens come back at the next stage; off: they stay frozen (Table II)
        adaptive: "batch": every image keeps the same number of tokens; "instance": each image as many as it needs
        tau: temperature of the random choice in training

    In train mode all tokens run, masked (Eq. 16 to 18); masks are drawn by straight-through Gumbel softmax (Eq. 9).
    Where the stored count is all tokens, nothing is decided outside training.
    Raises ValueError for options out of range and, when bound, for a model that cannot run ragged batches if
    adaptive="instance".

    Example:
        >>> fast = vitrim.reduce(model, vitrim.ToFe(keep=0.5))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [64, 32, 16, 8]
    """

    name = "tofe"
    title = "freeze tokens for a stage, let them come back"
    acts = "before"
    counts = "own"
    trains_masked = True
    switches = ("adaptive",)

    def __init__(
        self,
        keep: Any = None,
        at: Any = None,
        selector: str = "mlp",
        approximator: str = "bottleneck",
        reuse: bool = True,
        adaptive: str = "batch",
        tau: float = 1.0,
    ):
        super().__init__(1.0 if keep is None else keep, at)
        self.keep = None if keep is None else self.keep
        self.selector = check_one_of("selector", selector, SELECTORS)
        self.approximator = check_one_of("approximator", approximator, APPROXIMATORS)
        self.reuse, self.adaptive = check_flag("reuse", reuse), check_one_of("adaptive", adaptive, ADAPTIVE)
        self.tau = check_number("tau", tau, lambda temperature: temperature > 0, "a temperature above 0, such as 1.0")

    @property
    def ragged(self) -> bool:
        return self.adaptive == "instance"

    @property
    def losses(self) -> dict[str, float]:
        """The paper's own weight of the budget, 5, lets short runs drift far above it (docs/recipes/tofe.md); 400 on
        the mean of a batch holds it. A ratio loss holds its stages to fixed shares instead (Table V)."""
        return {"approximation": 2.0, "budget": 400.0, "ratio": 0.0}

    def bind(self, body: Backbone) -> None:
        at = self.blocks_of(body)
        kept = zip(at, self._shares(len(at)), strict=True)
        patches = [math.prod(body.grid_at(block, body.grid())) for block in at]
        self.places = tuple(Place(j, block, share, patches[j]) for j, (block, share) in enumerate(kept))
        self._ends = self._recoveries(body)
        if self.ragged:
            try:
                body.check_ragged()
            except ValueError as reason:
                raise UnfitModel(
                    "tofe with ", {"adaptive": "instance"}, f": {reason}; use ", {"adaptive": "batch"}
                ) from None

    def _recoveries(self, body: Backbone) -> list[int | None]:
        """The block before which the frozen tokens of each stage are recovered: the next stage, or where the model
        needs its whole grid; None: never."""
        if not self.reuse:
            return [None] * len(self.places)
        ends = []
        for place, following in zip(self.places, [*self.places[1:], None], strict=True):
            ends_at = (None if following is None else following.block, body.restore_by(place.block))
            ends.append(min((end for end in ends_at if end is not None), default=None))
        return ends

    def _shares(self, stages: int) -> list[float]:
        """The share of N that each stage keeps at first."""
        if self.keep is None and stages == len(OPTIMISED):
            return list(OPTIMISED)
        return shares(0.5 if self.keep is None else alone(self.keep), stages)

    def build(self, body: Backbone) -> None:
        sizes = [(body.channels(place.block), body.heads(place.block)[0]) for place in self.places]
        self.selectors: Any = nn.ModuleList(SELECTORS[self.selector](channels) for channels, _ in sizes)
        for selector, place in zip(self.selectors, self.places, strict=True):
            start_at(selector, place.keep)
        approximator = APPROXIMATORS[self.approximator]
        if self.reuse and approximator is not None:
            recovered = [size for size, end in zip(sizes, self._ends, strict=True) if end is not None]
            self.approximators = nn.ModuleList(approximator(*size) for size in recovered)
        self.store_shares()

    # -- Algorithm 1

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        z = self.selectors[place.index](tokens)  # Eq. 8
        if self.masked and self.training:
            return self._as_mask(drawn(z, tokens.mask, self.tau), z, tokens)  # Eq. 9
        if self.ragged:
            return self._own_counts(z, tokens)
        return self._stored_count(z, self.count(place, tokens.n), tokens)

    def _own_counts(self, z: Float[Tensor, "b n 2"], tokens: Tokens) -> Reduction:
        """Instance-adaptive: the decision is the mask, argmax of z."""
        scores = keep_scores(z, tokens)
        kept = decide(scores, tokens.mask)
        if self.masked:
            return self._as_mask(kept.to(scores.dtype), z, tokens)
        refuse_recording('tofe with adaptive="instance"', 'make it with adaptive="batch"')
        return pack(kept, tokens.prefix, tokens.layout, scores)

    def _stored_count(self, z: Float[Tensor, "b n 2"], k: int, tokens: Tokens) -> Reduction:
        """Batch-adaptive: the k best by z."""
        scores = keep_scores(z, tokens)
        if tokens.mask is not None:
            scores = scores.masked_fill(tokens.mask == 0, float("-inf"))
        order = torch.topk(scores, tokens.n, dim=1).indices
        if self.masked:
            return self._as_mask(torch.zeros_like(scores).scatter(1, order[:, :k], 1.0), z, tokens)
        return Keep(order[:, :k], rest=order[:, k:], scores=scores)

    def _as_mask(self, mask: Float[Tensor, "b n"], z: Float[Tensor, "b n 2"], tokens: Tokens) -> Mask:
        """All tokens run; without reuse the masks of successive stages multiply."""
        return Mask(mask if tokens.mask is None else mask * tokens.mask, scores=keep_scores(z, tokens))

    @contextmanager
    def own_decisions(self) -> Generator[None]:
        """Instance-adaptive for a while, its masks over all tokens, whatever `adaptive` says."""
        before = self.adaptive
        self.__dict__["adaptive"], self.masked = "instance", True
        try:
            yield
        finally:
            self.__dict__["adaptive"], self.masked = before, None

    def restore_before(self, place: Place) -> int | None:
        """Frozen tokens are recovered before the next stage; those of the last stage never, but where the model needs
        its whole grid (Swin)."""
        return self._ends[place.index]

    @property
    def rest_word(self) -> str:
        return "frozen" if self.reuse else PRUNED

    def update_outside(self, outside: Tokens, reduction: Reduction, place: Place) -> Tokens:
        """x + Approx(x) of the frozen tokens, and of them alone (Eq. 6); of all, where they are masked (Eq. 16)."""
        if self.approximator == "identity":
            return outside
        frozen = reduction.take_rest(outside.x, outside.prefix)
        frozen = frozen + self.approximators[place.index](outside, reduction)
        return outside.with_x(reduction.put_rest(outside.x, frozen, outside.prefix))

    # -- counts

    def count(self, place: Place, n: int) -> int:
        """N^s: the stored share of all patches, rounded, at least 1 and no more than there are."""
        return min(max(round_count(place.keep, place.whole), 1), n)

    def acts_on(self, place: Place, n: int | Tensor) -> bool:
        """Whether the stored counts leave something to decide; the other images of a batch have no say in it."""
        earlier = self.places[place.index - 1] if place.index and not self.reuse else None
        patches = place.whole
        before = patches if earlier is None else self.count(replace(earlier, patches=patches), patches)
        if isinstance(n, int) and not self.ragged:
            before = min(before, n)
        return self.count(place, patches) < before

    def update_counts(self, kept: Float[Tensor, "b s"], patches: int | Sequence[int], momentum: float = 0.02) -> None:
        """Move the stored counts towards the mean of those that images of `patches` patches kept in training, [b, s].

        patches:  one number, or one for each stage where the grid shrinks on the way (Swin)
        momentum: weight of this batch in the running mean; 1: these replace what was stored
        Every process must be given the same counts (gather them first). Raises ValueError for another number of stages.
        """
        if kept.dim() != 2 or kept.shape[1] != len(self.places):
            raise ValueError(f"kept is {list(kept.shape)}: give [images, {len(self.places)}], one count for each place")
        self.move_shares(kept.float().mean(dim=0) / torch.as_tensor(patches, device=kept.device), momentum)

    def shift(self, place: Place, by: float) -> None:
        """Raise every score of this place alike: ranks stay, and the masks keep more tokens (fewer, where negative)."""
        shift(self.selectors[place.index], by)

    # -- what it will cost

    def macs(self, place: Place, n: int, body: Backbone, kept: Any = None) -> int:
        approximator = APPROXIMATORS[self.approximator]
        channels = body.channels(place.block)
        selecting = SELECTORS[self.selector].macs(channels, n)
        if approximator is None or self.restore_before(place) is None:
            return selecting
        kept = self.count(place, n) if kept is None else kept
        return selecting + approximator.macs(channels, n, n - kept)
