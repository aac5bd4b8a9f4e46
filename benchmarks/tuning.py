"""`vitrim.tune` measured on DeiT-Ti: searched plans beside the methods' own, optimisers beside exchanges, plans of five
classes on the other five.

    python benchmarks/tuning.py table --methods prunemerge tome --json benchmarks/results/tuning_table.json
    python benchmarks/tuning.py optimisers --seeds 0 1 2 --json benchmarks/results/tuning_optimisers.json
    python benchmarks/tuning.py classes --json benchmarks/results/tuning_classes.json
    python benchmarks/tuning.py front --seeds 0 1 2 --images 3000 --macs 0.7 0.5 --out plan.json --json front.json

`front` is `vitrim tune` once for each seed, all at the same time, and of each budget the plan that is the best on the
photographs held out.

Each with --checkpoint FILE --photos imagenette: searched on its training folder (--images, drawn from all classes), and
judged on its validation folder (--judged photographs of each class, the first by name; crop 1). No label is used by the
search. Optimisers need the package optuna, and cmaes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

import vitrim
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import environment, wilson_interval
from vitrim.runtime.plan_file import write_plans
from vitrim.tune.exchange import Cost, Exchange
from vitrim.tune.judge import Judge
from vitrim.tune.search import Row, tune
from vitrim.tune.space import Shape, Space

NAME, CHECKPOINTS = "deit_tiny_patch16_224", (50, 100, 300)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
METHODS = ("prunemerge", "diffrate", "tome", "pitome", "dpcknn", "evit", "bat", "topk", "tome+prunemerge", "tome+evit")


class Judged:
    """Photographs with labels, and what the dense model says of them."""

    def __init__(self, dense: torch.nn.Module, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels
        self.answers = self._answers(dense)

    @torch.inference_mode()
    def _answers(self, model: torch.nn.Module) -> Tensor:
        return torch.cat([model(batch).argmax(dim=1) for batch in self.images.split(256)])

    def __call__(self, model: torch.nn.Module, among: Tensor | None = None) -> dict[str, Any]:
        """Agreement with its interval, and top-1 lost, both in percent. among: mask of the photographs that count"""
        answers = self._answers(model.eval())
        among = torch.ones_like(answers, dtype=torch.bool) if among is None else among
        same, images = (answers == self.answers)[among], int(among.sum())
        lost = ((self.answers == self.labels)[among].double() - (answers == self.labels)[among].double()).mean()
        interval = [100 * bound for bound in wilson_interval(int(same.sum()), images)]
        return {"agreement": 100 * float(same.double().mean()), "interval": interval, "lost": 100 * float(lost)}


def load(args: Any) -> torch.nn.Module:
    return timm.create_model(NAME, checkpoint_path=args.checkpoint).eval().to(DEVICE)


def photographs(folder: Path, model: torch.nn.Module, per_class: int) -> tuple[Tensor, Tensor]:
    loader = open_loader(open_dataset(folder, model, crop_pct=1, limit_per_class=per_class), 64)
    images, labels = zip(*[(batch.images, batch.labels) for batch in loader], strict=True)
    return torch.cat(images).to(DEVICE), torch.cat(labels).to(DEVICE)


def training(args: Any) -> tuple[Tensor, Tensor]:
    """Photographs of all classes of the training folder, mixed, and their labels."""
    images, labels = photographs(args.photos / "train", load(args), max(100, -(-2 * args.images // 10)))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    return images[order], labels[order]


def split(args: Any) -> tuple[Tensor, Tensor]:
    """Those that are searched on, and as many others."""
    images, _ = training(args)
    return images[: args.images], images[args.images : 2 * args.images]


def validation(args: Any) -> Judged:
    dense = load(args)
    return Judged(dense, *photographs(args.photos / "val", dense, args.judged))


def table(dense: Any, search: Tensor, held: Tensor, judged: Judged, args: Any) -> Iterator[dict[str, Any]]:
    """Every method at every budget: its own plan, and the one that was found."""
    for name in args.methods:
        start = time.perf_counter()
        found = tune(dense, search, [name], args.macs, held_out=held, trials=args.trials, seed=args.seeds[0])
        seconds = time.perf_counter() - start
        for row in found:
            flat = None
            if "+" not in name:
                flat = judged(vitrim.reduce(dense, name, macs=row.plan.budget, prediction_only=True))
            yield {
                "method": name, "budget": row.plan.budget, "share": row.plan.share, "kl": row.distance,
                "kl_held_out": row.held_out_distance, "flat_kl": (row.flat or {}).get("distance"), "flat": flat,
                **judged(vitrim.reduce(dense, row.plan)), "plan": row.plan.methods, "seconds": seconds,
            }  # fmt: skip


def classes(dense: Any, images: Tensor, labels: Tensor, judged: Judged, args: Any) -> Iterator[dict[str, Any]]:
    """Plans that are found on half of the classes, judged on either half."""
    known = labels.unique()
    halves = {"even": known[::2], "odd": known[1::2], "all": known}
    for name, half in halves.items():
        search = images[torch.isin(labels, half)][torch.randperm(int(torch.isin(labels, half).sum()))[: args.images]]
        plan = tune(dense, search, ["prunemerge"], [0.5], trials=args.trials)[0].plan
        fast = vitrim.reduce(dense, plan)
        for other in ("even", "odd"):
            yield {"found_on": name, "judged_on": other, **judged(fast, torch.isin(judged.labels, halves[other]))}


def front(args: Any) -> Iterator[dict[str, Any]]:
    """Of each budget the best plan of all seeds, by photographs that no search has seen; written to --out."""
    with ProcessPoolExecutor(len(args.seeds), mp_context=get_context("spawn")) as pool:
        searches = list(pool.map(one_front, repeat(args), args.seeds))
    chosen = [min(rows, key=lambda row: row.held_out_distance) for rows in zip(*searches, strict=True)]
    about = {"search": {key: getattr(args, key) for key in ("images", "trials", "seeds")}, **environment(DEVICE)}
    if args.out:
        write_plans(args.out, [row.plan for row in chosen], about)
    dense, judged = load(args), validation(args)
    for best, rows in zip(chosen, zip(*searches, strict=True), strict=True):
        each = [{"kl": row.distance, "kl_held_out": row.held_out_distance} for row in rows]
        own = judged(vitrim.reduce(dense, "prunemerge", macs=best.plan.budget, prediction_only=True))
        yield {"budget": best.plan.budget, **judged(vitrim.reduce(dense, best.plan)), "flat": own, "seeds": each}


def one_front(args: Any, seed: int) -> list[Row]:
    """The rows of one seed, by budget."""
    search, held = split(args)
    return tune(load(args), search, args.methods[:1], args.macs, held_out=held, trials=args.trials, seed=seed)


def optimisers(dense: Any, search: Tensor, judged: Judged, args: Any) -> Iterator[dict[str, Any]]:
    """KL on the search photographs after so many plans: exchanges, and Optuna's samplers on the same plans."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Space(dense, ["prunemerge"], prediction_only=True)
    exchange, judge = Exchange(space, Cost(space.share), 0.5, 0), Judge(space, search)
    kinds = {
        "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True),
        "CMA-ES": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    }
    for seed in args.seeds:
        curve = [tune(dense, search, ["prunemerge"], [0.5], trials=k, seed=seed)[0] for k in CHECKPOINTS]
        final = judged(vitrim.reduce(dense, curve[-1].plan))
        yield {"optimiser": "exchanges", "seed": seed, "kl": [row.distance for row in curve], **final}
        for name, sampler in kinds.items():
            curve, best = sampled(sampler(seed), space, exchange, judge)
            yield {"optimiser": name, "seed": seed, "kl": curve, **judged(space.model(best))}


