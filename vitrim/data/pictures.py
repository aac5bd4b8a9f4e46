"""Single pictures to look at: found by the words that name them, and prepared as a model wants them."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..common.places import check_pictures
from ..common.text import portable, shortened
from .decoding import decode, reason_of
from .folders import below
from .photographs import mode_of, transform_of

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "AVIF")  # no decoder that runs other programs


class UnreadablePicture(ValueError):
    """A picture that cannot be read: which, and why."""


def find_pictures(places: Sequence[str | Path]) -> list[Path]:
    """The files that are named, in that order, each once: a file itself, all photographs below a folder, all files that
    a pattern such as `photos/**/*.jpg` matches.

    Raises ValueError for what is not there, a folder without photographs, and a pattern that nothing matches.

    Example:
        >>> [str(file) for file in find_pictures(["photos/cat/1.png", "photos/*/0.png"])]
        ['photos/cat/1.png', 'photos/cat/0.png', 'photos/dog/0.png']
    """
    check_pictures(places)
    return list(dict.fromkeys(file for place in places for file in _found(Path(place).expanduser())))


def prepared(picture: Image.Image | str | Path, config: dict) -> Float[Tensor, "c h w"]:
    """A picture as a model takes it.

    config: timm's data configuration, as `data_config` gives it
    Raises UnreadablePicture, a ValueError of one line, for what cannot be read.

    Example:
        >>> prepared("photos/cat/0.png", vitrim.data.data_config(model)).shape
        torch.Size([3, 128, 128])
    """
    file = picture if isinstance(picture, Image.Image) else str(Path(picture).expanduser())
    try:
        return transform_of(config)(decode(file, mode_of(config)))
    except Exception as error:  # decoders raise almost anything
        name = "the image" if isinstance(picture, Image.Image) else shortened(portable(str(picture)))
        raise UnreadablePicture(f"{name} cannot be read: {reason_of(error)}") from error


def bounded(file: str | Path, most_pixels: int) -> Image.Image:
    """A picture that a stranger has sent, in colours and upright: of the formats of photographs alone, and with so many
    pixels at most, which is known before any is decoded.

    Raises UnreadablePicture, a ValueError of one line that names no file.

    Example:
        >>> bounded("photos/cat/0.png", 1_000)
        Traceback (most recent call last):
        vitrim.data.pictures.UnreadablePicture: The picture has 32 x 32 pixels, and 1,000 in all can be taken.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata
            Image.init()
            with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                if image.width * image.height > most_pixels:
                    size = f"{image.width} x {image.height}"
                    raise UnreadablePicture(f"The picture has {size} pixels, and {most_pixels:,} in all can be taken.")
                return decode(image, "RGB")
    except UnreadablePicture:
        raise
    except Exception as error:  # decoders raise almost anything
        raise UnreadablePicture(f"The picture cannot be read: {_strangers_reason(error)}.") from error


def _strangers_reason(error: Exception) -> str:
    """Why, without the name of a file here."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no JPEG, PNG, WebP, GIF, BMP or TIFF, or damaged from its first bytes"
    return reason_of(error) if isinstance(error, (ValueError, Image.DecompressionBombError)) else "it is damaged"


def _found(place: Path) -> list[Path]:
    if place.is_dir():
        return [place / name for name in below(place)[0]]
    if place.exists():
        return [place]
    return [file for file in sorted(map(Path, glob.glob(str(place), recursive=True))) if file.is_file()]
