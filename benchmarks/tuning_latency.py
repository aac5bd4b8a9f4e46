"""Plans for milliseconds, found for several batch sizes, each timed on all of them: does a plan know its batch size?

    python benchmarks/tuning_latency.py --checkpoint FILE --photos imagenette/train --threads 2 \\
        --json benchmarks/results/tuning_latency.json
    python benchmarks/tuning_latency.py --checkpoint FILE --photos imagenette/train --device cuda --batches 1 128

A front is searched for every batch size, with its own table. Then all plans and the dense model are timed in turn at
every batch size. Equal shares of two batch sizes are no equal plans: where tokens buy less time, more of them leave. So
fronts are held against each other at equal distance to the dense model: the time of the other front there, between its
two nearest plans, divided by that of the plan. Medians over rounds, with the tenth and ninetieth percentile.

--clock processor counts the processor's time of one thread in the place of the clock on the wall: on a machine on which
others work, where milliseconds on the wall tell about them. --again FILE times the plans of an earlier result anew, and
writes that into it as "again".
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

import vitrim
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import environment
from vitrim.evaluate.timing import as_dtype, inference, times_in_turn
from vitrim.runtime.plan_file import Plan
from vitrim.tune import Latency, Row, tune

NAME = "deit_tiny_patch16_224"
Fronts = dict[int, list[Row]]


def photographs(folder: Path, model: torch.nn.Module, count: int, device: str) -> Tensor:
    """That many, drawn evenly over the classes, in an order of chance."""
    dataset = open_dataset(folder, model, crop_pct=1, limit=count)
    images = torch.cat([batch.images for batch in open_loader(dataset, 64)])
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))].to(device)


def times(dense: Any, fronts: Fronts, batch: Tensor, args: Any) -> list[dict[Any, float]]:
    """Seconds of every plan and of the dense model, round by round."""
    models = {(size, row.plan.budget): vitrim.reduce(dense, row.plan).eval() for size in fronts for row in fronts[size]}
    with inference(batch.device, as_dtype(args.precision, batch.device)):
        clock = processor_times if args.clock == "processor" else times_in_turn
        return clock({"dense": dense, **models}, batch, args.rounds)


def processor_times(runs: Any, batch: Tensor, rounds: int) -> list[dict[Any, float]]:
    """Seconds of the processor for one call of each, round by round, each called in turn; warmed up before."""
    found = [{key: _processor_seconds(run, batch) for key, run in runs.items()} for _ in range(rounds + 2)]
    return found[2:]


def _processor_seconds(run: Any, batch: Tensor) -> float:
    begin = time.process_time()
    run(batch)
    return time.process_time() - begin


def by_processor(runs: Any, batch: Tensor) -> dict[Any, float]:
    """A stopwatch of `Latency`: milliseconds of the processor, the lower quartile of rounds."""
    rounds = processor_times(runs, batch, 21)
    return {key: 1000 * float(np.quantile([each[key] for each in rounds], 0.25)) for key in runs}


def rows_of(fronts: Fronts, size: int, rounds: list[dict[Any, float]]) -> list[dict[str, Any]]:
    """Every plan at one batch size."""
    found = []
    for searched_for, front in fronts.items():
        for row in front:
            key = searched_for, row.plan.budget
            shares = [each[key] / each["dense"] for each in rounds]
            found.append({
                "searched_for": searched_for, "timed_on": size, "budget": row.plan.budget, "kl": row.distance,
                "kl_held_out": row.held_out_distance, "agreement_held_out": row.held_out_agreement,
                "promised": (row.latency or {})["promised"], "macs": row.plan.share,
                "dense_ms": 1000 * float(np.median([each["dense"] for each in rounds])), **spread(shares),
                "tokens": row.tokens, "plan": asdict(row.plan),
            })  # fmt: skip
    return found


def at_equal_distance(fronts: Fronts, size: int, rounds: list[dict[Any, float]]) -> list[dict[str, Any]]:
    """How much longer the fronts for other batch sizes take, at the distance of each plan for this one."""
    found = []
    for other in fronts.keys() - {size}:
        for row in fronts[size]:
            ratios = [_time_at(row.distance, fronts, other, each) / each[size, row.plan.budget] for each in rounds]
            if not any(map(math.isnan, ratios)):
                found.append({"batch": size, "other": other, "budget": row.plan.budget, **spread(ratios)})
    return found


def _time_at(distance: float, fronts: Fronts, size: int, times: dict[Any, float]) -> float:
    """A front's time at a distance, linear in its logarithm; NaN beyond its ends."""
    points = sorted((math.log(row.distance), times[size, row.plan.budget]) for row in fronts[size])
    at = [point[0] for point in points], [point[1] for point in points]
    return float(np.interp(math.log(distance), *at, left=math.nan, right=math.nan))


