"""`vitrim predict` and `vitrim embed` killed at random moments, and gone on with: is the output the same?

    python benchmarks/kill_and_resume.py --kills 20

Each command runs over 200 small pictures, a few of which cannot be read, once to its end, and once with SIGKILL at that
many moments, drawn evenly over the time that it took; after each kill the same command goes on. All files of the two
outputs are compared byte for byte, and nothing may be left beside them. Prints a line for each.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

import vitrim

OUTPUTS = {"predict": ("out.csv", "out.jsonl", "out.parquet"), "embed": ("features",)}
COUNT, BAD = 200, (0, 17, 18, 199)


def prepared(folder: Path) -> None:
    """Pictures and a saved model."""
    noise = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / "photos" / f"{number % 7}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
        if number in BAD:
            path.write_bytes(b"no picture")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4, num_classes=10).eval()
    vitrim.reduce(model, "evit", keep=0.7).save(folder / "model")


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def started(command: str, out: str, folder: Path, root: Path) -> subprocess.Popen:
    """The command at work in a folder, quietly."""
    line = [sys.executable, "-m", "vitrim", command, str(root / "photos"), "--checkpoint", str(root / "model")]
    line += ["--out", out, "--part", "8", "--batch-size", "4", "--workers", "1", "--device", "cpu", "--threads", "1"]
    return subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed(command: str, out: str, kills: int, root: Path) -> tuple[int, bool]:
    """How many kills found it at work, and whether the output is that of a run that was never killed."""
    whole, broken = root / f"whole-{out}", root / f"killed-{out}"
    whole.mkdir(), broken.mkdir()
    start = time.monotonic()
    assert started(command, out, whole, root).wait() == 0
    seconds, draw, hits = time.monotonic() - start, random.Random(out), 0
    while not (broken / out).exists() or hits < kills:
        process = started(command, out, broken, root)
        try:
            process.wait(draw.uniform(0.3, 1.0) * seconds if hits < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            hits += 1
        if (broken / out).exists() and hits < kills:  # it came to its end: once more from the start
            assert content(broken) == content(whole)
            for path in sorted(broken.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
    return hits, content(broken) == content(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--outputs", nargs="+", default=[out for outs in OUTPUTS.values() for out in outs])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        prepared(Path(place))
        for command, outs in OUTPUTS.items():
            for out in (each for each in outs if each in options.outputs):
                hits, same = killed(command, out, options.kills, Path(place))
                print(f"{command} --out {out}: killed {hits} times, the output is {'the same' if same else 'OTHER'}")
                assert same


if __name__ == "__main__":
    main()
