"""Files that are whole or not there: written beside under a name that nobody can guess, then renamed.

A crash, a full disk or SIGKILL leaves what was there before; readers never see half a file, whatever the number of
writers. What a killed writer leaves beside is cleared away by the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: leftovers stay, and writers do not wait for each other
    fcntl = None

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_LOOK = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_LONG = 24  # characters of a name, up to 4 bytes each, of the 255 that a file may have
PATIENCE = 10.0  # seconds; those who hold a folder only rename


class Beside:
    """A new file in the folder of `path`, until `publish` renames it onto `path`; unless published it goes away again.

    A link at `path` is replaced, not followed. Permissions are those that the umask gives to any new file. Raises
    OSError where the file system refuses; `path` is then as it was.

    file: open for writing; `name`: its path, for those who write by name
    """

    def __init__(self, path: Path):
        self.path = path
        _clear(path)
        self.name, self._descriptor = _create(path)
        self.file: BinaryIO = open(self._descriptor, "wb", closefd=False)  # noqa: SIM115  closed by __exit__
        self._synced = False

    def sync(self) -> None:
        """Let all of it reach the disk; nothing more may be written."""
        self.file.flush()
        _sync_written(self.name, self._descriptor)
        self._synced = True

    def publish(self) -> None:
        """Put it in place of `path`, whole."""
        if not self._synced:
            self.sync()
        if fcntl is None:  # Windows renames no open file
            self._close()
        os.replace(self.name, self.path)
        _sync_folder(self.path.parent)

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name)

    def _close(self) -> None:
        if self.file.closed:
            return
        with contextlib.suppress(OSError):  # what is left in the buffer of a file that failed
            self.file.close()
        os.close(self._descriptor)


def publish_both(first: Beside, second: Beside) -> None:
    """Put two files that belong together in place, of which `first` is the one that readers open.

    Two files cannot be renamed at one moment, so what `first` replaces goes away before, and `first` comes last. Killed
    at any moment, this leaves the old pair, the new one, or no `first` at all: never a `first` beside the wrong second.
    """
    for each in (first, second):
        each.sync()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(first.path)
    _sync_folder(first.path.parent)
    second.publish()
    first.publish()


@contextlib.contextmanager
def held(folder: Path) -> Generator[None]:
    """Alone with the folder among all writers that hold it, threads and processes; where the system has no such locks,
    or nobody lets go, it goes on all the same."""
    descriptor = None
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        _wait_for(descriptor)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait_for(descriptor: int) -> None:
    until = time.monotonic() + PATIENCE
    while _lock(descriptor) is False and time.monotonic() < until:
        time.sleep(0.002)


def _create(path: Path) -> tuple[Path, int]:
    """A file that was not there, locked for as long as it is open: so others know that its writer lives."""
    while True:
        name = path.with_name(f".{path.name[:_LONG]}.{secrets.token_hex(8)}.part{path.suffix[:_LONG]}")
        descriptor = os.open(name, _CREATE, 0o666)
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return name, descriptor
        os.close(descriptor)  # another writer took it for a leftover, before it was locked


def _clear(path: Path) -> None:
    """Remove what killed writers of `path` have left."""
    start, end = re.escape(path.name[:_LONG]), re.escape(path.suffix[:_LONG])
    ours = re.compile(rf"\.{start}\.[0-9a-f]{{16}}\.part{end}")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in [entry for entry in entries if ours.fullmatch(entry.name)]:
            _remove_if_abandoned(entry.path)


def _remove_if_abandoned(name: str) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(name, _LOOK)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor):
                os.unlink(name)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Whether the lock on an open file or folder is ours now; None where there are no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sync_written(name: Path, descriptor: int) -> None:
    """To disk, also where the writer has put a file of its own in the place of ours, which may have other rights."""
    os.fsync(descriptor)
    ours, named = os.fstat(descriptor), os.lstat(name)
    if (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino):
        return
    other = os.open(name, _LOOK)
    try:
        os.chmod(name, stat.S_IMODE(ours.st_mode))
        os.fsync(other)
    finally:
        os.close(other)


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk when its folder is; not every system can open one."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