def fronts_of(found: dict[str, Any]) -> Fronts:
    """The plans of an earlier result."""
    fronts: Fronts = {}
    for row in found["rows"]:
        if row["timed_on"] == row["searched_for"]:
            methods = tuple((name, options) for name, options in row["plan"]["methods"])
            held = row["kl_held_out"], row["agreement_held_out"]
            plan = Plan(**{**row["plan"], "methods": methods})
            known = Row(plan, row["kl"], *held, None, 0, tuple(row["tokens"]))
            fronts.setdefault(row["searched_for"], []).append(known)
    return fronts


def timed(dense: Any, fronts: Fronts, images: Tensor, args: Any) -> dict[str, Any]:
    """All plans at all batch sizes, as rows and at equal distance."""
    rows, equal = [], []
    for size in fronts:
        rounds = times(dense, fronts, Latency(size).batch(images), args)
        rows += rows_of(fronts, size, rounds)
        equal += at_equal_distance(fronts, size, rounds)
    for row in (*rows, *equal):
        print(json.dumps({key: value for key, value in row.items() if key != "plan"}), flush=True)
    return {"rows": rows, "at_equal_distance": equal}


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = map(float, np.quantile(values, (0.1, 0.5, 0.9)))
    return {"median": middle, "p10": low, "p90": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--method", default="prunemerge")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--latency", nargs="+", type=float, default=[0.8, 0.7, 0.6, 0.5])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--again", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.clock == "processor" and (args.threads != 1 or args.device != "cpu"):
        parser.error("--clock processor needs --threads 1 on the CPU: the time of several threads adds up")
    if args.threads:
        torch.set_num_threads(args.threads)
    dense = timm.create_model(NAME, checkpoint_path=args.checkpoint).eval().to(args.device)
    images = photographs(args.photos, dense, 2 * args.images, args.device)
    if args.again:
        found = json.loads(args.again.read_text())
        again = timed(dense, fronts_of(found), images, args)
        about = {**environment(args.device), "clock": args.clock, "rounds": args.rounds}
        args.again.write_text(json.dumps({**found, "again": {**about, **again}}, indent=1) + "\n")
        return
    search, held = images[: args.images], images[args.images :]
    fronts: Fronts = {}
    tables, seconds = {}, {}
    for size in args.batches:
        watch = by_processor if args.clock == "processor" else None
        start, latency = time.perf_counter(), Latency(size, args.precision, watch)
        fronts[size] = tune(
            dense, search, [args.method], args.latency, held_out=held, trials=args.trials, latency=latency
        )
        tables[size], seconds[size] = latency.tables, time.perf_counter() - start
        print(f"batch {size}: {len(fronts[size])} plans in {seconds[size]:.0f} s", flush=True)
    measured = timed(dense, fronts, images, args)
    if args.json:
        asked = {key: getattr(args, key) for key in ("method", "trials", "images", "rounds", "precision", "clock")}
        about = {**environment(args.device), "model": NAME, **asked, "seconds": seconds}
        found = {**about, **measured, "tables": tables}
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
