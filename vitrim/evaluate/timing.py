"""Throughput of several models measured in turn, and what it was measured on."""

import math
import os
import platform
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import LIBRARIES
from ..common.errors import OptionError
from ..common.progress import counted_off, hidden
from ..runtime.model import for_images

SPREAD = 0.25  # of the speed-up, between the tenth and the ninetieth percentile, on a machine that does nothing else
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


class Throughput(NamedTuple):
    """How fast a model is: `images_per_s`, the median over the rounds, and `speed_up`, the median over the rounds of
    the first model's time divided by this one's; `low` and `high`, the tenth and the ninetieth percentile of that.

    Example:
        >>> vitrim.evaluate.Throughput(images_per_s=1200.0, speed_up=1.5).speed_up
        1.5
    """

    images_per_s: float
    speed_up: float
    low: float = math.nan
    high: float = math.nan

    @property
    def disturbed(self) -> bool:
        """Whether something else has slowed the machine down so that the rounds tell no one speed-up."""
        return self.high - self.low > SPREAD * self.speed_up


def as_device(device: str | torch.device) -> torch.device:
    """The device, after a look whether it is there. Raises ValueError otherwise."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise OptionError({"device": str(device)}, ": give cpu, cuda, cuda:1 or mps") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(found.type, True) or (
        found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count()
    ):
        count = f" ({torch.cuda.device_count()} CUDA devices)" if found.type == "cuda" else ""
        raise OptionError({"device": str(device)}, f": there is none here{count}: use ", {"device": "cpu"})
    return found


def best_device() -> str:
    """The fastest device that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def as_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """float32, bfloat16 or float16. Raises ValueError for others, and where `device` computes no such numbers."""
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise OptionError({"dtype": name}, f": choose one of {', '.join(_DTYPES)}")
    if name == "bfloat16" and not _has_bfloat16(device):
        raise OptionError(
            {"dtype": name}, f": {processor_name(device)} has no such arithmetic: use ", {"dtype": "float32"}
        )
    if name == "float16" and device.type == "cpu":
        raise OptionError(
            {"dtype": name}, " is for GPUs: on a CPU use ", {"dtype": "float32"}, " or ", {"dtype": "bfloat16"}
        )
    return _DTYPES[name]


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has it: torch also emulates bfloat16, more slowly than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # an older torch tells only what oneDNN can do
            return torch.ops.mkldnn._is_mkldnn_bf16_supported()
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(flag, False) for flag in _BFLOAT16_FLAGS)
    return True


@contextmanager
def inference(device: torch.device, dtype: torch.dtype) -> Generator[None]:
    """No gradients, and autocast to `dtype` unless it is float32. Weights stay as they are."""
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        yield


@contextmanager
def evaluation_mode(models: Mapping[str, nn.Module]) -> Generator[None]:
    """All modules in evaluation mode, and back as they were."""
    before = {module: module.training for model in models.values() for module in model.modules()}
    for model in models.values():
        model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def throughput_in_turn(
    models: Mapping[str, nn.Module],
    batch: Float[Tensor, "b c h w"],
    rounds: int = 9,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    seconds: float = 0.2,
    progress: bool = False,
) -> dict[str, Throughput]:
    """Time models in turn (first, second, ..., first, second, ...) on one batch, which is on the device before.

    Each model is warmed up and then called as often per round as fills `seconds`. Ratios are taken within a round,
    where the machine's load is about the same for all, and the median over `rounds` is reported; the first model is
    what the others are compared with, so put the dense one first. Models are moved to `device`. `progress` shows a bar
    on standard error, where that is a terminal. Raises ValueError for no models, no images, fewer than one round, and
    an unavailable device or dtype.

    Example:
        >>> models = {"dense": model, "fast": vitrim.reduce(model, "evit")}
        >>> list(vitrim.evaluate.throughput_in_turn(models, images, rounds=1, seconds=0.01))
        ['dense', 'fast']
    """
    if not models or len(batch) < 1 or rounds < 1:
        raise ValueError(f"{len(models)} models, {len(batch)} images, {rounds} rounds: give at least one of each")
    device = as_device(device)
    dtype, batch = as_dtype(dtype, device), batch.to(device)
    models = {name: for_images(model) for name, model in models.items()}
    for model in models.values():
        model.to(device)
    with evaluation_mode(models), inference(device, dtype), hidden(not progress):
        times = times_in_turn(models, batch, rounds, seconds)
    first = next(iter(models))
    return {name: _throughput(len(batch), [(each[first], each[name]) for each in times]) for name in models}


def times_in_turn(
    runs: Mapping[str, Callable[[Tensor], Any]], batch: Tensor, rounds: int, seconds: float = 0.2
) -> list[dict[str, float]]:
    """Seconds that one call of each takes, round by round, each called in turn; warmed up before.

    Example:
        >>> [sorted(each) for each in times_in_turn({"a": torch.neg, "b": torch.abs}, torch.ones(2), 2, seconds=1e-4)]
        [['a', 'b'], ['a', 'b']]
    """
    calls = {name: _calls(runs[name], batch, seconds) for name in counted_off(list(runs), "warming up")}
    turns = [(number, name) for number in range(rounds) for name in runs]
    taken = {turn: seconds_of_call(runs[turn[1]], batch, calls[turn[1]]) for turn in counted_off(turns, "timing")}
    return [{name: taken[number, name] for name in runs} for number in range(rounds)]


def _throughput(images: int, times: Sequence[tuple[float, float]]) -> Throughput:
    """times: (the first model's, this model's) of every round"""
    ratios = torch.tensor([first / own for first, own in times], dtype=torch.float64)
    low, middle, high = ratios.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return Throughput(images / median(own for _, own in times), middle, low, high)


def _calls(model: Callable[[Tensor], Any], batch: Tensor, seconds: float) -> int:
    """How many calls fill `seconds`, found by doubling, which warms the model up as well."""
    seconds_of_call(model, batch, 2)
    calls = 1
    while (spent := seconds_of_call(model, batch, calls) * calls) < seconds / 4:
        calls *= 2
    return max(1, math.ceil(seconds * calls / spent))


def seconds_of_call(model: Callable[[Tensor], Any], batch: Tensor, calls: int = 1) -> float:
    """Seconds for one call, averaged over `calls`; on a GPU by its own clock.

    Example:
        >>> seconds_of_call(torch.neg, torch.ones(2)) > 0
        True
    """
    if batch.is_cuda:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            model(batch)
        end.record()
        torch.cuda.synchronize(batch.device)
        return start.elapsed_time(end) / 1000 / calls
    begin = time.perf_counter()
    for _ in range(calls):
        model(batch)
    if batch.device.type == "mps":
        torch.mps.synchronize()
    return (time.perf_counter() - begin) / calls


def processor_name(device: torch.device) -> str:
    """The name of the GPU, or of the CPU as the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def environment(device: str | torch.device = "cpu", seed: int | None = None) -> dict[str, str | int]:
    """Versions, processor, threads, device and seed, for the JSON that commands write.

    `seed` is torch's own where none is given. A package without metadata (a bare checkout) has version "unknown".
    Raises ValueError for an unavailable device.

    Example:
        >>> {"processor", "cores", "threads", "torch", "timm", "vitrim"} <= vitrim.evaluate.environment().keys()
        True
    """
    device = as_device(device)
    libraries = [library.name for library in LIBRARIES if library.in_use]
    return {
        **{package: _version(package) for package in ("torch", *libraries, "vitrim")},
        "python": platform.python_version(),
        "processor": processor_name(device),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "seed": torch.initial_seed() if seed is None else seed,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
