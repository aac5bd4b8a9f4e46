"""Where images come from, as far as a name and a look at the file system tell."""

from __future__ import annotations

from collections.abc import Iterable
from glob import has_magic
from pathlib import Path

from .absent import absent
from .text import shortened
from .walking import ENDINGS, any_below, any_matching

STREAMS = {"hfids", "tfds", "wds"}
PREFIXES = STREAMS | {"hfds", "torch"}  # of names that timm's `create_dataset` knows
_LISTED = "a .tar, a pattern in quotes, a text file with a file on each line, or a name of timm's (hfds/...)"
EXPORTED = (".onnx", ".xml", ".pt2")  # files that vitrim.export writes
LABELLED = f"a folder with one folder per class, or of images without labels, {_LISTED}"
UNLABELLED = f"a folder of any depth, a photograph, {_LISTED}"
# Where models are named, for who has named one that is not there.
TIMM_LISTING = "timm.list_models() lists its names"
HF_LISTING = "hf:NAME takes a repository of the Hugging Face hub, or a folder with config.json"


def is_named(path: str | Path) -> bool:
    """Whether this is a name of timm's (`hfds/...`), and no file or folder that is called so."""
    return str(path).partition("/")[0].lower() in PREFIXES and not Path(path).expanduser().exists()


def is_pattern(path: str | Path) -> bool:
    """Whether this is a pattern of file names, such as `photos/*.jpg`, and no file or folder that is called so.

    Example:
        >>> is_pattern("photos/**/*.jpg"), is_pattern("photos")
        (True, False)
    """
    return has_magic(str(path)) and not is_named(path) and not Path(path).expanduser().exists()


def check_pictures(places: Iterable[str | Path]) -> None:
    """Raise ValueError for a file or folder that is not there, a folder without a photograph, and a pattern that no
    file matches.

    Example:
        >>> check_pictures(["photos", "photos/cat/*.png"])
        >>> check_pictures(["cat.jpg"])
        Traceback (most recent call last):
        ValueError: there is no file cat.jpg: give photographs, folders of them, or patterns in quotes
    """
    for place in places:
        local = Path(place).expanduser()
        if is_pattern(place):
            if not any_matching(str(local), photographs=False):
                raise ValueError(
                    f"no file matches {shortened(place)}: give a pattern in quotes, such as 'photos/**/*.jpg'"
                )
        elif not local.exists():
            raise ValueError(absent("file", place, "give photographs, folders of them, or patterns in quotes"))
        elif local.is_dir() and not any_below(local):
            raise ValueError(f"{shortened(place)} holds no image ({', '.join(ENDINGS)})")


def check_there(path: str | Path, may_be: str = LABELLED) -> None:
    """Raise ValueError for a file or folder that is not there, and for a device or pipe: known before a model is
    opened, and at once.

    may_be: what may be given, in words

    Example:
        >>> check_there("nowhere")
        Traceback (most recent call last):
        ValueError: there is no file or folder nowhere: give a folder with one folder per class, or of images ...
    """
    local = Path(path).expanduser()
    try:
        if is_named(path) or is_pattern(path):
            return
        there, readable = local.exists(), local.is_file() or local.is_dir()
    except OSError as error:  # a folder above it is closed
        raise ValueError(f"{shortened(path)} cannot be opened: {error.strerror}; make it readable for you") from error
    if not there:
        raise ValueError(absent("file or folder", local, f"give {may_be}"))
    if not readable:
        raise ValueError(f"{shortened(local)} is a device or a pipe, neither file nor folder: give {may_be}")


def check_holds_images(path: str | Path) -> None:
    """Raise ValueError for a folder without a photograph or tar file, and a pattern that matches none. What else there
    may be is found out when it is read.

    Example:
        >>> check_holds_images("photos"), check_holds_images("photos/*/0.png")
        (None, None)
        >>> check_holds_images("photos/*.xyz")
        Traceback (most recent call last):
        ValueError: photos/*.xyz matches no image (.bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp)
    """
    local, kinds = Path(path).expanduser(), f"({', '.join(ENDINGS)})"
    if is_pattern(path) and not any_matching(str(local)):
        raise ValueError(f"{shortened(path)} matches no image {kinds}")
    if local.is_dir() and not any_below(local) and not any(local.glob("*.tar")):
        raise ValueError(f"{shortened(path)} holds no image {kinds}")
