"""Words for messages: short, on one line, and with nothing in them that a terminal would obey."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

# Control and format characters (colours, cursor moves, text direction), halves of pairs (bytes of a file name that
# are no UTF-8), line and paragraph separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
NAME_LENGTH, REASON_LENGTH = 80, 160


def visible(text: object) -> str:
    """The text with every character that is not seen, or that a terminal would act on, written as its escape."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNSEEN else character
        for character in str(text)
    )


def shortened(text: object, length: int = NAME_LENGTH) -> str:
    """The text, made visible; of a long one the beginning and the end."""
    text = visible(text)
    if len(text) <= length:
        return text
    end = (length - 3) // 2
    return f"{text[: length - 3 - end]}...{text[-end:]}"


def few(items: Sequence[object], shown: int = 3) -> str:
    """The first items as text, with a count of the rest."""
    text = ", ".join(shortened(item) for item in items[:shown])
    return text if len(items) <= shown else f"{text} and {len(items) - shown} more"


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`did you mean evit? ` for a word that looks like one of the names; else nothing."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f"did you mean {near[0]}? " if near else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where there is none."""
    lines = str(error).strip().splitlines()
    return shortened(lines[0], REASON_LENGTH) if lines else type(error).__name__


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """`1 image`, `3 images`, `1,200 images`."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"
