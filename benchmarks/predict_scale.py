"""What `vitrim predict` and `vitrim embed` take: peak memory by the number of files, and time beside its two parts.

    python benchmarks/predict_scale.py --files 1000 10000 --model deit_tiny_patch16_224 --threads 2 --workers 2

Prints, for each number of files: images/s of decoding alone, of computing alone and of the command; the time of the
command over the sum of the two (cores that are busy with both: 1.1 is the bound) and over the larger of the two (cores
that are free); and the peak memory of the process and of the largest that decodes. Weights are random: no figure here
depends on them. The files are links to 64 JPEG pictures of noise made smooth, 500 x 375 pixels.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

import vitrim
from vitrim import cli
from vitrim.data import open_dataset
from vitrim.inference.reading import Batches, pieces

DISTINCT = 64


def pictures(folder: Path, count: int) -> Path:
    """So many JPEG files in a hundred folders."""
    noise = np.random.default_rng(0)
    (folder / "of").mkdir(parents=True)
    for number in range(DISTINCT):
        pixels = noise.integers(0, 256, (375, 500, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2))
        image.save(folder / "of" / f"{number}.jpg", quality=90)
    for number in range(count):
        place = folder / "photos" / f"{number % 100:02d}" / f"{number:07d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / "of" / f"{number % DISTINCT}.jpg", place)
    return folder / "photos"


def decoding(photos: Path, model: torch.nn.Module, batch: int, workers: int) -> float:
    """Seconds to decode all, with nothing beside."""
    images = open_dataset(photos, model, labels=False)
    start = time.perf_counter()
    for _ in pieces(images, Batches([0], len(images), len(images), batch), workers, torch.device("cpu")):
        pass
    return time.perf_counter() - start


def computing(model: torch.nn.Module, images: int, batch: int) -> float:
    """Seconds to compute so many, of one batch over and over."""
    predictor = vitrim.Predictor(model, device="cpu", batch_size=batch)
    one = torch.randn(batch, *predictor.ready.config["input_size"])
    predictor.of_images(one)
    start = time.perf_counter()
    for _ in range(-(-images // batch)):
        predictor.of_images(one)
    return time.perf_counter() - start


def command(line: list[str], report: str) -> None:
    """The command in this process, and what it took."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        code = cli.main([*line, "--json", report])
    assert code == 0
    told = json.loads(Path(report).read_text())
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    told |= {"peak_mb": peaks[0], "worker_mb": peaks[1], "wall": time.perf_counter() - start}
    Path(report).write_text(json.dumps(told))


def measured(name: str, photos: Path, folder: Path, options: argparse.Namespace) -> dict:
    """The figures of one command over one folder, in a process of its own."""
    out = folder / {"predict": "out.csv", "embed": "features"}[name]
    line = [name, str(photos), "--model", options.model, "--checkpoint", str(options.weights), "--device", "cpu"]
    line += ["--threads", str(options.threads), "--workers", str(options.workers), "--batch-size", str(options.batch)]
    line += ["--out", str(out), *(["--method", options.method] if options.method else [])]
    report = str(folder / f"{name}.json")
    process = multiprocessing.get_context("spawn").Process(target=command, args=(line, report))
    process.start()
    process.join()
    assert process.exitcode == 0
    return json.loads(Path(report).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--method")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--commands", nargs="+", default=["predict", "embed"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peaks: dict[str, list[float]] = {name: [] for name in options.commands}
    with tempfile.TemporaryDirectory() as place:
        model = vitrim.backbones.TIMM.create(options.model).eval()
        options.weights = Path(place, "weights.pth")
        torch.save(model.state_dict(), options.weights)
        for count in options.files:
            folder = Path(place, str(count))
            photos = pictures(folder, count)
            alone = decoding(photos, model, options.batch, options.workers), computing(model, count, options.batch)
            print(f"{count} files: decoding alone {count / alone[0]:.1f}/s, computing alone {count / alone[1]:.1f}/s")
            for name in options.commands:
                told = measured(name, photos, folder, options)
                peaks[name].append(told["peak_mb"])
                took = told["seconds"]
                print(
                    f"  {name}: {told['images_per_s']:.1f}/s, {took / sum(alone):.2f} of the sum, "
                    f"{took / max(alone):.2f} of the larger; peak {told['peak_mb']:.0f} MB, decoding "
                    f"{told['worker_mb']:.0f} MB",
                    flush=True,
                )
    for name, found in peaks.items():
        print(f"{name}: peak memory of the last over the first: {found[-1] / found[0]:.3f}")


if __name__ == "__main__":
    main()
