"""`benchmarks/gpu.py`, tried without a GPU on tiny models: every case has figures or a reason, and time is kept to."""

from __future__ import annotations

import importlib
import json
import warnings
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch

from vitrim.deploy.roofline import Roofline

FOLDER = Path(__file__).parents[2] / "benchmarks"
TRIAL = ["--device", "cpu", "--small", "--dtype", "float32", "--batches", "2", "--methods", "evit"]


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("gpu")
    monkeypatch.setattr(module, "SECONDS", 1e-4)
    monkeypatch.setattr(module, "measure_roofline", lambda *_: Roofline(1e9, 1e9))
    with warnings.catch_warnings():
        yield module
    torch.compiler.reset()


def test_every_case_has_figures_or_a_reason(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "ROUNDS", 2)
    monkeypatch.setattr(gpu, "SMALL", dict([*gpu.SMALL.items()][:1]))
    gpu.main([*TRIAL, "--minutes", "20", "--json", "gpu.json", "--markdown", "gpu.md"])
    report = json.loads(Path("gpu.json").read_text())
    assert report["device"] == "cpu" and report["processor"] and not report["varlen_attn"]
    eager, compiled = (
        [row["row"] for row in report["rows"] if row["runtime"] == kind] for kind in ("eager", "compiled")
    )
    assert eager == ["dense", "evit macs=0.5", "tofe ragged"] and compiled == ["dense", "evit macs=0.5"]
    assert {row["n"] for row in report["rows"]} == {2} and all(row["ms"] > 0 for row in report["rows"])
    assert [missing["reason"] for missing in report["without"]] == ["CUDA graphs need a GPU"]
    page = Path("gpu.md").read_text()
    assert page.startswith(report["processor"]) and page.count("| tofe ragged |") == 1 and "fewer rounds" not in page
    assert page in capsys.readouterr().out


def test_where_time_is_short_rounds_are_dropped_and_then_cases(gpu, monkeypatch, capsys):
    left = chain([1e-6, 1e-6], repeat(-1.0))  # some for the first case
    monkeypatch.setattr(gpu.Budget, "left", property(lambda self: next(left)))
    gpu.main([*TRIAL, "--minutes", "1"])
    out = capsys.readouterr().out
    assert "3 of 3 rows had time for fewer rounds" in out
    assert out.count("no time was left of 1 minutes") == 5


def test_a_case_gets_its_share_of_the_time_that_is_left(gpu):
    budget = gpu.Budget(100.0, [1.0, 1.0, 2.0])
    assert [round(budget.share()) for _ in range(3)] == [25, 33, 100]


def test_a_model_that_does_not_run_is_left_out_with_its_reason(gpu):
    def broken(images):
        raise RuntimeError("no\nkernel")

    runs = {"dense": torch.neg, "evit": broken}
    rounds, work, reasons = gpu.rounds_that_fit(runs, torch.ones(2), until=0.0)
    assert (rounds, list(work), reasons) == (1, ["dense"], {"evit": "no kernel"})
    with pytest.raises(RuntimeError, match="kernel"):
        gpu.rounds_that_fit({"dense": broken}, torch.ones(2), until=0.0)
