"""The demo: canvases that repeat and keep their splits apart, weights that read digits, a page that stands alone."""

import importlib.util
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from timm.data import resolve_data_config
from torch.utils.data import DataLoader

from vitrim.demo import DigitCanvases, Example, TableRow, build_model, grid_mask, load_model, write_page
from vitrim.demo.digits import CANVAS_SIZE, SourceDigits, normalise, paint_canvases, source_digits
from vitrim.demo.page import dim_dropped

WEIGHTS = files("vitrim.demo").joinpath("digits_vit.safetensors")
PLOT = '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>'
ROWS = [
    TableRow("dense", 0.168, 100, 256, 96.0, 300.0, top1_margin=1.2),
    TableRow("EViT <keep> 0.7", 0.1, 60, "180 126 89", 95.0, 480.0, 1.3, -1.0, 97.5, 1.6),
]
VOID_TAGS = {"meta", "img", "br", "hr", "link", "input"}


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


@pytest.fixture(scope="module")
def test_split() -> DigitCanvases:
    return DigitCanvases("test", 500)


@pytest.fixture
def example() -> Example:
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    kept = [grid_mask(range(count), 16, 16) for count in (180, 126, 89)]
    return Example(image, "7", "7", "1", kept)


def test_same_seed_same_canvases():
    first, again, other = (DigitCanvases("test", 20, seed).canvases for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


def test_no_source_digit_is_in_both_splits(test_split):
    train, test = source_digits("train"), source_digits("test")
    assert sorted([*train.indices.tolist(), *test.indices.tolist()]) == list(range(1797))
    assert set(test_split.canvases.sources.tolist()) <= set(test.indices.tolist())
    same = (train.images.flatten(1)[:, None] == test.images.flatten(1)).all(-1)
    assert not same.any(), "the same picture lies in both splits under two numbers"


@pytest.mark.parametrize("count", [7, 100, 203])
def test_classes_are_balanced_and_labels_are_those_of_the_sources(count):
    digits = source_digits("train")
    canvases = paint_canvases(digits, count, torch.Generator().manual_seed(0))
    occurrences = torch.bincount(canvases.labels, minlength=10)
    assert occurrences.max() - occurrences.min() <= 1
    label_of = dict(zip(digits.indices.tolist(), digits.labels.tolist(), strict=True))
    assert canvases.labels.tolist() == [label_of[row] for row in canvases.sources.tolist()]


def test_digit_is_inside_the_canvas_and_a_small_part_of_it(test_split):
    top, left, side = test_split.canvases.boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + side <= CANVAS_SIZE).all() and (left + side <= CANVAS_SIZE).all()
    assert (side**2).max() < 0.15 * CANVAS_SIZE**2


def test_distractors_leave_the_digit_readable():
    digits = source_digits("test")
    blank = SourceDigits(torch.zeros_like(digits.images), digits.labels, digits.indices)
    canvases = paint_canvases(blank, 200, torch.Generator().manual_seed(0))
    assert (canvases.images.flatten(1).amax(1) > 128).all(), "no stroke was painted"
    centres = (canvases.boxes[:, :2] + canvases.boxes[:, 2:] / 2).long()
    middles = [image[y - 5 : y + 5, x - 5 : x + 5] for image, (y, x) in zip(canvases.images, centres, strict=True)]
    assert torch.stack(middles).max() < 64, "a stroke crosses the place of the digit"


def test_dataset_feeds_a_loader(test_split):
    images, labels = next(iter(DataLoader(test_split, batch_size=32)))
    assert images.shape == (32, 1, CANVAS_SIZE, CANVAS_SIZE) and images.dtype == torch.float32
    assert torch.equal(labels, test_split.canvases.labels[:32])
    whole = normalise(test_split.canvases.images)
    assert abs(whole.mean()) < 0.2 and abs(whole.std() - 1) < 0.3


@pytest.mark.parametrize(("arguments", "named"), [({"split": "val"}, "'val'"), ({"count": 0}, "count=0")])
def test_wrong_arguments_are_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        DigitCanvases(**arguments)


