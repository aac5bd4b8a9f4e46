"""What `vitrim benchmark` takes, and which of its options do not go together."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...common.absent import absent
from ...common.files import check_new
from ..shared.options import PRECISIONS, DataOptions, MethodChoice, ModelOptions, OutputOptions
from ..shared.spec import ROWS, Command, option

RUNTIMES = ("eager", "packed", "compiled", "onnx", "openvino", "aotinductor", "onnx-int8", "openvino-int8")
DETAILED = ("eager", "packed")  # runtimes that go through vitrim's loop when they run


@dataclass(kw_only=True)
class SpeedModelOptions(ModelOptions):
    """Model"""

    model: tuple[str, ...] = option(  # ty: ignore[incompatible-attribute-override]  # here there may be several
        "models: timm's names, such as deit_small_patch16_224; of transformers hf:NAME", (), common=True, metavar="NAME"
    )
    checkpoint: Path | None = option(
        "weights of the one model: a timm state dict, or a folder that save() wrote",
        shown="random ones; with --data timm's own",
        common=True,
    )


@dataclass(kw_only=True)
class SpeedShowOptions:
    """What else to show"""

    detail: bool = option("where the time of a forward goes: attention, MLP, the method's steps", False, common=True)
    instead: bool = option(
        "what takes as long without a method: fewer pixels, larger patches, a smaller model", False, common=True
    )
    file: tuple[Path, ...] = option(
        "exported files, a row for each beside the dense model; then no method but those that --method names", ()
    )
    smaller_checkpoint: tuple[Path, ...] = option("weights of smaller models, to judge them on --data", ())


@dataclass(kw_only=True)
class SpeedDataOptions(DataOptions):
    """Images"""

    data: str | None = option(  # ty: ignore[incompatible-attribute-override]  # speed needs none
        "judge what --instead shows on images, as for evaluate", common=True, metavar="PATH"
    )


def check_speed(config: Any) -> None:
    """Raise ValueError for options that do not go together, and files that could not be read or written."""
    run, show, models = config.run, config.show, config.model.model
    if run.csv is not None and str(run.csv) == config.output.json:
        raise ValueError(f"--csv and --json both name {run.csv}: give each a file of its own")
    if run.csv is not None:
        check_new(run.csv, run.overwrite, (".csv",), flag="--csv")
    if run.vs is not None:
        read_run(run.vs)
    if run.rounds < 1:
        raise ValueError(f"--rounds {run.rounds}: give a whole number from 1")
    if config.model.checkpoint is not None and len(models) > 1:
        raise ValueError(
            f"--checkpoint {config.model.checkpoint} belongs to one model, and --model names {len(models)}: give one"
        )
    if show.file and (len(models) > 1 or run.device not in (None, "cpu")):
        raise ValueError(f"--file {show.file[0]} stands beside one --model, on --device cpu: leave the others out")
    for runtime in run.runtime if show.detail else ():
        if runtime not in DETAILED:
            raise ValueError(
                f"--detail looks into the loop of --runtime {' and '.join(DETAILED)}, and {runtime} does not run it: "
                "leave one of the two out"
            )
    _check_data(config)


def _check_data(config: Any) -> None:
    """Images are for judging what stands beside the reduced models."""
    if config.data.data is not None and not config.show.instead:
        raise ValueError("--data judges what --instead shows: give --instead too, or see vitrim compare")
    about_data = [f.name.replace("_", "-") for f in fields(SpeedDataOptions) if f.name != "data"]
    for name in (*about_data, "smaller-checkpoint"):
        if name in config.given and config.data.data is None:
            raise ValueError(f"--{name} is about the images of --data: give --data too, or leave it out")
    for file in config.show.smaller_checkpoint:
        if not file.expanduser().is_file():
            raise ValueError(absent("checkpoint", file, "give --smaller-checkpoint files of weights"))


@dataclass(frozen=True)
class OtherRun:
    """An earlier run: its rows, each with its model, and what it ran on (`environment`)."""

    rows: list[dict[str, Any]]
    where: dict[str, Any]


def read_run(path: Path) -> OtherRun:
    """An earlier run. Raises ValueError for a file that holds none."""
    if not path.expanduser().is_file():
        raise ValueError(absent("file", path, "give --vs a JSON that vitrim benchmark wrote"))
    try:
        report = json.loads(path.expanduser().read_bytes())
        rows = [{"model": report.get("model"), **row} for row in report["rows"]]
        where = {key: report.get(key) for key in ("processor", "threads", "torch", "vitrim")}
        return OtherRun([row for row in rows if row["ms"] > 0 and row["label"] and row["runtime"]], where)
    except (AttributeError, OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"--vs {path} is no JSON that vitrim benchmark wrote") from error


@dataclass(kw_only=True)
class BenchmarkOptions:
    """Run"""

    batch_size: tuple[int, ...] = option("images at a time", (1, 16), common=True)
    runtime: tuple[str, ...] = option("what runs the models", ("eager",), choices=RUNTIMES, common=True)
    precision: tuple[str, ...] = option("numbers to compute in", ("float32",), choices=PRECISIONS[:2], common=True)
    device: str | None = option("cpu, cuda, cuda:1 or mps", shown="the fastest that is there", common=True)
    threads: int | None = option("CPU threads", shown="torch's choice", common=True)
    rounds: int = option("timing rounds; the median counts", 15, common=True)
    seed: int = option("seed of random weights and images", 0)
    out: Path | None = option("draw time against MACs into this file (.png, .svg, .pdf)", common=True)
    vs: Path | None = option("the JSON of another run, to compare with", common=True, metavar="FILE")
    csv: Path | None = option("write the rows to this file as CSV", metavar="FILE")
    overwrite: bool = option("replace the files of --out and --csv, where they are there", False)


BENCHMARK = Command(
    "benchmark",
    "time dense and reduced models in turn on this machine",
    "It needs neither images nor weights, since speed does not depend on them. The column `kept` is the speed-up, "
    "divided by what the MACs promise; `roofline` is the time that the MACs would take at the rate at which this "
    "machine multiplies matrices, divided by the time taken.",
    (
        "vitrim benchmark --model deit_small_patch16_224 --macs 0.7 0.5",
        "vitrim benchmark --model deit_tiny_patch16_224 --detail --instead",
    ),
    {
        "model": SpeedModelOptions,
        "method": MethodChoice,
        "run": BenchmarkOptions,
        "show": SpeedShowOptions,
        "data": SpeedDataOptions,
        "output": OutputOptions,
    },
    ROWS,
    endings=(".png", ".svg", ".pdf"),
    check=check_speed,
)
