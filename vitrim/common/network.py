"""Whether a server can be reached at all, before a library that tries again and again is left to find out."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit
from urllib.request import getproxies

TRIES, PAUSE, PATIENCE = 3, 0.5, 5.0  # the last two in seconds
PORTS = {"http": 80, "https": 443}


def unreachable(url: str) -> bool:
    """Whether there is no way to the server: its name is not found, or it is refused, three times in a second.

    False where it is merely slow, and where a proxy stands between, which alone can tell.

    Example:
        >>> unreachable("http://127.0.0.1:1")
        True
    """
    parts = urlsplit(url)
    if getproxies().keys() & {parts.scheme, "all"}:
        return False
    for pause in [PAUSE] * (TRIES - 1) + [0.0]:
        try:
            socket.create_connection((parts.hostname or "", parts.port or PORTS[parts.scheme]), PATIENCE).close()
            return False
        except TimeoutError:
            return False
        except OSError:
            time.sleep(pause)
    return True
