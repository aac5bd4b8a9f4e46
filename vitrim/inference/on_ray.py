"""Batches computed by Ray Data: decoded by tasks, computed by a pool of actors that each hold the model.

What lies on the disk is this process's alone: a worker that dies leaves nothing, and Ray gives its batches to another.
"""

from __future__ import annotations

import copy
import logging
import os
import pickle
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch

from ..common.errors import OptionError
from ..common.extras import require
from ..common.progress import progress
from ..common.text import first_line
from ..data import Photographs
from ..data.loading import processors
from ..evaluate.timing import as_dtype
from .callables import Images
from .engines import Computed, Engine, computed
from .reading import Batches, piece

ADDRESS = "RAY_ADDRESS"  # of a cluster, as Ray's own commands take it
CORES_FOR_AN_ACTOR = 4
IMAGES_IN_A_TASK = 128


@dataclass
class OnRay(Engine):
    """A cluster that RAY_ADDRESS names, or one of this machine's own, which ends with this process.

    device:    cpu, or cuda: a GPU for each actor
    actors:    how many hold the model; one for each GPU, or for each 4 cores
    threads:   cores of each; the cores that are left decode
    precision: numbers to compute in
    workers:   decoding tasks at a time, at most; None: as many as there are free cores
    """

    device: torch.device
    actors: int
    threads: int
    precision: str = "float32"
    workers: int | None = None

    def of_photographs(self, model: Images, photographs: Photographs, batches: Batches) -> Iterator[Computed]:
        import ray

        if not len(batches):
            return
        job, sent = ray.put((photographs, batches)), ray.put(_packed(self._theirs(model)))  # once for each machine
        rows = ray.data.range(len(batches), override_num_blocks=self._tasks(batches))
        decoded, actor = cast(Any, _decoded), cast(Any, _Actor)  # Ray's types know of no arguments by name
        rows = rows.map_batches(decoded, batch_size=1, fn_kwargs={"job": job}, **self._decoding)
        about = {"model": sent, "threads": self.threads}
        rows = rows.map_batches(actor, batch_size=1, fn_kwargs=about, **self._computing)
        with _in_one_line():
            for each in rows.iter_batches(batch_size=1, prefetch_batches=0):
                yield pickle.loads(each["batch"][0])

    @property
    def _decoding(self) -> dict[str, Any]:
        """What a task takes of the cluster. Told otherwise than of an actor, or Ray would decode in the actors."""
        limit: dict[str, Any] = {"concurrency": self.workers} if self.workers else {}
        return {"num_cpus": 1, "max_calls": 1000, **limit}

    @property
    def _computing(self) -> dict[str, Any]:
        gpus: Any = {"num_gpus": 1} if self.device.type == "cuda" else {}
        return {"concurrency": self.actors, "num_cpus": self.threads, **gpus}

    def _tasks(self, batches: Batches) -> int:
        """Decoding tasks: many enough for all to have work, and each worth its start."""
        few = -(-len(batches) * batches.batch // IMAGES_IN_A_TASK)
        return min(len(batches), max(few, 4 * self.actors))

    def _theirs(self, model: Images) -> Images:
        """The model as actors get it."""
        theirs = copy.copy(model)
        theirs.device, theirs.precision = self.device.type, self.precision
        return theirs


@contextmanager
def on_ray(
    device: str | None = None,
    actors: int | None = None,
    threads: int | None = None,
    precision: str = "float32",
    workers: int | None = None,
) -> Generator[OnRay]:
    """The engine, on a cluster that is there for as long as it is used.

    device: None: cuda, if the cluster has GPUs; the others: as for `OnRay`

    Raises ValueError where Ray is not installed or no cluster answers, and for a device that it has not.
    """
    require("ray", "--engine ray")
    if device not in (None, "cpu", "cuda"):
        raise OptionError({"device": device}, " is of one machine: Ray gives each actor its own, give cpu or cuda")
    with _cluster(1 + (actors or 1) * (threads or 1)) as has:
        device = device or ("cuda" if has.get("GPU") else "cpu")
        engine = _placed(has, torch.device(device), actors, threads)
        engine.precision, engine.workers = precision, workers
        if device == "cpu":
            as_dtype(precision, engine.device)
        yield engine


def _placed(has: dict[str, float], device: torch.device, actors: int | None, threads: int | None) -> OnRay:
    """How many actors of which size. Raises ValueError where the cluster has too little for them, and for decoding."""
    cores, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    if device.type == "cuda" and not gpus:
        raise OptionError({"device": "cuda"}, ": the Ray cluster has no GPU, use ", {"device": "cpu"})
    actors = actors or (gpus if device.type == "cuda" else max(1, cores // CORES_FOR_AN_ACTOR))
    threads = threads or (1 if device.type == "cuda" else max(1, cores // actors - 1))
    if device.type == "cuda" and actors > gpus:
        raise OptionError({"actors": actors}, f": the Ray cluster has {gpus} GPUs, and each takes one")
    if actors * threads >= cores:
        wanted = f"{actors} x {threads} of the Ray cluster's {cores} cores, and one more decodes"
        raise OptionError({"actors": actors}, f" takes {wanted}: give fewer, or fewer ", {"threads": ...})
    return OnRay(device, actors, threads)


@contextmanager
def _cluster(cores: int) -> Generator[dict[str, float]]:
    """What the cluster has."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what a user computes
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # or it remarks on its own actors
    import ray
    import ray.data

    address = os.environ.get(ADDRESS)
    own: dict[str, Any] = {"num_cpus": max(cores, processors()), "include_dashboard": False}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with progress("starting Ray"), _standard_error_closed():
            ray.init(address=address or "local", **({} if address else own), **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"no Ray cluster answers at {address}" if address else "Ray cannot start here"
        raise ValueError(f"{where}: {first_line(error)}") from error
    try:
        _hush()
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


@contextmanager
def _standard_error_closed() -> Generator[None]:
    """Ray's own code writes there past Python; what goes wrong it raises."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        for descriptor in (kept, nowhere):
            os.close(descriptor)


def _hush() -> None:
    """Ray's own bars and notes would run through ours."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _in_one_line() -> Generator[None]:
    """What Ray gives up at is told in a line; an error in our code keeps its own."""
    from ray import exceptions

    try:
        yield
    except exceptions.RayTaskError as error:
        raise getattr(error, "cause", None) or error from error
    except exceptions.RayError as error:
        raise ValueError(f"Ray has given up: {first_line(error)}; the same command goes on") from error


def _packed(model: Images) -> tuple[list[str], bytes]:
    """The model as bytes that an actor unpacks in our code: what fails in Ray's own it would try for ever. With it goes
    where this process finds its modules: a file of the user's own, such as a method's, is read from where it lies."""
    from ray import cloudpickle

    return [os.path.abspath(folder) for folder in sys.path], cloudpickle.dumps(model)


@lru_cache(maxsize=1)
def _unpacked(sent: Any) -> Any:
    """The model, once for each actor."""
    import ray

    path, model = ray.get(sent)
    sys.path += [folder for folder in path if folder not in sys.path]
    return pickle.loads(model)


@lru_cache(maxsize=1)
def _fetched(sent: Any) -> Any:
    """What was sent, once for each process."""
    import ray

    return ray.get(sent)


def _decoded(batch: dict[str, Any], job: Any) -> dict[str, Any]:
    """A batch of images, for the number of one."""
    torch.set_num_threads(1)
    photographs, batches = _fetched(job)
    return {"batch": [pickle.dumps(piece(photographs, batches, int(batch["id"][0])), protocol=5)]}


class _Actor:
    """Holds the model, and takes batches one after the other."""

    def __call__(self, batch: dict[str, Any], model: Any, threads: int) -> dict[str, Any]:
        torch.set_num_threads(threads)
        return {"batch": [pickle.dumps(computed(_unpacked(model), pickle.loads(batch["batch"][0])), protocol=5)]}
