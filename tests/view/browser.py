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
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's name for one
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

    def upload(self, selector: str, file: Path) -> None:
        """Give a file to an input of that kind, as if it had been chosen or dropped."""
        _ask(f"{self._found(selector)}/value", {"text": str(file.resolve())})

    def click(self, selector: str) -> None:
        """Click on what a selector (CSS) finds first, or an XPath."""
        _ask(f"{self._found(selector)}/click", {})

    def _found(self, selector: str) -> str:
        using = "xpath" if selector.startswith("/") else "css selector"
        return f"{self.session}/element/{_ask(f'{self.session}/element', {'using': using, 'value': selector})[ELEMENT]}"

    def wait(self, script: str, seconds: float = 15.0) -> Any:
        """What a script returns in the page, as soon as that is anything."""
        until = time.monotonic() + seconds
        while not (found := self.run(script)):
            if time.monotonic() > until:
                raise TimeoutError(script)
            time.sleep(0.02)
        return found

    def open_tab(self, address: str) -> str:
        """Open an address in a tab of its own, and look at that one. Returns its name."""
        name = _ask(f"{self.session}/window/new", {"type": "tab"})["handle"]
        self.look_at(name)
        _ask(f"{self.session}/url", {"url": address})
        return name

    def close_tab(self) -> None:
        """Close the tab that is looked at, and look at the first one that is left."""
        self.look_at(_ask(f"{self.session}/window", None, "DELETE")[0])

    def look_at(self, tab: str) -> None:
        """Another tab, by its name."""
        _ask(f"{self.session}/window", {"handle": tab})

    @property
    def tab(self) -> str:
        """The name of the tab that is looked at."""
        return _ask(f"{self.session}/window", None, "GET")

    @property
    def errors(self) -> list[str]:
        """What the console has told since it was asked last: errors of scripts, and what could not be fetched."""
        told = _ask(f"{self.session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in told if entry["level"] == "SEVERE"]


@contextmanager
def opened(place: Path | str) -> Generator[Page]:
    """The page of a file, or at an address, in a browser of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        try:
            root = f"http://127.0.0.1:{port}"
            wait_for(f"{root}/status")
            asked = {
                "browserName": "chrome",
                "goog:chromeOptions": {"binary": BROWSER, "args": OPTIONS},
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            session = f"{root}/session/{_ask(f'{root}/session', {'capabilities': {'alwaysMatch': asked}})['sessionId']}"
            _ask(f"{session}/url", {"url": place.resolve().as_uri() if isinstance(place, Path) else place})
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
