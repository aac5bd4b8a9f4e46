"""Words for messages: short, on one line, and with nothing in them that a terminal would obey."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

# Control and format characters (colours, cursor moves, text direction), halves of pairs (bytes of a file name that
# are no UTF-8), line and paragraph separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_BYTE = re.compile("[\udc80-\udcff]")
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2})")
NAME_LENGTH, REASON_LENGTH = 80, 160
_SENTENCE_END = re.compile(r"(?<=\w\w)[.!?]\s")  # not behind the `1` of a list or the `g` of e.g.


def portable(name: str) -> str:
    """A file's name as text that every reader takes: bytes that are no UTF-8 as `\\xe9`, and a backslash that stands
    before such letters anyway as `\\x5c`. So no two names become one, and `name_of` has the bytes again.

    Example:
        >>> print(portable("caf\\udce9.jpg"), portable(r"caf\\xe9.jpg"), portable(r"a\\b.jpg"))
        caf\\xe9.jpg caf\\x5cxe9.jpg a\\b.jpg
    """
    return _BYTE.sub(_as_escape, _ESCAPE.sub(r"\\x5c\1", name))


def name_of(text: str) -> bytes:
    """The bytes of the file's name that `portable` has made into this text.

    Example:
        >>> name_of(r"caf\\xe9.jpg"), name_of(r"caf\\x5cxe9.jpg")
        (b'caf\\xe9.jpg', b'caf\\\\xe9.jpg')
    """
    escaped = re.compile(_ESCAPE.pattern.encode())
    return escaped.sub(lambda found: bytes([int(found[1][1:], 16)]), text.encode())


def _as_escape(found: re.Match[str]) -> str:
    """A byte that is no UTF-8, as Python has it in a file's name."""
    return f"\\x{ord(found[0]) - 0xDC00:02x}"


def visible(text: object) -> str:
    """The text with every character that is not seen, or that a terminal would act on, written as its escape; bytes of
    a file's name as `portable` has them, and as nothing else is."""
    return "".join(
        _seen(character) if unicodedata.category(character) in _UNSEEN else character for character in str(text)
    )


def _seen(character: str) -> str:
    if _BYTE.fullmatch(character):
        return _BYTE.sub(_as_escape, character)
    if "\x80" <= character <= "\xff":  # no byte, whose escape would be the same
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode()


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


def nearest(word: str, names: Iterable[str], n: int = 1) -> list[str]:
    """At most n names that a word is likely meant for: the same but for capitals; those that begin so, the shortest
    first; those that look alike.

    Example:
        >>> nearest("EViT", ["evit", "idlevit"]), nearest("deit_small", ["davit_small", "deit_small_patch16_224"])
        (['evit'], ['deit_small_patch16_224'])
    """
    small, known = word.lower(), {name.lower(): name for name in names}
    same = [known[small]] if small in known else []
    longer = sorted((name for key, name in known.items() if len(small) > 2 and key.startswith(small)), key=len)
    alike = [known[key] for key in difflib.get_close_matches(small, known, n=n)]
    return list(dict.fromkeys([*same, *longer, *alike]))[:n]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`did you mean evit? ` for a word that looks like one of the names; else nothing."""
    near = nearest(word, names)
    return f"did you mean {near[0]}? " if near else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, a long one cut between words; or the error's type where it says nothing."""
    lines = str(error).strip().splitlines()
    return cut(lines[0], REASON_LENGTH) if lines else type(error).__name__


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error's message, without its full stop, as `first_line` gives it."""
    return _SENTENCE_END.split(first_line(error), maxsplit=1)[0].removesuffix(".")


def reason(error: BaseException) -> str:
    """Why something failed: in the system's plain words where it was the system that refused, in ours of what is no
    text, else `first_line`.

    Example:
        >>> reason(FileNotFoundError(2, "No such file or directory", "labels.txt"))
        'No such file or directory'
    """
    if isinstance(error, UnicodeDecodeError):
        return "it is no text in UTF-8"
    return getattr(error, "strerror", None) or first_line(error)


def cut(text: object, length: int) -> str:
    """The text, made visible; of a long one the beginning, which ends with a whole word.

    Example:
        >>> cut("we cannot find the requested files", 22)
        'we cannot find the ...'
    """
    text = visible(text)
    if len(text) <= length:
        return text
    words = text[: length - 3].rpartition(" ")[0]
    return f"{words} ..." if words else shortened(text, length)


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`.

    Example:
        >>> listed(["evaluate", "compare", "demo"])
        'evaluate, compare and demo'
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """`1 image`, `3 images`, `1,200 images`."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"
