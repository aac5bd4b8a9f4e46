"""What transformers collects and returns in one call: hidden states by hooks on its layers, and classes of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from ..hooks import COLLECTS


@dataclass(frozen=True)
class Collector:
    """The hidden states of one call: state 0 goes into the first layer, state i comes out of layer i - 1.

    found:  where transformers looks for them
    hooks:  transformers' own, one for each layer, which put them there
    wanted: their numbers, where transformers names some; None: all
    """

    found: list[Tensor | None]
    hooks: list[Any]
    wanted: set[int] | None

    def fill(self, states: Mapping[int, Tensor]) -> None:
        """Hand over the states that there are; None stands for the others."""
        if len(states) <= len(self.hooks):
            self.found.extend(states.get(i) for i in range(len(self.hooks) + 1))
            return
        for i, hook in enumerate(self.hooks):
            hook(None, (states[i],), states[i + 1])


def collector_of(layers: Sequence[nn.Module]) -> Collector | None:
    """What transformers collects hidden states of these layers in, in this call; None where none are asked for."""
    from transformers.utils import output_capturing

    collected = output_capturing._active_collector.get()
    if collected is None or "hidden_states" not in collected:
        return None
    hooks = [hook for layer in layers for hook in layer._forward_hooks.values() if hook.__module__ == COLLECTS]
    if len(hooks) != len(layers):
        return None
    # Before this function came, such numbers counted layers, and only the hooks know what to do with them.
    by_state = hasattr(output_capturing, "select_hidden_states")
    return Collector(collected["hidden_states"], hooks, collected.get("_hidden_states_layers") if by_state else None)


def classifier_output(loss: Tensor | None, logits: Tensor, hidden_states: Any) -> Any:
    """transformers' output of an image classifier."""
    from transformers.modeling_outputs import ImageClassifierOutput

    return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states)


def with_values(out: Any, **values: Any) -> Any:
    """An output of transformers with other values; setting one to None has no effect."""
    return type(out)(**{f.name: values.get(f.name, getattr(out, f.name)) for f in fields(out)})


def tower_forward(run: Any) -> Any:
    """`run(self, pixel_values, **kwargs)`, a tower's forward, with what transformers puts around such a forward:
    defaults from the configuration, and the collection of hidden states."""
    from transformers.utils.generic import merge_with_config_defaults
    from transformers.utils.output_capturing import capture_outputs

    return merge_with_config_defaults(capture_outputs(run, tie_last_hidden_states=False))
