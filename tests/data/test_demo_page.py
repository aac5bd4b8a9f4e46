"""The demo's page: it stands alone, says what to conclude and what columns mean, and draws what became of tokens."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from vitrim.demo import Example, Outcome, Shown, TableRow, conclude, write_page
from vitrim.demo.page import COLUMNS, KNN
from vitrim.view.drawing import draw_groups, enlarged, group_colours

PLOT = '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>'
ROWS = [
    TableRow("dense", 0.168, 100, 256, 96.0, 300.0, accuracy_margin=1.2),
    TableRow("EViT <keep> 0.7", 0.1, 60, "180 126 89", 95.0, 480.0, 1.3, -1.0, 97.5, 1.6),
]
VOID_TAGS = {"meta", "img", "br", "hr", "link", "input"}
DENSE = Outcome("dense", 1.0, 95.0, (93.0, 97.0))


class Reader(HTMLParser):
    """Checks that tags close in order and collects what a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.fetched, self.tags, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


@pytest.fixture
def example(image) -> Example:
    kept = np.where(np.arange(256) < 100, np.arange(256), -1).reshape(16, 16)
    shown = [Shown(method, kept, "100 kept, 156 pruned", answer) for method, answer in (("EViT", "7"), ("Grid", "1"))]
    return Example(image, "7", "7", shown)


# -- what to conclude


def outcome(method: str, budget: float, accuracy: float, half: float = 3.0, floor: bool = False) -> Outcome:
    return Outcome(method, budget, accuracy, (accuracy - half, accuracy + half), budget, floor)


def test_the_best_at_the_lowest_cost_is_named_with_its_margin():
    rows = [outcome("EViT", 0.4, 80.0), outcome("ToMe", 0.4, 70.0), outcome("ToMe", 0.7, 94.0)]
    first, last = conclude(rows, DENSE)
    assert first == "At 40 % of the dense cost EViT keeps most accuracy (80.0 %, dense 95.0 %), by a clear margin."
    assert last.endswith("reaches the dense model's is ToMe at 70 % of the dense cost (94.0 %, dense 95.0 %).")


def test_overlapping_intervals_are_said():
    rows = [outcome("EViT", 0.4, 80.0), outcome("ToMe", 0.4, 75.0), outcome("BAT", 0.4, 60.0)]
    first = conclude(rows, DENSE)[0]
    assert "but its 95 % interval overlaps with that of ToMe: these pictures do not tell them apart" in first
    assert "BAT" not in first and "clear margin" not in first
    assert "those of ToMe and BAT" in conclude([*rows[:2], outcome("BAT", 0.4, 76.0)], DENSE)[0]


def test_the_floor_is_compared_with():
    floor = [outcome("Random", 0.4, 40.0, floor=True), outcome("Grid", 0.4, 42.0, floor=True)]
    found = conclude([outcome("EViT", 0.4, 80.0), outcome("BAT", 0.4, 45.0), *floor], DENSE)
    assert found[1] == (
        "Grid, the better of those that do not look at the picture, keeps 42.0 % there; EViT is clearly better; BAT is "
        "not."
    )
    assert "no method is clearly better" in conclude([outcome("BAT", 0.4, 41.0), *floor], DENSE)[1]
    assert "Grid, which does not look" in conclude([outcome("BAT", 0.4, 60.0), floor[1]], DENSE)[1]


def test_rows_far_below_dense_and_no_rows():
    assert conclude([outcome("EViT", 0.4, 50.0)], DENSE)[-1] == "Every row is clearly below the dense model."
    assert conclude([], DENSE) == []
    saved = Outcome("ToFe", 0.5, 94.0, (92.0, 96.0))  # a folder's own, made for no budget of the demo's
    (only,) = conclude([saved], DENSE)
    assert "ToFe at 50 %" in only


# -- the page


