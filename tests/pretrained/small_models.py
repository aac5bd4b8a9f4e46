"""Small random models of every class of transformers that vitrim runs, from their configurations alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from copies import copier
from torch import Tensor, nn

from vitrim.backbones.transformers.stems import packed

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install vitrim[transformers]"
)

IMAGE = 32
VISION = {
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": IMAGE,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SQUARE = {**VISION, "image_size": [IMAGE, IMAGE], "patch_size": [4, 4]}
PACKED = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 64}
STAGES = {"out_features": ["stage1", "stage4"]}
_copiers: dict[str, Callable[[], nn.Module]] = {}


def _config(name: str) -> Any:
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "ViT": ("ViTConfig", VISION),
        "DeiT": ("DeiTConfig", VISION),
        "IJepa": ("IJepaConfig", VISION),
        "Dinov2WithRegisters": ("Dinov2WithRegistersConfig", {**VISION, "num_register_tokens": 4}),
        "Dinov2": ("Dinov2Config", VISION),
        "DINOv3": ("DINOv3ViTConfig", {**VISION, "num_register_tokens": 4}),
        "CLIPVision": ("CLIPVisionConfig", {**VISION, "projection_dim": 24}),
        "CLIP": ("CLIPConfig", {"vision_config": VISION, "text_config": TEXT, "projection_dim": 24}),
        "SiglipVision": ("SiglipVisionConfig", VISION),
        "Siglip": ("SiglipConfig", {"vision_config": VISION, "text_config": TEXT}),
        "Siglip2Vision": ("Siglip2VisionConfig", PACKED),
        "Siglip2": ("Siglip2Config", {"vision_config": PACKED, "text_config": TEXT}),
        "InternVLVision": ("InternVLVisionConfig", {**SQUARE, "use_qk_norm": True, "use_mask_token": False}),
        "Idefics3Vision": ("Idefics3VisionConfig", VISION),
        "SmolVLMVision": ("SmolVLMVisionConfig", VISION),
    }
    key = max((kind for kind in kinds if name.startswith(kind)), key=len)
    cls, arguments = kinds[key]
    arguments = {**arguments, **(STAGES if name.endswith("Backbone") else {})}
    if "Classification" in name:
        arguments["num_labels"] = 5
    config: Any = getattr(transformers, cls)(**arguments)
    if "CLIP" in name or "Siglip" in name:
        config.architectures = None
    return config


def build(name: str, **config: Any) -> nn.Module:
    """A model of that class in eval mode, with random values for every parameter."""
    made = f"{name} {config}"
    if made not in _copiers:
        torch.manual_seed(0)
        given = _config(name)
        for key, value in config.items():
            setattr(given, key, value)
        _copiers[made] = copier(randomise(getattr(transformers, name)(given)))
    torch.manual_seed(0)  # what is drawn next is the same whether it was made before or not
    return _copiers[made]()


def randomise(model: nn.Module) -> nn.Module:
    """The model in eval mode, with random values for every parameter."""
    for p in model.parameters():
        p.data = torch.randn_like(p) * (0.2 if p.dim() > 1 else 0.3) + (0.7 if p.dim() == 1 else 0.0)
    return model.eval()


def images(batch: int = 2, height: int = IMAGE, width: int = IMAGE) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def call(model: nn.Module, x: Tensor, **arguments: Any) -> Any:
    """The model's output; models of two modalities are given a text too."""
    if hasattr(model, "text_model"):
        arguments["input_ids"] = torch.tensor([[1, 5, 7, 2]] * len(x))
    if "Siglip2" in type(model).__name__:
        grid = x.shape[2] // 4, x.shape[3] // 4
        x, arguments["spatial_shapes"] = packed(x, 4), torch.tensor([grid] * len(x))
        arguments.setdefault("pixel_attention_mask", torch.ones(x.shape[:2], dtype=torch.int32))
    return model(pixel_values=x, **arguments)


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [tensor for part in parts if part is not None for tensor in tensors(part)]


def differing(found: Any, wanted: Any, same: Callable[[Tensor, Tensor], bool] = torch.equal) -> list[int]:
    """Positions of the tensors that are not the same."""
    ours, theirs = tensors(found), tensors(wanted)
    assert len(ours) == len(theirs) and type(found) is type(wanted)
    return [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a.shape != b.shape or not same(a, b)]
