"""Ports of this machine to listen at."""

from __future__ import annotations

import errno
import socket
from collections.abc import Generator
from contextlib import contextmanager

from .errors import OptionError

HOST, PORT, MORE_PORTS = "127.0.0.1", 7860, 100
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@contextmanager
def listening(host: str, port: int | None) -> Generator[socket.socket]:
    """A socket at that address. Raises ValueError where it cannot be had."""
    ports = range(PORT, PORT + MORE_PORTS) if port is None else [port]
    error: OSError | None = None
    for one in ports:
        try:
            sock = _bound(host, one)
        except OSError as reason:
            error = reason
            continue
        with sock:
            yield sock
        return
    raise _no_address(host, port, error)


def _bound(host: str, port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=family)


def _no_address(host: str, port: int | None, error: OSError | None) -> ValueError:
    if isinstance(error, socket.gaierror) or (error is not None and error.errno in NOT_HERE):
        return OptionError({"host": host}, " is no address of this machine: give ", {"host": HOST})
    if port is None:
        return OptionError(f"ports {PORT} to {PORT + MORE_PORTS - 1} are all busy: give a free one by ", {"port": ...})
    reason = "is busy" if error is not None and error.errno == errno.EADDRINUSE else f"cannot be had ({error})"
    return OptionError({"port": port}, f" {reason}: give another one, or leave it out for the next free one")
