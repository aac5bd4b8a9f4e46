"""Images as engines hand them over, in arrays, to the tensor that a model takes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..common.kinds_given import told
from ..data.decoding import decode, reason_of

KEYS = ("image", "bytes")


def images_in(batch: Mapping[str, Any]) -> Sequence[Any]:
    """The images of a batch of columns. Raises ValueError for a batch that has none, or two columns of them."""
    if not isinstance(batch, Mapping):
        raise ValueError(f'the batch is {told(batch)}: give columns by name, with images as "image" or "bytes"')
    found = [key for key in KEYS if key in batch]
    if len(found) != 1:
        given = ", ".join(map(str, batch)) or "nothing"
        raise ValueError(f'the batch has {given}: give the images as "image" (arrays) or as "bytes" (encoded)')
    return batch[found[0]]


def without_images(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The other columns of a batch."""
    return {key: value for key, value in batch.items() if key not in KEYS}


def prepared(images: Sequence[Any], transform: Callable[[Image.Image], Tensor], mode: str) -> tuple[Tensor, list[str]]:
    """The images that can be read, [m, c, h, w], and for every one why it cannot, empty where it can."""
    good, reasons = [], []
    for image in images:
        try:
            good.append(transform(decode(_readable(image), mode)))
            reasons.append("")
        except Exception as error:  # decoders raise almost anything; no image may end a job
            reasons.append(reason_of(error) or "unreadable")
    return torch.stack(good) if good else torch.empty(0, 3, 0, 0), reasons


def _readable(image: Any) -> Any:
    """What `decode` takes: an image, or encoded bytes as an open file."""
    if isinstance(image, Mapping):  # Hugging Face's, not decoded
        image = image.get("bytes") or _file(str(image["path"]))
    if isinstance(image, (bytes, bytearray, memoryview, np.bytes_)):
        return io.BytesIO(image)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, (np.ndarray, Tensor)):
        return _from_pixels(np.asarray(image))
    raise ValueError(f"a {type(image).__name__} is no image: give an array, encoded bytes or a PIL image")


def _file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    """An image of [h, w, channels] or [h, w]."""
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))
    if pixels.dtype not in (np.uint8, np.uint16) or not shaped or 0 in pixels.shape:
        raise ValueError(f"{pixels.dtype} of shape {list(pixels.shape)}: give uint8 pixels [h, w, 3]")
    return Image.fromarray(pixels)
