"""A reduced timm model inside transformers' wrapper: of the wrapper's class, with its call and its keys of weights."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from ..backbones.transformers.outputs import classifier_output, with_values
from ..backbones.transformers.wrapper import CLASSIFIER
from ..core.tokens import Tokens
from .model import ReducedViT
from .pretrained import METHODS_KEY, become


class ReducedTimm(nn.Module):
    """What a wrapper calls instead of its timm model: the same parts by the same names, run by vitrim's loop.

    reduced: the timm model and the methods on it
    """

    def __init__(self, reduced: ReducedViT):
        super().__init__()
        shared = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules", "training")
        self.__dict__.update({name: vars(reduced.backbone)[name] for name in shared})
        self.__dict__["reduced"] = reduced

    def __getattr__(self, name: str) -> Any:
        """What timm's model has beside the calls below."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["reduced"], name)

    def train(self, mode: bool = True):
        super().train(mode)
        self.reduced.train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.reduced(x)

    def forward_features(self, x: Tensor, left: list[Tokens] | None = None) -> Tensor:
        """Features of every patch. left: gets the tokens that are left, which know how much each weighs."""
        tokens, _ = self.reduced.tokens_after(x, (), None, False, "last")
        return self._whole(tokens, left)

    def forward_intermediates(self, x: Tensor, indices: Any = None, left: list[Tokens] | None = None) -> Any:
        """Features of every patch, and maps of them after the chosen blocks. left: as for `forward_features`."""
        tokens, _, maps, _ = self.reduced.intermediates(x, indices)
        return self._whole(tokens, left), maps

    def _whole(self, tokens: Tokens, left: list[Tokens] | None) -> Tensor:
        if left is not None:
            left.append(tokens)
        return self.reduced.features_of(tokens, None, "last", whole=True)

    def pooled(self, tokens: Tokens) -> Tensor:
        """Pooling and classifier on the tokens that are left, by size."""
        body = self.reduced.body
        return body.head(tokens.with_x(body.norm(tokens.x)))


def as_wrapper(reduced: ReducedViT, wrapper: Any) -> Any:
    """The wrapper with the reduced model in the place of the dense one. It must be nobody else's."""
    wrapper.timm_model = ReducedTimm(reduced)
    cls = type(wrapper)
    forward = _classifying if cls.__name__ == CLASSIFIER else _features
    become(wrapper, reduced, forward=(forward,), load_state_dict=(_loading,))
    if reduced.methods.state_dict():
        wrapper.add_module(METHODS_KEY, reduced.methods)
    return wrapper


@functools.cache
def _features(cls: Any) -> Any:
    @functools.wraps(cls.forward)
    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
        return_dict: bool | None = None,
        do_pooling: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        left: list[Tokens] = []
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        out = cls.forward(self, pixel_values, return_dict=True, do_pooling=False, left=left, **asked, **kwargs)
        if self.config.do_pooling if do_pooling is None else do_pooling:
            out = with_values(out, pooler_output=self.timm_model.pooled(left[0]))
        return out if _as_dict(self, return_dict) else out.to_tuple()

    return forward


@functools.cache
def _classifying(cls: Any) -> Any:
    @functools.wraps(cls.forward)
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if not hidden or output_attentions:
            told = {"output_attentions": output_attentions, "output_hidden_states": False, "return_dict": return_dict}
            return cls.forward(self, pixel_values, labels, **told, **kwargs)
        left: list[Tokens] = []  # transformers would pool the features alone, which do not know their sizes
        indices = list(hidden) if isinstance(hidden, (list, tuple)) else None
        x = pixel_values.to(self.device, self.dtype)
        _, maps = self.timm_model.forward_intermediates(x, indices, left=left, **kwargs)
        logits = self.timm_model.pooled(left[0])
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        out = classifier_output(loss, logits, maps)
        return out if _as_dict(self, return_dict) else out.to_tuple()

    return forward


def _as_dict(model: Any, return_dict: bool | None) -> bool:
    return model.config.return_dict if return_dict is None else return_dict


def _loading(cls: Any) -> Any:
    return _load_state_dict


def _load_state_dict(self, state_dict: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """As the wrapper's own, which puts all keys that it does not know below its timm model, learned parts too."""
    known = ("timm_model.", f"{METHODS_KEY}.")
    named = {key if key.startswith(known) else f"timm_model.{key}": value for key, value in state_dict.items()}
    return nn.Module.load_state_dict(self, named, *args, **kwargs)
