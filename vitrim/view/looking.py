"""What a reduced model makes of one picture: the fates of its patches, and its answer beside the dense model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from ..common.kinds_given import told
from ..data.classes import names_of_classes
from ..data.config import carried_config, data_config
from ..data.pictures import prepared
from ..evaluate.timing import evaluation_mode
from ..methods import METHODS, Method
from ..runtime.model import ReducedViT, for_images, unwrap
from ..runtime.profile import profile
from .fates import Fates, follow

Picture = Image.Image | str | Path | Tensor


@dataclass(frozen=True)
class Answer:
    """What a model says of a picture: the likeliest class, by its name, and its probability in [0, 1]."""

    label: str
    probability: float

    def __str__(self) -> str:
        return f"{self.label} {100 * self.probability:.0f} %"


def answer_of(logits: Float[Tensor, " classes"], names: Mapping[int, str]) -> Answer:
    """What the logits of an image say. names: of classes by their number; others are called by it.

    Example:
        >>> answer_of(torch.tensor([0.0, 2.0]), {1: "dog"})
        Answer(label='dog', probability=0.880797...)
    """
    return answers_of(logits, names, 1)[0]


def answers_of(logits: Float[Tensor, " classes"], names: Mapping[int, str], k: int) -> list[Answer]:
    """The k likeliest classes, the likeliest first.

    Example:
        >>> [answer.label for answer in answers_of(torch.tensor([0.0, 2.0]), {1: "dog"}, 2)]
        ['dog', 'class 0']
    """
    chances, best = logits.float().softmax(dim=0).topk(min(k, len(logits)))
    labels = [names.get(index, f"class {index}") for index in best.tolist()]
    return [Answer(label, chance) for label, chance in zip(labels, chances.tolist(), strict=True)]


@dataclass(frozen=True)
class Seen:
    """One picture as one reduced model sees it.

    title:   the model's methods with their settings
    share:   its cost as a share of the dense model's
    pixels:  the picture as the model gets it
    fates:   of its patches
    dense, reduced: the answers of the model without its methods and with them; None: it has no classifier
    cosine:  between the features of the two, where it has no classifier
    output:  the reduced model's logits, or its features
    """

    title: str
    share: float
    pixels: UInt8[np.ndarray, "h w *channels"]
    fates: Fates
    dense: Answer | None
    reduced: Answer | None
    output: Float[Tensor, "1 c"]
    cosine: float | None = None

    @property
    def said(self) -> str:
        """The reduced model's answer in words."""
        return f"features: cosine {self.cosine:.3f} with dense" if self.reduced is None else f"says {self.reduced}"


def look(models: Sequence[nn.Module], picture: Picture) -> list[Seen]:
    """Show a picture to reduced models, and to the dense ones below them, each of these once.

    models:  from `vitrim.reduce`, on any device
    picture: a PIL image or a file, which is prepared as each model wants it; or an image [3, h, w] that is

    Raises ValueError for a model that is not reduced, and for a picture that cannot be read or does not fit.

    Example:
        >>> seen, _ = look([vitrim.reduce(model, "evit", keep=0.5), vitrim.reduce(model, "tome")], "photos/cat/0.png")
        >>> seen.title, seen.fates.caption(1), seen.pixels.shape
        ('EViT keep=0.5', '32 kept + 1 fused', (128, 128, 3))
    """
    reduced = [as_reduced(model) for model in models]
    below = {_weights_of(fast.backbone): fast for fast in reduced}
    views = {key: DenseView(dense_below(fast), picture) for key, fast in below.items()}
    return [look_again(fast, views[_weights_of(fast.backbone)]) for fast in reduced]


def _weights_of(model: nn.Module) -> tuple[type, tuple[int, ...]]:
    """What models have in common that are one: reductions of a model of transformers have copies of it, over the same
    weights."""
    return type(model), tuple(map(id, model.parameters()))


