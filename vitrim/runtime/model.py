"""ReducedViT: a model and the methods put on it, with the model's own inputs and outputs.

The model stays as it is (`reduced.backbone`); state is local to one forward, so the loop can be re-entered,
checkpointed, compiled and exported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import LIBRARIES, Backbone, find_family, library_of
from ..backbones.admission import unwrapped
from ..backbones.timm.interface import TimmInterface
from ..backbones.transformers.wrapper import timm_inside
from ..common.unwrapping import innermost
from ..core.filling import check_fill
from ..core.recording import image_size
from ..core.tokens import Tokens
from ..methods import Method
from ..methods.parts.checks import check_flag
from .loop import BlockRecord, Loop, Request, Watcher, features_of_every_patch
from .model_cost import Profile, cost_of_model
from .records import BlockTrace, LossInputs
from .stack import Methods, as_stack, bind_stack
from .turns import Turn, plan_turns
from .words import in_words

# Under this name a reduced model of transformers holds itself as a model for images alone (`pretrained.py`).
REDUCED = "_vitrim_reduced"


class ReducedViT(TimmInterface, nn.Module):
    """A supported timm model with token reduction: images [b, 3, h, w] to logits [b, classes], as the model itself.
    `vitrim.reduce` makes it, by name or for a budget; made directly it binds copies of the methods given.

    backbone: the dense model, which stays as it is
    methods:  the methods that act on it, in order; None: the dense model, as one that has none
    prediction_only: as for `reduce`

    Raises ValueError for a model that is not supported, and for methods that the model, or the stack, cannot carry.

    Example:
        >>> fast = vitrim.reduce(model, "evit", keep=0.5)
        >>> logits, trace = fast(images, trace=True)
        >>> logits.shape, [block.kept.shape[1] for block in trace]
        (torch.Size([2, 2]), [64, 33, 18, 10])
        >>> fast.forward_features(images, restore=True).shape  # [CLS], and every patch again
        torch.Size([2, 65, 192])
    """

    # Methods that `runtime/__init__.py` puts here: saving makes models again, so it needs this class first.
    save: ClassVar[Callable[[ReducedViT, str | Path], None]]
    save_pretrained: ClassVar[Callable[..., Path]]
    push_to_hub: ClassVar[Callable[..., Any]]
    from_pretrained: ClassVar[Callable[..., Any]]

    def __init__(self, backbone: nn.Module, methods: Sequence[Method] | None, prediction_only: bool = False):
        super().__init__()
        self.backbone: Any = backbone
        self._family = find_family(backbone)
        self.prediction_only = check_flag("prediction_only", prediction_only)
        dense = methods is None or (prediction_only and not methods)
        stack = [] if dense else as_stack(methods or [])
        if prediction_only:
            self.body.check_prediction_only()
        bind_stack(self.body, stack)
        self.methods = Methods(stack)
        self._turns = plan_turns(stack, self.body.depth, prediction_only)
        self.chosen = ""  # by `auto`: what, and why
        self.grad_checkpointing: bool | None = None  # None: as the model itself has been told
        self.training = backbone.training
        self.methods.train(backbone.training)

    @property
    def body(self) -> Backbone:
        """The adapter of the model's family."""
        return self._family(self.backbone)

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        scores: Float[Tensor, "b n0"] | None = None,
        trace: bool = False,
        losses: bool | Literal["maps", "logits", "masks"] = False,
    ):
        """Logits [b, classes], features where the model has no classifier; of a vision-language model what it reads of
        its tower, [b, patches, c].

        scores: from outside, one for each patch; guides the selection in place of the method's own (EViT Table 14).
                In a stack, that of every method that takes scores
        trace:  also return a list of `BlockTrace`, one for each block
        losses: also return a `LossInputs`: what the losses of training need. True or "maps": with the attention maps of
                methods that have a cut loss; "logits": these from averaged logits (IdleViT's code); "masks": without
        Raises ValueError for other values of `losses`, and for scores that are not one for each patch.
        """
        # The older ONNX exporter binds defaults by position, and hands flags over as tensors.
        prediction = not (self.training or trace or losses)
        whole = bool(self.body.reads)
        request = Request(trace=bool(trace), remember=whole, losses=_maps(losses), prediction=prediction)
        return self._answer(images, scores, request)

    def watched(self, images: Float[Tensor, "b 3 h w"], watcher: Watcher) -> tuple[Tensor, list[BlockTrace]]:
        """What `forward` gives with trace=True, while somebody looks at the tokens before and after every block."""
        return self._answer(images, None, Request(trace=True, remember=bool(self.body.reads), watcher=watcher))

    def _answer(self, images: Tensor, scores: Tensor | None, request: Request) -> Any:
        """The output, and behind it what else is asked for."""
        body = self.body
        if self.prediction_only:
            body.check_prediction_only()  # also here: a model may get another head, or something on its layers
        tokens, records, taken = self._run(body, body.receive(images), scores, request)
        tokens = tokens.with_x(body.norm(tokens.x))
        out = (body.deliver(body.read(taken) if body.reads else body.head(tokens)),)
        if request.trace:
            out += ([record.trace for record in records],)
        if request.losses:
            out += (LossInputs(tokens, tuple(w for record in records for w in record.place_records)),)
        return out if len(out) > 1 else out[0]

    def forward_features(
        self, images: Tensor, *, scores: Tensor | None = None, restore: bool = False, fill: str = "last"
    ) -> Float[Tensor, "b *pm c"]:
        """Features after the final norm: of the tokens left, or with restore=True of every patch of the image.

        scores: as for `forward`
        fill:   what a pruned patch gets when restored: its "last" features; "zeros"; or "neighbours", its last features
                and the mean update of the 10 kept tokens that were nearest to it

        Raises ValueError for another fill, and where images keep different numbers of tokens and restore=False.
        """
        body, fill = self.body, check_fill(fill)
        tokens, _, _ = self._run(body, images, scores, Request(remember=restore))
        if restore:
            return body.as_features(features_of_every_patch(tokens, body, fill))
        if tokens.layout is not None:
            raise ValueError("the images keep different numbers of tokens: ask for restore=True, or call the model")
        return body.as_features(tokens.with_x(body.norm(tokens.x)))

    def pooled(self, images: Float[Tensor, "b 3 h w"], scores: Tensor | None = None) -> Float[Tensor, "b c"]:
        """One feature for each image: what the classifier reads, or what a model without one gives. Towers of CLIP and
        SigLIP give the features that are compared with texts.

        scores: as for `forward`

        Example:
            >>> vitrim.reduce(model, "evit", keep=0.5).pooled(images).shape
            torch.Size([2, 192])
        """
        body = self.body
        tokens, _, _ = self._run(body, images, scores, Request(prediction=not self.training))
        tokens = tokens.with_x(body.norm(tokens.x))
        features = library_of(self.backbone).gives_features(self.backbone)
        return body.head(tokens, pre_logits=not features)

    def tokens_after(
        self, images: Tensor, take: Collection[int], last: int | None, norm: bool, fill: str
    ) -> tuple[Tokens, list[Tokens]]:
        """The tokens that are left, before the final norm, and those with every patch in place after the blocks in
        `take`; nothing runs after block `last`."""
        body, fill = self.body, check_fill(fill)
        turns = self._turns if last is None else self._turns[: last + 1]
        loop = Loop(body, turns, Request(remember=True), self.grad_checkpointing)
        tokens, _, taken = loop.run(self._embed(body, images), take)
        whole = [
            features_of_every_patch(t, body, fill, norm and body.norm_fits(i))
            for i, t in zip(sorted(take), taken, strict=True)
        ]
        return tokens, whole

    def features_of(self, tokens: Tokens, last: int | None, fill: str, whole: bool = False) -> Tensor:
        """The final features of tokens that are left after block `last`: those of `forward_features`; where images keep
        different numbers of tokens, or `whole`, of every patch."""
        body = self.body
        fits = body.norm_fits(body.depth - 1 if last is None else last)
        if whole or tokens.layout is not None:
            return body.as_features(features_of_every_patch(tokens, body, fill, fits))
        return body.as_features(tokens.with_x(body.norm(tokens.x)) if fits else tokens)

    def _run(
        self, body: Backbone, images: Tensor, scores: Tensor | None, request: Request
    ) -> tuple[Tokens, list[BlockRecord], list[Tensor]]:
        """The tokens after the last block, before the final norm, what each block leaves behind, and a token for every
        patch after the blocks that somebody else reads, in the order in which it does."""
        loop = Loop(body, self._turns, request, self.grad_checkpointing)
        reads = body.reads if request.remember else ()
        take = sorted(set(reads))
        tokens, records, taken = loop.run(body.begin(self._embed(body, images, scores)), take)
        whole = {block: then.full_grid() for block, then in zip(take, taken, strict=True)}
        return body.finish(tokens), records, [whole[block] for block in reads]

    @property
    def turns(self) -> Sequence[Turn]:
        """What methods do in each block."""
        return self._turns

    def _embed(self, body: Backbone, images: Tensor, scores: Tensor | None = None) -> Tokens:
        return self.noted(body.embed(images), images, scores)

    def noted(self, tokens: Tokens, images: Tensor, scores: Tensor | None) -> Tokens:
        """The tokens of these images with what the methods carry from block to block."""
        if scores is not None:
            self._check_scores(scores, images)
        for method in self.methods:
            note = method.start_note(images, scores if method.scorer else None)
            if method.guide is not None and scores is None:
                self._check_scores(note, images)
            tokens = tokens.with_note(method.number, note)
        return tokens

    def _check_scores(self, scores: Any, images: Tensor) -> None:
        """Raise ValueError for scores from outside, given or made by a guide, that are not one for each patch."""
        if not any(method.scorer for method in self.methods):
            raise ValueError(f"scores: {', '.join(m.name for m in self.methods)} takes none from outside; evit does")
        if not isinstance(scores, Tensor):
            raise ValueError(f"scores are a {type(scores).__name__}: give a tensor, one score for each patch")
        height, width = self.body.grid(image_size(images))
        wanted = [images.shape[0], height * width]
        if list(scores.shape) != wanted:
            raise ValueError(
                f"scores are {list(scores.shape)}: give one for each patch of each image, {wanted} "
                "(vitrim.LastClassAttention makes them from a model)"
            )

    def summary(self, wide: bool = False) -> None:
        """Print what each block costs, as `vitrim profile` does; for the figures ask `vitrim.profile`.

        wide: every column, however narrow the terminal

        Example:
            >>> fast = vitrim.reduce(model, "evit", keep=0.5)
            >>> fast.summary()  # doctest: +ELLIPSIS
            MACs of one image in millions...
            >>> fast  # doctest: +ELLIPSIS
            ReducedViT of ..., 64 patch tokens
              evit(keep=0.5) in blocks 1, 2, 3: 33, 18, 10 left
              0.078 of 0.131 GMACs (59.8 %)
              summary() shows every block
        """
        if self.chosen:
            print(self.chosen)
        self._cost().summary(wide)

    def __repr__(self) -> str:
        return self.told() or super().__repr__()

    def told(self) -> str:
        """What the model is, in four lines; empty where it is half made, or changed by hand: debuggers and error
        messages print it all the same."""
        try:
            return in_words(self.backbone, list(self.methods), self._cost(), self.prediction_only, self.chosen)
        except Exception:
            return ""

    def _cost(self) -> Profile:
        body = self.body
        return cost_of_model(self, body, list(self.methods), body.grid())

    def fit_again(self) -> None:
        """Take note that the model underneath has got another size, or fewer blocks; keep rates stay."""
        for method in self.methods:
            method.fit_again(self.body)
        self._turns = plan_turns(list(self.methods), self.body.depth, self.prediction_only)


