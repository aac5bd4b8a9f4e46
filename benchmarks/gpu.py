"""How fast are dense and reduced models on a GPU, in bfloat16, eager, compiled and in CUDA graphs?

    python benchmarks/gpu.py --json benchmarks/results/gpu.json --markdown docs/results/gpu.md   # 10 minutes, one GPU
    python benchmarks/gpu.py --device cpu --small --minutes 1                                    # a trial without one

DeiT-S and DeiT-B at 224 pixels, ViT-L/16 at 384 and DINOv2-L at 518, batches of 1, 32 and 256: the dense model, EViT
and ToMe at half of its MACs, and ToFe with another number of tokens in every image, whose ragged batches go through
torch's `varlen_attn`. Weights and images are bfloat16, random: neither changes the speed. Models of one case are timed
in turn; medians over the rounds, and ratios within each round. "compiled" is `torch.compile`, "graphs" the same with
mode="reduce-overhead", that is with CUDA graphs; both for the dense model and the methods with fixed counts that
`--compiled` names, since each compilation takes as long as many measurements.

The whole keeps to `--minutes`: every case gets its share of the time that is left, and makes as many rounds as fit.
What has no time left at all is named at the end.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import timm
import torch
from ragged_tofe import decide, drawn_counts

import vitrim
from vitrim.core.attention import varlen_attn
from vitrim.deploy.memory import peak_bytes
from vitrim.deploy.roofline import measure_roofline
from vitrim.evaluate import environment
from vitrim.evaluate.timing import as_device, times_in_turn
from vitrim.runtime.build import attach

LARGE: dict[str, dict[str, Any]] = {
    "deit_small_patch16_224": {},
    "deit_base_patch16_224": {},
    "vit_large_patch16_384": {},
    "vit_large_patch14_dinov2": {"img_size": 518},
}
_TINY: dict[str, Any] = {"embed_dim": 48, "num_heads": 3, "img_size": 64, "num_classes": 3}
SMALL: dict[str, dict[str, Any]] = {"deit_tiny_patch16_224": _TINY, "vit_tiny_patch16_224": _TINY}
RAGGED = SimpleNamespace(keep=(0.49, 0.25, 0.14), spread=0.3, seed=0)  # shares of ToFe's Table V
WEIGHTS = {"eager": 1.0, "graphs": 4.0, "compiled": 4.0}  # of a case's time: compiling takes most of it
ROUNDS, SECONDS = 15, 0.1  # at most so many rounds; of a model in each
COLUMNS = (
    "model",
    "batch",
    "runtime",
    "row",
    "ms",
    "p10",
    "p95",
    "speed-up",
    "promised",
    "kept",
    "roofline",
    "MB",
    "n",
)


class Budget:
    """Seconds that are left, shared out over the cases by weight."""

    def __init__(self, seconds: float, weights: list[float]):
        self.end, self.weights = time.monotonic() + seconds, weights

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def share(self) -> float:
        """Seconds for the next case."""
        whole = sum(self.weights)
        return self.left * self.weights.pop(0) / whole


def models_for(dense, args, batch, runtime):
    """(model, MACs of one image) by name, the dense one first."""
    found = {"dense": (dense, vitrim.profile(dense).macs)}
    for name in args.methods if runtime == "eager" else args.compiled:
        fast = vitrim.reduce(dense, name, macs=args.macs)
        found[f"{name} macs={args.macs:g}"] = fast, vitrim.profile(fast).macs
    if runtime == "eager":
        ragged = attach(dense, "tofe", adaptive="instance", keep=RAGGED.keep)
        counts = drawn_counts(RAGGED, batch, vitrim.profile(dense).patches)
        decide(ragged.methods[0], counts, vitrim.profile(dense).patches, args.device)
        place = next(dense.parameters())
        ragged.to(place.device, place.dtype)
        found["tofe ragged"] = ragged.eval(), vitrim.image_macs(ragged, counts).double().mean().item()
    return found


def runs_for(models, runtime, args):
    """What is called, by name."""
    backend: dict[str, Any] = {"backend": "eager"} if args.small else {}  # the compiler itself takes minutes on a CPU
    modes = {"eager": None, "compiled": "default", "graphs": "reduce-overhead"}
    if runtime == "graphs" and args.device == "cpu":
        raise ValueError("CUDA graphs need a GPU")
    if runtime == "eager":
        return {name: model for name, (model, _) in models.items()}
    options = backend or {"mode": modes[runtime]}
    return {name: torch.compile(model, fullgraph=True, **options) for name, (model, _) in models.items()}


def rounds_that_fit(runs, images, until):
    """(rounds that there is time for, runs that work, reasons of the others), by a few calls of each model, of which
    the first compiles it. Raises what the dense model raises."""
    spent, work, broken = 0.0, {}, {}
    for name, run in runs.items():
        try:
            run(images)
        except Exception as error:  # out of memory, an operator that is missing: the others can be measured
            if name == "dense":
                raise
            broken[name] = reason(error)
            continue
        work[name] = run
        spent += max(times_in_turn({"": run}, images, 1, 0.0)[0][""], SECONDS)
    return max(1, min(ROUNDS, int((until - time.monotonic()) / spent) - 3)), work, broken  # three warm up


def reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def rows_of_case(dense, args, batch, runtime, seconds):
    """The rows of one model, batch size and runtime; of models that did not run the reasons by name."""
    until, place = time.monotonic() + seconds, next(dense.parameters())
    size = timm.data.resolve_model_data_config(dense)["input_size"][0], *dense.patch_embed.img_size
    images = torch.randn(batch, *size, device=place.device, dtype=place.dtype)
    models = models_for(dense, args, batch, runtime)
    tokens = batch * (vitrim.profile(dense).patches + 1)
    roof, weights = measure_roofline(dense, tokens, place.dtype), sum(p.nbytes for p in dense.parameters())
    rounds, runs, broken = rounds_that_fit(runs_for(models, runtime, args), images, until)
    times = times_in_turn(runs, images, rounds, SECONDS)
    first, rows = np.array([each["dense"] for each in times]), []
    for name in runs:
        macs = models[name][1]
        own = np.array([each[name] for each in times])
        p10, middle, p95 = (1000 * float(q) for q in np.quantile(own, (0.1, 0.5, 0.95)))
        speed_up, promised = float(np.median(first / own)), models["dense"][1] / macs
        least = 1000 * roof.seconds(batch * macs, weights)
        memory = None if runtime == "graphs" else peak_bytes(runs[name], images, runtime)  # graphs have their own pool
        row = {
            **{"batch": batch, "runtime": runtime, "row": name, "ms": middle, "p10": p10, "p95": p95},
            **{"speed-up": speed_up, "promised": promised, "kept": speed_up / promised, "roofline": least / middle},
            **{"MB": None if memory is None else memory / 1e6, "n": rounds},
        }
        rows.append(row)
    return rows, broken


def measured(args):
    """All rows, and (case, reason) of the cases without any. A failure of one case does not end the others."""
    models = SMALL if args.small else LARGE
    cases = [(runtime, name, batch) for runtime, name, batch in product(WEIGHTS, models, args.batches)]
    budget = Budget(60 * args.minutes, [WEIGHTS[runtime] for runtime, *_ in cases])
    rows, without, built = [], [], (None, None)
    for runtime, name, batch in cases:
        case, share = f"{name}, batch {batch}, {runtime}", budget.share()
        if budget.left <= 0:
            without.append((case, f"no time was left of {args.minutes:g} minutes"))
            continue
        if built[0] != name:
            torch.compiler.reset()
            dense = timm.create_model(name, **models[name]).eval().to(args.device, getattr(torch, args.dtype))
            built = name, dense
        try:
            with torch.inference_mode():
                found, broken = rows_of_case(built[1], args, batch, runtime, share)
        except Exception as error:  # of the dense model, without which there are no ratios
            without.append((case, reason(error)))
            continue
        rows += [{"model": name, **row} for row in found]
        without += [(f"{case}, {label}", why) for label, why in broken.items()]
        print(*(_line(row) for row in rows[-len(found) :]), sep="\n", flush=True)
    return rows, without


def _line(row) -> str:
    return "| " + " | ".join(_cell(row[key]) for key in COLUMNS) + " |"


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return "" if value is None else str(value)


def as_markdown(where, rows, without) -> str:
    """The table, with the machine above it and what is missing below."""
    head = f"{where['processor']}; torch {where['torch']}, timm {where['timm']}, {where['dtype']}"
    kernel = "torch's varlen_attn" if where["varlen_attn"] else "a loop over the images"
    text = [f"{head}. Ragged batches: {kernel}. n: rounds, of at most {ROUNDS}."]
    fewer = sum(row["n"] < ROUNDS for row in rows)
    text += [f"{fewer} of {len(rows)} rows had time for fewer rounds."] if fewer else []
    text += ["", "| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS), *map(_line, rows), ""]
    return "\n".join([*text, *(f"- without figures: {case}: {reason}" for case, reason in without), ""])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--small", action="store_true", help="tiny models, and no compiler behind torch.compile")
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything after the start")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--methods", nargs="*", default=["evit", "tome"])
    parser.add_argument("--compiled", nargs="*", default=["evit"], help="methods to compile, with fixed counts")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args(arguments)
    as_device(args.device)  # raises where it is not there
    warnings.filterwarnings("ignore", message=".*learned parts.*")
    begin = time.monotonic()
    rows, without = measured(args)
    where = {**environment(args.device), "dtype": args.dtype, "varlen_attn": _ragged_kernel(args)}
    where["minutes"] = round((time.monotonic() - begin) / 60, 2)
    print("", as_markdown(where, rows, without), sep="\n")
    if args.markdown:
        args.markdown.write_text(as_markdown(where, rows, without))
    if args.json:
        missing = [{"case": case, "reason": reason} for case, reason in without]
        args.json.write_text(json.dumps({**where, "rows": rows, "without": missing}, indent=1) + "\n")


def _ragged_kernel(args) -> bool:
    """Whether ragged batches go through one kernel here, as `vitrim.core.attention` chooses."""
    return varlen_attn is not None and args.device != "cpu" and args.dtype != "float32"


if __name__ == "__main__":
    main()
