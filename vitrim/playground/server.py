"""The page on a port of this machine, for as long as it is asked for; nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..common.extras import require
from ..common.interruption import as_interruption
from ..common.ports import HOST, listening
from .gate import Gate
from .offers import Offer, offer
from .page import STYLE, build
from .showing import Showing

MOST_BYTES = 32 * 2**20  # of a photograph's file
MULTIPART = 100_000  # bytes that an upload has beside its file
PATIENCE = 1  # seconds for what is under way when the page is closed


def serve(
    models: Mapping[str, nn.Module | Offer],
    host: str = HOST,
    port: int | None = None,
    *,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl-C, or SIGTERM.

    models: what visitors may pick, by name, each on the device where it runs; nothing else can be loaded
    host:   the address to listen at; another than this machine's own lets others in
    port:   0: any free one; default: 7860, or the next free one
    ready:  is called with the page's address

    Raises ValueError for a model that no method runs on, an address that is not this machine's, and a busy port; and
    where gradio is not installed.

    Example: the page is at http://127.0.0.1:7860/.
        >>> serve({"deit": model})  # doctest: +SKIP
    """
    with place(host, port) as here:
        serve_at(here, models, ready)


@dataclass(frozen=True)
class Place:
    """A socket that listens at an address, and a folder for uploads."""

    sock: socket.socket
    uploads: str
    host: str = HOST


def serve_at(here: Place, models: Mapping[str, nn.Module | Offer], ready: Callable[[str], None] = print) -> None:
    """`serve` where it may."""
    if not models:
        raise ValueError("no models to show: give at least one")
    offers = {name: one if isinstance(one, Offer) else offer(one) for name, one in models.items()}
    server = _server(Showing(offers), here)
    with as_interruption(signal.SIGTERM), suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
        ready(address_of(here.sock))
        server.run(sockets=[here.sock])


@contextmanager
def place(host: str, port: int | None) -> Generator[Place]:
    """Where a page can be: the address is free, gradio is there, and its folder for uploads is gone in the end.

    Raises ValueError where it is not.
    """
    with ExitStack() as stack:
        uploads = stack.enter_context(tempfile.TemporaryDirectory(prefix="vitrim-playground-"))
        uploads = os.path.realpath(uploads)  # as gradio names what lies there
        # Before gradio is imported, which makes folders. No use is reported to anyone.
        stack.enter_context(_environment(GRADIO_TEMP_DIR=uploads, GRADIO_ANALYTICS_ENABLED="False"))
        require("playground", "vitrim playground")
        yield Place(stack.enter_context(listening(host, port)), uploads, host)


def _server(showing: Showing, here: Place) -> Any:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    app = gr.mount_gradio_app(
        FastAPI(),
        build(showing),
        "/",
        footer_links=[],
        allowed_paths=[],
        show_error=False,
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # fetched from nowhere
        css=STYLE.read_text(encoding="utf-8"),
    )
    gated: Any = Gate(app, here.uploads, MOST_BYTES + MULTIPART, here.host)
    return uvicorn.Server(uvicorn.Config(gated, log_level="critical", timeout_graceful_shutdown=PATIENCE))


def address_of(sock: socket.socket) -> str:
    """The page's address, as a browser takes it."""
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


@contextmanager
def _environment(**values: str) -> Generator[None]:
    """These environment variables, and afterwards what they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
