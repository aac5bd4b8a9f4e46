"""What distilling wins back when it starts from a searched plan: trained on photographs of five classes, judged before
and after on those classes and on five others.

    python benchmarks/finetune_plan.py --train imagenette/train --val imagenette/val --checkpoint FILE \\
        --json benchmarks/results/finetune_plan.json

--train and --val are folders with a folder for each class, or files of `torch.save`: a dict of `images` (uint8 [n, 3,
h, w], cropped as the model takes them) and `labels` ([n], ImageNet's indices). The recipe is `distill`, the dense model
teaches, no label is read in training; all 1,000 classes of the model are judged. Beside the plans of --front, the
method's own plan of the same cost is trained alike (--starts). A few minutes on a GPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

import vitrim
from vitrim.backbones.timm.checkpoints import load_checkpoint
from vitrim.common.files import write_json
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import environment, wilson_interval
from vitrim.runtime.plan_file import Plan, pick, read_plans
from vitrim.training import Recipe, Settings, finetune, get_recipe, override

NAME = "deit_tiny_patch16_224"
FRONT = Path(__file__).parent / "results" / "tuning_front.json"
Models = Mapping[str, nn.Module]


# -- the photographs


def as_folder(given: Path, folder: Path) -> Path:
    """A folder with a folder for each class; photographs of a tensor are written there, without loss."""
    if given.is_dir():
        return given
    content, info = torch.load(given), ImageNetInfo()
    names = [info.index_to_label_name(int(label)) for label in content["labels"]]
    for name in set(names):
        (folder / name).mkdir(parents=True)
    write = partial(_write, content["images"], names, folder)
    with ThreadPool() as pool:
        pool.map(write, range(len(names)))
    return folder


def _write(images: Tensor, names: list[str], folder: Path, j: int) -> None:
    Image.fromarray(images[j].permute(1, 2, 0).numpy()).save(folder / names[j] / f"{j:06}.bmp")


def half_of(split: Path, which: str, folder: Path) -> Path:
    """A folder of links to the first or the last half of the classes, by the names of their folders."""
    classes = sorted(path.name for path in split.iterdir() if path.is_dir())
    middle = len(classes) // 2
    folder.mkdir(parents=True)
    for name in classes[:middle] if which == "first" else classes[middle:]:
        (folder / name).symlink_to((split / name).resolve())
    return folder


# -- the judge


class Judged:
    """Labelled photographs, and what the dense model says of them."""

    def __init__(self, dense: nn.Module, folder: Path, args: argparse.Namespace):
        photographs = open_dataset(folder, dense, crop_pct=1, limit_per_class=args.per_class)
        batches = [(batch.images, batch.labels) for batch in open_loader(photographs, 64, args.workers)]
        self.device = args.device
        self.images = torch.cat([images for images, _ in batches]).to(args.device)
        self.labels = torch.cat([labels for _, labels in batches]).to(args.device)
        self.dense = self._logits(dense)

    @torch.inference_mode()
    def _logits(self, model: nn.Module) -> Tensor:
        model = model.to(self.device).eval()
        return torch.cat([model(batch).float().log_softmax(dim=1) for batch in self.images.split(128)])

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        """Agreement with its 95 % interval, top-1 and what of it is lost, in percent; the mean KL to the dense one."""
        found, dense = self._logits(model), self.dense
        same = found.argmax(dim=1) == dense.argmax(dim=1)
        right, was_right = (logits.argmax(dim=1) == self.labels for logits in (found, dense))
        kl = (dense.exp() * (dense - found)).sum(dim=1).mean()
        return {
            "images": len(same),
            "agreement": 100 * float(same.double().mean()),
            "interval": [100 * bound for bound in wilson_interval(int(same.sum()), len(same))],
            "top1": 100 * float(right.double().mean()),
            "lost": 100 * float(was_right.double().mean() - right.double().mean()),
            "kl": float(kl),
        }


# -- the trials


def starts(dense: nn.Module, args: argparse.Namespace) -> Iterator[tuple[str, float, Plan | str]]:
    """(what a run starts from, its share of the MACs, the same as `finetune` takes it)."""
    front = read_plans(args.front)
    for share in args.macs:
        plan = pick(front, share)
        given: dict[str, Plan | str] = {"plan": plan, "own": plan.methods[0][0]}
        yield from ((start, share, given[start]) for start in args.starts)


def recipe_of(args: argparse.Namespace) -> Recipe:
    changes = {key: json.loads(value) for key, value in (change.split("=") for change in args.change)}
    return override(get_recipe("distill", small=args.short), **changes)


def trial(dense: nn.Module, given: Plan | str, share: float, train: Path, judges: Mapping[str, Judged], args: Any):
    """Train from one start, and judge before and after."""
    own = {} if isinstance(given, Plan) else {"macs": share, "prediction_only": True}
    before = vitrim.reduce(dense, given, **own)
    figures = {name: {"before": judge(before)} for name, judge in judges.items()}
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        on_cpu = args.device == "cpu"
        settings = Settings(
            Path(folder), args.seed, "no" if on_cpu else "bf16", workers=args.workers, cpu=on_cpu, save_minutes=60,
            show=False,
        )  # fmt: skip
        trained = finetune(dense.cpu(), given, train, recipe_of(args), settings, limit=args.limit, **own)
        seconds = time.perf_counter() - begin
        after = vitrim.load(folder)
    for name, judge in judges.items():
        figures[name]["after"] = judge(after)
    made = {"share": vitrim.profile(after).share, "steps": trained.steps, "photographs": len(trained.photographs)}
    return {**made, "seconds": round(seconds, 1), **figures}


def run(args: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    dense = timm.create_model(NAME)
    load_checkpoint(dense, args.checkpoint)
    train, val = (as_folder(given, work / name) for given, name in ((args.train, "train"), (args.val, "val")))
    other = {"first": "last", "last": "first"}[args.learn]
    learned = half_of(train, args.learn, work / "learned")
    halves = {"seen": args.learn, "unseen": other}
    judges = {name: Judged(dense.eval(), half_of(val, which, work / name), args) for name, which in halves.items()}
    rows = []
    for start, share, given in starts(dense, args):
        rows.append({"start": start, "macs": share, **trial(dense, given, share, learned, judges, args)})
        print(line_of(rows[-1]), flush=True)
    return rows


def line_of(row: dict[str, Any]) -> str:
    """A row of the table in the docs."""
    cells = [row["start"], f"{row['macs']:g}"]
    for name in ("seen", "unseen"):
        before, after = row[name]["before"], row[name]["after"]
        low, high = after["interval"]
        cells += [f"{before['agreement']:.1f}", f"{after['agreement']:.1f} ({low:.1f} to {high:.1f})"]
        cells += [f"{before['lost']:.1f}", f"{after['lost']:.1f}", f"{before['kl']:.3f}", f"{after['kl']:.3f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--front", type=Path, default=FRONT)
    parser.add_argument("--macs", nargs="+", type=float, default=[0.5, 0.4])
    parser.add_argument("--starts", nargs="+", choices=("plan", "own"), default=["plan", "own"])
    parser.add_argument("--learn", choices=("first", "last"), default="first", help="half of the classes")
    parser.add_argument("--short", action="store_true", help="the recipe in its form for a small machine")
    parser.add_argument("--change", nargs="+", default=[], metavar="FIELD=VALUE", help="of the recipe")
    parser.add_argument("--limit", type=int, help="photographs to train on at most")
    parser.add_argument("--per-class", type=int, help="photographs of each class to judge on at most")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = run(args, Path(work))
    if args.json:
        asked = {key: value.name if isinstance(value, Path) else value for key, value in vars(args).items()}
        write_json(str(args.json), {**environment(args.device), "model": NAME, "asked": asked, "rows": rows})


if __name__ == "__main__":
    main()
