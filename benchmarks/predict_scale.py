"""What `vitrim predict` and `vitrim embed` take: time beside its two parts, and peak memory by the number of files.

    python benchmarks/predict_scale.py speed --photos PHOTOS --weights WEIGHTS --files 1000 --json saved.json
    python benchmarks/predict_scale.py engines --photos PHOTOS --weights WEIGHTS --files 1000 --json saved.json
    python benchmarks/predict_scale.py memory --photos PHOTOS --weights WEIGHTS --files 1000 10000 --json saved.json

speed: `--rounds` times in turn decoding alone, computing alone, and each command. Prints images/s, and the time of the
command over the sum of the two (cores that are busy with both) and over the larger (cores that are free). Rounds in
which other programs took more than a tenth of the machine are said.
engines: one process with two threads, two processes with one, and two actors of Ray with one, over the same
photographs: images/s once all are at work, and seconds of the whole command.
memory: the most that all processes of a command take together (what they share is counted once), sampled every 0.2 s.

Files are links to the photographs of a folder, to as many as the fewest files; each process reads them from the page
cache.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import vitrim
from vitrim import cli
from vitrim.data import open_dataset
from vitrim.data.unlabelled import all_below
from vitrim.evaluate import environment
from vitrim.inference.reading import Batches, pieces

OUTPUTS = {"predict": "out.csv", "embed": "features"}
SPAWN = multiprocessing.get_context("spawn")
TICK = os.sysconf("SC_CLK_TCK")


def linked(photos: Path, count: int, folder: Path, distinct: int) -> Path:
    """So many photographs in a hundred folders, the first ones over and over: many have larger ones among them."""
    found = all_below(photos, None)
    for number, place in zip(range(count), itertools.cycle(range(min(distinct, len(found)))), strict=False):
        path = folder / f"{number % 100:02d}" / f"{number:07d}{Path(found.name(place)).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(Path(found.read(place)[0]).absolute())
    return folder


def decoding(photos: Path, options: argparse.Namespace, report: Any) -> None:
    """Seconds to decode all, with nothing beside."""
    images = open_dataset(photos, options.loaded, labels=False)
    batches = Batches([0], len(images), len(images), options.batch)
    start = time.perf_counter()
    for _ in pieces(images, batches, options.workers, torch.device("cpu")):
        pass
    report.put(time.perf_counter() - start)


def computing(photos: Path, options: argparse.Namespace, report: Any) -> None:
    """Seconds to compute so many, of one batch of them over and over."""
    torch.set_num_threads(options.threads)
    predictor = vitrim.Predictor(options.loaded, device="cpu", batch_size=options.batch)
    images = open_dataset(photos, options.loaded, labels=False)
    one = torch.stack([images[place][0] for place in range(options.batch)])
    predictor.of_images(one)
    start = time.perf_counter()
    for _ in range(-(-len(images) // options.batch)):
        predictor.of_images(one)
    report.put(time.perf_counter() - start)


def alone(work: Callable, photos: Path, options: argparse.Namespace) -> float:
    """What `work` reports, in a process of its own."""
    report = SPAWN.Queue()
    process = SPAWN.Process(target=work, args=(photos, options, report))
    process.start()
    seconds = report.get()
    process.join()
    return seconds


def others_share(work: Callable[[], float]) -> tuple[float, float]:
    """The seconds that `work` says it took, and what share of the machine other programs took meanwhile."""
    own = lambda: sum(os.times()[:4])  # noqa: E731  this process and those that it has waited for
    before, ours, start = busy(), own(), time.perf_counter()
    seconds = work()
    wall = time.perf_counter() - start
    return seconds, max(0.0, busy() - before - (own() - ours)) / wall / (os.cpu_count() or 1)


def busy() -> float:
    """Seconds that the machine's cores have worked."""
    user, nice, system, _, _, irq, soft, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + soft + steal) / TICK


def command(line: list[str], report: str) -> None:
    """The command in this process."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = cli.main([*line, "--json", report])
    assert code == 0


def started(name: str, photos: Path, folder: Path, options: argparse.Namespace) -> Any:
    """The command at work in a process of its own."""
    line = [name, str(photos), "--model", options.model, "--checkpoint", str(options.weights), "--device", "cpu"]
    line += ["--threads", str(options.threads), "--workers", str(options.workers), "--batch-size", str(options.batch)]
    line += ["--out", str(folder / OUTPUTS[name]), "--overwrite"]
    line += ["--method", options.method] if options.method else []
    process = SPAWN.Process(target=command, args=(line, str(folder / f"{name}.json")))
    process.start()
    return process


def took(name: str, photos: Path, folder: Path, options: argparse.Namespace) -> float:
    """Seconds from the first image to the output in its place."""
    process = started(name, photos, folder, options)
    process.join()
    assert process.exitcode == 0
    return json.loads((folder / f"{name}.json").read_text())["seconds"]


def speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of each round, and the ratios of their medians."""
    count = options.files[0]
    photos = linked(options.photos, count, folder / "photos", count)
    works = {
        "decoding": lambda: alone(decoding, photos, options),
        "computing": lambda: alone(computing, photos, options),
        **{name: lambda name=name: took(name, photos, folder, options) for name in options.commands},
    }
    rounds = []
    for _ in range(options.rounds):
        found = {name: others_share(work) for name, work in works.items()}
        rounds.append({name: {"seconds": seconds, "others": share} for name, (seconds, share) in found.items()})
        print("  ".join(f"{name} {count / s:.1f}/s (others {o:.0%})" for name, (s, o) in found.items()), flush=True)
    middle = {name: statistics.median(each[name]["seconds"] for each in rounds) for name in works}
    parts = [middle["decoding"], middle["computing"]]
    ratios = {
        name: {"of_sum": middle[name] / sum(parts), "of_larger": middle[name] / max(parts)} for name in options.commands
    }
    for name, each in ratios.items():
        print(f"{name}: {each['of_sum']:.3f} of the sum, {each['of_larger']:.3f} of the larger")
    return {"rounds": rounds, "images_per_s": {name: count / each for name, each in middle.items()}, "ratios": ratios}


