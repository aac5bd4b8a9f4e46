"""A file becomes an 8-bit image, upright, or a reason why not. Nothing here depends on the model's size."""

from __future__ import annotations

import os
import stat
import warnings
from typing import IO

import numpy as np
from PIL import Image

from ..common.text import first_line

LONGEST = 100  # a side may be so many times the other: resizing makes the shorter one as long as the model wants
_ORIENTATION = 274  # the EXIF and TIFF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _WHITE_IS_ZERO, _SIGNED = 258, 262, 339, 0, 2


def decode(file: str | IO[bytes] | Image.Image, mode: str) -> Image.Image:
    """An image in `mode` ("RGB" or "L"), turned upright as its EXIF orientation says; of several frames the first.

    Sixteen bits a pixel become eight by their upper half, floating-point pixels by their range (`_eight_bits`); all
    else is Pillow's own conversion, as in timm: transparency is dropped, colours stay. Raises an error of almost any
    kind for what cannot be read, ValueError for pipes and devices and for shapes that would fill the memory.
    """
    if isinstance(file, Image.Image):
        return _upright(file, mode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata; what cannot be decoded raises
        with _opened(file) as stream, Image.open(stream) as image:
            _check_shape(*image.size)  # known from the header, before any pixel is decoded
            return _upright(image, mode)


def reason_of(error: Exception) -> str:
    """Why a photograph cannot be read, in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or damaged from its first bytes"
    return first_line(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {first_line(error)}"


def _opened(file: str | IO[bytes]) -> IO[bytes]:
    """The open file. A pipe, socket or device is never opened: reading it may wait for ever."""
    if not isinstance(file, str):
        return file
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError("a pipe, socket or device and no file")
    return open(file, "rb")


def _check_shape(width: int, height: int) -> None:
    """Pillow refuses too many pixels; a line of pixels is small, and huge after resizing."""
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(f"{width} x {height} pixels: one side is more than {LONGEST} times the other")


def _upright(image: Image.Image, mode: str) -> Image.Image:
    _check_shape(*image.size)
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    image = _eight_bits(image)
    image = image if image.mode == mode else image.convert(mode)
    if turn is not None:
        image = image.transpose(turn)
        image.info = {}  # or it would still say that it is turned
    return image


def _orientation(image: Image.Image) -> int:
    """1 to 8. TIFF images are turned by Pillow itself while it loads them, and then say 1."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata: the pixels are there
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray of more than eight bits as "L"; Pillow's own conversion would make all above 255 white.

    Whole numbers of known depth keep their eight upper bits. Where the file does not tell the depth, the smallest of
    the usual ranges that holds all pixels is taken: 0 to 1 (floating point only), 0 to 255, 0 to 65535. Raises
    ValueError for pixels outside of these.
    """
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    pixels, depth = np.asarray(image), _depth(image)
    if depth is None:
        return Image.fromarray(_by_range(pixels, image.mode == "F"))
    if pixels.min() < 0:
        raise ValueError(f"pixels from {pixels.min()} to {pixels.max()}: no negative ones can be shown")
    eight = (pixels >> (depth - 8)).astype(np.uint8)
    return Image.fromarray(255 - eight if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO else eight)


def _depth(image: Image.Image) -> int | None:
    """Bits of a gray pixel, as far as the file or the mode tells."""
    bits = _tag(image, _BITS)
    if image.mode == "F" or (image.mode == "I" and bits not in (12, 16) and image.format not in ("PNG", "PPM")):
        return None
    return (bits or 16) - (_tag(image, _SAMPLE_FORMAT) == _SIGNED)


def _tag(image: Image.Image, tag: int) -> int | None:
    """The first value of a TIFF tag; None for other files."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def _by_range(pixels: np.ndarray, unit: bool) -> np.ndarray:
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise ValueError(f"pixels from {low:g} to {high:g}: 0 to 255 or 0 to 65535 (or 0 to 1) can be shown")
    if unit and high <= 1:
        pixels = pixels * 255
    elif high > 255:
        pixels = pixels // 256 if not unit else pixels / 257
    return np.rint(pixels).astype(np.uint8)
