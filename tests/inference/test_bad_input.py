"""Pictures, names, places and words that commands do not expect: a row, an entry of the list, or one clear line."""

from __future__ import annotations

import csv
import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import fresh
import numpy as np
import pytest
from PIL import Image
from small_runs import content, pictures, run_on, saved_model

from vitrim import cli
from vitrim.common.text import name_of, portable, visible
from vitrim.inference.processes import Processes

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
PLAIN = Image.fromarray(PIXELS)
GRAY = PLAIN.convert("L")
HIGH = Image.fromarray(np.asarray(GRAY).astype(np.uint16) * 257)
TURNED = Image.Exif()
TURNED[274] = 6


def bomb(path: Path) -> None:
    """A PNG file of a few bytes that says it is 50,000 pixels wide and high."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


def animated(path: Path) -> None:
    PLAIN.save(path, save_all=True, append_images=[Image.new("RGB", PLAIN.size, c) for c in ("red", "blue")])


# What is written, and the picture that it is read as.
READ: dict[str, tuple[Callable[[Path], object], Image.Image]] = {
    "animated.png": (animated, PLAIN),
    "gray.png": (GRAY.save, GRAY.convert("RGB")),
    "cmyk.tif": (PLAIN.convert("CMYK").save, PLAIN.convert("CMYK").convert("RGB")),
    "sixteen.png": (HIGH.save, GRAY.convert("RGB")),
    "rotated.png": (lambda path: PLAIN.save(path, exif=TURNED), PLAIN.transpose(Image.Transpose.ROTATE_270)),
    "clear.png": (PLAIN.convert("RGBA").save, PLAIN),
}
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "bomb.png": (bomb, "DecompressionBombError: Image size (2500000000 pixels) exceeds limit"),
    "line.png": (Image.new("RGB", (1, 2000)).save, "one side is more than 100 times the other"),
    "empty.png": (lambda path: path.write_bytes(b""), "not an image, or damaged from its first bytes"),
    "text.jpg": (lambda path: path.write_text("hello"), "not an image, or damaged from its first bytes"),
    "half.png": (lambda path: (PLAIN.save(path), path.write_bytes(path.read_bytes()[:300])), ""),
    "pipe.png": (os.mkfifo, "a pipe, socket or device and no file"),
    "lost.png": (lambda path: path.symlink_to("nowhere.png"), "No such file"),
}


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_of_every_kind(workers, tmp_path):
    """Each is read as everywhere in vitrim, or listed with the reason; none ends the run."""
    for name, (write, plain) in READ.items():
        for place in ("odd", "plain"):
            (tmp_path / place).mkdir(exist_ok=True)
        write(tmp_path / "odd" / name)
        plain.save(tmp_path / "plain" / f"{Path(name).stem}.png")
    for name, (write, _) in REFUSED.items():
        write(tmp_path / "odd" / name)
    done = run_on(tmp_path / "odd", tmp_path / "odd.jsonl", workers=workers)
    run_on(tmp_path / "plain", tmp_path / "plain.jsonl")
    assert (done.rows, done.unreadable) == (len(READ), len(REFUSED))
    found, wanted = (
        {Path(row.pop("file")).stem: row for row in map(json.loads, (tmp_path / name).read_text().splitlines())}
        for name in ("odd.jsonl", "plain.jsonl")
    )
    assert found.keys() == wanted.keys()
    for name, row in wanted.items():
        np.testing.assert_allclose(found[name]["probability"], row["probability"], atol=1e-6, err_msg=name)
    listed = map(json.loads, (tmp_path / "odd.jsonl.unreadable.jsonl").read_text().splitlines())
    reasons = {entry["file"]: entry["reason"] for entry in listed}
    assert reasons.keys() == REFUSED.keys() and all(reasons.values())
    assert all(said in reasons[name] for name, (_, said) in REFUSED.items())


NAMES = [
    "gr\u00fc\u00df, \u4f60 \U0001f600.png",
    'a "b"\n.png',
    "-x.png",
    os.fsdecode(b"caf\xe9.png"),
    r"caf\xe9.png",
    " .png",
]


def names_in(out: Path) -> list[str]:
    """The names that an output of any kind has."""
    if out.is_dir():
        parts = sorted(out.glob("part-*.json"))
        if parts:
            return [name for part in parts for name in json.loads(part.read_text(encoding="utf-8"))]
    if out.is_dir() or out.suffix == ".parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        return pq.read_table(out)["file"].to_pylist()
    with open(out, newline="", encoding="utf-8") as file:
        return [row["file"] for row in (csv.DictReader(file) if out.suffix == ".csv" else map(json.loads, file))]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "npy", "parquet"])
def test_names_of_any_bytes(name, tmp_path):
    """Every output has them, and every reader takes them; so does the list of what cannot be read."""
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    folder, out = tmp_path / "odd", tmp_path / name
    folder.mkdir()
    for each in NAMES:
        PLAIN.save(folder / each)
        (folder / f"bad {each}").write_bytes(b"")
    run_on(folder, out, part=4, **({"format": "parquet"} if name == "parquet" else {}))
    listed = out / "_unreadable.jsonl" if out.is_dir() else out.with_name(f"{name}.unreadable.jsonl")
    unreadable = [json.loads(line)["file"] for line in listed.read_text(encoding="utf-8").splitlines()]
    assert sorted(names_in(out)) == sorted(map(portable, NAMES)) and "caf\\xe9.png" in names_in(out)
    assert sorted(unreadable) == sorted(portable(f"bad {each}") for each in NAMES)


@pytest.fixture
def line(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    data = pictures(tmp_path / "data", 9)
    return [str(data), "--checkpoint", str(saved_model(tmp_path / "model")), "--workers", "0", "--device", "cpu"]


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("predict", ["--out", "data"], "data must end in .csv"),
        ("predict", ["--out", "there.csv"], "there.csv is a folder: give a file to write"),
        ("predict", ["--out", "/proc/self/a.csv"], "/proc/self/a.csv cannot be written: "),
        ("predict", ["--out", "a.csv", "--engine", "spark"], "--engine spark: choose one of local, ray"),
        ("predict", ["--out", "a.csv", "--top", "6"], "--top 6: there are 5 classes, give a number from 1 to 5"),
        ("embed", ["--out", "/proc/f"], "/proc/f cannot be written: "),
        ("predict", ["--out", "a.csv", "--class-names", "LICENSE"], "the class names LICENSE"),
        ("predict", ["--out", "a.csv", "--actors", "2"], "--actors 2 goes with --engine ray"),
        ("predict", ["--out", "a.csv", "--engine", "ray", "--actors", "0"], "--actors 0: give a whole number from 1"),
        ("embed", ["--out", "/proc/self/features"], "cannot be written: "),
        ("embed", ["--out", "data"], "data is there already and no folder of features: give another --out"),
        ("embed", ["--out", "data", "--overwrite"], "data is there already and no folder of features"),
        ("embed", ["--out", "f", "--engine", "ray", "--device", "cuda:1"], "give cpu or cuda"),
    ],
)
def test_places_and_words(command, options, said, line, capsys):
    Path("there.csv").mkdir()
    Path("LICENSE").write_text("cat,7\n")
    before = sorted(os.listdir())
    if "ray" in options:
        pytest.importorskip("ray", reason="Ray is not installed")
    assert cli.main([command, *line, *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and len(error) < 400
    assert sorted(os.listdir()) == before and len(list(Path("data").rglob("*.png"))) == 9


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("command", "out"), [("predict", "a.csv"), ("embed", "a")])
def test_where_nothing_can_be_read_the_command_says_so(command, out, count, line, capsys):
    """And what it could not read, and why, is there to be looked at."""
    Path("bad").mkdir()
    for number in range(count):
        Path("bad", f"{number}.png").write_bytes(b"no picture")
    assert cli.main([command, "bad", *line[1:], "--out", out]) == 2
    error = capsys.readouterr().err
    listed = Path("a.csv.unreadable.jsonl" if command == "predict" else "a/_unreadable.jsonl")
    assert error.count("\n") == 1 and f"{out} has no row" in error and listed.name in error
    assert len(listed.read_text().splitlines()) == count and not Path(f"{out}.parts").exists()


def test_names_of_any_bytes_are_told_apart_and_come_back():
    drawn = random.Random(0)
    parts = [
        b"\xff",
        b"\\",
        b"\\x",
        b"ff",
        b"\\xff",
        b"\\x5c",
        b"x5c",
        b"a",
        "\u4f60".encode(),
        b"\xe9",
        b"\n",
        b"\xc2\x85",
    ]
    names = {b"".join(drawn.choices(parts, k=drawn.randint(1, 6))) for _ in range(3000)}
    texts = {name: portable(os.fsdecode(name)) for name in names}
    assert len(set(texts.values())) == len(names)
    assert all(name_of(text) == name for name, text in texts.items())
    for text in texts.values():
        text.encode("utf-8")
        assert visible(visible(text)) == visible(text)
    raw = os.fsdecode(b"caf\xe9\xff.png")
    assert visible(raw) == visible(portable(raw)) == r"caf\xe9\xff.png" and visible("\x85") == r"\u0085"


def test_ray_is_started_by_one_process(line, capsys, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(Processes, "__init__", lambda self: self.__dict__.update(rank=0, world=2, _started=False))
    assert cli.main(["predict", *line, "--out", "a.csv", "--engine", "ray"]) == 2
    assert "--engine ray has processes of its own: start one" in capsys.readouterr().err
    assert not Path("a.csv.parts").exists()


@pytest.mark.parametrize(
    ("command", "out", "limit", "at"),
    [
        ("predict", "a.jsonl", 100, "asked.json"),
        ("predict", "a.jsonl", 1300, "whole.jsonl"),
        ("predict", "a.parquet", 1300, "part-00000000.parquet"),
        ("embed --dense", "a", 2000, "part-00000000.npy"),
    ],
)
def test_a_full_disk_loses_nothing(command, out, limit, at, line, tmp_path):
    """One line; what is done stays, and the same command goes on when there is room."""
    if out.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    line = [*command.split(), *line, "--part", "4", "--batch-size", "4", "--out"]
    Path("whole").mkdir()
    assert cli.main([*line, f"whole/{out}"]) == 0
    reading, writing = os.pipe()
    script = Path(__file__).with_name("full_disk.py")
    process = fresh.start(script, limit, *line, out, folder=tmp_path, error=writing)
    os.close(writing)
    with open(reading) as said:
        error = said.read()
    assert fresh.finish(process) == 2 and error.count("\n") == 1 and not Path(out).exists()
    assert f"{out} cannot be written: " in error and "File too large" in error and "the same command goes on" in error
    assert cli.main([*line, out]) == 0
    assert content(tmp_path / out) == content(tmp_path / "whole" / out)
    assert not [name for name in os.listdir() if name.startswith(("a.", ".a")) and name != out]
