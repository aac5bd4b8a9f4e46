"""Weights over a network: how they are asked for, and whether it was the network that failed."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from ...common.network import unreachable

# What libraries raise, by package and name, where a server does not answer at all; none of them need be installed.
_NOT_CACHED = ("huggingface_hub", "LocalEntryNotFoundError")
_UNREACHED = {
    *[_NOT_CACHED, ("huggingface_hub", "OfflineModeIsEnabled")],
    *[("httpx", "TransportError"), ("httpx2", "TransportError"), ("requests", "ConnectionError")],
    *[("requests", "Timeout"), ("socket", "gaierror"), ("urllib", "URLError")],
}
# What stands for an answer of some kind: some of the above are raised in its wake, or are what it derives from.
_ANSWERED = {("huggingface_hub", "FileMetadataError"), ("huggingface_hub", "HfHubHTTPError"), ("urllib", "HTTPError")}


@contextmanager
def over_network(name: str, *loggers: str) -> Generator[None]:
    """What is tried for a model is not logged by these loggers, as it is reported once, by the error that it ends in;
    and it is not tried in vain again and again."""
    is_here = Path(name.partition(":")[2] or name).is_dir()  # hf:FOLDER
    with _quiet(*loggers), nullcontext() if is_here else _without_retries():
        yield


def unreached(error: BaseException) -> str:
    """The server that does not answer, where this is why something failed; else empty."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    every = [_kinds(cause) for cause in causes]
    kinds = set().union(*every)
    # Older versions of huggingface_hub derive what is not in the cache from an answer of the server's.
    answered = any(kinds & _ANSWERED and _NOT_CACHED not in kinds for kinds in every)
    if not kinds & _UNREACHED or answered:
        return ""
    return "the server that holds them" if ("urllib", "URLError") in kinds else "huggingface.co"


def _kinds(error: BaseException) -> set[tuple[str, str]]:
    """(package, name) of an error's class, and of the classes that it derives from."""
    return {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}


@contextmanager
def _quiet(*loggers: str) -> Generator[None]:
    """Nothing of these loggers is shown meanwhile."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _without_retries() -> Generator[None]:
    """Where there is no network, huggingface_hub tries again for 23 seconds for each file that is not in its cache.
    Told that it is offline it says so at once; what is in the cache it finds either way."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or unreachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
