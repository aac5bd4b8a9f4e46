"""The same random weights in timm and in transformers, for the architectures that both have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from small_models import IMAGE, build
from torch import Tensor, nn

SMALL = {"img_size": IMAGE, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3, "mlp_ratio": 2}


@dataclass(frozen=True)
class Twin:
    """The same architecture in both libraries.

    name:   transformers' class
    timm:   the call that makes its twin: small, or of the sizes that are given
    block, rest: timm's names of weights -> transformers', in blocks and elsewhere
    blocks: transformers' path of the list of blocks
    key:    of the output that is timm's too
    config: of transformers' class, where it is not as for the others
    """

    name: str
    timm: Callable[..., nn.Module]
    block: dict[str, str]
    rest: dict[str, str]
    blocks: str
    key: str
    config: tuple[tuple[str, Any], ...] = ()

    def both(self) -> tuple[nn.Module, nn.Module]:
        """transformers' model, and timm's with its weights."""
        ours = build(self.name, **dict(self.config))
        return ours, self.filled(self.timm(), ours)

    def filled(self, theirs: nn.Module, ours: nn.Module) -> nn.Module:
        """timm's model with the weights of transformers', in eval mode."""
        ours_state, state = ours.state_dict(), theirs.state_dict()
        for name in state:
            state[name] = self._value(name, ours_state, state[name])
        theirs.load_state_dict(state)
        return theirs.eval()

    def _value(self, name: str, ours: dict[str, Tensor], old: Tensor) -> Tensor:
        if not name.startswith("blocks."):
            return ours[self.rest[name]].reshape(old.shape)
        _, i, part = name.split(".", 2)
        block = f"{self.blocks}.{i}"
        if part.startswith("attn.qkv"):
            attn, kind = self.block["attn"], part.rpartition(".")[2]
            return torch.cat([ours[f"{block}.{attn}.{p}_proj.{kind}"] for p in "qkv"])
        old_name, kind = part.rsplit(".", 1)
        return ours[
            f"{block}.{self.block[old_name]}.{kind}" if old_name in self.block else f"{block}.{self.block[part]}"
        ]

    def output(self, out: Any) -> Tensor:
        return out[self.key]


A = {
    "norm1": "layernorm_before", "norm2": "layernorm_after", "attn": "attention", "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
B = {**A, "norm1": "norm1", "norm2": "norm2", "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
C = {
    "norm1": "layer_norm1", "norm2": "layer_norm2", "attn": "self_attn", "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip


def _vit(**more: Any) -> nn.Module:
    given = {**SMALL, "num_classes": 0, **more}
    return timm.models.vision_transformer.VisionTransformer(**given)


def _rest(embed: str, norm: str, prefix: str = "") -> dict[str, str]:
    return {
        "cls_token": f"{prefix}embeddings.cls_token",
        "pos_embed": f"{prefix}embeddings.position_embeddings",
        "patch_embed.proj.weight": f"{prefix}embeddings.{embed}.weight",
        "patch_embed.proj.bias": f"{prefix}embeddings.{embed}.bias",
        "norm.weight": f"{prefix}{norm}.weight",
        "norm.bias": f"{prefix}{norm}.bias",
    }


CLIP_REST = {
    "cls_token": "embeddings.class_embedding", "pos_embed": "embeddings.position_embedding.weight",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight", "norm_pre.weight": "pre_layrnorm.weight",
    "norm_pre.bias": "pre_layrnorm.bias", "norm.weight": "post_layernorm.weight", "norm.bias": "post_layernorm.bias",
}  # fmt: skip
TWINS = [
    Twin(
        "ViTForImageClassification",
        lambda **size: _vit(**{"num_classes": 5, **size}, norm_layer=lambda w, **_: nn.LayerNorm(w, eps=1e-12)),
        A,
        {
            **_rest("patch_embeddings.projection", "layernorm", "vit."),
            "head.weight": "classifier.weight",
            "head.bias": "classifier.bias",
        },
        "vit.layers",
        "logits",
    ),
    Twin(
        "Dinov2Model",
        lambda **size: _vit(init_values=1.0, norm_layer=lambda w, **_: nn.LayerNorm(w, eps=1e-6), **size),
        B,
        _rest("patch_embeddings.projection", "layernorm"),
        "encoder.layer",
        "pooler_output",
        (("mlp_ratio", 2),),
    ),
    Twin(
        "CLIPVisionModel",
        lambda **size: _vit(
            pre_norm=True, act_layer="quick_gelu", norm_layer=lambda w, **_: nn.LayerNorm(w, eps=1e-5), **size
        ),
        C,
        CLIP_REST,
        "encoder.layers",
        "pooler_output",
    ),
]
