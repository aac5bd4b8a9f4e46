"""Small random vision-language models of every class that vitrim runs, from their configurations alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from small_models import IMAGE, SQUARE, VISION, randomise, transformers
from torch import Tensor, nn

IMAGE_TOKEN = 98
TEXT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "intermediate_size": 64,
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TILES = {"image_grid_pinpoints": [[IMAGE, IMAGE]]}


@dataclass(frozen=True)
class Small:
    """One kind of vision-language models.

    config, text, vision: configuration classes of the model, its language model and its tower
    tokens: how many of its tokens stand for one image
    more:   what else its configuration is told
    tiled:  whether an image comes as several tiles; listed: whether as a list of images
    """

    config: str
    text: str
    vision: str
    tokens: int
    more: dict[str, Any] = field(default_factory=dict)
    tower: dict[str, Any] = field(default_factory=lambda: VISION)
    tiled: bool = False
    listed: bool = False


CLIP = {**VISION, "num_hidden_layers": 5}  # of which LLaVA reads four
SIGLIP = {**VISION, "vision_use_head": False}
KINDS = {
    "Llava": Small("LlavaConfig", "LlamaConfig", "CLIPVisionConfig", 64, tower=CLIP),
    "LlavaNext": Small("LlavaNextConfig", "LlamaConfig", "CLIPVisionConfig", 136, TILES, CLIP, tiled=True),
    "LlavaOnevision": Small(
        "LlavaOnevisionConfig", "Qwen2Config", "SiglipVisionConfig", 136, TILES, SIGLIP, tiled=True
    ),
    "PaliGemma": Small("PaliGemmaConfig", "GemmaConfig", "SiglipVisionConfig", 64, {"projection_dim": 48}, SIGLIP),
    "Gemma3": Small("Gemma3Config", "Gemma3TextConfig", "SiglipVisionConfig", 16, {"mm_tokens_per_image": 16}, SIGLIP),
    "Idefics3": Small("Idefics3Config", "LlamaConfig", "Idefics3VisionConfig", 16, listed=True),
    "SmolVLM": Small("SmolVLMConfig", "LlamaConfig", "SmolVLMVisionConfig", 16, listed=True),
    "InternVL": Small("InternVLConfig", "Qwen2Config", "InternVLVisionConfig", 16, tower=SQUARE),
}
# A tower of another kind, several layers that are read, an inner one.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "of SigLIP": ("Llava", {"vision": "SiglipVisionConfig", "vision_feature_select_strategy": "full"}),
    "of three layers": ("Llava", {"vision_feature_layer": [-2, 1, -2]}),
    "of an inner layer": ("InternVL", {"vision_feature_layer": -3}),
}


def kind_of(name: str) -> str:
    """`LlavaNext` of `LlavaNextForConditionalGeneration`."""
    return name.removesuffix("ForConditionalGeneration").removesuffix("Model")


def build_vlm(name: str, **more: Any) -> nn.Module:
    """A model of that class in eval mode, with random values for every parameter.

    more: settings of its configuration; `vision`: the class of its tower's
    """
    torch.manual_seed(0)
    small = KINDS[kind_of(name)]
    vision = getattr(transformers, more.pop("vision", small.vision))(**small.tower)
    text = getattr(transformers, small.text)(**TEXT)
    told: dict[str, Any] = {"image_token_id": IMAGE_TOKEN, "image_token_index": IMAGE_TOKEN, **small.more, **more}
    config = getattr(transformers, small.config)(vision_config=vision, text_config=text, **told)
    return randomise(getattr(transformers, name)(config))


def inputs(name: str, x: Tensor) -> dict[str, Tensor]:
    """A prompt with an image for each image of x [b, 3, height, width]."""
    small, b = KINDS[kind_of(name)], len(x)
    ids = torch.tensor([[1, *[IMAGE_TOKEN] * small.tokens, 5, 7 + i] for i in range(b)])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": x}
    if small.tiled:
        given["pixel_values"] = torch.stack([x, x.flip(3)], dim=1)
        given["image_sizes"] = torch.tensor([[IMAGE, IMAGE]] * b)
    if small.listed:
        given["pixel_values"] = x.unsqueeze(1)
    return given


def written(model: Any, given: dict[str, Tensor]) -> list[Tensor]:
    """What the model writes after its prompt, greedily, and the logits that it chose it by."""
    out = model.generate(
        **given, max_new_tokens=4, min_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    return [out.sequences, *out.logits]


def answer(model: nn.Module, given: dict[str, Any], **asked: Any) -> Tensor:
    """Logits of the next words; hidden states where the model has no head."""
    out = model(**given, **asked)
    return out["logits"] if "logits" in out else out["last_hidden_state"]
