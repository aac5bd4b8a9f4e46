"""How transformers' vision models name their parts: four templates of a layer, one row for each architecture.

    A  x = x + dropout(attention(layernorm_before(x)));        x = x + dropout(mlp(layernorm_after(x)))
    B  x = x + drop_path(layer_scale1(attention(norm1(x))));   x = x + drop_path(layer_scale2(mlp(norm2(x))))
    C  x = x + self_attn(layer_norm1(x));                      x = x + mlp(layer_norm2(x))
    D  x = x + lambda_1 * attention(layernorm_before(x));      x = x + lambda_2 * dropout(mlp(layernorm_after(x)))

Source: transformers 5.18 to 5.24, `models/*/modeling_*.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from . import heads
from .heads import Head
from .stems import CONVOLVED, MASKED, PACKED, Stem

VERSIONS = (5, 18), (6, 0)  # from, and before; tests run on both ends


@dataclass(frozen=True)
class Template:
    """Names of the parts of a layer; None: the layer has none.

    norm1, norm2:   what attention and MLP read
    attention, out: the attention, and in it the projection of its output
    scales:         what the two branches are scaled by before they are added, layers or vectors [c]
    drops:          what they pass through beside that
    out_drop:       in the attention, what the projected output passes through
    """

    norm1: str
    attention: str
    norm2: str
    out: str
    scales: tuple[str, str] | None = None
    drops: tuple[str | None, str | None] = (None, None)
    out_drop: str | None = None


A = Template("layernorm_before", "attention", "layernorm_after", "o_proj", drops=("dropout", "dropout"))
B = Template(
    "norm1", "attention", "norm2", "o_proj",
    scales=("layer_scale1", "layer_scale2"), drops=("drop_path", "drop_path"),
)  # fmt: skip
C = Template("layer_norm1", "self_attn", "layer_norm2", "out_proj")
D = Template(
    "layernorm_before", "attention", "layernorm_after", "projection_layer",
    scales=("lambda_1", "lambda_2"), drops=(None, "dropout"), out_drop="projection_dropout",
)  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """How one architecture names its parts.

    module:    where its classes are, below transformers.models
    template:  of its layers
    layer, attention: their classes
    mlps:      classes that the MLP may have
    layers:    path from the tower to the list of layers
    norm:      the norm of all tokens after the last layer; None: there is none
    before:    a norm between embeddings and first layer
    prefix:    prefix tokens, registers not counted
    rotary:    what computes (cos, sin) of the patches from the images
    has_any_size: whether it takes images of every size without being told
    stem:      how images become tokens
    output:    where the encoder takes no keyword arguments, so that nothing can be handed through it: the class of what
               the tower returns, which is `embeddings`, the layers and `norm` alone
    """

    module: str
    template: Template
    layer: str
    attention: str
    mlps: tuple[str, ...]
    layers: str
    norm: str | None
    prefix: int = 1
    before: str | None = None
    rotary: str | None = None
    has_any_size: bool = False
    stem: Stem = CONVOLVED
    output: str | None = None

    def registers(self, config: Any) -> int:
        """Register tokens behind the others of the prefix."""
        return getattr(config, "num_register_tokens", 0) if self.prefix else 0


def _flat(module: str, name: str, prefix: int = 1) -> Dialect:
    return Dialect(module, A, f"{name}Layer", f"{name}Attention", (f"{name}MLP",), "layers", "layernorm", prefix)


def _dino(module: str, name: str) -> Dialect:
    mlps = (f"{name}MLP", f"{name}SwiGLUFFN")
    return Dialect(module, B, f"{name}Layer", f"{name}Attention", mlps, "encoder.layer", "layernorm", has_any_size=True)


def _navit(module: str, name: str) -> Dialect:
    parts = f"{name}EncoderLayer", f"{name}VisionAttention", (f"{name}VisionMLP",)
    return Dialect(
        module, C, *parts, "encoder.layers", "post_layernorm", prefix=0,
        has_any_size=True, stem=MASKED, output="BaseModelOutputWithPooling",
    )  # fmt: skip


VIT = _flat("vit.modeling_vit", "ViT")
DEIT = _flat("deit.modeling_deit", "DeiT", prefix=2)
IJEPA = _flat("ijepa.modeling_ijepa", "IJepa", prefix=0)
DINOV2 = _dino("dinov2.modeling_dinov2", "Dinov2")
DINOV2_REGISTERS = _dino("dinov2_with_registers.modeling_dinov2_with_registers", "Dinov2WithRegisters")
DINOV3 = Dialect(
    "dinov3_vit.modeling_dinov3_vit", B, "DINOv3ViTLayer", "DINOv3ViTAttention", ("DINOv3ViTMLP", "DINOv3ViTGatedMLP"),
    "model.layer", "norm", rotary="rope_embeddings", has_any_size=True,
)  # fmt: skip
CLIP = Dialect(
    "clip.modeling_clip", C, "CLIPEncoderLayer", "CLIPAttention", ("CLIPMLP",),
    "encoder.layers", None, before="pre_layrnorm",
)  # fmt: skip
SIGLIP = Dialect(
    "siglip.modeling_siglip", C, "SiglipEncoderLayer", "SiglipAttention", ("SiglipMLP",),
    "encoder.layers", "post_layernorm", prefix=0,
)  # fmt: skip
SIGLIP2 = Dialect(
    "siglip2.modeling_siglip2", C, "Siglip2EncoderLayer", "Siglip2Attention", ("Siglip2MLP",),
    "encoder.layers", "post_layernorm", prefix=0, has_any_size=True, stem=PACKED,
)  # fmt: skip
INTERNVL = Dialect(
    "internvl.modeling_internvl", D, "InternVLVisionLayer", "InternVLVisionAttention", ("InternVLVisionMLP",),
    "encoder.layer", "layernorm", has_any_size=True, output="InternVLVisionModelOutputWithPooling",
)  # fmt: skip
IDEFICS3 = _navit("idefics3.modeling_idefics3", "Idefics3")
SMOLVLM = _navit("smolvlm.modeling_smolvlm", "SmolVLM")


@dataclass(frozen=True)
class Entry:
    """A class of models.

    dialect: of its vision tower
    tower:   the attribute that holds the tower; empty: the model is the tower
    head:    what comes after the last norm
    """

    dialect: Dialect
    tower: str
    head: Head

    @property
    def classifies(self) -> bool:
        """Whether it gives logits, and nobody sees its tokens."""
        return self.head.classifies


# Class of models -> its entry. A class of the same architecture is one more row.
ENTRIES: dict[str, Entry] = {
    "ViTModel": Entry(VIT, "", heads.POOLER),
    "ViTForImageClassification": Entry(VIT, "vit", heads.CLASS_TOKEN),
    "DeiTModel": Entry(DEIT, "", heads.POOLER),
    "DeiTForImageClassification": Entry(DEIT, "deit", heads.CLASS_TOKEN),
    "DeiTForImageClassificationWithTeacher": Entry(DEIT, "deit", heads.TEACHER),
    "IJepaModel": Entry(IJEPA, "", heads.POOLER),
    "IJepaForImageClassification": Entry(IJEPA, "ijepa", heads.MEAN),
    "Dinov2Model": Entry(DINOV2, "", heads.FIRST),
    "Dinov2ForImageClassification": Entry(DINOV2, "dinov2", heads.FIRST_AND_MEAN),
    "Dinov2Backbone": Entry(DINOV2, "", heads.FIRST),
    "Dinov2WithRegistersModel": Entry(DINOV2_REGISTERS, "", heads.FIRST),
    "Dinov2WithRegistersForImageClassification": Entry(DINOV2_REGISTERS, "dinov2_with_registers", heads.FIRST_AND_MEAN),
    "Dinov2WithRegistersBackbone": Entry(DINOV2_REGISTERS, "", heads.FIRST),
    "DINOv3ViTModel": Entry(DINOV3, "", heads.FIRST),
    "DINOv3ViTBackbone": Entry(DINOV3, "", heads.FIRST),
    "CLIPVisionModel": Entry(CLIP, "", heads.NORMED_FIRST),
    "CLIPVisionModelWithProjection": Entry(CLIP, "vision_model", heads.PROJECTED),
    "CLIPForImageClassification": Entry(CLIP, "vision_model", heads.MEAN),
    "CLIPModel": Entry(CLIP, "vision_model", heads.PROJECTED),
    "SiglipVisionModel": Entry(SIGLIP, "", heads.MAP),
    "SiglipForImageClassification": Entry(SIGLIP, "vision_model", heads.MEAN),
    "SiglipModel": Entry(SIGLIP, "vision_model", heads.MAP),
    "Siglip2VisionModel": Entry(SIGLIP2, "", heads.MAP),
    "Siglip2ForImageClassification": Entry(SIGLIP2, "vision_model", heads.MEAN),
    "Siglip2Model": Entry(SIGLIP2, "vision_model", heads.MAP),
    "InternVLVisionModel": Entry(INTERNVL, "", heads.FIRST_OR_MEAN),
    "Idefics3VisionTransformer": Entry(IDEFICS3, "", heads.PATCH_MEAN),
    "SmolVLMVisionTransformer": Entry(SMOLVLM, "", heads.PATCH_MEAN),
}


def entry_of(cls: type) -> Entry | None:
    """The entry of exactly this class of transformers' own; None where there is none.

    Example:
        >>> from vitrim.backbones.transformers.dialects import entry_of
        >>> entry_of(type(model)) is None  # timm's
        True
    """
    entry = ENTRIES.get(cls.__name__)
    return entry if entry is not None and cls.__module__ == f"transformers.models.{entry.dialect.module}" else None


# How the field writes an architecture's name, where the class writes it otherwise.
_WRITTEN = {
    "IJepa": "I-JEPA",
    "Dinov2": "DINOv2",
    "Dinov2WithRegisters": "DINOv2 with registers",
    "DINOv3ViT": "DINOv3",
    "Siglip": "SigLIP",
    "Siglip2": "SigLIP 2",
}


def kinds() -> dict[str, str]:
    """One class of each architecture, by the name of the architecture."""
    found: dict[str, str] = {}
    for name, entry in ENTRIES.items():
        if entry.dialect not in [ENTRIES[other].dialect for other in found.values()]:
            architecture = re.sub("(Vision)?(Model|Transformer)$", "", name)
            found[_WRITTEN.get(architecture, architecture)] = name
    return found
