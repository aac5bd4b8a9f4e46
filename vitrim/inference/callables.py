"""A model as a callable class, from a batch of columns to a batch of columns: the unit of work of every engine.

Example: encoded photographs in, one feature for each out; the other columns stay.
    >>> photos = [path.read_bytes() for path in sorted(Path("photos/cat").iterdir())]
    >>> out = vitrim.Embedder(model)({"bytes": photos, "id": [1, 2, 3, 4]})
    >>> out["embedding"].shape, out["id"]
    ((4, 192), [1, 2, 3, 4])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import library_with
from ..common.kinds_given import check_path, check_whole
from ..common.memory import give_back_memory
from ..data import data_config
from ..data.photographs import mode_of, transform_of
from ..evaluate.judges import without_classifier
from ..evaluate.timing import as_device, as_dtype, best_device, evaluation_mode, inference
from ..evaluate.zero_shot import ZeroShot
from ..runtime.loading import load
from ..runtime.model import ReducedViT, for_images, unwrap
from .given import images_in, prepared, without_images
from .labels import label_names

Columns = dict[str, Any]


@dataclass(frozen=True)
class Ready:
    """A model in memory, and how its images are prepared.

    config: timm's data configuration
    """

    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    config: dict[str, Any]
    transform: Any


class Images(ABC):
    """What `Predictor` and `Embedder` share: the model is loaded once, and again after unpickling, which carries no
    weights where the model was given by its name or folder."""

    def __init__(
        self,
        model: str | Path | nn.Module,
        *,
        device: str | None = None,
        precision: str = "float32",
        batch_size: int | None = None,
    ):
        if batch_size is not None:
            check_whole("batch_size", batch_size)
        self.source, self.device, self.precision, self.batch_size = model, device, precision, batch_size
        self._ready: Ready | None = self._load()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}

    def __call__(self, batch: Mapping[str, Any]) -> Columns:
        """The batch's columns, those that are computed in the place of its images.

        batch: "image": uint8 [b, h, w, 3] or a sequence of such arrays or PIL images; or "bytes": encoded images; other
               columns stay as they are

        Raises ValueError for a batch without images.
        """
        images, reasons = prepared(images_in(batch), self.ready.transform, mode_of(self.ready.config))
        found = self.of_images(images) if len(images) else self.nothing()
        readable = np.array([not reason for reason in reasons], dtype=bool)
        rows = {name: _scattered(column, readable) for name, column in found.items()}
        return {**without_images(batch), **rows, "error": np.array(reasons, dtype=object)}

    def of_images(self, images: Float[Tensor, "m c h w"]) -> Columns:
        """A row for each of m >= 1 prepared images. With a batch size the model never sees another one: the last batch
        is filled up with its last image."""
        ready, size = self.ready, self.batch_size or len(images)
        with evaluation_mode({"": ready.model}), inference(ready.device, ready.dtype):
            parts = [self._of_one_batch(ready, part, size) for part in images.split(size)]
        give_back_memory()
        return self.as_columns({name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def nothing(self) -> Columns:
        """The columns of no image."""
        config = self.ready.config
        found = self.of_images(torch.zeros(1, *config["input_size"]))
        return {name: column[:0] for name, column in found.items()}

    @property
    def ready(self) -> Ready:
        if self._ready is None:
            self._ready = self._load()
        return self._ready

    def _of_one_batch(self, ready: Ready, part: Tensor, size: int) -> dict[str, Tensor]:
        missing = part[-1:].expand(size - len(part), -1, -1, -1)
        full = torch.cat([part, missing]) if len(missing) else part
        found = self.compute(ready.model, full.to(ready.device, non_blocking=True))
        return {name: values[: len(part)].cpu() for name, values in found.items()}

    def _load(self) -> Ready:
        model = self.prepare(opened(self.source))
        device = as_device(self.device or best_device())
        dtype = as_dtype(self.precision, device)
        config = data_config(model)
        return Ready(model.to(device), device, dtype, config, transform_of(config))

    @abstractmethod
    def prepare(self, model: nn.Module) -> nn.Module:
        """The model as `compute` takes it. Raises ValueError for one that does not do."""

    @abstractmethod
    def compute(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Rows by name, for images on the model's device."""

    @abstractmethod
    def as_columns(self, rows: dict[str, Tensor]) -> Columns:
        """The rows as arrays."""


