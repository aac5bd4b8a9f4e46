"""What int8 costs in accuracy, and what it gains in speed: dense and reduced, in ONNX Runtime and OpenVINO.

    python benchmarks/int8.py --json benchmarks/results/int8.json        # about 20 minutes on two processors
    python benchmarks/int8.py --parts speed                              # the speed alone

Accuracy: DeiT-Ti on the first 100 photographs by name of each class of Imagenette's validation set, calibrated on
photographs of its training set; the files are judged as `vitrim export` judges them, before they are kept. Speed:
DeiT-S at batch 1, each file in turn with the dense model in float32 eager, in one run; random weights, which change no
speed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch

import vitrim
from vitrim.data import open_dataset, open_loader
from vitrim.deploy.int8 import CALIBRATION
from vitrim.deploy.runtimes import prepare, prepare_int8
from vitrim.evaluate import environment
from vitrim.evaluate.timing import times_in_turn

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("VITRIM_SHARED", ROOT.parent / "shared"))
# (in words, ending, --int8)
FILES = (
    ("ONNX Runtime, float32", ".onnx", None),
    ("ONNX Runtime, int8 dynamic", ".onnx", "dynamic"),
    ("ONNX Runtime, int8 static", ".onnx", "static"),
    ("OpenVINO, float32", ".xml", None),
    ("OpenVINO, int8 static", ".xml", "static"),
)
RUNTIMES = {".onnx": "onnx", ".xml": "openvino"}


def models_of(dense, macs: float) -> dict:
    """The dense model, and EViT at a share of its cost, both as `vitrim export` takes them."""
    return {
        "dense": vitrim.reduce(dense, [], prediction_only=True).eval(),
        f"evit macs {macs:g}": vitrim.reduce(dense, "evit", macs=macs, prediction_only=True).eval(),
    }


def photographs(dense, args) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images and labels to judge by, and images to calibrate on."""
    judged = open_dataset(args.data / "val", dense, crop_pct=1.0, limit_per_class=args.per_class)
    batches = list(open_loader(judged, 50, 1))
    others = open_dataset(args.data / "train", dense, crop_pct=1.0, labels=False, limit=CALIBRATION, seed=0)
    calibration = torch.cat([batch.images for batch in open_loader(others, 50, 1)])
    return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches]), calibration


def accuracy(args) -> Iterator[dict]:
    """A row for each file of each model: top-1 and agreement before and after."""
    dense = timm.create_model("deit_tiny_patch16_224", checkpoint_path=str(args.checkpoint)).eval()
    images, labels, calibration = photographs(dense, args)
    for name, model in models_of(dense, args.macs).items():
        for words, ending, way in FILES:
            with tempfile.TemporaryDirectory() as folder:
                given = {"calibration": calibration} if way == "static" else {}
                beside = {"int8": way, "labels": labels} if way else {}
                made = vitrim.export(model, Path(folder) / f"file{ending}", images=images, **beside, **given)
            lost = made.int8.as_dict() if made.int8 else {}
            yield {"model": name, "file": words, "bytes": made.bytes, "agreement": 100 * made.agreement, **lost}


def speed(args) -> list[dict]:
    """A row for each file of each model: ms of one image, and how many times as fast it is as dense float32 eager."""
    torch.manual_seed(0)
    dense = timm.create_model("deit_small_patch16_224").eval()
    batch, images = torch.randn(1, 3, 224, 224), torch.randn(8, 3, 224, 224)
    runs, named = {"eager": dense}, {"eager": ("dense", "PyTorch eager, float32")}
    for name, model in models_of(dense, args.macs).items():
        if name != "dense":
            runs[name], named[name] = model, (name, "PyTorch eager, float32")
        for words, ending, way in FILES:
            kind, key = RUNTIMES[ending], f"{name}, {words}"
            with torch.inference_mode():
                runs[key] = prepare_int8(model, batch, images, kind, way) if way else prepare(model, kind, batch)
            named[key] = (name, words)
    with torch.inference_mode():
        times = times_in_turn(runs, batch, args.rounds)
    return [{"model": named[key][0], "file": named[key][1], **ratios(times, key)} for key in runs]


def ratios(times: list[dict], key: str) -> dict:
    own, first = (np.array([each[name] for each in times]) for name in (key, "eager"))
    low, middle, high = np.quantile(first / own, (0.1, 0.5, 0.9))
    return {"ms": 1000 * float(np.median(own)), "speed_up": middle, "speed_up_p10": low, "speed_up_p90": high}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("accuracy", "speed"), default=("accuracy", "speed"))
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "imagenette")
    parser.add_argument("--checkpoint", type=Path, default=SHARED / "weights" / "deit_tiny_patch16_224.safetensors")
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = {**environment(), "onnxruntime": version("onnxruntime"), "openvino": version("openvino")}
    found |= {"nncf": version("nncf"), "rounds": args.rounds, "per_class": args.per_class, "calibration": CALIBRATION}
    for part in args.parts:
        found[part] = []
        for row in {"accuracy": accuracy, "speed": speed}[part](args):
            found[part].append(row)
            print("  ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


if __name__ == "__main__":
    main()
