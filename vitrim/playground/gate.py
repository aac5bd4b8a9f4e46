"""What the page needs of the server, and no more: gradio also serves files by their path, fetches what a URL names, and
describes its interface to strangers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

# By method and path. Nothing in the page is fetched by a path of this machine's: pictures are inside of the answers.
OPEN = re.compile(
    r"(GET|HEAD) /(|theme\.css|favicon\.ico|robots\.txt|manifest\.json|assets/[\w./-]+|static/(img|fonts|js)/[\w./-]+"
    r"|gradio_api/(startup-events|heartbeat/\w+|upload_progress|queue/data))"
    r"|POST /gradio_api/(upload|queue/join|reset|cancel|event/\w+)"
)
Message = MutableMapping[str, Any]
Receive, Send = Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]


class Gate:
    """ASGI middleware: 404 for paths that the page does not need, 413 for bodies above a number of bytes."""

    def __init__(self, app: Any, most_bytes: int):
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http" or not OPEN.fullmatch(f"{scope['method']} {scope['path']}"):
            await _refuse(scope, send, 404, "There is nothing here.")
        elif self._too_long(scope):
            await _refuse(scope, send, 413, f"More than {self.most_bytes // 1_000_000} MB cannot be taken.")
        else:
            await self.app(scope, receive, send)

    def _too_long(self, scope: Message) -> bool:
        """By what the request says of itself: uvicorn reads no more than that. A browser always says it."""
        if scope["method"] != "POST":
            return False
        length = dict(scope["headers"]).get(b"content-length", b"")
        return not length.isdigit() or int(length) > self.most_bytes


async def _refuse(scope: Message, send: Send, status: int, words: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    head = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": words.encode()})
