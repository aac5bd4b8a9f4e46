"""timm's model interface for `ReducedViT`, so that timm's optimisers and feature users take it as it is."""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ...runtime.agenda import Agenda
from ...runtime.records import Ask

PREFIX = "backbone."


class TimmInterface:
    """Answers to timm's conventions by asking the model underneath; parameter names gain `backbone.` in front."""

    backbone: nn.Module

    @property
    def num_classes(self) -> int:
        return self.backbone.num_classes

    @property
    def num_features(self) -> int:
        return self.backbone.num_features

    @property
    def head_hidden_size(self) -> int:
        return self.backbone.head_hidden_size

    @property
    def embed_dim(self) -> int:
        return self.backbone.embed_dim

    @property
    def num_prefix_tokens(self) -> int:
        return self.body.prefix

    @property
    def global_pool(self) -> str:
        return self.backbone.global_pool

    @property
    def feature_info(self) -> Any:
        return self.backbone.feature_info

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        return getattr(self.backbone, "pretrained_cfg", {})  # a model not made by create_model has none

    @property
    def default_cfg(self) -> dict[str, Any]:
        return self.pretrained_cfg

    def get_classifier(self) -> nn.Module:
        return self.backbone.get_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.backbone.reset_classifier(num_classes, global_pool)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {PREFIX + name for name in self.backbone.no_weight_decay()}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {key: _behind_prefix(value) for key, value in self.backbone.group_matcher(coarse).items()}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.grad_checkpointing = enable

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooling and classifier on the features of `forward_features`.

        Raises ValueError where the model pools over patches and x has lost how many patches each token stands for.
        """
        body = self.body
        tokens = body.as_tokens(x)
        if self.weighs and self.global_pool not in ("token", "max", "") and tokens.n != len_grid(tokens.grid):
            raise ValueError(
                f"{self.global_pool} pooling must weigh merged tokens by size, which features alone don't carry: call "
                "the model itself, or forward_features(images, restore=True)"
            )
        return body.head(tokens, pre_logits=pre_logits)

    @property
    def weighs(self) -> bool:
        """Whether some method leaves tokens that weigh more than one patch."""
        return any(method.weighs for method in self.methods)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        fill: str = "last",
    ):
        """timm's `forward_intermediates`: full grids [b, c, height, width] after the chosen blocks, for every method.

        fill: what a pruned patch gets, its "last" features or "zeros". The other arguments are timm's.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt={output_fmt!r} is not NCHW or NLC")
        body = self.body
        take, last = feature_take_indices(len(body.taps), indices)
        chosen = [body.taps[i] for i in take]
        final, taken = self._collect(x, chosen, body.taps[last] if stop_early else None, norm, fill)
        prefix = body.prefix
        spatial, front = [t.x[:, prefix:] for t in taken], [t.x[:, :prefix] for t in taken]
        if output_fmt == "NCHW":
            grids = [t.grid for t in taken]
            spatial = [g.transpose(1, 2).unflatten(2, s).contiguous() for g, s in zip(spatial, grids, strict=True)]
        if output_dict:
            return _as_dict(final, spatial, front if return_prefix_tokens and prefix else None, intermediates_only)
        taken = list(zip(spatial, front, strict=True)) if return_prefix_tokens and prefix else spatial
        return taken if intermediates_only else (final, taken)

    def _collect(self, images: Tensor, take: list[int], last: int | None, norm: bool, fill: str):
        """Final features, and the tokens with every patch in place after the blocks in `take`."""
        body, agenda, span, taken = self.body, Agenda(self.methods), None, []
        tokens = self._embed(body, images)
        for i in range(body.depth if last is None else last + 1):
            tokens, span, _ = self._step(body, agenda, i, tokens, span, Ask(remember=True))
            if i in take:
                whole = tokens if span is None else tokens.restore(span.reduction, span.outside)
                grid = whole.full_grid(fill)
                taken.append(whole.with_x(body.norm(grid) if norm and body.normed_tap(i) else grid))
        final = tokens.with_x(body.norm(tokens.x)) if body.normed_tap(i) else tokens
        return body.as_features(final), taken


def len_grid(grid: tuple[int, int]) -> int:
    """Patches of a grid."""
    return grid[0] * grid[1]


def _behind_prefix(pattern: Any) -> Any:
    """timm's group patterns with the prefix in front: a regex, or a list of (regex, order)."""
    if isinstance(pattern, str):
        return f"^{re.escape(PREFIX)}(?:{pattern.removeprefix('^')})"
    return [(_behind_prefix(regex), order) for regex, order in pattern]


def _as_dict(final: Tensor, spatial: list[Tensor], front: list[Tensor] | None, intermediates_only: bool) -> dict:
    out: dict[str, Any] = {"image_intermediates": spatial}
    if front is not None:
        out["image_intermediates_prefix"] = front
    if not intermediates_only:
        out["image_features"] = final
    return out
