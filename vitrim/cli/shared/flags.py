"""Messages of the library in the words of the command line: flags in the place of Python's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .renamed import RENAMED_VALUES

# Where a flag has another name than the argument.
_NAMES = {"img_size": "image-size", "dtype": "precision", "count": "images", "checkpointing": "grad-checkpointing"}


def in_flags(error: BaseException) -> str:
    """The message of an error, with flags for the options that it names."""
    told = getattr(error, "told", None)
    return str(error) if told is None else told(as_flags)


def as_flags(options: Mapping[str, Any]) -> str:
    """Options as a command line has them.

    Example:
        >>> as_flags({"score": "tokens", "keep": (0.9, 0.8)}), as_flags({"limit_per_class": ...})
        ('--score tokens --keep 0.9 0.8', '--limit-per-class')
        >>> as_flags({"fuse": False})
        '--no-fuse'
    """
    return " ".join(_flag(_NAMES.get(name, name.replace("_", "-")), value) for name, value in options.items())


def _flag(name: str, value: Any) -> str:
    if value is ... or isinstance(value, bool):
        return f"--no-{name}" if value is False else f"--{name}"
    values = value if isinstance(value, (tuple, list, range)) else (value,)
    return " ".join([f"--{name}", *(_word(name, item) for item in values)])


def _word(name: str, value: Any) -> str:
    """As it is typed: 70 of 70.0, and a precision by its name here."""
    text = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
    return RENAMED_VALUES.get((name, text), text)
