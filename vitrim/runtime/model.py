"""ReducedViT: our own loop over a timm model's modules, in which methods may change the number of tokens.

The timm model stays as it is (`reduced.backbone`); state is local to one forward, so the loop can be re-entered,
checkpointed, compiled and exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..backbones import Backbone, find_family
from ..backbones.timm.interface import TimmInterface
from ..core.evidence import Evidence
from ..core.reductions import Keep
from ..core.seeds import image_seed
from ..core.tokens import Tokens
from ..methods import Method
from .agenda import Agenda
from .records import Ask, Findings, Learning, Span, Witness, trace_block, witness_place


class ReducedViT(TimmInterface, nn.Module):
    """A supported timm model with token reduction: same inputs, same outputs. Made by `vitrim.reduce`."""

    def __init__(self, backbone: nn.Module, methods: Sequence[Method]):
        super().__init__()
        self.backbone = backbone
        self.methods = nn.ModuleList(methods)
        self.grad_checkpointing = False
        self._family = find_family(backbone)

    @property
    def body(self) -> Backbone:
        """The adapter of the model's family."""
        return self._family(self.backbone)

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        scores: Float[Tensor, "b n0"] | None = None,
        trace: bool = False,
        losses: bool = False,
    ):
        """Logits [b, classes], features where the model has no classifier.

        scores: from outside, one for each patch; guides the selection in place of the method's own (EViT Table 14)
        trace:  also return a list of `BlockTrace`, one for each block
        losses: also return a `Learning`: what the losses of training need
        """
        # bool: the older ONNX exporter binds defaults by position, and hands flags over as tensors
        tokens, findings = self._run(images, scores, Ask(trace=bool(trace), losses=bool(losses)))
        out = (self.body.head(tokens),)
        if trace:
            out += ([found.trace for found in findings],)
        if losses:
            out += (Learning(tokens, tuple(w for found in findings for w in found.witnesses)),)
        return out if len(out) > 1 else out[0]

    def forward_features(
        self, images: Tensor, *, scores: Tensor | None = None, restore: bool = False, fill: str = "last"
    ) -> Float[Tensor, "b *pm c"]:
        """Features after the final norm: of the tokens left, or with restore=True of every patch of the image.

        scores: as for `forward`
        fill:   what a pruned patch gets when restored, its "last" features or "zeros"

        Raises ValueError where images keep different numbers of tokens and restore=False.
        """
        if fill not in ("last", "zeros"):
            raise ValueError(f'fill={fill!r} is not "last" or "zeros"')
        tokens, _ = self._run(images, scores, Ask(remember=restore), normed=not restore)
        if tokens.layout is not None and not restore:
            raise ValueError("the images keep different numbers of tokens: ask for restore=True, or call the model")
        body = self.body
        return body.as_features(tokens.with_x(body.norm(tokens.full_grid(fill))) if restore else tokens)

    def save(self, folder) -> None:
        """Write `config.json` and `model.safetensors` into a folder that `vitrim.load` reads."""
        from .storage import save

        save(self, folder)

    # -- the loop

    def _run(self, images: Tensor, scores: Tensor | None, ask: Ask, normed=True) -> tuple[Tokens, list[Findings]]:
        body, agenda, span, findings = self.body, Agenda(self.methods), None, []
        tokens = self._embed(body, images, scores)
        for i in range(body.depth):
            tokens, span, found = self._step(body, agenda, i, tokens, span, ask)
            findings.append(found)
        tokens = tokens.with_x(body.norm(tokens.x)) if normed else tokens
        return tokens, findings

    def _embed(self, body: Backbone, images: Tensor, scores: Tensor | None = None) -> Tokens:
        tokens = replace(body.embed(images), guide=self._guide(images, scores))
        if any(method.needs_seed for method in self.methods):
            tokens = replace(tokens, seed=image_seed(images))
        if any(method.proportional for method in self.methods):
            tokens = replace(tokens, proportional=True)
        return tokens

    def _guide(self, images: Tensor, scores: Tensor | None) -> Tensor | None:
        """Scores from outside: given with the call, or by the method's own guide; checked against the grid."""
        guided = [method for method in self.methods if method.guided]
        if scores is None:
            guides = [method.guide for method in guided if method.guide is not None]
            scores = guides[0](images) if guides else None
        if scores is None:
            return None
        if not guided:
            raise ValueError(f"scores: {', '.join(m.name for m in self.methods)} takes none from outside; evit does")
        height, width = self.body.grid(tuple(images.shape[-2:]))
        if tuple(scores.shape) != (images.shape[0], height * width):
            wanted = [images.shape[0], height * width]
            raise ValueError(f"scores are {list(scores.shape)}: give one for each patch of each image, {wanted}")
        return scores

    def _step(self, *args):
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._block, *args, use_reentrant=False)
        return self._block(*args)

    def _block(self, body: Backbone, agenda: Agenda, i: int, tokens: Tokens, span: Span | None, ask: Ask):
        tokens = body.enter(i, tokens)
        tokens, span, normed, opened, seen = self._open(body, agenda, i, tokens, span, ask)
        tokens, between, more = self._reduce(agenda, i, *body.attend(i, tokens, normed), ask)
        tokens = body.mlp(i, tokens)
        trace = trace_block(i, tokens, span, between or opened) if ask.trace else None
        tokens, span, restored = self._close(i, tokens, span)
        return tokens, span, Findings(trace, seen + more + restored)

    def _open(self, body: Backbone, agenda: Agenda, i: int, tokens: Tokens, span: Span | None, ask: Ask):
        """Reductions before block i. Also returns norm1 of the tokens that go in, where it is known already."""
        normed, reduction, seen = None, None, ()
        for method, place in agenda.at("before", i):
            evidence = None if method.blind else body.probe(i, tokens)
            reduction = method(tokens, evidence, place)
            if reduction is None:
                continue
            witness = witness_place(method, place, tokens.n, evidence, reduction) if ask.losses else None
            until = method.until(place)
            if until is not None:
                span = Span(tokens, reduction, method, place, until, witness)
            elif witness is not None:
                seen += (witness,)
            tokens = tokens.shrink(reduction, undone=until is not None, remember=ask.remember)
            known = evidence is not None and isinstance(reduction, Keep)
            normed = reduction.shrink(evidence.h, tokens.prefix) if known else None
        return tokens, span, normed, reduction, seen

    def _reduce(self, agenda: Agenda, i: int, tokens: Tokens, evidence: Evidence, ask: Ask):
        """Reductions between attention and MLP of block i."""
        reduction, seen = None, ()
        for method in agenda.watchers:
            tokens = method.watch(tokens, evidence, i)
        for method, place in agenda.at("between", i):
            reduction = method(tokens, evidence, place)
            if reduction is None:
                continue
            if ask.losses:
                seen += (witness_place(method, place, tokens.n, evidence, reduction),)
            tokens = tokens.shrink(reduction, remember=ask.remember)
        return tokens, reduction, seen

    def _close(self, i: int, tokens: Tokens, span: Span | None) -> tuple[Tokens, Span | None, tuple[Witness, ...]]:
        """Put back, after block i, what was left outside."""
        if span is None or span.until != i + 1:
            return tokens, span, ()
        outside = span.method.thaw(span.outside, span.reduction, span.place)
        tokens = tokens.restore(span.reduction, outside)
        restored = () if span.witness is None else (replace(span.witness, restored=tokens.x),)
        return tokens, None, restored


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's and DistributedDataParallel's wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None) or (
            model.module if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)) else None
        )
        if inner is None:
            return model
        model = inner