def _maps(losses: bool | str) -> Any:
    if not isinstance(losses, str):
        return "maps" if losses else None
    if losses not in ("maps", "logits", "masks"):
        raise ValueError(f'losses={losses!r} is not True, "maps", "logits" or "masks"')
    return losses


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's, DistributedDataParallel's and transformers' wrappers; of a reduced model of
    transformers, the one for images alone. Raises ValueError for hooks on wrappers."""
    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        return model
    return vars(model).get(REDUCED) or timm_inside(model) or model


def for_images(model: nn.Module) -> nn.Module:
    """A model, dense or reduced, as a function from images [b, 3, h, w] to logits [b, classes], or to features [b, c]
    without a classifier, with timm's attributes `num_classes` and `pretrained_cfg`: what `vitrim.evaluate` and
    `vitrim.data` take. timm's models are that already; transformers' return outputs of their own.

    Raises ValueError for transformers' Backbone classes, which give feature maps alone.

    Example:
        >>> vitrim.for_images(model) is model  # timm's
        True
    """
    inner: Any = innermost(model)
    if not isinstance(inner, nn.Module):
        library_of(inner)  # says what to give
    if inner is model and REDUCED in vars(inner):
        return vars(inner)[REDUCED]
    inside = timm_inside(inner)
    if inner is model and inside is not None:
        return inside
    library = next((library for library in LIBRARIES if library.owns(inner)), None)
    return model if library is None else library.for_images(model)
