"""The page of `vitrim visualize`: it stands alone, says all in words, and steps by the keyboard in a real browser."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import browser
import numpy as np
import pytest
from pictures import noise, several, small
from PIL import Image

import vitrim
from vitrim.view.drawing import enlarged, laid_over
from vitrim.view.figures import draw_groups
from vitrim.view.looking import look
from vitrim.view.page import write_page

SEEN = [look(several(), noise(seed)) for seed in range(2)]
NAMES = ["a <b>.png", "c&d.png"]


class Reader(HTMLParser):
    """Checks that tags close in order, and collects what a browser would fetch and what a screen reader would say."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.fetched, self.tags, self.words, self.images = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.fetched += re.findall(r"url\((.*?)\)", given.get("style") or "")
        if tag == "img":
            self.images.append(given)
        if tag not in ("meta", "img", "input", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "p.html", SEEN, NAMES, notes=["3 more are left out"])


@pytest.fixture(scope="module")
def read(page):
    return Reader(page.read_text(encoding="utf-8"))


def test_it_is_well_formed_and_fetches_nothing(page, read):
    text = page.read_text(encoding="utf-8")
    assert read.open == [] and read.fetched and all(uri.startswith("data:image/") for uri in read.fetched)
    assert "default-src 'none'" in text and "@import" not in text and "http:" not in text and "https:" not in text
    assert [file.name for file in page.parent.iterdir()] == [page.name]


def test_every_picture_is_said_in_words(read):
    assert all(image["alt"] for image in read.images)
    for name, row in zip(NAMES, SEEN, strict=True):
        assert name in read.words and f"dense says {row[0].dense}" in read.words
        for one in row:
            assert {one.title, one.said} <= set(read.words)
            for block in range(4):
                words = f"block {block}: {one.fates.caption(block)}"
                assert words in read.words
                assert any(image["alt"] == f"{name}, {one.title}, {words}" for image in read.images)
    assert "3 more are left out" in read.words


def test_the_tables_have_the_counts_of_every_block(page):
    tables = re.findall("<table>.*?</table>", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(tables) == 8
    for table, one in zip(tables, [one for row in SEEN for one in row], strict=True):
        heads = re.findall('<th scope="col">(.*?)</th>', table)[1:]
        rows = re.findall(r'<th scope="row">(\d+)</th>(.*)</tr>', table)
        assert [int(block) for block, _ in rows] == [0, 1, 2, 3]
        for block, cells in rows:
            found = dict(zip(heads, map(int, re.findall("<td>(.*?)</td>", cells)), strict=True))
            assert {word: n for word, n in found.items() if n} == one.fates.count(int(block))


def test_layers_are_those_of_the_figure(page, read):
    layers = [image["src"] for image in read.images if image.get("class") == "step"][:4]
    one = SEEN[0][0]
    for block, uri in enumerate(layers):
        layer = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        expected = draw_groups(one.pixels, one.fates.groups[block], one.fates.ringed[block])
        assert (laid_over(enlarged(one.pixels), layer) == expected).all()


def test_a_photograph_is_there_once_unless_models_get_other_pixels(tmp_path, read):
    assert sum(uri.startswith("data:image/jpeg") for uri in read.fetched) == len(SEEN)
    other = vitrim.reduce(small(img_size=32), "evit")
    row = [*SEEN[0][:2], *look([other], noise(0))]
    text = write_page(tmp_path / "o.html", [row], NAMES[:1]).read_text(encoding="utf-8")
    assert len(re.findall("data:image/jpeg", text)) == 2


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be written"):
        write_page(tmp_path, SEEN, NAMES)
    assert not list(tmp_path.iterdir())


STEPS = """return [...document.querySelectorAll("%s")].filter(e => e.offsetParent).map(e => e.%s)"""
SHOWN, CAPTIONS = STEPS % (".step", "dataset.block"), STEPS % ("figcaption.step", "textContent")


@pytest.mark.skipif(not (browser.DRIVER and browser.BROWSER), reason="no chromium and chromium-driver here")
def test_it_steps_by_the_keyboard_in_a_browser(page):
    captions = [one.fates for row in SEEN for one in row]
    with browser.opened(page) as shown:

        def at(block: int) -> bool:
            said = [f"block {block}: {fates.caption(block)}" for fates in captions]
            here = shown.run('return document.getElementById("where").textContent')
            everywhere = set(shown.run(SHOWN)) == {str(block)}
            return everywhere and shown.run(CAPTIONS) == said and here == f"block {block} (0 to 3)"

        assert at(3), "the last block comes first"
        shown.press("left")
        assert at(2)
        shown.press("left", "left", "left", "left")
        assert at(0), "there is none before the first"
        shown.press("right")
        assert at(1)
        shown.run('document.getElementById("block").focus()')
        shown.press("end")
        assert at(3)
        shown.press("home", "right", "right")
        assert at(2), "the slider steps once, not twice"
        shown.run('document.getElementById("next").click()')
        assert at(3)
        loaded = shown.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))")
        assert loaded == [], "something was fetched"
