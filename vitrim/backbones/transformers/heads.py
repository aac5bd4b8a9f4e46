"""Heads of transformers' vision models: from the tokens after the last norm to pooled features or logits.

Merged tokens weigh by size wherever patches are averaged or attended to; without a reduction the operations are
transformers' own, in their order. Shapes: b images, p prefix tokens, n patch tokens, c channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.tokens import Tokens
from ..counting import linear_macs

Pooled = Float[Tensor, "b c"]


@dataclass(frozen=True)
class Head:
    """What a model does with its tokens.

    pool:       (tower, tokens) -> features [b, c]
    finish:     (model, features) -> output
    prefix_only: whether it reads nothing but prefix tokens
    classifies: whether the output is logits
    layers:     paths of what it runs once for an image, from the model or from its tower
    pool_macs:  (tower, tokens) -> multiply-accumulates of a pooling that looks at all tokens
    """

    pool: Callable[[Any, Tokens], Tensor]
    finish: Callable[[Any, Tensor], Tensor]
    prefix_only: bool = True
    classifies: bool = False
    layers: tuple[str, ...] = ()
    pool_macs: Callable[[Any, int], int] = lambda tower, tokens: 0

    def macs(self, model: Any, tower: Any, tokens: int) -> int:
        """Multiply-accumulates of one image with so many tokens, prefix tokens too."""
        found = (_at(model, path) or _at(tower, path) for path in self.layers)
        return self.pool_macs(tower, tokens) + sum(_linear(layer) for layer in found)

    def __call__(self, model: Any, tower: Any, tokens: Tokens, pre_logits: bool = False) -> Tensor:
        features = self.pool(tower, tokens)
        return features if pre_logits and self.classifies else self.finish(model, features)


def _at(module: Any, path: str) -> Any:
    """The part at that path; None where there is none."""
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _linear(layer: Any) -> int:
    return linear_macs(layer, layer.in_features) if hasattr(layer, "in_features") else 0


def _attended_macs(tower: Any, tokens: int) -> int:
    """Keys and values of all tokens; query, output and MLP of one."""
    head = getattr(tower, "head", None)
    if head is None:
        return 0
    width = head.attention.embed_dim
    return 2 * (tokens + 1) * width * width + 2 * tokens * width + linear_macs(head.mlp, width)


def prefix_rows(tokens: Tokens) -> Float[Tensor, "b p c"]:
    """The prefix tokens of every image, of ragged batches too."""
    return tokens.x[:, : tokens.prefix] if tokens.layout is None else tokens.layout.prefix_rows(tokens.x)


def patch_mean(tokens: Tokens) -> Pooled:
    """Mean over patch tokens, by size."""
    if tokens.layout is not None:
        return tokens.layout.pooled(lambda part: part[:, tokens.prefix :].mean(dim=1), tokens.x)
    patches = tokens.x[:, tokens.prefix :]
    if tokens.size is None and tokens.mask is None:
        return patches.mean(dim=1)
    weight = tokens.weight[:, tokens.prefix :].unsqueeze(-1).to(patches.dtype)
    return (weight * patches).sum(dim=1) / weight.sum(dim=1)


def _first(tower: Any, tokens: Tokens) -> Pooled:
    return prefix_rows(tokens)[:, 0]


def _pooler(tower: Any, tokens: Tokens) -> Tensor:
    """The model's pooler of its first token. Models without [CLS] have none: the mean stands for it."""
    if not tokens.prefix:
        return patch_mean(tokens)
    return _first(tower, tokens) if tower.pooler is None else tower.pooler(prefix_rows(tokens))


def _first_or_mean(tower: Any, tokens: Tokens) -> Pooled:
    """What InternVL's configuration names as its pooling."""
    return patch_mean(tokens) if tower.config.use_mean_pooling else _first(tower, tokens)


def _first_and_mean(tower: Any, tokens: Tokens) -> Float[Tensor, "b 2c"]:
    return torch.cat([_first(tower, tokens), patch_mean(tokens)], dim=1)


def _normed_first(tower: Any, tokens: Tokens) -> Pooled:
    return tower.post_layernorm(_first(tower, tokens))


def _attended(tower: Any, tokens: Tokens) -> Pooled:
    """SigLIP's attention pooling: a token of size s counts as s equal ones, by log s in its logit."""
    if not hasattr(tower, "head"):
        return patch_mean(tokens)
    if tokens.layout is not None:
        return tokens.layout.pooled(lambda part: _pooled(tower.head, part, None), tokens.x)
    plain = tokens.size is None and tokens.mask is None
    return _pooled(tower.head, tokens.x, None if plain else tokens.weight.clamp(min=1e-6).log())


def _pooled(head: Any, x: Float[Tensor, "b n c"], bias: Float[Tensor, "b n"] | None) -> Pooled:
    if bias is None:
        return head(x)
    probe = head.probe.repeat(x.shape[0], 1, 1)
    mask = bias.to(x.dtype).repeat_interleave(head.attention.num_heads, dim=0).unsqueeze(1)
    attended = head.attention(probe, x, x, attn_mask=mask)[0]
    return (attended + head.mlp(head.layernorm(attended)))[:, 0]


def _as_it_is(model: Any, features: Tensor) -> Tensor:
    return features


def _classified(model: Any, features: Tensor) -> Tensor:
    return model.classifier(features)


def _projected(model: Any, features: Tensor) -> Tensor:
    return model.visual_projection(features)


def _two_tokens(tower: Any, tokens: Tokens) -> Float[Tensor, "b 2 c"]:
    return prefix_rows(tokens)[:, :2]


def _taught(model: Any, features: Float[Tensor, "b 2 c"]) -> Tensor:
    return (model.cls_classifier(features[:, 0, :]) + model.distillation_classifier(features[:, 1, :])) / 2


FIRST = Head(_first, _as_it_is)
POOLER = Head(_pooler, _as_it_is, layers=("pooler.dense",))
NORMED_FIRST = Head(_normed_first, _as_it_is)
PROJECTED = Head(_normed_first, _projected, layers=("visual_projection",))
CLASS_TOKEN = Head(_first, _classified, classifies=True, layers=("classifier",))
TEACHER = Head(_two_tokens, _taught, classifies=True, layers=("cls_classifier", "distillation_classifier"))
FIRST_OR_MEAN = Head(_first_or_mean, _as_it_is, prefix_only=False)
PATCH_MEAN = Head(lambda tower, tokens: patch_mean(tokens), _as_it_is, prefix_only=False)
MEAN = Head(lambda tower, tokens: patch_mean(tokens), _classified, False, True, ("classifier",))
FIRST_AND_MEAN = Head(_first_and_mean, _classified, False, True, ("classifier",))
MAP = Head(_attended, _as_it_is, prefix_only=False, pool_macs=_attended_macs)