class DenseView:
    """A dense model with a picture as it wants it, its output, and how its outputs are read.

    dense:  the model as a function of images
    image:  [1, channels, height, width], on the model's device
    size:   (height, width) of the image
    pixels: the picture as the model gets it
    output: logits, or features of a model without a classifier

    Raises ValueError for a picture that cannot be read or does not fit.

    Example:
        >>> view = DenseView(model, "photos/cat/0.png")
        >>> view.size, view.pixels.shape, len(view.top(view.output, 2))
        ((128, 128), (128, 128, 3), 2)
    """

    def __init__(self, backbone: nn.Module, picture: Picture):
        dense: Any = for_images(backbone)
        self.dense = dense
        config, device = data_config(dense), next(dense.parameters()).device
        self.image = _as_batch(picture, config).to(device)
        self.size = (self.image.shape[-2], self.image.shape[-1])
        (self.pixels,) = as_pixels(self.image, config)
        with torch.inference_mode(), evaluation_mode({"dense": dense}):
            self.output = dense(self.image)
        self.classifies = bool(getattr(dense, "num_classes", 0))
        self.names = names_of_classes(carried_config(dense).get("label_names"), getattr(dense, "num_classes", 0))

    def answer(self, logits: Float[Tensor, "1 classes"]) -> Answer | None:
        """The likeliest class; None: the model has no classifier."""
        return next(iter(self.top(logits, 1)), None)

    def top(self, logits: Float[Tensor, "1 classes"], k: int) -> list[Answer]:
        """The k likeliest classes, the likeliest first; none where the model has no classifier."""
        return answers_of(logits[0], self.names, k) if self.classifies else []

    def cosine(self, features: Float[Tensor, "1 c"]) -> float | None:
        """Between these features and the dense model's; None: the model has a classifier."""
        return None if self.classifies else F.cosine_similarity(self.output.float(), features.float()).item()


def look_again(fast: ReducedViT, dense: DenseView) -> Seen:
    """What a reduced model makes of a picture that the dense model below it has seen.

    Example:
        >>> look_again(vitrim.reduce(model, "evit", keep=0.5), DenseView(model, "photos/cat/0.png")).title
        'EViT keep=0.5'
    """
    with torch.inference_mode(), evaluation_mode({"reduced": fast}):
        output, trace = fast(dense.image, trace=True)
    (fates,) = follow(fast, trace, dense.size)
    answers = dense.answer(dense.output), dense.answer(output)
    share = profile(fast, dense.size).share
    return Seen(setting_of(fast), share, dense.pixels, fates, *answers, output, dense.cosine(output))


def as_reduced(model: nn.Module) -> ReducedViT:
    """The reduced model of whatever library, out of its wrappers. Raises ValueError for one that is not reduced."""
    fast = unwrap(model) if isinstance(model, nn.Module) else model
    if not isinstance(fast, ReducedViT):
        what = type(fast).__name__ if isinstance(fast, nn.Module) else told(fast)
        raise ValueError(f'{what} is no reduced model: give vitrim.reduce(model, "evit") or the like')
    return fast


def dense_below(model: ReducedViT) -> ReducedViT:
    """The dense model that this one is a reduction of, as one without methods. `model.backbone` itself is dense if it
    is timm's; of transformers it is the reduced model.

    Example:
        >>> torch.equal(dense_below(vitrim.reduce(model, "evit", keep=0.5))(images), model(images))
        True
    """
    return ReducedViT(model.backbone, None)


def title_of(methods: Sequence[Method]) -> str:
    """Methods as papers write them.

    Example:
        >>> title_of([vitrim.EViT(), vitrim.ToMe()])
        'EViT + ToMe'
    """
    return " + ".join(METHODS[m.name].__name__ if m.name in METHODS else m.name for m in methods)


def setting_of(model: ReducedViT) -> str:
    """A model's methods, each with what its dial is set to.

    Example:
        >>> setting_of(vitrim.reduce(model, [vitrim.EViT(at=1), vitrim.ToMe(r=5, at=2)]))
        'EViT keep=0.7 + ToMe r=5'
    """
    return " + ".join(f"{title_of([method])} {method.dial_setting}" for method in model.methods) or "dense"


def as_pixels(images: Tensor, config: dict[str, Any]) -> list[UInt8[np.ndarray, "h w *channels"]]:
    """Normalised pictures as the model sees them, back in grey levels or colours from 0 to 255.

    Example:
        >>> [pixels.shape for pixels in as_pixels(images, vitrim.data.data_config(model))]
        [(128, 128, 3), (128, 128, 3)]
    """
    mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    pixels = ((images.cpu().float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return [image[0] if len(image) == 1 else image.transpose(1, 2, 0)[..., :3] for image in pixels.numpy()]


def _as_batch(picture: Picture, config: dict[str, Any]) -> Float[Tensor, "1 c h w"]:
    if not isinstance(picture, (Image.Image, str, Path, Tensor)) or picture == "":
        raise ValueError(f"picture is {told(picture)}: give a PIL image, a file, or an image [3, h, w]")
    image = picture if isinstance(picture, Tensor) else prepared(picture, config)
    image = image[0] if image.dim() == 4 and len(image) == 1 else image
    if image.dim() != 3 or not image.is_floating_point():
        kind = str(image.dtype).removeprefix("torch.")
        raise ValueError(f"the image is {kind} {list(image.shape)}: give one prepared image, floats [3, h, w]")
    return image.unsqueeze(0)
