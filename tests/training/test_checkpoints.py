"""Checkpoints and tables of a run: whole or not there, after any kill; a resumed run learns the same bits."""

from __future__ import annotations

import csv
import errno
import os
import signal
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_once import draw_photographs, small_model

from vitrim.cli import main
from vitrim.common.files import write_whole
from vitrim.training import RunStopped, Settings, checkpoints, finetune, get_recipe, journal, override
from vitrim.training.journal import Table
from vitrim.training.steps import Stepper

STATE = {"identity": {}, "step": 3, "best": 0.5, "student": {"w": torch.zeros(3)}, "optimizer": {}, "ema": None}
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return draw_photographs(tmp_path_factory.mktemp("photographs"), 20)


def killed_while(write) -> None:
    """Run in a process of its own, which is killed in the middle."""
    child = os.fork()
    if child == 0:
        try:
            write()
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def half_of_it(state, file) -> None:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


# -- checkpoints


@forks
def test_a_kill_in_the_very_first_checkpoint_is_in_nobodys_way(photographs, tmp_path, monkeypatch):
    def dying():
        checkpoints.torch.save = half_of_it
        checkpoints.write(tmp_path / "checkpoints" / "last.pt", STATE)

    killed_while(dying)
    (left,) = os.listdir(tmp_path / "checkpoints")
    assert left.startswith(".last.pt.") and not checkpoints.holds_run(tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / ".last.pt.part").write_bytes(b"as an earlier version left it")
    size = ["--model", "vit_tiny_patch16_224", "--image-size", "32", "--num-classes", "3", "--scratch"]
    quick = ["--short", "--batch-size", "16", "--device", "cpu", "--workers", "0", "--recipe", "evit_scratch"]
    where = ["--data", str(photographs), "--out", str(tmp_path)]
    assert main(["finetune", *size, *quick, *where]) == 0
    assert left not in os.listdir(tmp_path / "checkpoints")
    assert {"last.pt", "best.pt"} <= set(os.listdir(tmp_path / "checkpoints"))


@forks
def test_a_kill_in_a_later_checkpoint_leaves_the_one_before(tmp_path):
    path = tmp_path / "last.pt"
    checkpoints.write(path, STATE)

    def dying():
        checkpoints.torch.save = half_of_it
        checkpoints.write(path, {**STATE, "step": 4})

    killed_while(dying)
    assert checkpoints.read(path)["step"] == 3
    checkpoints.write(path, {**STATE, "step": 5})
    assert checkpoints.read(path)["step"] == 5 and os.listdir(tmp_path) == ["last.pt"]


def test_no_planted_link_is_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".last.pt.part").symlink_to(tmp_path / "victim")
    (tmp_path / "run" / "last.pt").symlink_to(tmp_path / "victim")
    checkpoints.write(tmp_path / "run" / "last.pt", STATE)
    assert (tmp_path / "victim").read_text() == "mine" and not (tmp_path / "run" / "last.pt").is_symlink()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
def test_a_disk_that_refuses_stops_the_run_in_one_line(number, tmp_path, monkeypatch):
    def refuse(state, file):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "new" / "last.pt"
    monkeypatch.setattr(checkpoints.torch, "save", refuse)
    with pytest.raises(RunStopped, match=r"last\.pt.*there is no checkpoint yet: .*--resume"):
        checkpoints.write(path, STATE)
    monkeypatch.undo()
    checkpoints.write(path, STATE)
    monkeypatch.setattr(checkpoints.torch, "save", refuse)
    with pytest.raises(RunStopped, match=r"last\.pt.*the last good checkpoint is .*last\.pt"):
        checkpoints.write(path, STATE)
    assert os.listdir(path.parent) == ["last.pt"]


def test_files_that_are_no_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    for content in ({"step": 3}, [1, 2], torch.zeros(3), {**STATE, "student": small_model}):
        torch.save(content, path)
        with pytest.raises(ValueError, match="is not a whole checkpoint of vitrim"):
            checkpoints.read(path)


# -- a resumed run


class Broken(BaseException):
    """A run that ends without a word, as by SIGKILL."""


