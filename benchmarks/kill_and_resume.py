"""`vitrim predict`, `vitrim embed` and `--engine ray` killed at random moments, and gone on with: is the output the
same?

    python benchmarks/kill_and_resume.py --kills 20 --json benchmarks/results/kill_and_resume.json

Each command runs over 1,200 small pictures, a few of which cannot be read, once to its end without Ray, and once with
SIGKILL of its first process at that many moments: four of five drawn evenly over the time from the first part that it
writes to its end, the others over as long a time from its start; after each kill the same command goes on. All files of
the two outputs are compared byte for byte, nothing may be left beside them, and all processes that a killed one had
started must have gone after three minutes. Prints a line for each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

import vitrim
from vitrim.evaluate import environment

COUNT, BAD = 1200, (0, 17, 18, 1199)
PATIENCE = 180.0  # seconds
MARK = "VITRIM_KILLED_RUN"


@dataclass(frozen=True)
class Case:
    """A command, its output, and what it is told besides."""

    command: str
    out: str
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.command, "--out", self.out, *self.more))


RAY = ("--engine", "ray", "--actors", "2")
CASES = (
    Case("predict", "out.csv"),
    Case("predict", "out.jsonl"),
    Case("predict", "out.parquet"),
    Case("embed", "features"),
    Case("predict", "out.csv", RAY),
    Case("embed", "features", ("--format", "parquet", *RAY)),
)


def prepared(folder: Path) -> None:
    """Pictures and a saved model."""
    noise = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / "photos" / f"{number % 7}" / f"{number:04d}.png"
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


def started(case: Case, folder: Path, root: Path, mark: str) -> subprocess.Popen:
    """The command at work in a folder, quietly."""
    line = [sys.executable, "-m", "vitrim", case.command, str(root / "photos"), "--checkpoint", str(root / "model")]
    line += ["--out", case.out, "--part", "8", "--batch-size", "4", "--workers", "1", "--device", "cpu"]
    line += ["--threads", "1", *case.more]
    variables = {**os.environ, MARK: mark, "RAY_worker_niceness": "0"}  # beside other programs they would starve
    return subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=variables)


def alive(mark: str) -> list[int]:
    """The processes that a command, or one that it has started, has started."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def named(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:80]
    return ""


def seconds_until_gone(mark: str) -> float:
    """Until none of them is left."""
    start = time.monotonic()
    while left := alive(mark):
        assert time.monotonic() < start + PATIENCE, f"processes are left: {[*map(named, left)]}"
        time.sleep(0.1)
    return time.monotonic() - start


def tried(case: Case, kills: int, root: Path) -> dict[str, object]:
    """How many kills came after it had written a part, and whether the output is that of a run without kills."""
    whole, broken = (root / f"{word}-{case.command}-{len(case.more)}-{case.out}" for word in ("whole", "killed"))
    whole.mkdir(), broken.mkdir()
    calm = Case(case.command, case.out, tuple(word for word in case.more if word not in RAY))
    assert started(calm, whole, root, "calm").wait() == 0
    process = started(case, broken, root, "first")
    writes(process, broken / case.out, 0)
    start = time.monotonic()
    assert process.wait() == 0
    seconds, draw, hits, lingered, within = time.monotonic() - start, random.Random(str(case)), 0, 0.0, 0
    assert content(broken) == content(whole)
    emptied(broken)
    while not (broken / case.out).exists() or hits < kills:
        mark = secrets.token_hex(8)
        before = parts(broken / case.out)
        process = started(case, broken, root, mark)
        if draw.random() < 0.8:
            writes(process, broken / case.out, before)
        try:
            process.wait(draw.uniform(0, seconds) if hits < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            hits += 1
            within += parts(broken / case.out) > before
        lingered = max(lingered, seconds_until_gone(mark))
        if (broken / case.out).exists() and hits < kills:  # it came to its end: once more from the start
            assert content(broken) == content(whole)
            emptied(broken)
    same = content(broken) == content(whole)
    return {"case": str(case), "kills": hits, "with_parts": within, "same": same, "gone_after_s": lingered}


def parts(out: Path) -> int:
    """How many of them are on the disk."""
    return sum(1 for _ in out.with_name(f"{out.name}.parts").glob("part-*"))


def writes(process: subprocess.Popen, out: Path, before: int) -> None:
    """Until there are more parts than before, or it has ended."""
    while process.poll() is None and parts(out) <= before:
        time.sleep(0.01)


def emptied(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--cases", nargs="+", type=int, default=list(range(len(CASES))), help="by number, from 0")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows, chosen = [], [CASES[number] for number in options.cases]
    with tempfile.TemporaryDirectory() as place:
        prepared(Path(place))
        for case in chosen:
            rows.append(tried(case, options.kills, Path(place)))
            print(
                "{case}: killed {kills} times, {with_parts} after it had written; the output is the same: {same}; its "
                "processes were gone after {gone_after_s:.1f} s".format(**rows[-1]),
                flush=True,
            )
            assert rows[-1]["same"]
    if options.json is not None:
        options.json.write_text(json.dumps({**environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
