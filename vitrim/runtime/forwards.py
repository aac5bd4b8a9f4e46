"""Calls of a reduced model of transformers: transformers' own, with a `Passage` handed through.

Where a head averages or attends to patches, it is given the tokens that are left, by size.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..backbones.transformers.outputs import classifier_output, tower_forward, with_values
from ..backbones.transformers.towers import states_of
from .tower_layers import Passage

REFUSED = {
    "output_attentions": "a reduced model forms no attention maps",
    "bool_masked_pos": "masked images are not for a model that leaves tokens out",
    "attention_mask": "the patches to leave out are chosen by the method",
    "head_mask": "it has no place in fused attention",
}


@functools.cache
def of_tower(cls: Any, output: str | None) -> Any:
    """The forward of a tower.

    output: `Dialect.output`
    """
    names = list(inspect.signature(cls.forward).parameters)[2:]  # behind self and the images
    run = cls.forward if output is None else _closed(getattr(sys.modules[cls.__module__], output))

    @functools.wraps(cls.forward)
    def forward(
        self,
        pixel_values: Tensor,
        *args: Any,
        passage: Passage | None = None,
        reads: tuple[int, ...] | None = None,
        **kwargs: Any,
    ) -> Any:
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs} if args else kwargs
        _refuse(kwargs)
        body = self.reduced.body
        pools = passage is None and reads is None and hasattr(self, "head")  # who gives a passage pools by itself
        _check_attention(body.config)
        # Who gives no passage sees what comes out.
        passage = Passage(pixel_values, [], whole=True) if passage is None else passage
        passage.pixels, passage.reads = pixel_values, reads
        passage.frames = body.dialect.stem.frames(body.config, pixel_values, kwargs)
        as_tuple = (pools or reads is not None) and kwargs.pop("return_dict", True) is False
        out = run(self, pixel_values, passage=passage, **kwargs)
        if pools:
            out = with_values(out, pooler_output=passage.each(body.tower_pool))
        if reads:  # what stands behind the last state that is read has not been computed
            out = with_values(out, last_hidden_state=None, pooler_output=None)
        return out.to_tuple() if as_tuple else out

    return forward


def _closed(output: Any) -> Any:
    """The forward of a tower whose encoder takes no keyword arguments.

    output: the class of what it returns
    """

    def forward(self, pixel_values: Tensor, passage: Passage, **kwargs: Any) -> Any:
        body = self.reduced.body
        embedded = self.embeddings(*body.dialect.stem.inputs(body.config, pixel_values))
        return output(last_hidden_state=body.tower_norm(body.layers.run(embedded, passage=passage)))

    return tower_forward(forward)


@functools.cache
def of_model(cls: Any) -> Any:
    """The forward of a model around a tower."""
    names = list(inspect.signature(cls.forward).parameters)[1:]

    @functools.wraps(cls.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        body = self.reduced.body
        if not body.entry.classifies:
            return cls.forward(self, *args, **kwargs)
        if body.entry.head.prefix_only:
            return cls.forward(self, *args, passage=Passage(None, []), **kwargs)
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs} if args else kwargs
        return _classify(self, body, **kwargs)

    return forward


def _classify(model: Any, body: Any, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
    """A classifier of averaged patches, as transformers' own, with the tokens that are left, by size."""
    as_tuple = kwargs.pop("return_dict", None) is False
    passage = Passage(pixel_values, [])
    outputs = body.tower(pixel_values, passage=passage, **kwargs)
    logits = passage.each(lambda tokens: body.head(tokens.with_x(body.norm(tokens.x))))
    loss = None if labels is None else model.loss_function(labels, logits, model.config)
    out = classifier_output(loss, logits, outputs.hidden_states)
    return out.to_tuple() if as_tuple else out


@functools.cache
def of_features(cls: Any, name: str) -> Any:
    """`get_image_features` of a vision-language model, whose tower is told what is read of it."""
    call = getattr(cls, name)
    signature = inspect.signature(call)

    @functools.wraps(call)
    def features(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("output_hidden_states"):
            return call(self, *args, **kwargs)  # then all layers are asked for
        body = self.reduced.body
        asked = signature.bind(self, *args, **kwargs).arguments.get(body.reader.layer)
        reads = states_of(body.reader, self.config, len(body.layers), asked)
        return call(self, *args, reads=reads, **kwargs)

    return features


def _check_attention(config: Any) -> None:
    """Raise ValueError where the model has been told to attend in another way since it was reduced."""
    if config._attn_implementation != "sdpa":
        raise ValueError(
            f'attention was set to "{config._attn_implementation}", and a reduced model runs "sdpa": call '
            'set_attn_implementation("sdpa")'
        )


def _refuse(given: Mapping[str, Any]) -> None:
    """Raise ValueError for what a reduced model cannot give."""
    for name, value in given.items():
        if name in REFUSED and value is not None and value is not False:
            raise ValueError(f"{name} is not supported: {REFUSED[name]}; leave it out, or ask the dense model")
