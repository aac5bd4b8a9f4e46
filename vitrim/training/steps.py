"""One optimiser step: forward, the parts of the loss, backward, update; on Accelerate."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from ..core.schedule import cosine_keep
from ..runtime.model import ReducedViT
from ..runtime.records import LossInputs
from .checkpoints import RunStopped
from .objective import Objective, Teacher
from .optim import make_optimizer, make_schedule, set_learning, still_parameters
from .photographs import make_mixup, mixed, seed_everything, seed_of
from .recipes import Recipe
from .settings import Settings
from .shares import held_by_ratio, kept_shares, learns_counts, own_counts, place_names, turns_by_schedule

if TYPE_CHECKING:
    from accelerate import Accelerator


class Stepper:
    """Student, teacher, optimiser, schedule and running mean; everything that one step touches.

    Every draw (mixup, Gumbel, drop path) is seeded by (seed, step, process): resumed runs draw what they would have.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        student: ReducedViT,
        teacher: Teacher | None,
        objective: Objective,
        settings: Settings,
        steps_per_epoch: int,
    ):
        self.accelerator, self.objective, self.settings = accelerator, objective, settings
        self.recipe: Recipe = objective.recipe
        self.each = steps_per_epoch
        self.student = student.to(accelerator.device)
        self.teacher = None if teacher is None else teacher.to(accelerator.device)
        if settings.checkpointing:
            self.student.set_grad_checkpointing()
        self.mixup = make_mixup(self.recipe, student.num_classes)
        self.optimizer = make_optimizer(student, self.recipe)
        self.schedule = make_schedule(self.optimizer, self.recipe, steps_per_epoch)
        self.ema = ModelEmaV3(student, decay=self.recipe.ema) if self.recipe.ema else None
        self.still = still_parameters(student)
        self.rates = {m: [p.keep for p in m.places] for m in student.methods if self.scheduled and turns_by_schedule(m)}
        self.model: Any = None

    def begin_epoch(self, epoch: int) -> None:
        """Settle who learns. DistributedDataParallel must be made anew when that has changed."""
        changed = set_learning(self.student, self.recipe, epoch, self.still)
        if changed or self.model is None:
            model: Any = torch.compile(self.student) if self.settings.compile else self.student
            self.model = self.accelerator.prepare_model(model)

    def take(self, step: int, images: Tensor, labels: Tensor) -> dict[str, float]:
        """One optimiser step on this process's part of the batch; its figures, means over all processes."""
        seed = seed_of(self.settings.seed, step, 1)
        images, target = mixed(self.mixup, images, labels, seed)
        seed_everything(seed_of(seed, self.accelerator.process_index))
        self._turn_keep_rates(step)
        self.schedule.step_update(step)
        self.model.train()
        device = self.accelerator.device
        figures = self._means(step, self._accumulate(images.to(device), target.to(device)))
        self._update(step)
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        return {"step": step, **figures, "lr": rate, **self._keep_rates()}

    def _accumulate(self, images: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Forward and backward over the micro-batches; the parts of the loss, their mean over this process's batch."""
        size = self.settings.micro_batch or len(images)
        chunks = list(zip(images.split(size), target.split(size), strict=True))
        total: dict[str, Tensor] = {}
        for j, (some, wanted) in enumerate(chunks):
            last, share = j == len(chunks) - 1, len(some) / len(images)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, parts = self._loss(some, wanted)
                self.accelerator.backward(loss * share)
            for name, part in {"loss": loss, **parts}.items():
                total[name] = total.get(name, 0.0) + part.detach().float() * share
        return total

    def _loss(self, images: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with self.accelerator.autocast():
            teacher = None if self.teacher is None else self.teacher(images)
            logits, loss_inputs = self.model(images, losses=self.recipe.records)
        parts = self.objective.parts(logits, loss_inputs, target, teacher)
        self._store_counts(loss_inputs)
        shares = {f"kept {name}": share for name, share in kept_shares(self.student, loss_inputs).items()}
        return self.objective.total(parts), {**parts, **shares}

    def _store_counts(self, loss_inputs: LossInputs) -> None:
        """ToFe's running means of the tokens kept, over all processes; they travel with the weights. Where a ratio
        loss holds the stages to fixed shares (its Table V), those stay."""
        held = held_by_ratio(self.student.methods, self.recipe.weights)
        for method in self.student.methods:
            if learns_counts(method) and method not in held:
                counts, patches = own_counts(method, loss_inputs)
                method.update_counts(self.accelerator.gather(counts.detach()), patches)

    def _means(self, step: int, parts: dict[str, Tensor]) -> dict[str, float]:
        """Means over all processes, as numbers. Raises RunStopped if the loss is not finite."""
        means = self.accelerator.reduce(torch.stack(list(parts.values())), "mean")
        figures = dict(zip(parts, means.tolist(), strict=True))
        if not math.isfinite(figures["loss"]):
            values = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            last = self.settings.checkpoints / "last.pt"
            good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint has been written yet"
            raise RunStopped(f"the loss is not finite at step {step} ({values}); {good}: lower the learning rate")
        return figures

    def _update(self, step: int) -> None:
        if self.recipe.clip_grad:
            self.accelerator.clip_grad_norm_(self.student.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.student, step=step)

    def _turn_keep_rates(self, step: int) -> None:
        """EViT's and BAT's schedule: 1 first, then a cosine down to each place's own rate."""
        start, long = self.recipe.keep_start * self.each, self.recipe.keep_epochs * self.each
        for method, rates in self.rates.items():
            method.set_rates([cosine_keep(rate, step, start, max(1, long)) for rate in rates])

    @property
    def scheduled(self) -> bool:
        """Whether keep rates start at 1 and fall."""
        return bool(self.recipe.keep_start or self.recipe.keep_epochs)

    def _keep_rates(self) -> dict[str, float]:
        names = place_names(self.student.methods)
        rated = {key: name for key, name in names.items() if "keep" in key[0].option_names()}
        return {f"keep {name}": method.places[index].keep for (method, index), name in rated.items()}

    def result(self) -> ReducedViT:
        """The student to judge and to keep, in eval mode, at its own keep rates wherever their schedule stands; the
        running mean's weights where the recipe says so."""
        for method, rates in self.rates.items():
            method.set_rates(rates)
        return (self.ema.module if self.ema is not None and self.recipe.judge_ema else self.student).eval()