def test_weights_are_small_half_precision_and_fit():
    stored = load(WEIGHTS.read_bytes())
    assert len(WEIGHTS.read_bytes()) <= 1_000_000
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert stored.keys() == build_model().state_dict().keys()
    loaded = load_model()
    assert not loaded.training
    assert all(torch.equal(tensor, stored[name].float()) for name, tensor in loaded.state_dict().items())


def test_timm_reads_the_data_settings_from_the_model():
    config = resolve_data_config(model=load_model())
    assert config["input_size"] == (1, CANVAS_SIZE, CANVAS_SIZE)
    assert len(config["mean"]) == len(config["std"]) == 1


def test_model_reads_unseen_digits(test_split):
    model, canvases = load_model(), test_split.canvases
    with torch.inference_mode():
        found = torch.cat([model(normalise(images)).argmax(1) for images in canvases.images.split(100)])
    assert (found == canvases.labels).float().mean() >= 0.9


def test_training_runs_the_model_itself():
    script = Path(__file__).parents[2] / "benchmarks" / "train_demo.py"
    spec = importlib.util.spec_from_file_location("train_demo", script)
    train_demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train_demo)
    torch.manual_seed(0)
    model, images = build_model(), torch.randn(2, 1, CANVAS_SIZE, CANVAS_SIZE)
    trainee = train_demo.Trainee(model)
    positions = train_demo.window_positions(CANVAS_SIZE, torch.Generator())
    torch.testing.assert_close(trainee(images, positions)[0], model(images))
    assert [train_demo.window_size(done) for done in (0, 0.5, 1)] == [24, 40, 64]


def test_page_is_well_formed_and_stands_alone(tmp_path, example):
    path = write_page(tmp_path / "page.html", table_rows=ROWS, picture=PLOT, examples=[example] * 2, lead="One & two")
    text = path.read_text(encoding="utf-8")
    page = Reader(text)
    assert page.open == [] and {"h1", "table", "img", "article"} <= set(page.tags)
    assert len(page.fetched) == 1 + 2 * 4
    assert all(uri.startswith("data:image/") for uri in page.fetched)
    assert "script" not in page.tags and "@import" not in text and "url(" not in text
    assert {"EViT <keep> 0.7", "180 126 89", "126 kept", "One & two"} <= set(page.words)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_page_takes_a_png_and_names_of_the_stages(tmp_path, example):
    png = b"\x89PNG\r\n\x1a\n" + b"rest"
    names = ["after block 3", "after block 5", "after block 7"]
    path = write_page(tmp_path / "p.html", table_rows=ROWS, picture=png, examples=[example], stage_names=names)
    page = Reader(path.read_text(encoding="utf-8"))
    assert page.fetched[0].startswith("data:image/png")
    assert set(names) <= set(page.words)


def test_page_refuses_and_leaves_the_old_file(tmp_path, example):
    path = tmp_path / "page.html"
    path.write_text("old")
    uneven = Example(example.image, "7", "7", "7", example.kept[:1])
    wrong_mask = Example(example.image, "7", "7", "7", [np.ones((15, 15), dtype=bool)])
    for picture, examples, named in [("no picture", [], "neither PNG nor SVG"), (PLOT, [example, uneven], "masks"),
                                     (PLOT, [wrong_mask], "15")]:  # fmt: skip
        with pytest.raises(ValueError, match=named):
            write_page(path, table_rows=ROWS, picture=picture, examples=examples)
    with pytest.raises(ValueError, match="cannot be written"):
        write_page(tmp_path, table_rows=ROWS, picture=PLOT, examples=[])
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_dropped_patches_fade_and_kept_ones_stay(example):
    shown = dim_dropped(example.image, example.kept[0])
    patches = shown.reshape(16, 4, 16, 4, 3).transpose(0, 2, 1, 3, 4)
    before = np.repeat(example.image[..., None], 3, -1).reshape(16, 4, 16, 4, 3).transpose(0, 2, 1, 3, 4)
    assert np.array_equal(patches[example.kept[0]], before[example.kept[0]])
    assert patches[~example.kept[0]].std() < 0.3 * before[~example.kept[0]].std()


def test_grid_mask_counts_rows_first_and_refuses_what_lies_outside():
    assert np.argwhere(grid_mask([1, 5], 2, 4)).tolist() == [[0, 1], [1, 1]]
    with pytest.raises(ValueError, match="2 x 4"):
        grid_mask([8], 2, 4)
