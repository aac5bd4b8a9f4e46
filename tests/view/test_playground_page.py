"""`vitrim playground` as a visitor meets it: the command in a process of its own, and a real browser."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import browser
import pytest
from pictures import noise, small

import vitrim
from vitrim.cli.commands.playground import PLAYGROUND
from vitrim.data.pictures import bounded
from vitrim.view.looking import look
from vitrim.view.page import photograph_uri

ROOT = Path(vitrim.__file__).parents[1]
FIGURES = "return document.querySelector('.vitrim-figures')"
GMACS = "return document.querySelector('.vitrim-GMACs')?.innerText"
SAID = "return document.querySelector('.vitrim-message')?.innerText"
PHOTOGRAPH = "return document.querySelector('.vitrim-photograph img').src"
CAPTIONS = "return [...document.querySelectorAll('.vitrim-patches figcaption')].map(e => e.innerText).slice(2)"
FILE = "#photograph input[type=file]"

pytestmark = pytest.mark.skipif(not (browser.DRIVER and browser.BROWSER), reason="no chromium and chromium-driver here")


@dataclass
class Playground:
    """The command, the address it has told, and the folder where it may leave temporary files."""

    process: subprocess.Popen
    address: str
    folder: Path

    @property
    def uploads(self) -> list[Path]:
        """Files that lie on the disk."""
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two saved models, two photographs, and files that are none."""
    root = tmp_path_factory.mktemp("playground")
    vitrim.reduce(small(), "evit", keep=0.7).save(root / "saved")
    vitrim.reduce(small(img_size=32), "topk", keep=0.5).save(root / "other")
    for seed in range(2):
        noise(seed).save(root / f"{seed}.png")
    (root / "bad.png").write_bytes(b"no picture")
    with (root / "long.png").open("wb") as file:
        file.truncate(33 * 2**20)
    (root / "temporary").mkdir()
    return root


@pytest.fixture(scope="module")
def playground(root):
    command = [sys.executable, "-m", "vitrim", "playground", "--checkpoint", str(root / "saved"), str(root / "other")]
    command += ["--port", "0", "--threads", "1", "--device", "cpu"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    here = {**os.environ, "TMPDIR": str(root / "temporary"), "PYTHONPATH": path}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=root, env=here, **pipes) as process:
        line = process.stdout.readline()
        address = re.search(r"the playground is at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)", line)
        assert address, line + process.stderr.read()
        yield Playground(process, address[1], root / "temporary")
        process.kill()


@pytest.fixture(scope="module")
def page(playground):
    with browser.opened(playground.address) as page:
        yield page


@pytest.fixture
def fresh(page, playground):
    """A visitor who has just come, in a tab of their own."""
    page.open_tab(playground.address)
    page.wait(f"return document.querySelector('{FILE}')")
    yield page
    page.close_tab()  # each keeps connections open, of which a browser allows six to a server


def reduced(root, method, share, folder="saved"):
    return vitrim.reduce(vitrim.load(root / folder).backbone, method, macs=share)


def pick(page, control: str, words: str) -> None:
    """Choose from a list."""
    page.click(f"#{control} input")
    page.wait(f"return [...document.querySelectorAll('[role=option]')].some(e => e.innerText.includes('{words}'))")
    page.click(f"//*[@role='option'][contains(., '{words}')]")


def dropped(page, file: Path) -> None:
    page.upload(FILE, file)
    page.wait(FIGURES)


