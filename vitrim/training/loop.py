"""The run: epochs of steps, checkpoints, judgement; safe to interrupt at any moment."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..runtime.model import ReducedViT
from .checkpoints import BEST, LAST, RunStopped, check_same_run, read, write
from .journal import Journal
from .objective import Objective, Teacher
from .photographs import GlobalBatches, TrainingPhotographs, training_loader
from .settings import Settings, flat
from .signals import Interrupted, Signals
from .steps import Stepper

if TYPE_CHECKING:
    from accelerate import Accelerator

WAIT = timedelta(hours=6)  # the others wait while the first process judges; NCCL would give up after ten minutes


def make_accelerator(settings: Settings, learns: bool) -> Accelerator:
    """Devices, precision, processes and trackers; `learns`: the method has learned parts, some unused in some steps.

    Raises ValueError for trackers that are not installed.
    """
    from accelerate import Accelerator
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    available = [str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()]
    missing = [name for name in settings.trackers if name not in available]
    if missing:
        raise ValueError(f'--trackers {" ".join(missing)}: not installed; pip install "vitrim[trackers]"')
    return Accelerator(
        cpu=settings.cpu,
        mixed_precision=settings.precision,
        log_with=list(settings.trackers) or None,
        project_dir=str(settings.out),
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=learns),
            InitProcessGroupKwargs(timeout=WAIT),
        ],
    )


class Run:
    """One training run and where it stands.

    identity: what makes this run this run; `resume` refuses a checkpoint of another
    judge:    student -> figures, called after each epoch on the processes that have one
    signals:  what SIGINT and SIGTERM have said; the judge may ask it, too
    """

    def __init__(
        self,
        accelerator: Accelerator,
        student: ReducedViT,
        teacher: Teacher | None,
        objective: Objective,
        photographs: TrainingPhotographs,
        settings: Settings,
        identity: dict[str, Any],
        judge: Callable[[ReducedViT], dict[str, float]] | None = None,
        signals: Signals | None = None,
    ):
        recipe, rank, processes = objective.recipe, accelerator.process_index, accelerator.num_processes
        self.accelerator, self.settings, self.judge = accelerator, settings, judge
        self.batches = GlobalBatches(len(photographs), recipe, settings.seed, rank, processes)
        self.loader = training_loader(photographs, self.batches, settings.workers)
        self.stepper = Stepper(accelerator, student, teacher, objective, settings, len(self.batches))
        self.steps = recipe.epochs * len(self.batches)
        # The number of processes is not part of it: a run may go on with another number.
        self.identity = {
            **identity,
            **{f"recipe.{k}": v for k, v in flat(asdict(recipe)).items()},
            "seed": settings.seed,
        }
        self.step, self.judged, self.best, self.unreadable = 0, 0, -math.inf, {}
        self.saved_at, self.saved_step, self.whole = time.monotonic(), -1, True
        self.signals = signals or Signals(lockstep=processes > 1)

    def train(self) -> ReducedViT:
        """Run to the end; the student with its final weights, in eval mode.

        Raises RunStopped for a loss that is not finite, for a full disk and where judging fails, naming the last good
        checkpoint; Interrupted, once the state is written, for SIGINT and SIGTERM.
        """
        self.accelerator.init_trackers("vitrim", config={k: str(v) for k, v in self.identity.items()})
        done = self.step, self.judged * len(self.batches)
        journal = Journal(self.settings.out, self.accelerator, *done, self.steps, self.settings.show)
        with self.signals:
            try:
                self._epochs(journal)
            finally:
                journal.close()
        if self.signals.came is not None:
            raise self._interrupted() from None
        return self.stepper.result()

    def _epochs(self, journal: Journal) -> None:
        each = len(self.batches)
        if self.judged < self.step // each and not self.step % each:  # resumed where judging broke off
            self._after_epoch(journal, self.step // each)
        while self.step < self.steps:
            self._epoch(journal)
            self._after_epoch(journal, self.step // each)

    def _epoch(self, journal: Journal) -> None:
        epoch, done = divmod(self.step, len(self.batches))
        self.batches.epoch, self.batches.start = epoch, done
        self.stepper.begin_epoch(epoch)
        for images, labels, unreadable in self.loader:
            self.unreadable.update({file.name: file.reason for file in unreadable})
            if not self.signals.lockstep:
                self.signals.leave_if_told()
            self._take(journal, images, labels)
            self.signals.leave_together(self.accelerator)

    def _take(self, journal: Journal, images: Tensor, labels: Tensor) -> None:
        self.whole = False
        row = self.stepper.take(self.step, images, labels)
        self.step, self.whole = self.step + 1, True
        journal.step(row, write=self.step % self.settings.log_every == 0 or self.step == 1)
        if time.monotonic() - self.saved_at > 60 * self.settings.save_minutes:
            self.save()

    def _after_epoch(self, journal: Journal, epoch: int) -> None:
        """Save, then judge: whatever happens to the judge, nothing learned is lost."""
        if self.judge is not None:
            self.save()
        figures = self._judgement(epoch)
        self.judged = epoch
        journal.epoch({"step": self.step - 1, "epoch": epoch, **figures})
        # Without anything to judge by, the newest is the best.
        score = figures.get("top1", figures.get("agreement", figures.get("cosine", self.step)))
        better, self.best = score > self.best, max(score, self.best)
        self.save()
        if better:
            self.save(BEST)
        with self.signals.waiting():
            self.accelerator.wait_for_everyone()

    def _judgement(self, epoch: int) -> dict[str, float]:
        if self.judge is None:
            return {}
        try:
            return self.judge(self.stepper.result())
        except (RuntimeError, OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            last = self.settings.checkpoints / LAST
            raise RunStopped(
                f"judging failed after epoch {epoch} ({reason}); what was learned is in {last}: mend the cause and go "
                "on with --resume"
            ) from error

    def _interrupted(self) -> Interrupted:
        """The state is written, where it is that of a whole step; what is raised then."""
        try:
            if self.whole and self.saved_step != self.step:
                self.save()
        finally:
            self.signals.restore()
        number, last = self.signals.came or int(signal.SIGINT), self.settings.checkpoints / LAST
        where = f"the state is in {last}: go on with --resume" if last.exists() else "nothing had been learned yet"
        return Interrupted(
            f"stopped by {signal.Signals(number).name} after {self.step} of {self.steps} steps; {where}", number
        )

    # -- where it stands

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs. Randomness needs nothing: it is a function of (seed, step or image)."""
        ema = self.stepper.ema
        return {
            "identity": self.identity,
            "step": self.step,
            "judged": self.judged,
            "best": self.best,
            "student": self.stepper.student.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "ema": None if ema is None else ema.module.state_dict(),
        }

    def save(self, name: str = LAST) -> None:
        """Write the state, from the main process."""
        if self.accelerator.is_main_process:
            write(self.settings.checkpoints / name, self.state())
        self.saved_at, self.saved_step = time.monotonic(), self.step

    def resume(self) -> None:
        """Go on from `last.pt`.

        Raises ValueError if it is not there, not whole, or of another run (and says what differs).
        """
        path = self.settings.checkpoints / LAST
        state = read(path)
        check_same_run(state["identity"], self.identity, path)
        self.stepper.student.load_state_dict(state["student"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        if self.stepper.ema is not None:
            self.stepper.ema.module.load_state_dict(state["ema"])
        self.step, self.best = state["step"], state["best"]
        self.judged = state.get("judged", self.step // len(self.batches))
