"""A small model, a few pictures, and runs over them in the same process."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

import vitrim
from vitrim.data import open_dataset
from vitrim.inference.engines import Local
from vitrim.inference.outputs import FeatureFolder, PredictionFile
from vitrim.inference.runs import Run, told_of

KINDS = {"csv": "out.csv", "parquet": "out.parquet", "npy": "features"}


@cache
def small_model() -> torch.nn.Module:
    torch.manual_seed(0)
    options = dict(img_size=32, patch_size=8, embed_dim=16, depth=4, num_heads=2, num_classes=5)
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


def slowly(module, given) -> None:
    """A hook that takes its time."""
    time.sleep(0.1)


def pictures(folder: Path, count: int, bad: tuple[int, ...] = ()) -> Path:
    """Pictures of noise in folders of different depth; those numbered in `bad` cannot be read."""
    noise = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("x/y" if number % 3 else "") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 256, (20 + number % 7, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if number in bad:
            path.write_bytes(b"no picture")
    return folder


def run_on(
    data: Path | str, out: Path, *, model=None, part: int = 8, batch: int = 4, workers: int = 0, overwrite=False, **more
):
    """A run to its end; of predictions where `out` is named as a table, else of features."""
    model = small_model() if model is None else model
    options = {"device": "cpu", "batch_size": batch}
    if out.suffix:
        worker = vitrim.Predictor(model, top=2, **options)
        output = PredictionFile(out, overwrite, 2)
    else:
        worker = vitrim.Embedder(model, **options)
        output = FeatureFolder(out, overwrite, more.get("format", "npy"))
    images = open_dataset(data, worker.ready.model, labels=False, **more.get("places", {}))
    engine = more.get("engine") or Local(torch.device("cpu"), workers)
    run = Run(worker, images, output, part, engine, overwrite)
    return run.run({"data": str(data), "part": part, **told_of(images, worker)})


def content(out: Path) -> dict[str, bytes]:
    """All that an output is made of."""
    side = out.with_name(out.name + ".unreadable.jsonl")
    files = [path for path in (out, side) if path.is_file()]
    files += sorted(out.iterdir()) if out.is_dir() else []
    return {path.name: path.read_bytes() for path in files}


def left_beside(out: Path) -> list[str]:
    """What lies in the output's folder and does not belong there."""
    own = {out.name, f"{out.name}.unreadable.jsonl"}
    return sorted(name for name in os.listdir(out.parent) if name not in own)


def saved_model(folder: Path) -> Path:
    """A folder with the model and a method on it."""
    vitrim.reduce(small_model(), "evit", keep=0.7).save(folder)
    return folder
