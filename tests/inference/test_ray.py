"""Runs on Ray: every row once, whatever dies. One cluster of this machine, with two actors, for the whole file."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import content, left_beside, pictures, run_on, saved_model, slowly, small_model

import vitrim
from vitrim.inference.journal import Journal
from vitrim.inference.on_ray import OnRay, _placed, on_ray

COUNT, BAD = 26, (0, 5, 25)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def engine() -> Iterator[OnRay]:
    pytest.importorskip("ray.data", reason="Ray is not installed")
    os.environ.setdefault("RAY_worker_niceness", "0")  # beside other tests they would starve
    with on_ray("cpu", actors=2, threads=1) as engine:
        yield engine


def actors() -> list[int]:
    """The processes of this cluster that hold a model."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            named = (path / "cmdline").read_bytes().startswith(b"ray::MapWorker(MapBatches(_Actor)")
            if named and grandparent(path) == os.getpid():
                found.append(int(path.name))
    return found


def grandparent(path: Path) -> int:
    """The process that has started what has started one."""
    for _ in range(2):
        path = path.parent / (path / "stat").read_text().rpartition(")")[2].split()[1]
    return int(path.name)


def test_an_actor_is_killed_in_the_middle(engine, tmp_path, monkeypatch):
    """Every row comes once, and all of them are those of a run without Ray, byte for byte."""
    data = pictures(tmp_path / "data", COUNT, BAD)
    whole, out = tmp_path / "whole" / "out.csv", tmp_path / "out" / "out.csv"
    whole.parent.mkdir(), out.parent.mkdir()
    run_on(data, whole, part=4, batch=2)
    killed, add = [], Journal.list_skipped

    def killing(self, number, skipped):
        if not killed:
            killed.extend(actors())
            os.kill(killed[0], signal.SIGKILL)
        add(self, number, skipped)

    monkeypatch.setattr(Journal, "list_skipped", killing)
    hook = small_model().register_forward_pre_hook(slowly)
    try:
        done = run_on(data, out, part=4, batch=2, engine=engine)
    finally:
        hook.remove()
    assert len(killed) == 2 and (done.images, done.unreadable) == (COUNT, len(BAD))
    assert content(out) == content(whole) and left_beside(out) == []


def test_the_plain_class_in_map_batches(engine, tmp_path):
    """As docs/scale.md shows it: the model is loaded where the actors are."""
    import ray

    folder, data = saved_model(tmp_path / "model"), pictures(tmp_path / "data", 5, (2,))
    files = sorted(map(str, data.rglob("*.png")))
    rows = ray.data.from_items([{"path": file} for file in files]).map(
        lambda row: {"path": row["path"], "bytes": Path(row["path"]).read_bytes()}
    )
    about = {"device": "cpu", "batch_size": 2}
    found = rows.map_batches(
        vitrim.Embedder, fn_constructor_args=(str(folder),), fn_constructor_kwargs=about, batch_size=2, concurrency=1
    ).take_all()
    wanted = vitrim.Embedder(folder, **about)({"bytes": [Path(file).read_bytes() for file in files]})
    by_name = {row["path"]: row["embedding"] for row in found}
    np.testing.assert_allclose(np.stack([by_name[file] for file in files]), wanted["embedding"], atol=1e-6)
    assert sum(bool(row["error"]) for row in found) == 1


@pytest.mark.parametrize(
    ("has", "device", "actors", "threads", "wanted"),
    [
        ({"CPU": 2}, CPU, None, None, (1, 1)),
        ({"CPU": 16}, CPU, None, None, (4, 3)),
        ({"CPU": 16}, CPU, 2, 4, (2, 4)),
        ({"CPU": 64, "GPU": 8}, CUDA, None, None, (8, 1)),
        ({"CPU": 2}, CUDA, None, None, 'the Ray cluster has no GPU, use device="cpu"'),
        ({"CPU": 16, "GPU": 2}, CUDA, 3, None, "the Ray cluster has 2 GPUs, and each takes one"),
        ({"CPU": 2}, CPU, 2, 1, "takes 2 x 1 of the Ray cluster's 2 cores, and one more decodes"),
    ],
)
def test_how_many_actors_there_are(has, device, actors, threads, wanted):
    if isinstance(wanted, str):
        with pytest.raises(ValueError, match=wanted):
            _placed(has, device, actors, threads)
    else:
        found = _placed(has, device, actors, threads)
        assert (found.actors, found.threads) == wanted
