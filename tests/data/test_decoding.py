"""Photographs become the same 8-bit pictures whatever file they come in, upright, and within bounded memory."""

from __future__ import annotations

import io
import os
import socket
import struct
import tarfile

import numpy as np
import pytest
import torch
from made_pictures import fill, small_vit
from PIL import Image

from vitrim.data import Unreadable, open_dataset, open_loader
from vitrim.data.decoding import LONGEST, decode
from vitrim.data.unlabelled import unlabelled


def gray(size=(24, 36)) -> np.ndarray:
    """A gray picture that holds 0, 255 and much between."""
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    pixels[0, :2] = 0, 255
    return pixels


def deep(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.uint16) * 257


def twelve_bits(pixels: np.ndarray) -> bytes:
    """A TIFF of 12 bits a pixel, two pixels in three bytes, written out by hand: Pillow reads these and writes none."""
    first, second = (pixels.astype(np.uint16) << 4 | pixels >> 4).reshape(-1, 2).T
    data = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()
    height, width = pixels.shape
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    folder = struct.pack("<H", len(tags)) + entries + b"\0" * 4
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + folder


DEEP = {
    "16.png": lambda path: Image.fromarray(deep(gray())).save(path),
    "16.tiff": lambda path: Image.fromarray(deep(gray())).save(path),
    "16_big_endian.tiff": lambda path: Image.frombytes(
        "I;16B", gray().shape[::-1], deep(gray()).astype(">u2").tobytes()
    ).save(path),
    "16.pgm": lambda path: path.write_bytes(b"P5 36 24 65535\n" + deep(gray()).astype(">u2").tobytes()),
    "32_whole.tiff": lambda path: Image.fromarray(deep(gray()).astype(np.int32)).save(path),
    "8_in_32.tiff": lambda path: Image.fromarray(gray().astype(np.int32)).save(path),
    "float_to_1.tiff": lambda path: Image.fromarray(gray().astype(np.float32) / 255).save(path),
    "float_to_255.tiff": lambda path: Image.fromarray(gray().astype(np.float32)).save(path),
    "float_to_65535.tiff": lambda path: Image.fromarray(deep(gray()).astype(np.float32)).save(path),
}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", DEEP)
def test_deeper_pixels_are_the_picture_in_eight_bits(tmp_path, name, mode):
    DEEP[name](tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.mode != "L", "the file is not what the test is about"
    expected = Image.fromarray(gray()).convert(mode)
    assert np.array_equal(np.asarray(decode(str(tmp_path / name), mode)), np.asarray(expected))


def test_pixels_that_fill_only_the_upper_half_come_out_as_well(tmp_path):
    """Some programs write 8 bits into 16 by a shift, not by a factor."""
    Image.fromarray(gray().astype(np.uint16) << 8).save(tmp_path / "x.png")
    assert np.array_equal(np.asarray(decode(str(tmp_path / "x.png"), "L")), gray())


def test_twelve_bits_and_white_as_zero_are_read_from_the_tags(tmp_path):
    (tmp_path / "12.tiff").write_bytes(twelve_bits(gray()))
    Image.fromarray(65535 - deep(gray())).save(tmp_path / "inverted.tiff", tiffinfo={262: 0})
    for name, (tag, value) in {"12.tiff": (258, (12,)), "inverted.tiff": (262, 0)}.items():
        with Image.open(tmp_path / name) as image:
            assert image.mode == "I;16" and image.tag_v2[tag] == value, "the file is not what the test is about"
        assert np.array_equal(np.asarray(decode(str(tmp_path / name), "L")), gray())


@pytest.mark.parametrize("low, high", [(-5.0, 200.0), (0.0, 1e6), (0.0, float("nan")), (0.0, float("inf"))])
def test_pixels_without_a_usual_range_are_unreadable_with_the_range(tmp_path, low, high):
    pixels = np.full((8, 8), low, np.float32)
    pixels[0, 0] = high
    Image.fromarray(pixels).save(tmp_path / "x.tiff")
    with pytest.raises(ValueError, match=r"pixels from .* to .*: 0 to 255 or 0 to 65535"):
        decode(str(tmp_path / "x.tiff"), "RGB")


MODES = {"1": "PNG", "L": "PNG", "P": "PNG", "LA": "PNG", "RGBA": "PNG", "RGB": "PNG", "CMYK": "TIFF", "P2": "GIF"}


@pytest.mark.parametrize("mode, kind", MODES.items())
def test_eight_bits_and_less_are_pillows_own_conversion(tmp_path, mode, kind):
    picture = Image.fromarray(np.stack([gray(), gray()[::-1], gray()[:, ::-1]], axis=2)).convert(mode.rstrip("2"))
    if mode == "P":
        picture.info["transparency"] = 3
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray(gray()))
    picture.save(tmp_path / "x", kind)
    with Image.open(tmp_path / "x") as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(decode(str(tmp_path / "x"), "RGB")), expected)


