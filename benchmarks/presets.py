"""The plans that `vitrim.reduce(model, "auto", macs=...)` goes by: written into the package, and tried where they were
not searched.

    python benchmarks/presets.py write benchmarks/results/tuning_front.json benchmarks/results/tuning_table.json
    python benchmarks/presets.py transfer --checkpoint FILE --val imagenette/val --json ...presets_transfer.json
    python benchmarks/presets.py pooled   --checkpoint FILE --val imagenette/val --json ...presets_pooled.json

write:    plans of `vitrim tune`, or of the rows of benchmarks/tuning.py's table, of --methods, to the package's
          presets.json; of two for the same method and budget the first given stays
transfer: DeiT-Ti at image sizes on which nothing was searched (its positions resampled): `auto` beside the own plans
          of PruneMerge and ToMe; with --train also beside a plan searched there
pooled:   DeiT-Ti's features, mean over the patches, for heads that read patch tokens: PruneMerge, with scores that need
          no [CLS] too, beside ToMe

All on the first --per-class validation photographs of each class by name, crop 1; agreement with the dense model of the
same size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

import vitrim
from vitrim.backbones.timm.checkpoints import load_checkpoint
from vitrim.common.files import write_json
from vitrim.common.progress import progress
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import environment, wilson_interval
from vitrim.runtime.auto import PRESETS, shaped_plan
from vitrim.runtime.plan_file import Plan, read_plans, write_plans
from vitrim.tune import tune

NAME, DEPTH, PATCHES = "deit_tiny_patch16_224", 12, 196


# -- the package's data


def write(args: argparse.Namespace) -> None:
    found: dict[tuple[str, float], Plan] = {}
    for file in args.files:
        for plan in _plans(file, args.methods):
            found.setdefault((plan.names, plan.budget), plan)
    plans = sorted(found.values(), key=lambda plan: (args.methods.index(plan.names), -plan.budget))
    write_plans(args.out, plans, {"made_by": "benchmarks/presets.py write", "from": [file.name for file in args.files]})
    print(f"{args.out}: {', '.join(f'{plan.names} {plan.budget:g}' for plan in plans)}")


def _plans(file: Path, methods: list[str]) -> list[Plan]:
    content = json.loads(file.read_text())
    if "rows" not in content:
        return [plan for plan in read_plans(file) if plan.names in methods]
    return [_of_row(row) for row in content["rows"] if row["method"] in methods]


def _of_row(row: dict[str, Any]) -> Plan:
    named = tuple((name, options) for name, options in row["plan"])
    figures = {key: row[key] for key in ("agreement", "interval", "lost")}
    return Plan(named, row["budget"], row["share"], NAME, DEPTH, PATCHES, prediction_only=True, figures=figures)


# -- the judge


class Judged:
    """Validation photographs at one size, and what the dense model says of them."""

    def __init__(self, dense: nn.Module, args: argparse.Namespace):
        self.batches, self.labels = photographs(dense, args.val, args)
        self.dense = self._outputs(dense)

    @torch.inference_mode()
    def _outputs(self, model: nn.Module) -> Tensor:
        with progress("judging", len(self.batches)) as report:
            outputs = []
            for done, batch in enumerate(self.batches, start=1):
                outputs.append(model.eval()(batch).float())
                report(done)
        return torch.cat(outputs)

    def classes(self, model: nn.Module) -> dict[str, Any]:
        """Agreement and its 95 % interval, and top-1 lost, in percent; the mean KL."""
        dense, found = self.dense.log_softmax(dim=1), self._outputs(model).log_softmax(dim=1)
        answers, dense_answers = found.argmax(dim=1), dense.argmax(dim=1)
        same = answers == dense_answers
        lost = (dense_answers == self.labels).double().mean() - (answers == self.labels).double().mean()
        return {
            "agreement": 100 * float(same.double().mean()),
            "interval": [100 * bound for bound in wilson_interval(int(same.sum()), len(same))],
            "lost": 100 * float(lost),
            "kl": float((dense.exp() * (dense - found)).sum(dim=1).mean()),
        }

    def features(self, model: nn.Module) -> dict[str, Any]:
        """The mean cosine to the dense model's features, with its 95 % interval, in percent."""
        cosines = torch.cosine_similarity(self._outputs(model), self.dense, dim=1).double()
        mean, error = float(cosines.mean()), float(cosines.std()) / len(cosines) ** 0.5
        return {"cosine": 100 * mean, "interval": [100 * (mean - 1.96 * error), 100 * (mean + 1.96 * error)]}