def test_page_is_well_formed_and_stands_alone(tmp_path, example):
    said = ["EViT keeps most.", "Grid is worse."]
    more = {"lead": "One & two", "conclusion": said, "notes": ["ToFe is left out"], "examples_lead": "At 50 %."}
    path = write_page(tmp_path / "page.html", table_rows=ROWS, picture=PLOT, examples=[example] * 2, **more)
    text = path.read_text(encoding="utf-8")
    page = Reader(text)
    assert page.open == [] and {"h1", "table", "img", "article"} <= set(page.tags)
    assert len(page.fetched) == 1 + 2 * 3
    assert all(uri.startswith("data:image/") for uri in page.fetched)
    assert "script" not in page.tags and "@import" not in text and "url(" not in text
    assert {"EViT <keep> 0.7", "180 126 89", "One & two", "ToFe is left out", *said} <= set(page.words)
    assert text.index(said[0]) < text.index("<table"), "the conclusion comes first"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_every_column_is_explained(tmp_path, example):
    text = write_page(tmp_path / "p.html", table_rows=ROWS, picture=PLOT, examples=[example]).read_text()
    terms = re.findall(r"<dt>(.*?)</dt><dd>(.+?)</dd>", text)
    assert len(terms) == len(COLUMNS) and len(re.findall('<th scope="col"', text)) == len(COLUMNS)
    assert dict(terms)["top-1 %"].startswith("share of the test pictures whose class is right") and "{" not in str(
        terms
    )
    knn = write_page(tmp_path / "k.html", table_rows=ROWS, picture=None, examples=[], words=KNN).read_text()
    assert "<dt>kNN %</dt>" in knn and "top-1" not in knn and "<figure" not in knn


def test_each_picture_is_a_row_of_all_methods(tmp_path, example):
    text = write_page(tmp_path / "p.html", table_rows=ROWS, picture=PLOT, examples=[example] * 3).read_text()
    rows = text.split("<article")[1:]
    assert len(rows) == 3
    assert all(re.findall("<figcaption><b>(.*?)</b>", row) == ["dense", "EViT", "Grid"] for row in rows)
    assert "✓" in rows[0] and "✗" in rows[0] and "100 kept, 156 pruned" in rows[0] and "256 patches" in rows[0]


def test_page_takes_a_png_and_photographs(tmp_path, example):
    colours = np.repeat(example.image[..., None], 3, -1)
    photograph = Example(colours, "cat", "cat", example.methods)
    png = b"\x89PNG\r\n\x1a\n" + b"rest"
    path = write_page(tmp_path / "p.html", table_rows=ROWS, picture=png, examples=[photograph])
    fetched = Reader(path.read_text(encoding="utf-8")).fetched
    assert fetched[0].startswith("data:image/png") and all(uri.startswith("data:image/jpeg") for uri in fetched[1:])


def test_page_refuses_and_leaves_the_old_file(tmp_path, example):
    path = tmp_path / "page.html"
    path.write_text("old")
    wrong = Example(example.image, "7", "7", [Shown("EViT", np.zeros((15, 15), dtype=int), "")])
    for picture, examples, named in [("no picture", [], "neither PNG nor SVG"), (PLOT, [wrong], "15 x 15 patches")]:
        with pytest.raises(ValueError, match=named):
            write_page(path, table_rows=ROWS, picture=picture, examples=examples)
    with pytest.raises(ValueError, match="cannot be written"):
        write_page(tmp_path, table_rows=ROWS, picture=PLOT, examples=[])
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


# -- the pictures


def patches_of(shown: np.ndarray) -> np.ndarray:
    return shown.reshape(16, 16, 16, 16, 3).transpose(0, 2, 1, 3, 4)


def test_patches_without_a_token_fade_and_kept_ones_stay(image):
    groups = np.where(np.arange(256) < 100, np.arange(256), -1).reshape(16, 16)
    shown, before = patches_of(draw_groups(image, groups)), patches_of(enlarged(image))
    assert np.array_equal(shown[groups >= 0], before[groups >= 0])
    assert shown[groups < 0].std() < 0.3 * before[groups < 0].std()


def test_merged_patches_have_their_mean_colour_and_a_border(image):
    groups = np.arange(256).reshape(16, 16)
    groups[2:4, 2:4] = 0
    groups[0, 0] = 255 + 1
    shown, before = patches_of(draw_groups(image, groups)), patches_of(enlarged(image))
    whole = np.ones((16, 16), dtype=bool)
    whole[2:4, 2:4] = False
    assert np.array_equal(shown[whole], before[whole])
    assert (shown[2, 2, 0] == group_colours(1)[0]).all(), "no border above"
    inside = shown[2:4, 2:4][:, :, 4:12, 4:12]
    assert len(np.unique(inside.reshape(-1, 3), axis=0)) == 1
    assert (shown[2, 2, -1, 4:] == inside[0, 0, 0, 0]).all(), "a border within the token"


def test_small_pictures_are_drawn_larger(image):
    assert enlarged(image).shape == (256, 256, 3)
    assert enlarged(np.zeros((300, 320, 3), dtype=np.uint8)).shape == (300, 320, 3)
    with pytest.raises(ValueError, match="give uint8"):
        enlarged(image.astype(float))
