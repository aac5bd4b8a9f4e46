"""Names that would steer the terminal are printed with every such character escaped."""

from __future__ import annotations

import pytest
from colours import NAMES, QUICK, colour, evaluated, model, refused
from PIL import Image

from vitrim import cli
from vitrim.common.text import few, first_line, shortened, visible

pytestmark = pytest.mark.usefixtures("in_own_folder")


# 40: what would steer the terminal

NASTY = "\x1b]0;owned\x07\x1b[31m \u202egpj.exe \udcff\u2028\x9b"


def test_nothing_in_a_name_steers_the_terminal():
    seen = visible(NASTY)
    assert seen == r"\x1b]0;owned\x07\x1b[31m \u202egpj.exe \xff\u2028\u009b" and seen.isprintable()
    assert visible("κ-Fußgänger, 犬, 🐕.png") == "κ-Fußgänger, 犬, 🐕.png"
    assert few([NASTY] * 4).isprintable() and first_line(ValueError(NASTY)).isprintable()
    assert shortened("x" * 200) == "x" * 39 + "..." + "x" * 38 and len(shortened(NASTY * 50)) == 80


def test_names_of_files_classes_and_paths_are_escaped_wherever_they_are_printed(capsys, colours, tmp_path):
    data = tmp_path / "data\x1b[32m"
    data.mkdir()
    for name in NAMES[1:]:
        (data / name).symlink_to(colours / "data" / name)
    (data / "c1\x1b[33m").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40), colour(0)).save(data / "c1\x1b[33m" / f"{i}.png")
    (data / "c2\x1b[33m").mkdir()
    (data / "c1\x1b[33m" / "bad\x1b[31m\n.png").write_bytes(b"no picture")
    (data / "c1\x1b[33m" / "bad.\x1b[34m").write_bytes(b"no picture")
    _, said = evaluated(capsys, *model(colours), "--data", str(data))
    lines = [
        *said.splitlines(),
        refused(capsys, "evaluate", *model(colours), *QUICK, "--data", f"{data}/nowhere").rstrip("\n"),
        refused(capsys, "evaluate", *model(colours, 7), *QUICK, "--data", str(data)).rstrip("\n"),
        refused(capsys, "evaluate", "--model", "\x1b[31mx", "--data", str(data)).rstrip("\n"),
        refused(capsys, "evaluate", "--data", str(data), "--\x1b[31m").rstrip("\n"),
        refused(capsys, "\x1b[31m").rstrip("\n"),
    ]
    assert all(line.isprintable() for line in lines)
    assert any(r"bad\x1b[31m\n.png: not an image" in line for line in lines)


def test_warnings_are_escaped(capsys):
    cli._show_warning(UserWarning(NASTY), UserWarning, "file.py", 3)
    assert capsys.readouterr().err.rstrip("\n").isprintable()