@pytest.mark.parametrize(
    ("method", "changes", "options"),
    [
        ("tofe", {}, {"at": (1, 2), "keep": 0.6}),
        ("tofe", {"ema": 0.7, "judge_ema": True}, {"at": (1, 2)}),
        ("dynamicvit", {"ema": 0.7}, {"at": (1, 2)}),
    ],
)
def test_broken_off_anywhere_it_learns_the_same_bits(method, changes, options, photographs, tmp_path, monkeypatch):
    recipe = override(get_recipe(method, small=True), batch_size=8, epochs=2, lr=1e-2, backbone_scale=1.0, **changes)
    take = Stepper.take

    def trained(out, **more):
        settings = Settings(out, cpu=True, show=False, log_every=1, save_minutes=0)
        finetune(small_model(), method, photographs, recipe, settings, **options, **more)
        return load_file(out / "model.safetensors"), checkpoints.read(out / "checkpoints" / "last.pt")

    whole, state = trained(tmp_path / "whole")
    for step in (1, 3):

        def breaking(self, now, *args, step=step):
            if now == step:
                raise Broken
            return take(self, now, *args)

        monkeypatch.setattr(Stepper, "take", breaking)
        with pytest.raises(Broken):
            trained(tmp_path / str(step))
        monkeypatch.setattr(Stepper, "take", take)
        again, there = trained(tmp_path / str(step), resume=True)
        assert all(torch.equal(again[name], value) for name, value in whole.items())
        for part in ("student", "ema"):
            assert all(torch.equal(there[part][name], value) for name, value in (state[part] or {}).items())
    if method == "tofe":
        assert not torch.equal(whole["methods.0.kept_shares"], torch.tensor([0.6, 0.36])), "counts have moved"


# -- tables


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


WHOLE = "step,loss,keep 1\r\n0,1.5,0.9\r\n1,1.25,0.8\r\n"


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (WHOLE, [0, 1]),
        (WHOLE + "2,1.1,0.7", [0, 1]),  # the last figure may be cut
        (WHOLE + "2,1.", [0, 1]),
        (WHOLE + "2", [0, 1]),
        (WHOLE + "2,1.1\r\n", [0, 1]),
        (WHOLE + "\x00\x00\x00\r\n", [0, 1]),
        (WHOLE + "2,1.1,0.7,0.6\r\n", [0, 1]),
        (WHOLE + "2,1.1,0.7\r\n5,1.0,0.7\r\n", [0, 1, 2]),
        ("step,lo", []),
        ("", []),
        ("step,loss,keep 1\r\n", []),
    ],
)
def test_rows_that_are_cut_short_are_dropped_on_opening(text, steps, tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text(text, newline="")
    table = Table(path, step=4)
    table.add({"step": 4, "loss": 0.5, "keep 1": 0.5})
    assert [int(row["step"]) for row in rows(path)] == [*steps, 4]
    assert list(rows(path)[-1].values()) == ["4", "0.5", "0.5"] and os.listdir(tmp_path) == ["steps.csv"]


@forks
def test_a_kill_while_a_table_is_opened_leaves_it_as_it_was(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text(WHOLE, newline="")

    def dying():
        os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
        Table(path, step=1)

    killed_while(dying)
    assert path.read_text() == WHOLE.replace("\r\n", "\n")
    Table(path, step=1)
    assert [row["step"] for row in rows(path)] == ["0"] and os.listdir(tmp_path) == ["steps.csv"]


def test_a_row_is_written_by_one_call(tmp_path, monkeypatch):
    calls, table = [], Table(tmp_path / "steps.csv", step=0)
    monkeypatch.setattr(journal, "_write_all", lambda file, line: calls.append(os.write(file.fileno(), line)))
    table.add({"step": 0, "loss": 1.0})
    table.add({"step": 1, "loss": 0.5})
    assert calls == [len("step,loss\r\n0,1.0\r\n"), len("1,0.5\r\n")]


def test_a_table_on_a_full_disk_stops_the_run(tmp_path):
    table = Table(tmp_path / "steps.csv", step=0)
    table.path = Path("/dev/full")
    with pytest.raises(RunStopped, match=r"/dev/full cannot be written: No space left on device; .*--resume"):
        table.add({"step": 0, "loss": 1.0})


# -- any other file


def test_any_file_is_whole_under_an_unguessable_name_and_with_the_usual_rights(tmp_path):
    seen = []

    def write(beside: str) -> None:
        seen.append(os.path.basename(beside))
        assert stat.S_IMODE(os.stat(beside).st_mode) == 0o640
        Path(beside).unlink()  # as writers do that put a file of their own there
        Path(beside).write_text("new")
        os.chmod(beside, 0o600)

    before = os.umask(0o026)
    try:
        for _ in range(2):
            write_whole(tmp_path / "figures.json", write)
    finally:
        os.umask(before)
    assert len(set(seen)) == 2 and all(name.endswith(".part.json") for name in seen)
    assert os.listdir(tmp_path) == ["figures.json"]
    assert stat.S_IMODE((tmp_path / "figures.json").stat().st_mode) == 0o640