def sampled(sampler: Any, space: Space, exchange: Exchange, judge: Judge) -> tuple[list[float], Shape]:
    """The best KL after so many plans, and the best plan; each proposal is scaled to the budget. The first is even."""
    import optuna

    study, best = optuna.create_study(sampler=sampler), (float("inf"), Shape((), ()))
    numbers = range(space.places)
    study.enqueue_trial({**{f"r{j}": 8.0 for j in numbers}, **{f"d{j}": 0.5 for j in numbers}})

    def objective(trial: Any) -> float:
        nonlocal best
        removed = tuple(round(trial.suggest_float(f"r{j}", 0, 32)) for j in numbers)
        shape = exchange.scaled(Shape(removed, tuple(trial.suggest_float(f"d{j}", 0, 1) for j in numbers)))
        if shape is None:
            return 1.0
        distance = judge.judge(shape, stop=False).mean
        best = min(best, (distance, shape), key=lambda found: found[0])
        return distance

    curve = []
    for plans in CHECKPOINTS:
        study.optimize(objective, n_trials=plans - len(study.trials))
        curve.append(best[0])
    return curve, best[1]


def given(args: Any) -> tuple[Any, ...]:
    """What the function of a measurement takes."""
    if args.what == "front":
        return (args,)
    dense, judged = load(args), validation(args)
    if args.what == "classes":
        return dense, *training(args), judged, args
    search, held = split(args)
    return (dense, search, held, judged, args) if args.what == "table" else (dense, search, judged, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "optimisers", "classes", "front"))
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--macs", nargs="+", type=float, default=(0.7, 0.5, 0.4))
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--judged", type=int, default=100)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, help="plan file of `front`")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for row in globals()[args.what](*given(args)):
        rows.append(row)
        print(json.dumps({key: value for key, value in row.items() if key != "plan"}), flush=True)
    if args.json:
        asked = {key: getattr(args, key) for key in ("trials", "images", "judged", "seeds")}
        args.json.write_text(json.dumps({**environment(DEVICE), "model": NAME, **asked, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
