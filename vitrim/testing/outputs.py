"""All that a model gives for images, by name, so that a reduced one and a dense one can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.model import ReducedViT

Outputs = dict[str, Tensor]


def outputs_of(model: nn.Module, images: Tensor) -> Outputs:
    """Logits or pooled features, features of every patch, and the hidden states after each block.

    Shapes are the dense model's, also where `model` is reduced. Of a model of transformers: every tensor of its output.

    Example:
        >>> from vitrim.testing.outputs import outputs_of
        >>> {name: list(tensor.shape) for name, tensor in outputs_of(model, images).items()}  # doctest: +ELLIPSIS
        {'logits': [2, 2], 'features': [2, 65, 192], 'hidden_states.0': [2, 192, 8, 8], ...}
    """
    return _of_transformers(model, images) if hasattr(model, "config") else _of_timm(model, images)


def answers_of(model: nn.Module, images: Tensor) -> Outputs:
    """Those of `outputs_of` that one call of the model gives."""
    return _of_transformers(model, images) if hasattr(model, "config") else dict(_flat({"logits": model(images)}))


def _of_timm(model: Any, images: Tensor) -> Outputs:
    whole = {"restore": True} if isinstance(model, ReducedViT) else {}
    found = {"logits": model(images), "features": model.forward_features(images, **whole)}
    if hasattr(model, "forward_intermediates"):
        found["hidden_states"] = model.forward_intermediates(images, intermediates_only=True)
    return dict(_flat(found))


def _of_transformers(model: Any, images: Tensor) -> Outputs:
    text = {"input_ids": torch.ones(len(images), 4, dtype=torch.long, device=images.device)}
    return dict(
        _flat(model(pixel_values=images, output_hidden_states=True, **(text if hasattr(model, "text_model") else {})))
    )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of dictionaries and sequences within one another, by path: `hidden_states.3`."""
    if isinstance(value, Tensor):
        yield name, value
        return
    parts = value.items() if hasattr(value, "items") else enumerate(value or ())
    for key, part in parts:
        yield from _flat(part, f"{name}.{key}".lstrip("."))
