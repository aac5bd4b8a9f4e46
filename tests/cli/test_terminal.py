"""What commands print in real terminals of several widths, and where there is no colour and nothing but ASCII."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fresh
import numpy as np
import pytest
import timm
import torch
from in_terminal import MARK
from PIL import Image
from safetensors.torch import save_file

from vitrim.common.tables import Column, Table, folded
from vitrim.methods import METHODS
from vitrim.training import RECIPES

SCRIPT = Path(__file__).with_name("in_terminal.py")
TERMINAL = {"TERM": "xterm-256color", "COLUMNS": None, "FORCE_COLOR": None}
WIDTHS = (60, 80, 100, 200)
MODEL = ["--model", "test_vit", "--image-size", "32", "--num-classes", "3", "--checkpoint", "small.safetensors"]
QUICK = ["--data", "data", "--rounds", "1", "--workers", "0", "--threads", "1", "--batch-size", "6", "--device", "cpu"]
RATES = ["--method", "evit", "dpcknn", "random", "--keep", "0.9", "0.5"]
COMMANDS = {
    "profile": ["profile", "--model", "deit_small_patch16_224", "--method", "tome"],
    "methods": ["methods"],
    "one method": ["methods", "bat"],
    "recipes": ["recipes"],
    "one recipe": ["recipes", "distill"],
    "evaluate": ["evaluate", *MODEL, *QUICK, "--keep", "0.5"],
    "compare": ["compare", *MODEL, *QUICK, *RATES],
    "check": ["check", *MODEL, "--method", "evit", "random", "--export", "none"],
    "print": ["print"],
}
IN_ASCII = ("profile", "evaluate", "print")
FIRST = {
    "profile": [*map(str, range(12)), "embedding", "head", "total"],
    "methods": list(METHODS),
    "one method": ["bat: ", "  --keep", "  --[no-]normalise", "runs on:"],
    "recipes": list(RECIPES),
    "one recipe": ["distill: ", "--epochs", "--batch-size"],
    "evaluate": ["top-1, %", "agreement with dense, %", "GMACs", "patch tokens left", "images/s", "promise kept"],
    "compare": ["dense", *(f"{name} keep={rate}" for name in ("evit", "dpcknn", "random") for rate in (0.9, 0.5))],
    "check": ["evit", "random", "test_vit: 12 checks passed, none failed"],
    "print": ["ReducedViT of deit_small_patch16_224", *map(str, range(12)), "embedding", "head", "total"],
}
TITLES = {
    "check": ["method", "of dense", "identity", "outputs", "macs", "batch", "weights", "saved", "onnx"],
    "profile": ["block", "tokens", "MACs", "the method's", "share", "dense tokens", "dense MACs"],
    "compare": [
        *["model", "GMACs", "share", "tokens left", "top-1", "95 %", "change", "agreement", "images/s", "speed-up"]
    ],
}


def run(folder: Path, *jobs: tuple[int, list[str]]) -> tuple[list[str], str]:
    """What each command line writes to the standard output of its terminal, and all to that of standard error."""
    (out, out_end), (err, err_end) = pty.openpty(), pty.openpty()
    variables = {**TERMINAL, "NO_COLOR": "1"}
    process = fresh.start(
        SCRIPT, *map(json.dumps, jobs), folder=folder, out=out_end, error=err_end, variables=variables
    )
    said, remarked = _read_both(out, out_end, err, err_end)
    assert fresh.finish(process) == 0, remarked
    return said.split(MARK)[:-1], remarked


def run_in_ascii(folder: Path, *jobs: tuple[int, list[str]]) -> tuple[list[str], str]:
    """The same in the C locale, which a process takes up where it starts."""
    (out, out_end), (err, err_end) = pty.openpty(), pty.openpty()
    known = {**os.environ, **TERMINAL, "NO_COLOR": "1", "LC_ALL": "C", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(json.dumps, jobs)],
        **{"stdin": subprocess.DEVNULL, "stdout": out_end, "stderr": err_end, "cwd": folder},
        env={name: value for name, value in known.items() if value is not None},
    )
    said, remarked = _read_both(out, out_end, err, err_end)
    assert process.wait(timeout=120) == 0, remarked
    return said.split(MARK)[:-1], remarked


def _read_both(out: int, out_end: int, err: int, err_end: int) -> tuple[str, str]:
    os.close(out_end)
    os.close(err_end)
    with ThreadPoolExecutor() as readers:
        said, remarked = readers.map(_read, (out, err))
    return said, remarked


def _read(terminal: int) -> str:
    """All that is written to a terminal, until its last writer has gone, which Linux tells as an error."""
    found = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            chunk = b""
        if not chunk:
            os.close(terminal)
            return found.decode().replace("\r\n", "\n")
        found += chunk


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights, and two pictures of each of three classes, one with a name that is not ASCII."""
    root, noise = tmp_path_factory.mktemp("terminal"), np.random.default_rng(0)
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32, num_classes=3).state_dict(), root / "small.safetensors")
    for name in ("apple", "b\u00e4r", "cat"):
        (root / "data" / name).mkdir(parents=True)
        for number in range(2):
            pixels = noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "data" / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def screens(folder) -> dict[tuple[str, int], str]:
    """What each command shows at each width; at width 0 with --wide in the narrowest terminal."""
    jobs = {(name, width): (width, command) for name, command in COMMANDS.items() for width in WIDTHS}
    wide = {(name, 0): (WIDTHS[0], [*COMMANDS[name], "--wide"]) for name in COMMANDS if name != "print"}
    said, _ = run(folder, *(jobs | wide).values())
    return dict(zip(jobs | wide, said, strict=True))