class Predictor(Images):
    """The classes that a model finds most likely: a batch of images to "index", "probability" and "label", each
    [b, top], the most likely first, and "error", [b]: why an image cannot be read, else empty. Its index is then -1.

    model:       a folder that `save` wrote, a name of timm's or transformers' (`hf:...`), or a model, reduced or not
    top:         how many classes, at most
    class_names: names in the model's order, {name: index}, or a file of these; None: the model's own, or ImageNet's
    device:      cpu, cuda, cuda:1 or mps; None: the fastest that is there
    precision:   float32, bfloat16 or float16; weights stay as they are
    batch_size:  the only size of batches that the model sees; None: that of the batch

    It imports no engine. Given a folder or a name, it pickles without weights and loads again where it arrives.

    Raises ValueError for a model without classes, names that are not those of its classes, and as `vitrim.load` does.

    Example:
        >>> predictor = vitrim.Predictor(vitrim.reduce(model, "evit"), top=1, class_names=["cat", "dog"])
        >>> out = predictor({"image": np.zeros((3, 64, 48, 3), dtype=np.uint8)})
        >>> out["index"].shape, set(out["label"][:, 0]) < {"cat", "dog"}, list(out["error"])
        ((3, 1), True, ['', '', ''])
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        *,
        top: int = 5,
        class_names: str | Path | Sequence[str] | Mapping[str, int] | None = None,
        device: str | None = None,
        precision: str = "float32",
        batch_size: int | None = None,
    ):
        check_whole("top", top)
        self.top, self.class_names = top, class_names
        self.names: tuple[str, ...] = ()
        self.rule = ""
        super().__init__(model, device=device, precision=precision, batch_size=batch_size)

    def prepare(self, model: nn.Module) -> nn.Module:
        model = for_images(model)
        if without_classifier(model):
            raise ValueError("the model gives features and no classes: take them (vitrim embed, vitrim.Embedder)")
        self.names, self.rule = label_names(model, self.class_names)
        return model

    def compute(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        logits = model(images).float()
        shares = model.probabilities(logits) if isinstance(model, ZeroShot) else logits.softmax(dim=1)
        index = logits.topk(min(self.top, len(self.names))).indices  # sigmoids of large logits are all 1
        return {"index": index, "probability": shares.gather(1, index)}

    def as_columns(self, rows: dict[str, Tensor]) -> Columns:
        index = rows["index"].numpy()
        label = np.array(self.names, dtype=object)[index]
        return {"index": index, "probability": rows["probability"].numpy(), "label": label}


class Embedder(Images):
    """The features that a model makes of images: a batch of images to "embedding", float32 [b, c], or with dense=True
    every patch's [b, n, c], those of removed patches restored; and "error", as `Predictor` gives it. An image that
    cannot be read has NaN.

    model:  as for `Predictor`
    dense:  a feature for every patch of the image, row by row, in the place of one for the image

    The other arguments, and what it raises, are those of `Predictor`; a model without a classifier is welcome.

    Example:
        >>> embedder = vitrim.Embedder(vitrim.reduce(model, "evit"), dense=True)
        >>> embedder({"image": np.zeros((3, 64, 48, 3), dtype=np.uint8)})["embedding"].shape
        (3, 64, 192)
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        *,
        dense: bool = False,
        device: str | None = None,
        precision: str = "float32",
        batch_size: int | None = None,
    ):
        self.dense = dense
        super().__init__(model, device=device, precision=precision, batch_size=batch_size)

    def prepare(self, model: nn.Module) -> nn.Module:
        model = unwrap(model)
        return model if isinstance(model, ReducedViT) else ReducedViT(model, None)

    def compute(self, model: Any, images: Tensor) -> dict[str, Tensor]:
        if not self.dense:
            return {"embedding": model.pooled(images).float()}
        features = model.forward_features(images, restore=True)
        patches = features.flatten(1, -2)[:, model.num_prefix_tokens :]
        return {"embedding": patches.float().contiguous()}

    def as_columns(self, rows: dict[str, Tensor]) -> Columns:
        return {"embedding": rows["embedding"].numpy()}


def opened(model: str | Path | nn.Module) -> nn.Module:
    """The model itself, or the one that a folder or a name stands for, with its weights.

    Raises ValueError as `vitrim.load` does, and for a name that no library has.
    """
    if isinstance(model, nn.Module):
        return model
    check_path("model", model, "give a folder that save() wrote, a name of timm's or hf:NAME, or a model")
    if Path(model).expanduser().exists():
        return load(Path(model).expanduser())
    return library_with(str(model)).create(str(model), pretrained=True).eval()


_NONE = {"f": np.nan, "i": -1, "O": ""}  # of a column of that kind, for an image that cannot be read


def _scattered(column: np.ndarray, readable: np.ndarray) -> np.ndarray:
    """A row for every image, from the rows of those that can be read."""
    if readable.all():
        return column
    whole = np.full((len(readable), *column.shape[1:]), _NONE[column.dtype.kind], dtype=column.dtype)
    whole[readable] = column
    return whole
