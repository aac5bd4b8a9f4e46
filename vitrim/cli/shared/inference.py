"""What `predict` and `embed` share: the model, the images, the run, and what is said of it."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from ...common.extras import require
from ...common.files import write_json
from ...common.progress import progress
from ...common.text import counted, few, shortened
from ...data import Photographs, StreamedPhotographs, open_dataset
from ...evaluate import environment
from ...evaluate.timing import as_device, as_dtype, best_device
from ...inference.callables import Images
from ...inference.engines import Engine, Local
from ...inference.on_ray import on_ray
from ...inference.outputs import Output
from ...inference.processes import Processes, own_device
from ...inference.runs import Done, Run, part_size, told_of, with_batch_for
from ..commands.inference import data_told
from .config_file import asked
from .early_extras import each_extra
from .measure import CPU_BATCH, OTHER_BATCH
from .model import Subject, open_model
from .plans import Plan, one_plan
from .report import images_in_words, left_out
from .table import Printer

NAMED = 3  # unreadable images named on the terminal; the file names all


class Inference:
    """A command line of `predict` or `embed`, opened step by step, in the order in which mistakes are told."""

    def __init__(self, config: Any):
        run = config.run
        each_extra(require, config)
        self.config, self.processes = config, Processes()
        if run.threads is not None:
            torch.set_num_threads(run.threads)
        torch.manual_seed(run.seed)
        self.device, self.precision = _of_this_process(run)
        with progress("preparing the model"):
            self.subject = open_model(config.model)
            self.plan = _plan(self.subject, config.method, run.seed)

    @property
    def model(self) -> nn.Module:
        """The model that runs."""
        return self.subject.dense if self.plan is None else self.plan.model

    @property
    def settings(self) -> dict[str, Any]:
        """How a callable class is to run it."""
        return {"device": str(self.device), "precision": self.precision}

    def run(self, worker: Images, output: Output, more: dict[str, Any]) -> None:
        """Compute, publish and tell. more: what tells this run from others of its kind, beside data and model."""
        images = self._images(worker)
        with self._engine(images) as engine:
            self._run_on(engine, images, worker, output, more)
        self.processes.close()

    def _engine(self, images: Photographs | StreamedPhotographs) -> AbstractContextManager[Engine]:
        """Raises ValueError for what Ray does not do, and where it cannot be started."""
        run, workers = self.config.run, self.config.data.workers
        if run.engine == "local":
            return nullcontext(Local(self.device, workers))
        if self.processes.world > 1:
            raise ValueError("--engine ray has processes of its own: start one, without accelerate launch or torchrun")
        if isinstance(images, StreamedPhotographs):
            raise ValueError("--engine ray: a stream is read by one process, from its start to its end; leave it out")
        return on_ray(run.device, run.actors, run.threads, run.precision, workers)

    def _run_on(self, engine: Engine, images: Any, worker: Images, output: Output, more: dict[str, Any]) -> None:
        batch = self.config.run.batch_size or (CPU_BATCH if engine.device.type == "cpu" else OTHER_BATCH)
        worker = with_batch_for(worker, images, batch)
        part = part_size(worker, self.config.out.part)
        run = Run(worker, images, output, part, engine, self.config.out.overwrite, self.processes)
        printer = Printer(self.config.output.json if self.processes.first else os.devnull)
        told = {**self._asked(images), **told_of(images, worker), "precision": self.config.run.precision}
        told |= {"part": part, **more}

        def begun(before: int, total: int | None) -> None:
            if self.processes.first:
                self._tell(printer, images, before, total)

        done = run.run(told, begun)
        if self.processes.first:
            self._conclude(printer, output, done, told)
            self._check_any(output, done)

    def _images(self, worker: Images) -> Photographs | StreamedPhotographs:
        data = self.config.data
        places: dict[str, Any] = {"split": data.split, "root": data.root, "limit": data.limit}
        with progress("looking for images"):
            return open_dataset(
                data.data, worker.ready.model, crop_pct=data.crop_pct, labels=False, seed=self.config.run.seed, **places
            )

    def _asked(self, images: Any) -> dict[str, Any]:
        data, plan = self.config.data, self.plan
        return {
            "command": self.config.command,
            "model": self.subject.name,
            "method": plan.name if plan is not None else "none",
            "options": plan.options if plan is not None else {},
            "prediction_only": plan is not None and plan.model.prediction_only,
            **data_told(data.data),
            "split": data.split,
        }

    def _tell(self, printer: Printer, images: Any, before: int, total: int | None) -> None:
        """What runs on what; after a kill, how much of it is done."""
        label = "dense" if self.plan is None else self.plan.label
        height, width = images.config["input_size"][1:]
        where = few(self.config.data.data, 1)
        printer.line(f"{self.subject.name}, {label}; {images_in_words(images)} in {where} at {height} x {width}")
        left_out(printer, images)
        if before:
            printer.line(f"going on: {before:,} {'' if total is None else f'of {total:,} '}images are done")

    def _conclude(self, printer: Printer, output: Output, done: Done, told: dict[str, Any]) -> None:
        rate = f"{done.images_per_s:,.1f} images/s" if done.images > done.before else "nothing was left to compute"
        printer.line(f"wrote {self.config.out.out}: {counted(done.rows, 'row')}, {rate}")
        skipped = _first_of(output) if done.unreadable else []
        if done.unreadable:
            what = counted(done.unreadable, "image")
            printer.line(f"{what} cannot be read: {output.unreadable} lists them")
            for entry in skipped:
                printer.line(f"  {shortened(entry['file'])}: {entry['reason']}", indent="    ")
        figures = {**told, **asdict(done), "rows": done.rows, "images_per_s": done.images_per_s}
        place = {"out": str(self.config.out.out), **environment(self.device, self.config.run.seed)}
        write_json(self.config.output.json, {**asked(self.config), **figures, **place})

    def _check_any(self, output: Output, done: Done) -> None:
        """Raise ValueError where nothing came of all images."""
        if done.images and not done.rows:
            what = "the image" if done.images == 1 else f"none of the {done.images:,} images"
            raise ValueError(
                f"{what} {'cannot' if done.images == 1 else 'can'} be read: {self.config.out.out} has no row, and "
                f"{shortened(output.unreadable)} says why"
            )


def _of_this_process(run: Any) -> tuple[torch.device, str]:
    """Where its own model runs, and in which numbers. With Ray that is asked only what it gives."""
    if run.engine == "ray":
        return torch.device("cpu"), "float32"
    device = as_device(own_device(run.device) or best_device())
    as_dtype(run.precision, device)
    return device, run.precision


def _plan(subject: Subject, method: Any, seed: int) -> Plan | None:
    """The reduced model that is asked for; None: none is, and the dense one runs."""
    return one_plan(subject, method, seed) if method.asks or subject.saved is not None else None


def _first_of(output: Output) -> list[dict[str, str]]:
    with open(output.unreadable, "rb") as file:
        return [json.loads(line) for _, line in zip(range(NAMED), file, strict=False)]
