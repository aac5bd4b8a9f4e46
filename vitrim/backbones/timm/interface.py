"""timm's model interface for `ReducedViT`, so that timm's optimisers and feature users take it as it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ...core.tokens import Tokens
from .. import library_of
from ..base import Backbone

PREFIX = "backbone."


class TimmInterface:
    """Answers to timm's conventions by asking the model underneath; parameter names gain `backbone.` in front."""

    backbone: Any
    if TYPE_CHECKING:  # what `ReducedViT` has
        methods: Any

        @property
        def body(self) -> Backbone: ...
        def tokens_after(self, images: Tensor, take: Any, last: int | None, norm: bool, fill: str) -> Any: ...
        def features_of(self, tokens: Any, last: int | None, fill: str) -> Tensor: ...
        def fit_again(self) -> None: ...

    @property
    def num_classes(self) -> int:
        return self._described.num_classes

    @property
    def num_features(self) -> int:
        return self._described.num_features

    @property
    def _described(self) -> Any:
        """The model, or what says of it what timm's models say."""
        return library_of(self.backbone).for_images(self.backbone)

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
        return getattr(self._described, "pretrained_cfg", {})  # a model not made by create_model has none

    @property
    def default_cfg(self) -> dict[str, Any]:
        return self.pretrained_cfg

    def get_classifier(self) -> nn.Module:
        return self.backbone.get_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.backbone.reset_classifier(num_classes, global_pool)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {PREFIX + name for name in library_of(self.backbone).undecayed(self.backbone)}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        groups = library_of(self.backbone).layer_groups(self.backbone, coarse)
        return {key: _behind_prefix(value) for key, value in groups.items()}

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
        indices: Any = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        fill: str = "last",
    ):
        """timm's `forward_intermediates`: full grids [b, c, height, width] after the chosen blocks, for every method.

        fill: what a pruned patch gets, as for `forward_features`. The other arguments are timm's.

        The final features are those of `forward_features`: of the tokens left; where images keep different numbers of
        tokens, of every patch.
        """
        tokens, last, spatial, front = self.intermediates(x, indices, norm, stop_early, output_fmt, fill)
        final, prefix = self.features_of(tokens, last, fill), self.body.prefix
        if output_dict:
            return _as_dict(final, spatial, front if return_prefix_tokens and prefix else None, intermediates_only)
        taken = list(zip(spatial, front, strict=True)) if return_prefix_tokens and prefix else spatial
        return taken if intermediates_only else (final, taken)

    def intermediates(
        self,
        x: Tensor,
        indices: Any = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        fill: str = "last",
    ) -> tuple[Tokens, int | None, list[Tensor], list[Tensor]]:
        """What `forward_intermediates` makes its answer of: the tokens that are left, before the final norm; the last
        block that has run (None: all have); and for each chosen block its patch and its prefix tokens."""
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt={output_fmt!r} is not NCHW or NLC")
        blocks, prefix = self.body.feature_blocks, self.body.prefix
        take, end = feature_take_indices(len(blocks), indices)
        last = blocks[end] if stop_early else None
        tokens, taken = self.tokens_after(x, [blocks[i] for i in take], last, norm, fill)
        spatial, front = [t.x[:, prefix:] for t in taken], [t.x[:, :prefix] for t in taken]
        if output_fmt == "NCHW":
            grids = [t.grid for t in taken]
            spatial = [g.transpose(1, 2).unflatten(2, s).contiguous() for g, s in zip(spatial, grids, strict=True)]
        return tokens, last, spatial, front

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | list[int] | tuple[int, ...] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> list[Any]:
        """timm's (and DINO's): `forward_intermediates` without the final features, [b, n0, c] for each block."""
        output_fmt = "NCHW" if reshape else "NLC"
        return self.forward_intermediates(
            x, n, return_prefix_tokens, norm=norm, output_fmt=output_fmt, intermediates_only=True
        )

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """timm's: cut off what the chosen intermediates do not need. Places in the blocks cut off are gone, the others
        stay where they are. It changes the model underneath, too.

        Raises ValueError where a method would lose places that it has learned parts for.
        """
        _, last = feature_take_indices(len(self.body.feature_blocks), indices)
        depth = self.body.feature_blocks[last] + 1
        for method in self.methods:
            if method.learns and any(place.block >= depth for place in method.places):
                raise ValueError(
                    f"{method.name} has learned parts for blocks that would be cut off: prune the model first, then "
                    "reduce it"
                )
        taken = self.backbone.prune_intermediate_layers(indices, prune_norm, prune_head)
        self.fit_again()
        return taken

    @torch.jit.ignore
    def set_input_size(self, *args, **kwargs) -> None:
        """timm's: another size of images or patches, positions resampled. It changes the model underneath, too; keep
        rates stay."""
        self.backbone.set_input_size(*args, **kwargs)
        self.fit_again()


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
