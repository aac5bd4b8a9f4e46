"""What of a run is on the disk: what it was asked, and the parts that are done. Killed at any moment, it goes on.

Beside the output `OUT` lies `OUT.parts` for as long as the run is not over. In it:

- `asked.json`: what the run was asked; another question is refused.
- a file for each part that is done. Each is written beside and renamed, so what is there is whole: the names are the
  journal.
- `_run.json`, in the place of `asked.json`, once everything that is to be published lies there whole. From then on
  files are only moved, so whoever comes next can finish that.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..common.files import write_whole
from ..common.text import counted, reason, shortened

try:
    import fcntl
except ImportError:  # Windows: nothing tells that another process is at work
    fcntl = None

ASKED, ENDED, LOCK, UNREADABLE = "asked.json", "_run.json", "lock", "_unreadable.jsonl"
_PART, _LIST = re.compile(r"part-(\d{8})\.(?!json$)\w+"), re.compile(r"unreadable-\d{8}\.jsonl")


class Unfinished(ValueError):
    """The disk refused; what is done is kept, and the same command goes on."""


class Journal:
    """The folder of one run.

    out: the output; a link is followed
    """

    def __init__(self, out: str | Path):
        self.out = Path(os.path.realpath(Path(out).expanduser()))
        self.folder = self.out.with_name(f"{self.out.name}.parts")

    def begin(self, asked: dict[str, Any], restart: bool) -> None:
        """Go on with what lies there, or begin. restart: a run that was asked something else is thrown away.

        Raises ValueError for another run's folder.
        """
        before = self._asked_before()
        if before is not None and (other := _difference(before, json.loads(json.dumps(asked)))):
            if not restart:
                raise ValueError(self._told_other(other))
            self._clear(keep=LOCK)
        if not self.ended:
            self.write(ASKED, json.dumps(asked, indent=2).encode())

    def check(self, asked: dict[str, Any]) -> None:
        """Raise ValueError for a run in the folder that was asked something else. asked: some of it"""
        before = self._asked_before() or {}
        known = {key: value for key, value in asked.items() if key in before}
        if other := _difference({key: before[key] for key in known}, known):
            raise ValueError(self._told_other(other))

    def _told_other(self, other: str) -> str:
        return (
            f"{shortened(self.folder)} holds an unfinished run with other {other}: give what it was given to go on, "
            "another --out, or --overwrite to start again"
        )

    @contextmanager
    def alone(self) -> Generator[None]:
        """In the folder, which is made, while nobody else works on this output.

        Raises ValueError where another process does, for a folder of somebody else's, and where none can be made.
        """
        if self._asked_before() is None and self._strangers():
            raise ValueError(f"{self.folder} is there already and of no run of vitrim's: give another --out")
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.out} cannot be written: {error.strerror or error}") from error
        if fcntl is None:
            yield
            return
        with self._lock_file() as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process alone, not of those it forks
            except OSError as error:
                raise ValueError(f"{self.out} is being written by another process: wait, or give another") from error
            yield

    def _lock_file(self) -> Any:
        try:
            return open(self.folder / LOCK, "wb")
        except OSError as error:
            raise ValueError(f"{self.out} cannot be written: {error.strerror or error}") from error

    @property
    def ended(self) -> bool:
        """Whether all is computed, and what is left to do is to publish it."""
        return (self.folder / ENDED).is_file()

    def done(self) -> set[int]:
        """The numbers of the parts that are there."""
        with suppress(FileNotFoundError):
            return {int(found[1]) for name in os.listdir(self.folder) if (found := _PART.fullmatch(name))}
        return set()

    def part(self, number: int, ending: str) -> Path:
        """Where a part lies."""
        return self.folder / f"part-{number:08d}{ending}"

    def add(self, number: int, write: Callable[[Path], Any], ending: str, skipped: list[dict[str, str]]) -> None:
        """A part is done. The list of what could not be read comes first, so that it is there when the part is."""
        self.list_skipped(number, skipped)
        self.fill(self.part(number, ending), write)

    def list_skipped(self, number: int, skipped: list[dict[str, str]]) -> None:
        """What of a part could not be read."""
        if skipped:
            self.write(f"unreadable-{number:08d}.jsonl", b"".join(map(_line, skipped)))

    def write(self, name: str, content: bytes) -> None:
        """A small file of the folder, whole."""
        self.fill(self.folder / name, lambda path: path.write_bytes(content))

    def fill(self, path: Path, write: Callable[[Path], Any]) -> None:
        """A file, whole or not there. Raises Unfinished where the file system refuses."""
        try:
            write_whole(path, lambda beside: write(Path(beside)))
        except ValueError as error:
            kept = counted(len(self.done()), "part")
            why, said = reason(error.__cause__ or error), f"{self.out} cannot be written"
            raise Unfinished(
                f"{said}: {why}; {kept} of the run stay in {self.folder}: the same command goes on"
            ) from error

    def end(self, found: dict[str, Any]) -> None:
        """All is there, and what could not be read comes into one file; found: what to know when it is published."""
        asked = json.loads((self.folder / ASKED).read_bytes())
        lists = sorted(name for name in os.listdir(self.folder) if _LIST.fullmatch(name))
        skipped = joined([self.folder / name for name in lists], self.folder / UNREADABLE, self.fill) if lists else 0
        self.write(ENDED, json.dumps({**asked, "found": {**found, "unreadable": skipped}}, indent=2).encode())
        os.unlink(self.folder / ASKED)

    def found(self) -> dict[str, Any]:
        """What `end` was told."""
        return json.loads((self.folder / ENDED).read_bytes())["found"]

    def close(self) -> None:
        """Remove the folder; what says that the run has ended goes last."""
        self._clear()
        with suppress(OSError):  # somebody else has put something there
            os.rmdir(self.folder)

    def _asked_before(self) -> dict[str, Any] | None:
        """What the run in the folder was asked; None where there is none."""
        for name in (ENDED, ASKED):
            with suppress(FileNotFoundError, NotADirectoryError):
                try:
                    return {k: v for k, v in json.loads((self.folder / name).read_bytes()).items() if k != "found"}
                except (ValueError, AttributeError) as error:
                    raise ValueError(f"{self.folder / name} is damaged: remove {self.folder}") from error
        return None

    def _strangers(self) -> bool:
        """Whether the folder holds what no run that was killed while it began has left."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return any(name != LOCK and not name.startswith(f".{ASKED}") for name in names)

    def _clear(self, keep: str = "") -> None:
        names = set(os.listdir(self.folder)) - {keep}
        for name in sorted(names, key=lambda name: (name == LOCK, name in (ASKED, ENDED), name)):
            with suppress(OSError):
                os.unlink(self.folder / name)


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What two runs were asked differently, the first of it, in words; empty where nothing is."""
    for key in {**now, **before}:
        old, new = before.get(key), now.get(key)
        if old != new:
            told = f" ({shortened(old, 40)} there, {shortened(new, 40)} here)" if key not in _DIGESTS else ""
            return f"{_DIGESTS.get(key, key.replace('_', ' '))}{told}"
    return ""


_DIGESTS = {"weights": "weights", "listing": "files", "names": "class names", "data_names": "data"}


def joined(parts: Sequence[Path], path: Path, fill: Callable[[Path, Callable[[Path], Any]], None]) -> int:
    """Files of lines one behind the other; returns the number of lines. fill: as `Journal.fill`"""
    count = 0

    def write(beside: Path) -> None:
        nonlocal count
        with open(beside, "wb") as out:
            for part in parts:
                with open(part, "rb") as file:
                    for line in file:
                        out.write(line)
                        count += 1

    fill(path, write)
    return count


def _line(entry: dict[str, str]) -> bytes:
    return json.dumps(entry).encode() + b"\n"
