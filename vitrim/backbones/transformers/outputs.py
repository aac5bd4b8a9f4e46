"""What transformers collects and returns in one call: hidden states by hooks on its layers, and classes of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..hooks import COLLECTS


def collectors(layers: Sequence[nn.Module]) -> list[Any]:
    """transformers' hooks that collect hidden states in this call, one for each layer; empty where none are wanted."""
    from transformers.utils import output_capturing

    collected = output_capturing._active_collector.get()
    if collected is None or "hidden_states" not in collected:
        return []
    found = [hook for layer in layers for hook in layer._forward_hooks.values() if hook.__module__ == COLLECTS]
    return found if len(found) == len(layers) else []


def collect(hooks: Sequence[Any], states: Sequence[Tensor]) -> None:
    """Hand the hooks what goes into each layer and comes out of it: one state more than hooks."""
    for i, hook in enumerate(hooks):
        hook(None, (states[i],), states[i + 1])


def classifier_output(loss: Tensor | None, logits: Tensor, hidden_states: Any) -> Any:
    """transformers' output of an image classifier."""
    from transformers.modeling_outputs import ImageClassifierOutput

    return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states)
