"""A real browser, driven over the WebDriver protocol: Debian's chromium and chromium-driver, and no other package."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")
KEYS = {"right": "\ue014", "left": "\ue012", "home": "\ue011", "end": "\ue010", "tab": "\ue004"}
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900"]


class Page:
    """An open page."""

    def __init__(self, session: str):
        self.session = session

    def press(self, *keys: str) -> None:
        """Keys, wherever the focus is."""
        strokes = [{"type": kind, "value": KEYS[key]} for key in keys for kind in ("keyDown", "keyUp")]
        _ask(f"{self.session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def run(self, script: str) -> Any:
        """What a script returns in the page."""
        return _ask(f"{self.session}/execute/sync", {"script": script, "args": []})


@contextmanager
def opened(file: Path) -> Generator[Page]:
    """The page of a file in a browser of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        try:
            root = f"http://127.0.0.1:{port}"
            wait_for(f"{root}/status")
            asked = {"browserName": "chrome", "goog:chromeOptions": {"binary": BROWSER, "args": OPTIONS}}
            session = f"{root}/session/{_ask(f'{root}/session', {'capabilities': {'alwaysMatch': asked}})['sessionId']}"
            _ask(f"{session}/url", {"url": file.resolve().as_uri()})
            yield Page(session)
            _ask(session, None, "DELETE")
        finally:
            driver.terminate()


def wait_for(url: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise TimeoutError(url)


def _ask(url: str, body: Any, method: str = "POST") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]