def test_transparency_leaves_the_colours_as_they_are(tmp_path):
    colours = np.stack([gray(), gray()[::-1], gray()[:, ::-1]], axis=2)
    Image.fromarray(np.dstack([colours, np.zeros_like(gray())])).save(tmp_path / "x.png")
    assert np.array_equal(np.asarray(decode(str(tmp_path / "x.png"), "RGB")), colours)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, orientation, kind):
    """Stored as a camera would that was held so; the turn back is written out in numpy."""
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:12, :20], upright[:12, 20:], upright[12:, :20] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x", kind, exif=exif, quality=100, lossless=True)
    found = np.asarray(decode(str(tmp_path / "x"), "RGB")).astype(int)
    assert found.shape == upright.shape
    assert np.abs(found - upright)[6::12, 10::20].max() < 10  # the middle of each quarter: JPEG blurs the borders


def test_damaged_metadata_does_not_lose_the_photograph(tmp_path):
    Image.fromarray(gray()).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0" + b"\xff" * 40, quality=100)
    assert decode(str(tmp_path / "x.jpg"), "L").size == (36, 24)


def test_training_and_evaluation_see_the_same_picture(tmp_path):
    root = fill(tmp_path, ["a", "b", "c"], each=1)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(gray().repeat(2, 0)).save(root / "a" / "0.png", exif=exif)
    Image.fromarray(deep(gray())).save(root / "b" / "0.png")
    judged = open_dataset(root, small_vit())
    learned = unlabelled(root, judged.config)
    assert all(torch.equal(judged[i][0], learned[i][0]) for i in range(3))
    assert judged[1][0].std() > 0.1, "not all white"


# what must not be read


@pytest.mark.parametrize("size", [(65000, 1), (1, 65000), (LONGEST * 3 + 1, 3)])
def test_lines_of_pixels_are_refused_before_they_are_decoded(tmp_path, size, monkeypatch):
    Image.new("L", size).save(tmp_path / "x.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels: one side is more than 100 times the other"):
        decode(str(tmp_path / "x.png"), "RGB")


def test_a_long_panorama_is_read(tmp_path):
    root = fill(tmp_path, ["a", "b", "c"], each=1)
    Image.new("RGB", (LONGEST * 10, 10)).save(root / "a" / "0.png")
    assert open_dataset(root, small_vit())[0][0].shape == (3, 32, 32)


def test_pipes_sockets_and_devices_are_counted_and_never_opened(tmp_path):
    root = fill(tmp_path / "data", ["a", "b", "c"], each=1)
    os.mkfifo(root / "a" / "pipe.jpg")
    (root / "b" / "device.png").symlink_to("/dev/zero")
    (root / "b" / "loop.png").symlink_to(root / "b" / "loop.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(root / "c")  # socket names are short
        server.bind("socket.png")
        os.chdir(here)
        batches = list(open_loader(open_dataset(root, small_vit()), 10, 0))
    skipped = {entry.name: entry.reason for batch in batches for entry in batch.skipped}
    assert sum(len(batch.labels) for batch in batches) == 3
    assert skipped.keys() == {"a/pipe.jpg", "b/device.png", "b/loop.png", "c/socket.png"}
    assert skipped["a/pipe.jpg"] == skipped["b/device.png"] == skipped["c/socket.png"]
    assert skipped["a/pipe.jpg"] == "a pipe, socket or device and no file" and "OSError" in skipped["b/loop.png"]
    sample = unlabelled(root, open_dataset(root, small_vit()).config)[1]
    assert isinstance(sample, Unreadable)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves shards open
def test_streams_decode_alike(tmp_path):
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    exif = Image.Exif()
    exif[274] = 6
    pictures = {"png": Image.fromarray(deep(gray())), "jpg": Image.fromarray(gray().repeat(2, 0))}
    pictures["png2"] = Image.new("L", (LONGEST * 2, 1))
    folders = tmp_path / "folders"
    with tarfile.open(tmp_path / "val-0000.tar", "w") as archive:
        for i, (name, image) in enumerate(pictures.items()):
            file = io.BytesIO()
            image.save(file, "JPEG" if name == "jpg" else "PNG", exif=exif if name == "jpg" else b"")
            (folders / "abc"[i]).mkdir(parents=True)
            (folders / "abc"[i] / f"x.{name[:3]}").write_bytes(file.getvalue())
            for ending, content in ((name[:3], file.getvalue()), ("cls", str(i).encode())):
                info = tarfile.TarInfo(f"{i}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    from_folders = open_dataset(folders, small_vit())
    streamed = list(open_dataset(tmp_path / "val-0000.tar", small_vit()))
    assert all(torch.equal(streamed[i][0], from_folders[i][0]) for i in range(2))
    assert streamed[2].reason == from_folders[2].reason and streamed[2].name.startswith("image 2 of ")
