"""What a value on the command line may be, read off an annotation, and how it is read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WORDS = {"a whole number": int, "a number": float, "a path": Path, "text": str}
_MANY = re.compile(r"\b(tuple|list|Sequence)\b")


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    type:    bool (a flag), int, float, str or Path
    many:    several values after one another
    choices: the only ones allowed; empty: any
    """

    type: Any
    many: bool = False
    choices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What to give, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return next(words for words, cls in _WORDS.items() if cls is self.type)

    def read(self, text: str) -> Any:
        """The value of a word. Raises ValueError, saying what to give, for a word that is none.

        Example:
            >>> Kind(int).read("3"), Kind(float).read("0.7")
            (3, 0.7)
            >>> Kind(int).read("many")
            Traceback (most recent call last):
            ValueError: give a whole number
        """
        if self.choices:
            if text not in self.choices:
                raise ValueError(f"choose {self.words}")
            return text
        try:
            value = self.type(text)
        except ValueError:
            raise ValueError(f"give {self.words}") from None
        if self.type is float and not math.isfinite(value):
            raise ValueError("give a finite number")
        return value


def kind_of(annotation: str, default: Any = None) -> Kind:
    """The kind that an annotation names; of "Any", the default's.

    Example:
        >>> kind_of("int | Sequence[int] | None")
        Kind(type=<class 'int'>, many=True, choices=())
    """
    if annotation in ("", "Any"):
        annotation = type(default).__name__ if default is not None else "str"
    choices = re.search(r"Literal\[(.*?)\]", annotation)
    if choices:
        return Kind(str, bool(_MANY.search(annotation)), tuple(re.findall(r"['\"](\S*?)['\"]", choices[1])))
    named = [cls for cls in (bool, float, int, Path, str) if re.search(rf"\b{cls.__name__}\b", annotation)]
    return Kind(named[0] if named else str, bool(_MANY.search(annotation)))