def photographs(model: nn.Module, folder: Path, args: argparse.Namespace) -> tuple[list[Tensor], Tensor]:
    loader = open_loader(open_dataset(folder, model, crop_pct=1, limit_per_class=args.per_class), 32, args.workers)
    batches = list(loader)
    device = args.device
    return [batch.images.to(device) for batch in batches], torch.cat([batch.labels for batch in batches]).to(device)


def deit(args: argparse.Namespace, **options: Any) -> nn.Module:
    """DeiT-Ti with its weights, positions resampled to the size of the images."""
    model = timm.create_model(NAME, **options).eval()
    source = timm.create_model(NAME)
    load_checkpoint(source, args.checkpoint)
    weights = checkpoint_filter_fn(source.state_dict(), model)
    model.load_state_dict({key: value for key, value in weights.items() if key in model.state_dict()})
    return model.to(args.device)


# -- what is measured


def transfer(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """`auto` beside the methods' own plans, and a plan that was searched there, at every size and budget."""
    for size in args.sizes:
        dense = deit(args, img_size=size)
        judged = Judged(dense, args)
        for macs in args.macs:
            for row, model in _rows(dense, macs, args).items():
                if args.rows and row not in args.rows:
                    continue
                share = vitrim.profile(model).share
                yield {"size": size, "macs": macs, "row": row, "share": share, **judged.classes(model)}


def _rows(dense: nn.Module, macs: float, args: argparse.Namespace) -> dict[str, nn.Module]:
    own = {name: vitrim.reduce(dense, name, macs=macs, prediction_only=True) for name in ("prunemerge", "tome")}
    rows = {"auto": vitrim.reduce(dense, "auto", macs=macs), **own}
    if args.train is None:
        return rows
    batches, _ = photographs(dense, args.train, argparse.Namespace(**{**vars(args), "per_class": 26}))
    images = torch.cat(batches)
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:256]]
    return {**rows, "searched there": vitrim.reduce(dense, tune(dense, images, budgets=[macs], trials=300)[0].plan)}


def pooled(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Mean features of the patches, by methods that merge and methods that drop as well."""
    dense = deit(args, num_classes=0, global_pool="avg", fc_norm=False)
    judged = Judged(dense, args)
    scores = {f"prunemerge, {score}": {"score": score} for score in ("cls-values", "tokens", "shift")}
    for macs in args.macs:
        rows: dict[str, Any] = {name: ("prunemerge", options) for name, options in scores.items()}
        rows |= {name: (name, {}) for name in ("tome", "dpcknn", "pitome")}
        models = {row: vitrim.reduce(dense, name, macs=macs, **options) for row, (name, options) in rows.items()}
        body = models["tome"].body
        models |= {f"{name}, shaped": _shaped(body, name, macs) for name in ("prunemerge", "tome")}
        for row, model in models.items():
            if not args.rows or row in args.rows:
                yield {"macs": macs, "row": row, "share": vitrim.profile(model).share, **judged.features(model)}


def _shaped(body: Any, name: str, macs: float) -> nn.Module:
    return vitrim.reduce(body.model, shaped_plan(body, name, {}, macs, False).methods)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("files", nargs="+", type=Path)
    writing.add_argument("--methods", nargs="+", default=["prunemerge", "tome"])
    writing.add_argument("--out", type=Path, default=PRESETS)
    for name in ("transfer", "pooled"):
        measuring = commands.add_parser(name)
        measuring.add_argument("--checkpoint", type=Path, required=True)
        measuring.add_argument("--val", type=Path, required=True)
        measuring.add_argument("--train", type=Path, help="search there, too, on photographs of this folder")
        measuring.add_argument("--rows", nargs="+", help="these alone")
        measuring.add_argument("--sizes", nargs="+", type=int, default=[160, 288])
        measuring.add_argument("--macs", nargs="+", type=float, default=[0.7, 0.5, 0.4])
        measuring.add_argument("--per-class", type=int, default=100)
        measuring.add_argument("--workers", type=int, default=0)
        measuring.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        measuring.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.command == "write":
        write(args)
        return
    rows = []
    for row in (transfer if args.command == "transfer" else pooled)(args):
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.json:
        asked = {"per_class": args.per_class, "model": NAME, "searched_there": args.train is not None}
        write_json(str(args.json), {**environment(args.device), **asked, "rows": rows})


if __name__ == "__main__":
    main()
