"""`vitrim visualize`: its files, what it prints, the pictures that it takes, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

import vitrim
from vitrim import cli
from vitrim.cli import COMMANDS
from vitrim.cli.shared.parse import parse

# Some methods act in few places of so small a model.
MODEL = ["--model", "test_vit", "--image-size", "64", "--num-classes", "3", "--checkpoint", "small.safetensors"]
EVIT, BOTH = ["--method", "evit", "--device", "cpu"], ["--method", "evit", "tome", "--macs", "0.8", "--device", "cpu"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(timm.create_model("test_vit", img_size=64, num_classes=3).state_dict(), file)
    return file


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, weights):
    """Three photographs in a folder, and weights."""
    monkeypatch.chdir(tmp_path)
    os.link(weights, "small.safetensors")
    Path("photos/more").mkdir(parents=True)
    for number, file in enumerate(("photos/a.png", "photos/b.png", "photos/more/c.jpg")):
        picture(number).save(file)


def picture(seed=0, mode="RGB", size=(70, 90)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def visualize(*arguments: object) -> int:
    return cli.main(["visualize", *map(str, arguments)])


def figures() -> dict:
    return json.loads(Path("v.json").read_text())


def refused(capsys, *arguments: object) -> str:
    before = sorted(Path().rglob("*"))
    assert visualize(*arguments) == 2 and sorted(Path().rglob("*")) == before
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("vitrim: error: ") and len(err[-1]) <= 300
    return err[-1]


@pytest.mark.parametrize("file, begins", [("v.png", b"\x89PNG"), ("v.svg", b"<?xml"), ("v.html", b"<!DOCTYPE html>")])
def test_a_figure_or_a_page(capsys, file, begins):
    assert visualize("photos/a.png", "photos/b.png", *MODEL, *BOTH, "--out", file, "--json", "v.json") == 0
    out = capsys.readouterr().out
    assert Path(file).read_bytes().startswith(begins)
    assert f"the {'page' if file.endswith('html') else 'picture'} is {Path(file).resolve()}" in out
    assert out.splitlines()[0].split() == ["photograph", "model", "MACs", "answer"]
    found = figures()
    assert [image["file"] for image in found["images"]] == ["photos/a.png", "photos/b.png"]
    for image in found["images"]:
        assert [row["method"] for row in image["rows"]] == ["evit", "tome"]
        for row in image["rows"]:
            assert row["share"] <= 0.8 and 0 < row["reduced"]["probability"] <= 1
            assert len(row["blocks"]) == 6 and row["blocks"][0]["tokens"] <= 16
            assert f"{row['reduced']['label']} {100 * row['reduced']['probability']:.0f} %" in out
        assert len({row["dense"]["probability"] for row in image["rows"]}) == 1


def test_the_counts_are_those_of_profile():
    assert visualize("photos/a.png", *MODEL, *BOTH, "--out", "v.html", "--json", "v.json") == 0
    model = timm.create_model("test_vit", img_size=64, num_classes=3)
    for row in figures()["images"][0]["rows"]:
        fast = vitrim.reduce(model, row["method"], macs=0.8)
        assert [block["tokens"] for block in row["blocks"]] == vitrim.profile(fast).tokens
        assert row["share"] == pytest.approx(vitrim.profile(fast).share)


def test_files_folders_and_patterns(capsys):
    assert visualize("photos", *MODEL, *EVIT, "--out", "1.html", "--json", "v.json") == 0
    every = [image["file"] for image in figures()["images"]]
    assert every == ["photos/a.png", "photos/b.png", "photos/more/c.jpg"]
    given = ["photos/b.png", "photos/**/*.jpg", "photos/b.png"]
    assert visualize(*given, *MODEL, *EVIT, "--out", "2.html", "--json", "v.json") == 0
    assert [image["file"] for image in figures()["images"]] == ["photos/b.png", "photos/more/c.jpg"]
    capsys.readouterr()
    assert visualize("photos", "--limit", "1", *MODEL, *EVIT, "--out", "3.html") == 0
    said = "2 more photographs are left out: --limit 3 shows all"
    assert said in capsys.readouterr().out and said in Path("3.html").read_text()


def test_without_a_method_or_a_file_to_write():
    assert visualize("photos/a.png", *MODEL, "--device", "cpu", "--json", "v.json") == 0
    assert visualize("photos/a.png", *MODEL, "--device", "cpu") == 0
    assert sorted(str(file) for file in Path().glob("patches*")) == ["patches-2.png", "patches.png"]
    (row,) = figures()["images"][0]["rows"]
    assert (row["method"], row["options"]["keep"]) == ("evit", 0.7)


def test_a_saved_folder_and_several_rates():
    model = timm.create_model("test_vit", img_size=64, num_classes=3)
    vitrim.reduce(model, "topk", keep=0.5).save("saved")
    saved = ["--checkpoint", "saved", "--device", "cpu"]
    assert visualize("photos/a.png", *saved, "--out", "1.html", "--json", "v.json") == 0
    assert [row["method"] for row in figures()["images"][0]["rows"]] == ["topk"]
    assert visualize("photos/a.png", *MODEL, *EVIT, "--keep", "0.8", "0.5", "--out", "2.html", "--json", "v.json") == 0
    assert [row["options"]["keep"] for row in figures()["images"][0]["rows"]] == [0.8, 0.5]


def test_a_run_is_repeated_from_its_report():
    assert (
        visualize("photos/a.png", *MODEL, "--method", "evit", "--method", "tome", "--out", "1.html", "--json", "v.json")
        == 0
    )
    first = figures()
    assert first["given"]["images"] == ["photos/a.png"] and first["given"]["method"] == ["evit", "tome"]
    assert visualize("--config", "v.json", "--out", "2.html", "--json", "w.json") == 0
    assert json.loads(Path("w.json").read_text())["images"] == first["images"]


# -- pictures of all kinds


def test_a_picture_is_turned_upright():
    upright = picture(1)
    exif = Image.Exif()
    exif[274] = 6
    upright.rotate(90, expand=True).save("turned.png", exif=exif)
    upright.save("upright.png")
    assert visualize("turned.png", "upright.png", *MODEL, *EVIT, "--out", "v.html", "--json", "v.json") == 0
    turned, straight = figures()["images"]
    assert turned["rows"] == straight["rows"]


@pytest.mark.parametrize(
    "mode, file", [("L", "x.png"), ("CMYK", "x.jpg"), ("I;16", "x.png"), ("P", "x.gif"), ("RGBA", "x.png")]
)
def test_every_mode_is_shown(mode, file):
    if mode == "I;16":
        Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (70, 90), dtype=np.uint16)).save(file)
    else:
        picture(2, mode).save(file)
    assert visualize(file, *MODEL, *EVIT, "--out", "v.png") == 0


@pytest.mark.parametrize("ending", ["png", "html"])
def test_names_of_every_kind(capsys, ending):
    odd = ["ü ñ 猫.png", "$x_{$.png", "<b>&amp;.png"]
    odd += [os.fsdecode(b"\xff\xfe.png")]
    for name in odd:
        picture(3).save(name)
    assert visualize(*odd, *MODEL, *EVIT, "--out", f"v.{ending}", "--json", "v.json") == 0
    assert len(figures()["images"]) == 4 and "\n" not in capsys.readouterr().err.strip()


def test_unreadable_files_are_told_and_left_out(capsys, monkeypatch):
    Path("bad.jpg").write_bytes(b"no picture")
    Path("empty.png").touch()
    picture(size=(200, 200)).save("bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15000)  # Pillow refuses twice as many
    given = ["bad.jpg", "photos/a.png", "empty.png", "bomb.png"]
    assert visualize(*given, *MODEL, *EVIT, "--out", "v.html", "--json", "v.json") == 0
    err, found = capsys.readouterr().err.splitlines(), figures()
    assert [line.split()[1] for line in err] == ["bad.jpg", "empty.png", "bomb.png"]
    assert all("cannot be read" in line and line.endswith("it is left out") for line in err)
    assert [image["file"] for image in found["images"]] == ["photos/a.png"] and len(found["skipped"]) == 3


def test_nothing_is_written_where_no_file_can_be_read(capsys):
    Path("bad.jpg").write_bytes(b"no picture")
    Path("worse.jpg").touch()
    said = "bad.jpg cannot be read: not an image, or damaged from its first bytes"
    assert said in refused(capsys, "bad.jpg", *MODEL, *EVIT, "--out", "v.png")
    assert "none of the 2 files can be read" in refused(capsys, "bad.jpg", "worse.jpg", *MODEL, *EVIT, "--out", "v.png")


# -- what is refused at once


REFUSED = {
    "nothing to look at": ([], "vitrim visualize needs IMAGES: photographs, folders of them"),
    "no such file": (["cat.jpg"], "there is no file cat.jpg"),
    "a pattern of nothing": (["*.tiff", *MODEL], "no file matches *.tiff"),
    "an empty folder": (["hollow", *MODEL], "hollow holds no image"),
    "another ending": (["photos", "--out", "v.gif"], "v.gif must end in .png or .svg or .pdf or .html or .htm"),
    "a file that is there": (["photos", "--out", "there.png"], "there.png is there already"),
    "no folder": (["photos", "--out", "no/v.png"], "there is no folder no"),
    "no limit": (["photos", "--limit", "0"], "--limit 0: give a whole number from 1"),
    "blocks of a page": (["photos", "--blocks", "3", "--out", "v.html"], "--blocks is for figures"),
    "a block beyond": (["photos", *MODEL, *EVIT, "--blocks", "6"], "--blocks 6: the models have blocks 0 to 5"),
    "a page and its report in one file": (
        ["photos", "--out", "v.html", "--json", "./v.html"],
        "--out and --json both name v.html",
    ),
    "too many rows": (
        ["many", "--limit", "101", *MODEL, *EVIT],
        "a figure of 101 rows, photographs times models, is too large",
    ),
    "no threads": (["photos", "--threads", "0"], "--threads 0: give a whole number from 1"),
    "an unknown method": (["photos", "--method", "evti"], "method 'evti' is not known: did you mean evit?"),
    "a file after methods": (["--method", "evit", "photos/a.png"], "'photos/a.png' stands behind --method: give it"),
    "a stranger to the method": (["photos", *MODEL, *EVIT, "--r", "3"], "--r 3 is no option of evit: give --keep, or"),
}


@pytest.mark.parametrize("arguments, said", REFUSED.values(), ids=REFUSED.keys())
def test_refusals(capsys, arguments, said):
    Path("hollow").mkdir()
    Path("many").mkdir()
    for number in range(101):
        Path(f"many/{number}.png").touch()
    Path("there.png").touch()
    assert said in refused(capsys, *arguments)


def test_a_file_that_is_there_is_replaced_when_asked_to():
    Path("v.png").write_text("old")
    assert visualize("photos/a.png", *MODEL, *EVIT, "--out", "v.png", "--overwrite") == 0
    assert Path("v.png").read_bytes()[:4] == b"\x89PNG"


# -- words without an option


WORDS = {
    "before": ["a", "b", "--model", "m", "--overwrite"],
    "behind a value": ["a", "--model", "m", "b", "--overwrite"],
    "behind a flag": ["a", "--model", "m", "--overwrite", "b"],
    "by name": ["--images", "a", "b", "--model", "m", "--overwrite"],
}


@pytest.mark.parametrize("arguments", WORDS.values(), ids=WORDS.keys())
def test_pictures_may_stand_anywhere_but_among_several_values(arguments):
    config = parse(COMMANDS["visualize"], arguments)
    assert config.look.images == ("a", "b") and config.model.model == "m" and config.look.overwrite


def test_methods_may_be_named_one_by_one():
    config = parse(COMMANDS["visualize"], ["a", "--method", "evit", "--keep", "0.5", "--method", "tome", "topk"])
    assert config.method.method == ("evit", "tome", "topk") and config.given["method"] == ["evit", "tome", "topk"]
    with pytest.raises(ValueError, match="--keep is given twice"):
        parse(COMMANDS["visualize"], ["a", "--method", "evit", "--keep", "0.5", "--keep", "0.7"])
    with pytest.raises(ValueError, match="--method is given twice"):
        parse(COMMANDS["compare"], ["--data", "x", "--method", "evit", "--method", "tome"])


def test_the_help_says_where_pictures_go(capsys):
    assert visualize("--help") == 0
    assert re.match(r"usage: vitrim visualize IMAGES \.\.\. \[OPTIONS\]\n", capsys.readouterr().out)
