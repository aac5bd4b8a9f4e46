"""Arguments of public functions that are of another kind than they take, told in one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from os import PathLike
from typing import Any

from .errors import OptionError
from .text import cut


def check_path(name: str, given: Any, way: str = "give a path as text or Path") -> None:
    """Raise ValueError for what is no path, or an empty one. name: the argument's; way: what to do

    Example:
        >>> check_path("folder", "")
        Traceback (most recent call last):
        ValueError: folder is '': give a path as text or Path
    """
    if not isinstance(given, (str, PathLike)) or given == "" or "\0" in str(given):
        raise ValueError(f"{name} is {told(given)}: {way}")


def check_several(name: str, given: Any, way: str) -> None:
    """Raise ValueError for what cannot be gone through, and for text, which would be gone through by letters."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ValueError(f"{name} is {told(given)}: {way}")


def one_or_several(given: Any) -> list[Any]:
    """What a sequence holds; anything else is one by itself, text too.

    Example:
        >>> one_or_several("a.jpg"), one_or_several(("a.jpg", "b.jpg"))
        (['a.jpg'], ['a.jpg', 'b.jpg'])
    """
    several = isinstance(given, Sequence) and not isinstance(given, (str, bytes))
    return list(given) if several else [given]


def check_whole(name: str, given: Any) -> None:
    """Raise ValueError for anything but a whole number from 1.

    Example:
        >>> check_whole("top", 2.5)
        Traceback (most recent call last):
        vitrim.common.errors.OptionError: top=2.5: give a whole number from 1
    """
    if isinstance(given, bool) or not isinstance(given, Integral) or given < 1:
        raise OptionError({name: given}, ": give a whole number from 1")


def told(given: Any) -> str:
    """A value for a message: short ones as they are, others by their kind.

    Example:
        >>> told(b"x"), told(3), told(object())
        ("b'x'", '3', 'an object')
    """
    if given is None or isinstance(given, (str, bytes, int, float)):
        return cut(repr(given), 60)
    kind = type(given).__name__
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
