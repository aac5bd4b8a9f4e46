"""Models of transformers as functions from images to one tensor, as timm's models are."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ...common.unwrapping import Adapter, innermost
from ...core.recording import image_size
from ...core.tokens import Tokens
from ..layers import kind
from ..library import Library
from .family import TransformersBackbone
from .towers import reader_of

ANSWERS = ("logits", "image_embeds", "pooler_output")  # of an output of transformers, the first that it has


class ForImages(Adapter):
    """Images [b, 3, height, width] to logits [b, classes], or to pooled features [b, c] where the model has no
    classifier: CLIP's and SigLIP's are those that are compared with texts. It has the attributes that timm's models
    have about images and classes.

    model:   of transformers, wrapped or not
    library: that knows it

    Raises ValueError for a class that gives feature maps alone.
    """

    def __init__(self, model: nn.Module, library: Library):
        super().__init__(model)
        self._library = library
        if hasattr(self.inner, "out_features"):
            name = type(self.inner).__name__
            raise ValueError(f"{name} gives feature maps and no features of an image: give {name[:-8]}Model")
        if reader_of(kind(self.inner)) is not None:
            name, path = type(self.inner).__name__, TransformersBackbone(self.inner).path
            raise ValueError(f"{name} answers prompts and gives no features of an image: give its tower, model.{path}")

    @property
    def inner(self) -> Any:
        """The model without wrappers."""
        return innermost(self.called)

    @property
    def num_classes(self) -> int:
        return self._library.classes(self.inner)

    @property
    def num_features(self) -> int:
        return TransformersBackbone(self.inner).width

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        names = {int(index): name for index, name in self._library.label_names(self.inner).items()}
        return {**self._library.data_config(self.inner), "label_names": names or None}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        model: Any = self.called
        body = TransformersBackbone(self.inner)
        told = body.dialect.stem.keywords(body.config, images)
        if hasattr(self.inner, "text_model"):
            output = model.get_image_features(**told)
            return output if isinstance(output, Tensor) else output.pooler_output
        output = model(**told)
        found = (getattr(output, name, None) for name in ANSWERS)
        answer = next((tensor for tensor in found if tensor is not None), None)
        return self._pooled(output.last_hidden_state, images) if answer is None else answer

    def _pooled(self, x: Float[Tensor, "b n c"], images: Tensor) -> Float[Tensor, "b c"]:
        """Features of a model that has no pooling of its own: its first token, or the mean where it has no prefix."""
        body = TransformersBackbone(self.inner)
        return body.entry_pool(Tokens(x, prefix=body.prefix, grid=body.grid(image_size(images))))
