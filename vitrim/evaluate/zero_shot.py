"""Zero-shot classification: which of some texts an image is most like, by a model of images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..backbones import library_of
from ..backbones.library import Texts
from ..common.unwrapping import Adapter
from ..runtime.model import for_images, unwrap

PROMPT = "This is a photo of {}."  # that of transformers' pipeline


class ZeroShot(Adapter):
    """Images [b, 3, height, width] to the logits [b, k] of k texts, by a model of images and texts, dense or reduced.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), section 3.1;
    Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (2023), section 3.2

    texts: as `read_texts` gives them

    Example: three sentences whose features are given, on a model whose features are two numbers.
        >>> from vitrim.backbones.library import Texts
        >>> texts = Texts(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), scale=100.0, bias=0.0)
        >>> vitrim.evaluate.ZeroShot(model, texts)(images).shape
        torch.Size([2, 3])
    """

    features: Tensor

    def __init__(self, model: nn.Module, texts: Texts):
        super().__init__(for_images(model))
        self.register_buffer("features", texts.features, persistent=False)
        self.scale, self.bias, self.apart = texts.scale, texts.bias, texts.apart
        self.num_classes = len(texts.features)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        called: Any = self.called
        return {**called.pretrained_cfg, "label_names": None}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        return self.scale * normalize(self.called(images), dim=-1) @ self.features.T + self.bias

    def probabilities(self, logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """As the model has learned them: of CLIP's texts one goes with the image, and the k sum to 1; whether SigLIP's
        goes with it is asked of each by itself."""
        return logits.float().sigmoid() if self.apart else logits.float().softmax(dim=1)


@torch.no_grad()
def read_texts(model: nn.Module, names: Sequence[str], prompt: str = PROMPT) -> Texts:
    """The texts of class names as a model of transformers reads them, with its own tokenizer and text tower.

    model:  CLIPModel or SiglipModel, dense or reduced
    prompt: the sentence around each name, with {} in its place

    Raises ValueError for a model without a text tower or whose tokenizer is not there, and for a prompt without {}.

    Example:
        >>> vitrim.evaluate.read_texts(model, ["cat", "dog"])
        Traceback (most recent call last):
        ValueError: models of timm read no texts: give transformers' CLIPModel or SiglipModel
    """
    if "{}" not in prompt:
        raise ValueError(f"prompt {prompt!r} has no place for a class name: write {{}} where it goes")
    dense: Any = unwrap(model)
    dense = getattr(dense, "backbone", dense)
    return library_of(dense).read_texts(dense, [prompt.replace("{}", name) for name in names])