def test_a_photograph_and_a_slider(fresh, playground, root):
    assert fresh.run(SAID) == "Drop a photograph, or click to choose one."
    dropped(fresh, root / "0.png")
    assert "EViT keep=0.7" in fresh.run(FIGURES + ".innerText"), "a folder's own method comes first"
    pick(fresh, "method", "EViT")
    seen = {}
    for percent in (65, 66, 67):
        fast = reduced(root, "evit", percent / 100)
        gmacs = vitrim.profile(fast).gmacs
        said = f"{gmacs:.3g} ({100 * vitrim.profile(fast).share:.0f} %)"
        (one,) = look([fast], root / "0.png")
        captions = [f"block {block}: {one.fates.caption(block)}" for block in range(4)]
        fresh.wait(f"{FIGURES}.innerText.includes('{one.title}')")
        assert fresh.run(GMACS) == said and fresh.run(CAPTIONS) == captions
        assert str(one.reduced.label) in fresh.run("return document.querySelector('.vitrim-reduced-says').innerText")
        seen[percent] = fresh.run("return document.querySelector('.vitrim-milliseconds').innerText")
        fresh.run("document.querySelector('#budget input[type=range]').focus()")
        fresh.press("right")
    assert all(float(ms.split()[0]) > 0 for ms in seen.values())
    assert fresh.errors == []
    fetched = fresh.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith((playground.address, "data:")) for name in fetched), "something was fetched elsewhere"


def picked(page, method: str) -> None:
    """Pick a method and see its figures. A tab that was just behind another may miss a click on a busy machine: then it
    is picked again, as a visitor would."""
    for patience in (10.0, 10.0, 30.0):
        pick(page, "method", method)
        with contextlib.suppress(TimeoutError):
            page.wait(f"{FIGURES}.innerText.includes('{method}')", patience)
            return
    raise TimeoutError(f"{method} was picked three times and never shown")


def test_two_visitors_have_a_picture_each(fresh, playground, root):
    def shows(number: int) -> bool:
        (one,) = look([reduced(root, "tome", 0.65)], bounded(root / f"{number}.png", 10**6))
        return fresh.run(PHOTOGRAPH) == photograph_uri(one)

    first = fresh.tab
    dropped(fresh, root / "0.png")
    second = fresh.open_tab(playground.address)
    fresh.wait(f"return document.querySelector('{FILE}')")
    assert fresh.run(FIGURES) is None
    dropped(fresh, root / "1.png")
    for tab, number in ((first, 0), (second, 1), (first, 0)):
        fresh.look_at(tab)
        pick(fresh, "method", "ToMe")
        fresh.wait(f"{FIGURES}.innerText.includes('ToMe')")
        assert shows(number)
        picked(fresh, "TopK")
    assert fresh.errors == []
    fresh.look_at(second)
    fresh.close_tab()
    fresh.look_at(first)


def test_another_model_and_another_reach(fresh, root):
    dropped(fresh, root / "0.png")
    pick(fresh, "model", " 2")
    fresh.wait(f"{FIGURES}.innerText.includes('TopK keep=0.5')")
    pick(fresh, "method", "EvoViT")
    fresh.wait(f"{FIGURES}.innerText.includes('EvoViT')")
    words = fresh.run("return document.querySelector('#budget').innerText")
    low = int(re.search(r"(\d+) to 100 % can be had", words)[1])
    assert fresh.run("return document.querySelector('#budget input[type=range]').min") == str(low)
    assert fresh.errors == []


def test_what_is_no_picture_is_told(fresh, playground, root):
    fresh.upload(FILE, root / "bad.png")
    fresh.wait(f"{SAID}.includes('cannot be read')")
    fresh.upload(FILE, root / "long.png")
    fresh.wait(
        "return document.querySelector('.toast-body')?.innerText.includes('exceed the maximum allowed size of 32')"
    )
    text = fresh.run("return document.body.innerText")
    assert "Traceback" not in text and str(root) not in text
    fresh.run("document.querySelector('.toast-close')?.click()")
    fresh.wait(f"return document.querySelector('{FILE}')")
    dropped(fresh, root / "0.png")


def test_no_file_can_be_had_by_its_path(fresh, playground, root):
    dropped(fresh, root / "0.png")
    uploads = playground.uploads
    assert uploads, "what was dropped is swept later"
    for path in (root / "saved" / "config.json", *uploads):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{playground.address}gradio_api/file={path}")


def test_it_ends_with_ctrl_c_and_leaves_nothing(playground):
    """The last test: pages are open, and the command is gone."""
    playground.process.send_signal(signal.SIGINT)
    out, err = playground.process.communicate(timeout=20)
    assert (playground.process.returncode, err) == (0, f"{PLAYGROUND.begins}\n")
    assert out == "the playground is closed\n" and list(playground.folder.rglob("*")) == []
