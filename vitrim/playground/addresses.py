"""Whether a request was meant for this server: a name of somebody else's that leads here (DNS rebinding) would let the
pages of that name read ours."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from ..common.ports import HOST as HOST

LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def is_for(host: str, header: bytes) -> bool:
    """Whether the header `Host` of a request names the address at which the server listens, or this machine itself. To
    one that listens at all of its addresses any number will do, and the machine's own name.

    Example:
        >>> is_for("127.0.0.1", b"localhost:7860"), is_for("127.0.0.1", b"example.org:7860")
        (True, False)
        >>> is_for("0.0.0.0", b"192.168.1.7:7860"), is_for("0.0.0.0", b"example.org")
        (True, False)
    """
    try:
        asked = urlsplit(f"//{header.decode('ascii')}").hostname or ""
    except ValueError:
        return False
    if not _is_wildcard(host):
        return asked in LOOPBACK | {host.lower()}
    own = {socket.gethostname().lower(), socket.getfqdn().lower()}
    return asked in LOOPBACK | own or _is_number(asked)


def _is_wildcard(host: str) -> bool:
    return host == "" or (_is_number(host) and ipaddress.ip_address(host).is_unspecified)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
