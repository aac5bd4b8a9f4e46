"""Progress: on a terminal after two seconds, with the time left; elsewhere a line a minute."""

from __future__ import annotations

import io
import os
import pty
import sys
import time
from functools import partial
from pathlib import Path

import fresh
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from vitrim import cli
from vitrim.cli.shared import measure
from vitrim.cli.shared.table import Column, Printer
from vitrim.common import progress as _progress
from vitrim.common.progress import counted_off, hidden, progress, tell

MODEL = ["--model", "test_vit", "--image-size", "32", "--num-classes", "3", "--checkpoint", "small.safetensors"]
QUICK = ["--workers", "0", "--threads", "1", "--device", "cpu", "--keep", "0.5"]
EVALUATE = ["evaluate", *MODEL, *QUICK, "--data", "data", "--batch-size", "3", "--rounds", "9"]
FINETUNE = ["finetune", *MODEL, *QUICK, "--data", "data", "--val", "data", "--out", "out", "--short"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights, and twelve pictures without labels."""
    root, noise = tmp_path_factory.mktemp("slow"), np.random.default_rng(0)
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32, num_classes=3).state_dict(), root / "small.safetensors")
    (root / "data").mkdir()
    for number in range(12):
        Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(root / "data" / f"{number}.png")
    return root


def remarks(folder: Path, patience: float, *arguments: str) -> str:
    """All that a command line writes to standard error, which is a terminal."""
    reader, writer = pty.openpty()
    script, colours = Path(__file__).with_name("slowly.py"), {"TERM": "xterm-256color"}
    process = fresh.start(script, patience, *arguments, folder=folder, error=writer, variables=colours)
    os.close(writer)
    found = b""
    try:
        while chunk := os.read(reader, 65536):
            found += chunk
    except OSError:  # so Linux tells that a terminal's last writer has gone
        pass
    os.close(reader)
    assert fresh.finish(process) == 0, found.decode()
    return found.decode()


def test_judging_and_timing_show_how_far_they_are_and_the_time_left(folder):
    said = remarks(folder, 0.1, *EVALUATE)
    assert "evaluating" in said and "timing" in said and "/12" in said and "/18" in said
    assert " left" in said and "evit keep=0.5" in said  # with running figures


@pytest.mark.parametrize("json", [False, True])
def test_nothing_is_shown_in_a_pipe_or_beside_json(folder, monkeypatch, capsys, json):
    """capsys stands for the pipe; beside JSON there may be a terminal."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(_progress, "PATIENCE", 0.0)
    monkeypatch.setattr(measure, "throughput_in_turn", partial(measure.throughput_in_turn, seconds=0.001))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: json, raising=False)
    assert cli.main([*EVALUATE, *(["--json", "-"] if json else [])]) == 0
    said = capsys.readouterr()
    assert "agreement" in said.out + said.err and "evaluating" not in said.err and "\x1b" not in said.err


def test_where_no_terminal_is_a_line_a_minute_says_how_far_it_is(monkeypatch, capsys):
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr(_progress, "monotonic", lambda: next(clock))
    with progress("images", 1_200) as report:
        for done in range(300, 1_300, 100):  # each 25 seconds after the one before
            report(done)
    with progress("unknown") as report:
        for done in range(1, 4):
            report(done)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "vitrim: images: 500 of 1,200, 2 minutes left"
    assert said[1:] == [
        "vitrim: images: 800 of 1,200, 1 minute left",
        "vitrim: images: 1,100 of 1,200, 1 minute left",
        "vitrim: unknown: 3",
    ]
    with hidden(), progress("images", 1_200) as report:
        monkeypatch.setattr(_progress, "INTERVAL", 0.0)
        report(600)
    assert capsys.readouterr().err == ""


def test_nothing_is_shown_of_what_is_quick(watched, monkeypatch, capsys):
    monkeypatch.setattr(_progress, "PATIENCE", 100.0)
    assert list(counted_off("abc", "quick")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_all_parts_of_a_training_run_show_progress(folder):
    said = remarks(folder, 0, *FINETUNE, "--epochs", "2", "--batch-size", "4")
    assert "preparing" in said and "training" in said and "judging" in said and "/6" in said
    assert "agreement" in said and " left" in said


def test_methods_show_progress(folder):
    assert "trying methods" in remarks(folder, 0, "methods")


def test_other_processes_of_a_run_show_nothing(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert _progress._on_terminal()
    monkeypatch.setenv("RANK", "1")
    assert not _progress._on_terminal()


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(_progress, "_on_terminal", lambda: True)


def test_displays_within_displays_are_lines_of_one(watched, capsys):
    with progress("outside", 2) as report:
        assert list(counted_off("abc", "inside")) == ["a", "b", "c"]
        report(1)
        tell("a line that stays")
        assert len(_progress._shown) == 1 and len(_progress._shown[0].tasks) == 1
    assert _progress._shown == [] and "a line that stays" in capsys.readouterr().err


def test_no_bar_stands_where_a_table_is_printed(watched, monkeypatch):
    """A row of `vitrim benchmark` was printed behind the bar, which then stayed in the terminal."""
    monkeypatch.setattr(_progress, "PATIENCE", 0.0)
    shown = []

    class Watching(io.StringIO):
        def write(self, text: str) -> int:
            shown.append(_progress._shown[-1].live.is_started)
            return len(text)

    with progress("outside", 2):
        until = time.monotonic() + 10
        while not _progress._shown[-1].live.is_started and time.monotonic() < until:
            time.sleep(0.01)
        assert _progress._shown[-1].live.is_started
        monkeypatch.setattr(sys, "stdout", Watching())
        printer = Printer(None)
        printer.line("a line")
        printer.table([Column("model", text=True)], [["dense"]])
        assert _progress._shown[-1].live.is_started  # and comes back
    assert shown and not any(shown)


def test_what_breaks_leaves_no_display_behind(watched, monkeypatch):
    monkeypatch.setattr(_progress, "PATIENCE", 0.0)
    with pytest.raises(ValueError, match="broken"), progress("breaking"):
        raise ValueError("broken")
    assert _progress._shown == []


def test_hidden_is_hidden(watched, capsys):
    with hidden(), progress("outside", 2) as report:
        report(1, ["note"])
        tell("nothing")
        with hidden(False):
            assert list(counted_off([], "inside")) == []
    assert capsys.readouterr().err == ""


def test_notes_are_cut_at_words_that_fit():
    assert _progress._fitting(["dense 1", "evit 2", "tome 3"], 15) == "dense 1  evit 2"
    assert _progress._fitting(["dense 1"], 3) == "" == _progress._fitting([], 10)