TWO = ("torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m")
ENGINES = {
    "one process, two threads": ((), ("--threads", "2")),
    "two processes": (TWO, ("--threads", "1", "--workers", "1", "--part", "128")),
    "Ray, two actors": ((), ("--threads", "1", "--engine", "ray", "--actors", "2")),
}


def engines(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of `vitrim predict` by what runs it: at work, and in all."""
    photos, found = linked(options.photos, options.files[0], folder / "photos", options.files[0]), {}
    for name, (before, after) in ENGINES.items():
        line = [
            sys.executable,
            *(("-m",) if before else ()),
            *before,
            *(() if before else ("-m",)),
            "vitrim",
            "predict",
        ]
        line += [str(photos), "--model", options.model, "--checkpoint", str(options.weights), "--device", "cpu"]
        line += ["--batch-size", str(options.batch), "--out", "out.csv", "--overwrite", "--json", "told.json", *after]
        start = time.perf_counter()
        subprocess.run(line, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        whole, told = time.perf_counter() - start, json.loads((folder / "told.json").read_text())
        found[name] = {"images_per_s": told["images_per_s"], "seconds": told["seconds"], "whole_seconds": whole}
        print(f"{name}: {told['images_per_s']:.1f}/s; {whole:.1f} s in all", flush=True)
    return {"engines": found}


def family(pid: int) -> list[int]:
    """A process, and those that it has started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in family(int(child)))]


def in_memory(pids: list[int]) -> int:
    """Bytes that they take: what they have written, once where they share it, and of mapped files (libraries) what the
    one has that has most of them. Their PSS would change with every other program that uses the same libraries."""
    own = sum(field(pid, "smaps_rollup", name) for pid in pids for name in ("Pss_Anon", "Pss_Shmem"))
    return own + max((field(pid, "status", "RssFile") for pid in pids), default=0)


def field(pid: int, file: str, name: str) -> int:
    """Bytes that the system tells of a process; 0 where it has gone."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def settled(pid: int) -> int:
    """`in_memory` of a process and all below it; 0 where one was forked or ended meanwhile, and is counted twice: until
    a new one has its own program, it has the very memory of the one that started it."""
    pids = family(pid)
    own = [field(each, "smaps_rollup", "Pss_Anon") for each in pids]
    found = in_memory(pids)
    return found if family(pid) == pids and len(set(own)) == len(own) else 0


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The most memory that each command takes, by the number of files."""
    peaks: dict[str, dict[int, int]] = {name: {} for name in options.commands}
    for count in options.files:
        place = folder / str(count)
        photos = linked(options.photos, count, place / "photos", min(options.files))
        for name in options.commands:
            process, peak = started(name, photos, place, options), 0
            while process.is_alive():
                peak = max(peak, settled(process.pid))
                time.sleep(0.2)
            assert process.exitcode == 0
            peaks[name][count] = peak
            print(f"{name} of {count} files: {peak / 1e6:.0f} MB", flush=True)
    for name, found in peaks.items():
        print(f"{name}: {found[options.files[-1]] / found[options.files[0]]:.3f} of the first")
    return {"peak_bytes": peaks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "engines", "memory"))
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--files", type=int, nargs="+", default=[1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--method")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--commands", nargs="+", default=list(OUTPUTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model = vitrim.backbones.TIMM.create(options.model).eval()
        if options.weights is None:  # random ones: as fast
            options.weights = Path(place, "weights.pth")
            torch.save(model.state_dict(), options.weights)
        vitrim.backbones.TIMM.load_checkpoint(model, options.weights)
        options.loaded = model if options.method is None else vitrim.reduce(model, options.method)
        found = {"speed": speed, "engines": engines, "memory": memory}[options.what](options, Path(place))
    if options.json is not None:
        asked = {
            key: str(value) for key, value in vars(options).items() if not isinstance(value, (Path, torch.nn.Module))
        }
        options.json.write_text(json.dumps({**environment(), **asked, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
