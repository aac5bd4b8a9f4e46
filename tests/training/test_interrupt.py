"""SIGINT and SIGTERM in a run: the state is written first, whoever gets the signal, and the run goes on from it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import fresh
import pytest
import torch
from safetensors.torch import load_file
from train_once import draw_photographs, small_model

from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import accuracy
from vitrim.training import Interrupted, Settings, checkpoints, finetune, get_recipe, override
from vitrim.training.signals import Signals
from vitrim.training.steps import Stepper

SCRIPT = Path(__file__).with_name("train_once.py")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """20 images of three classes: two steps of an epoch."""
    return draw_photographs(tmp_path_factory.mktemp("photographs"), 20)


def recipe():
    return override(get_recipe("distill", small=True), batch_size=8, epochs=2, lr=1e-3, backbone_scale=1.0)


def run(photographs, out, **more):
    settings = Settings(out, cpu=True, show=False, log_every=1)
    return finetune(small_model(), "evit", photographs, recipe(), settings, keep=0.6, **more)


def once(photographs, out, *options, processes=1):
    """`train_once.py` in processes of its own: the exit code, and what it said."""
    said = out.with_name(f"{out.name} said")
    return fresh.run(SCRIPT, photographs, out, *options, "--processes", processes, folder=said, processes=processes)


@pytest.fixture(scope="module")
def uninterrupted(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    run(photographs, out)
    return load_file(out / "model.safetensors")


def goes_on(photographs, out, uninterrupted, atol=1e-6):
    run(photographs, out, resume=True)
    resumed = load_file(out / "model.safetensors")
    assert all(torch.allclose(resumed[name], value, atol=atol) for name, value in uninterrupted.items())


def step_saved(out):
    return checkpoints.read(out / "checkpoints" / "last.pt")["step"]


def at_step(monkeypatch, step, number=signal.SIGINT):
    """The signal in the middle of that step."""
    accumulate = Stepper._accumulate
    taken = iter(range(100))

    def told(self, *args):
        if next(taken) == step:
            os.kill(os.getpid(), number)
        return accumulate(self, *args)

    monkeypatch.setattr(Stepper, "_accumulate", told)


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 0), (signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_the_step_at_hand_is_finished_and_written(photographs, tmp_path, monkeypatch, uninterrupted, number, step):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="go on with --resume") as stop:
        at_step(patch, step, number)
        run(photographs, tmp_path)
    assert stop.value.code == 128 + number
    assert isinstance(stop.value, KeyboardInterrupt)
    assert str(stop.value).startswith(f"stopped by {number.name} after {step + 1} of 4 steps")
    assert step_saved(tmp_path) == step + 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    goes_on(photographs, tmp_path, uninterrupted)


def test_a_signal_between_two_steps_needs_no_further_step(photographs, tmp_path, monkeypatch, uninterrupted):
    begin = Stepper.begin_epoch

    def told(self, epoch):
        os.kill(os.getpid(), signal.SIGINT)
        begin(self, epoch)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="after 0 of 4 steps"):
        patch.setattr(Stepper, "begin_epoch", told)
        run(photographs, tmp_path)
    assert step_saved(tmp_path) == 0
    goes_on(photographs, tmp_path, uninterrupted)


def test_a_signal_while_the_epoch_is_judged_leaves_there_and_the_epoch_is_judged_again(
    photographs, tmp_path, monkeypatch, uninterrupted
):
    judge, seen = accuracy.ClassifierJudge.update, []
    moment = 2 * (1 + 3 + 3)  # of two models: a batch to try, three before training, three of the first epoch

    def told(self, *args):
        seen.append(self)
        if len(seen) == moment:
            os.kill(os.getpid(), signal.SIGINT)
        return judge(self, *args)

    def judged(**more):
        return run(photographs, tmp_path, judge_on=open_loader(open_dataset(photographs, small_model()), 8, 0), **more)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="after 2 of 4 steps"):
        patch.setattr(accuracy.ClassifierJudge, "update", told)
        judged()
    assert len(seen) == moment
    assert not (tmp_path / "epochs.csv").exists()
    assert set(judged(resume=True).figures) >= {"top1", "dense_top1"}
    assert [row.split(",")[1] for row in (tmp_path / "epochs.csv").read_text().splitlines()[1:]] == ["1", "2"]


def test_a_step_that_breaks_while_stopping_is_not_written(photographs, tmp_path, monkeypatch, uninterrupted):
    """A reader that dies of the same signal, say."""
    accumulate, taken = Stepper._accumulate, iter(range(100))

    def breaking(self, *args):
        if next(taken) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("DataLoader worker is killed by signal: Terminated")
        return accumulate(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="go on with --resume"):
        patch.setattr(Stepper, "_accumulate", breaking)
        run(photographs, tmp_path)
    assert step_saved(tmp_path) == 2
    goes_on(photographs, tmp_path, uninterrupted)


def test_a_second_signal_stops_at_once(photographs, tmp_path):
    code, _ = once(photographs, tmp_path, "--stop-by", "SIGINT", "--at", 1, "--twice")
    assert code == -signal.SIGINT
    assert not (tmp_path / "checkpoints" / "last.pt").exists()


def test_signals_that_are_ignored_stay_ignored(photographs, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with monkeypatch.context() as patch:
            at_step(patch, 1)
            assert run(photographs, tmp_path).steps == 4
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_signals_are_left_alone():
    seen = []

    def inside():
        with Signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_processes_stop_after_the_same_step_and_the_first_one_writes(photographs, tmp_path, uninterrupted):
    code, said = once(photographs, tmp_path, "--stop-by", "SIGTERM", "--at", 1, "--of-rank", 1, processes=2)
    assert code != 0
    assert said.count("told to stop: stopped by SIGTERM after 2 of 4 steps") == 2, said
    assert step_saved(tmp_path) == 2
    goes_on(photographs, tmp_path, uninterrupted, atol=1e-5)


def wait_for(file, process):
    for _ in range(1200):
        if file.exists() or process.exitcode is not None:
            return
        time.sleep(0.05)


def test_the_command_says_in_one_line_how_to_go_on(photographs, tmp_path):
    """Ctrl-C reaches the readers too: the whole group of processes gets it."""
    model = ["--model", "vit_tiny_patch16_224", "--image-size", "32", "--num-classes", "3", "--scratch"]
    quick = [
        "--recipe",
        "evit_scratch",
        "--short",
        "--batch-size",
        "4",
        "--epochs",
        "400",
        "--device",
        "cpu",
        "--workers",
        "2",
    ]
    where = ["--data", str(photographs), "--out", str(tmp_path / "run"), "--log-every", "1"]
    told = tmp_path / "told.txt"
    with told.open("w") as error:
        process = fresh.start("vitrim", "finetune", *model, *quick, *where, error=error.fileno())
    wait_for(tmp_path / "run" / "steps.csv", process)
    os.killpg(process.pid, signal.SIGINT)
    code, said = fresh.finish(process, 120), told.read_text()
    assert code == 130, said
    (line,) = (line for line in said.splitlines() if line.startswith("vitrim: stopped"))
    assert "go on with --resume" in line
    assert "Traceback" not in said
    assert step_saved(tmp_path / "run") >= 1