@pytest.fixture(scope="module")
def in_ascii(folder) -> tuple[list[str], str]:
    return run_in_ascii(folder, *((80, COMMANDS[name]) for name in IN_ASCII))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_all_fits_and_the_first_column_is_whole(screens, name, width):
    lines = screens[name, width].split("\n")
    assert max(map(len, lines)) <= width
    assert not any(cut in line for line in lines for cut in ("...", "\u2026"))
    assert all(any(line.startswith(first) for line in lines) for first in FIRST[name])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TITLES)
def test_a_line_says_which_columns_are_dropped_and_how_to_see_them(screens, name, width):
    text = " ".join(screens[name, width].split())
    gone = text.partition("not shown here: ")[2].partition(" (")[0].split(", ") if "not shown here" in text else []
    head = _head(screens[name, width])
    assert set(gone) <= set(TITLES[name]) and all(set(t.split()) <= head for t in TITLES[name] if t not in gone)
    assert ("(--wide shows" in text) == bool(gone) and (width < 200 or not gone)
    assert width > 60 or gone, "a terminal this narrow has no room for all"


def _head(screen: str) -> set[str]:
    """The words of the title row, which may be folded."""
    above = screen.partition("\n---")[0]
    return set(above.rpartition("\n\n")[2].split())


@pytest.mark.parametrize("width", WIDTHS)
def test_check_explains_the_columns_that_it_shows_and_folds_no_title(screens, width):
    _, table, *others = screens["check", width].split("\n\n")
    told = next(part for part in others if part.startswith(("of dense", "identity")))
    titles = [line[:10].rstrip() for line in told.split("\n") if line[:1] != " "]
    assert table.split("\n")[0].split() == ["method", *" ".join(titles).split()]
    assert width < 80 or "of dense" in titles


@pytest.mark.parametrize("width", WIDTHS)
def test_the_list_of_methods_says_where_their_options_are(screens, width):
    said = " ".join(screens["methods", width].split())
    assert "vitrim methods NAME shows one method's options, models and cost." in said


@pytest.mark.parametrize("name", TITLES)
def test_wide_shows_every_column(screens, name):
    assert "not shown here" not in screens[name, 0]
    assert {word for title in TITLES[name] for word in title.split()} <= _head(screens[name, 0])


def test_python_shows_the_table_of_the_command(screens):
    shown = screens["print", 100]
    table = shown[shown.index("block ") :].partition("\n\n")[0]
    assert shown.count(table) == 2, "summary() and print(profile) show the same"
    assert "summary(wide=True) shows" in screens["print", 60]
    about = shown.partition("MACs of one image")[0].splitlines()
    assert about[1:3] == ["  evit(keep=0.7) in blocks 3, 6, 9: 139, 99, 71 left", "  3.030 of 4.599 GMACs (65.9 %)"]
    assert len(about) <= 6


def test_methods_says_the_exceptions_in_words(screens):
    text = " ".join(screens["methods", 80].split())
    assert "evit, bat, diffrate, prunemerge, topk: with --score tokens" in text and "Swin: " in text
    assert text.count("removes tokens for good") == 1
    assert "--keep 0.7" not in text and "--keep 0.7" in screens["methods", 200]
    assert "--keep 0.7 --at (by model) --fuse" in " ".join(screens["methods", 0].split())


def test_nothing_but_ascii_in_the_c_locale(in_ascii):
    said, remarked = in_ascii
    assert all(text.isascii() for text in [*said, remarked])
    assert "b\\xe4r" in said[IN_ASCII.index("evaluate")]


def test_no_colour_where_none_is_wanted(in_ascii, screens):
    said, remarked = in_ascii
    assert not any("\x1b" in text for text in [*said, *screens.values()])
    assert "evaluating" in remarked and "\x1b[3" not in remarked and "\x1b[1m" not in remarked


# -- the table by itself


def test_columns_go_by_priority_and_titles_fold_first():
    table = Table([Column("a", text=True), Column("two words", drop=2), Column("b", drop=1)], [["name", "1", "2222"]])
    assert table.fit(None).splitlines()[0] == "a     two words     b"
    assert table.fit(17).splitlines()[:2] == ["        two", "a     words     b"]
    assert "not shown here: two words (--wide shows it)" in " ".join(table.fit(12).split())
    assert "two words, b (--wide shows them)" in " ".join(table.fit(5).split())
    assert table.fit(3).splitlines()[2] == "name", "the first column is never shortened"


def test_text_folds_between_words_and_the_first_column_last():
    columns = [Column("method", text=True), Column("what", text=True), Column("n")]
    table = Table(columns, [["evit keep=0.7", "keep the attentive tokens", "12"]])
    assert table.fit(34).splitlines()[2:] == [
        "evit keep=0.7  keep the         12",
        "               attentive",
        "               tokens",
    ]
    assert table.fit(30).splitlines()[2:4] == ["evit          keep the      12", "keep=0.7      attentive"]


def test_paths_are_whole_however_narrow_the_terminal():
    assert folded("the page is /tmp/a-long/name.html", 14) == ["the page is", "/tmp/a-long/name.html"]
