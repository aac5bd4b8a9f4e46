"""Two versions of vitrim timed in turn, in one process: is a refactoring as fast as what was there before?

    git worktree add /tmp/before COMMIT
    python benchmarks/versions.py --before /tmp/before --after .

The two packages are imported under names of their own and put on the same model. Prints for each method and batch size
the median over the rounds of after / before, its quartiles, and before / before, which is the noise of the machine. The
logits must be the same bits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles

import timm
import torch

METHODS = {"evit": {"keep": 0.7}, "tome": {"r": 13}, "idlevit": {"keep": 0.7}, "bat": {"keep": 0.7}}


def imported(folder: Path, checkout: Path, name: str):
    """The package of a checkout under another name; all of vitrim's own imports are relative."""
    (folder / name).symlink_to((checkout / "vitrim").resolve())
    return import_module(name)


def seconds(model, images: torch.Tensor) -> float:
    start = time.perf_counter()
    model(images)
    return time.perf_counter() - start


def in_turn(models: dict, images: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of every round; every other round runs backwards."""
    for model in models.values():
        model(images)
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds):
        for name in list(models)[:: 1 if turn % 2 else -1]:
            times[name].append(seconds(models[name], images))
    return times


def ratios(times: dict[str, list[float]], name: str) -> list[float]:
    return [ours / before for ours, before in zip(times[name], times["before"], strict=True)]


@torch.inference_mode()
def main() -> None:
    """Print one row for each method and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--after", type=Path, default=Path("."))
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp())
    sys.path.insert(0, str(folder))
    before, after = imported(folder, args.before, "vitrim_before"), imported(folder, args.after, "vitrim_after")
    dense = timm.create_model(args.model).eval()
    print("| method | batch | before, ms | after / before | quartiles | before / before |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, options in METHODS.items():
        versions = {"before": before, "again": before, "after": after}
        models = {key: package.reduce(dense, name, **options) for key, package in versions.items()}
        for size in args.batch_sizes:
            images = torch.randn(size, 3, *dense.patch_embed.img_size)
            assert torch.equal(models["before"](images), models["after"](images)), "the logits differ"
            times = in_turn(models, images, max(8, args.rounds // size))
            ours = ratios(times, "after")
            low, _, high = quantiles(ours, n=4)
            print(
                f"| {name} | {size} | {1e3 * median(times['before']):.1f} | {median(ours):.4f} "
                f"| {low:.3f} to {high:.3f} | {median(ratios(times, 'again')):.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
