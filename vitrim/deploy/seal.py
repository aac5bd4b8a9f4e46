"""A file that holds its own digest, whatever its format: a damaged one is found before anything reads it.

Where a format keeps what a file says of itself, vitrim writes `KEY` and 64 zeros. They give way to the SHA-256 of the
file as it was with the zeros: so every byte counts, and nobody who reads the format need know of it.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from pathlib import Path

KEY = "vitrim_sha256"
BLANK = {KEY: "0" * 64}
_DIGEST = re.compile(KEY.encode() + rb".{1,9}?([0-9a-f]{64})", re.DOTALL)  # between them, what the format puts there


def seal(path: Path) -> None:
    """Put the digest of a file in the place of its zeros.

    Example:
        >>> file = Path("a.bin")
        >>> _ = file.write_text(f"anything; {KEY} = {BLANK[KEY]}")
        >>> seal(file)
        >>> holds(file)
        True
        >>> _ = file.write_text(file.read_text().replace("anything", "anythinG"))
        >>> holds(file)
        False
    """
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            place = _place(content)
            if place is None:
                raise ValueError(f"{path} has no place for its digest")
            digest = _digest(content, place)
        file.seek(place)
        file.write(digest)


def holds(path: Path) -> bool | None:
    """Whether a file is as it was sealed; None: it never was."""
    if path.stat().st_size == 0:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.rfind(KEY.encode()) < 0:
            return None
        place = _place(content)
        return place is not None and content[place : place + 64] == _digest(content, place)


def _place(content: mmap.mmap) -> int | None:
    """Where the digest begins: behind the last `KEY`, since what a file says of itself comes last in all formats."""
    found = _DIGEST.match(content, content.rfind(KEY.encode()))
    return found and found.start(1)


def _digest(content: mmap.mmap, place: int) -> bytes:
    """Of the content with zeros in that place."""
    made = hashlib.sha256()
    with memoryview(content) as view, view[:place] as before, view[place + 64 :] as after:
        for part in (before, BLANK[KEY].encode(), after):
            made.update(part)
    return made.hexdigest().encode()
