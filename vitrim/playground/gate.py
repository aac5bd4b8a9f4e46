"""What the page needs of the server, and no more: gradio also serves files by their path, takes what a request names in
the place of an upload, from the net too, and describes its interface to strangers."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from .addresses import HOST, is_for

# By method and path. Nothing in the page is fetched by a path of this machine's: pictures are inside of the answers.
OPEN = re.compile(
    r"(GET|HEAD) /(|theme\.css|favicon\.ico|robots\.txt|manifest\.json|assets/[\w./-]+|static/(img|fonts|js)/[\w./-]+"
    r"|gradio_api/(startup-events|heartbeat/\w+|upload_progress|queue/data))"
    r"|POST /gradio_api/(upload|queue/join)"
)
ASKS = "/gradio_api/queue/join"
POLICY = (b"content-security-policy", b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:")
MOST_WORDS = 100_000  # bytes of a request that is no upload
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Gate:
    """ASGI middleware: 403 for what was sent to another address, 404 for what the page does not need, 413 for what is
    too long, 400 for files that are not uploads. Browsers are told to fetch nothing from other sites.

    uploads:    the folder of uploaded files
    most_bytes: of an upload
    host:       the address at which the server listens
    """

    def __init__(self, app: Any, uploads: str | Path, most_bytes: int, host: str = HOST):
        self.app, self.uploads, self.most_bytes, self.host = app, Path(uploads), most_bytes, host

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif not is_for(self.host, dict(scope["headers"]).get(b"host", b"")):
            await _refuse(scope, send, 403, "This page is not at that address.")
        elif scope["type"] != "http" or not OPEN.fullmatch(f"{scope['method']} {scope['path']}"):
            await _refuse(scope, send, 404, "There is nothing here.")
        elif self._too_long(scope):
            await _refuse(scope, send, 413, f"More than {self.most_bytes // 2**20} MB cannot be taken.")
        elif scope["path"] == ASKS:
            await self._ask(scope, receive, send)
        else:
            await self.app(scope, receive, _with_policy(send))

    def _too_long(self, scope: Message) -> bool:
        """By what the request says of itself: uvicorn reads no more than that. A browser always says it."""
        if scope["method"] != "POST":
            return False
        length = dict(scope["headers"]).get(b"content-length", b"")
        return not length.isdigit() or int(length) > (MOST_WORDS if scope["path"] == ASKS else self.most_bytes)

    async def _ask(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass on what asks for an answer, if all files that it names are uploads."""
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if not self._names_uploads_alone(body):
            await _refuse(scope, send, 400, "Only uploads can be looked at.")
            return
        whole = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, again, send)

    def _names_uploads_alone(self, body: bytes) -> bool:
        try:
            return all(self._is_upload(path) for path in _paths(json.loads(body)))
        except (ValueError, RecursionError):
            return False

    def _is_upload(self, path: Any) -> bool:
        return path is None or (isinstance(path, str) and ".." not in path and self.uploads in Path(path).parents)


def _paths(asked: Any) -> Iterator[Any]:
    """What is called a path anywhere in a request."""
    if isinstance(asked, dict):
        yield from (value for name, value in asked.items() if name == "path")
    for part in asked.values() if isinstance(asked, dict) else asked if isinstance(asked, list) else ():
        yield from _paths(part)


def _with_policy(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], POLICY]}
        await send(message)

    return sent


async def _refuse(scope: Message, send: Send, status: int, words: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    head = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": words.encode()})
