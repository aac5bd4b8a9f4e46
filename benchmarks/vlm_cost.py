"""What the vision tower is of a vision-language model: the table of docs/vlm.md.

    python benchmarks/vlm_cost.py

Builds the models from their sizes on the meta device: no weights are needed, and nothing is computed. Of the language
model the linear layers are counted, for the tokens that stand for one image.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

import vitrim

MACS = 0.6
QWEN_7B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944,
}  # fmt: skip
CLIP = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14,
}  # fmt: skip
SIGLIP = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "patch_size": 14,
}  # fmt: skip
GEMMA_2B = {
    "hidden_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
    "intermediate_size": 16384,
}  # fmt: skip
GEMMA3_4B = {
    "hidden_size": 2560, "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "intermediate_size": 10240,
}  # fmt: skip
SMOL_LM2 = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "intermediate_size": 8192}
NO_HEAD = {"vision_use_head": False}

# Name -> class without "ForConditionalGeneration", tower, language model, tokens of an image, other settings.
MODELS: dict[str, tuple[str, tuple[str, dict], tuple[str, dict], int, dict]] = {
    "LLaVA-1.5 7B": ("Llava", ("CLIPVision", CLIP), ("Llama", {}), 576, {}),
    "LLaVA-OneVision 7B": (
        "LlavaOnevision",
        ("SiglipVision", {**SIGLIP, **NO_HEAD, "image_size": 384, "num_hidden_layers": 26}),
        ("Qwen2", QWEN_7B),
        729,
        {},
    ),
    "InternVL3 8B": (
        "InternVL",
        ("InternVLVision", {"image_size": [448, 448], "patch_size": [14, 14]}),
        ("Qwen2", QWEN_7B),
        256,
        {},
    ),
    "PaliGemma 3B": (
        "PaliGemma",
        ("SiglipVision", {**SIGLIP, **NO_HEAD, "image_size": 224}),
        ("Gemma", GEMMA_2B),
        256,
        {"projection_dim": 2048},
    ),
    "SmolVLM 2B": (
        "SmolVLM",
        ("SmolVLMVision", {**SIGLIP, "image_size": 384}),
        ("Llama", SMOL_LM2),
        81,
        {"scale_factor": 3},
    ),
    "Gemma 3 4B": (
        "Gemma3",
        ("SiglipVision", {**SIGLIP, **NO_HEAD, "image_size": 896}),
        ("Gemma3Text", GEMMA3_4B),
        256,
        {},
    ),
}


def built(kind: str, vision: tuple[str, dict], text: tuple[str, dict], **more: Any) -> Any:
    """The model, without memory."""
    parts = [getattr(transformers, f"{name}Config")(**sizes) for name, sizes in (vision, text)]
    config = getattr(transformers, f"{kind}Config")(vision_config=parts[0], text_config=parts[1], **more)
    with torch.device("meta"):
        return getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()


def language_macs(model: Any) -> int:
    """Multiply-adds of the language model's linear layers for one token."""
    language = model.model.text_model if hasattr(model.model, "text_model") else model.model.language_model
    return sum(part.in_features * part.out_features for part in language.modules() if isinstance(part, nn.Linear))


def main() -> None:
    print("| model | patches | tower, GMACs | with `macs=0.6` | tokens of an image | language model, GMACs | saved |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, (kind, vision, text, tokens, more) in MODELS.items():
        model = built(kind, vision, text, **more)
        plan, language = vitrim.profile(vitrim.reduce(model, "tome", macs=MACS)), tokens * language_macs(model)
        saved = (plan.dense_macs - plan.macs) / (plan.dense_macs + language)
        figures = f"{plan.patches} | {plan.dense_gmacs:,.0f} | {plan.gmacs:,.0f} | {tokens} | {language / 1e9:,.0f}"
        print(f"| {name} | {figures} | {100 * saved:.0f} % |")


if __name__ == "__main__":
    main()
