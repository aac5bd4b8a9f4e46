"""`vitrim benchmark`: what is timed in turn, and the ratios that come of it; never how fast something is."""

from __future__ import annotations

import csv
import json
import logging
from functools import partial
from pathlib import Path

import pytest
import timm
import torch

import vitrim
from vitrim import cli
from vitrim.cli import benchmark as command
from vitrim.deploy import benchmark as _benchmark
from vitrim.deploy import open_exported
from vitrim.deploy.benchmark import Case, benchmark
from vitrim.deploy.roofline import Roofline, measure_roofline
from vitrim.deploy.runtimes import RUNTIMES, prepare

SMALL = ["--model", "test_vit", "--image-size", "32", "--num-classes", "3", "--rounds", "1", "--batch-size", "1", "2"]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=32, num_classes=3).eval()


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "benchmark", partial(benchmark, seconds=1e-3))


def test_the_ratios(model, monkeypatch):
    """Times are given: dense 4 s, then 6; EViT 2 s in both rounds."""
    rounds = [{"dense": 4.0, "evit": 2.0}, {"dense": 6.0, "evit": 2.0}]
    monkeypatch.setattr(_benchmark, "times_in_turn", lambda *_: rounds)
    monkeypatch.setattr(_benchmark, "measure_roofline", lambda *_: Roofline(1e9, 1e9))
    models = {"dense": model, "evit": vitrim.reduce(model, "evit", keep=0.5)}
    (dense, evit), refused = benchmark(models, torch.randn(3, 3, 32, 32), Case(2, "eager", "float32"))
    cost = vitrim.profile(models["evit"])
    assert (dense.speed_up, evit.speed_up, evit.ms, refused) == (1.0, 2.5, 2000.0, {})
    assert evit.promised == cost.dense_macs / cost.macs and evit.kept == 2.5 / evit.promised
    assert evit.roofline == pytest.approx(max(2 * cost.macs, 4 * cost.params) / 1e9 / 2)
    assert dense.promised == dense.kept == 1.0


@torch.no_grad()
@pytest.mark.parametrize("runtime", ["eager", "packed", "onnx"])  # the others: test_files.py
def test_every_runtime_gives_the_models_answers(model, runtime):
    fast, x = vitrim.reduce(model, "evit", keep=0.5), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(prepare(fast, runtime, x)(x), fast(x), rtol=1e-3, atol=1e-4)


def test_what_a_runtime_cannot_run_is_left_out_with_its_reason(model):
    models = {"dense": model, "ats": vitrim.reduce(model, "ats")}
    rows, refused = benchmark(models, torch.randn(1, 3, 32, 32), Case(1, "onnx", "float32"), 1, 1e-3)
    assert [row.label for row in rows] == ["dense"] and "another number of tokens in each image" in refused["ats"]
    with pytest.raises(ValueError, match="an exported file computes in float32"):
        benchmark(models, torch.randn(1, 3, 32, 32), Case(1, "onnx", "bfloat16"), 1, 1e-3)
    with pytest.raises(ValueError, match="choose one of eager, packed, compiled, onnx"):
        prepare(model, "tensorrt", torch.randn(1, 3, 32, 32))


def test_the_roofline_is_the_dearer_of_products_and_weights(model):
    assert Roofline(10.0, 5.0).seconds(macs=100, weight_bytes=20) == 10
    assert Roofline(10.0, 5.0).seconds(macs=10, weight_bytes=20) == 4
    found = measure_roofline(model, rows=5)
    assert found.macs_per_s > 0 and found.bytes_per_s > 0


def test_the_command(capsys):
    line = ["benchmark", *SMALL, "--runtime", "eager", "packed", "--keep", "0.5"]
    assert cli.main([*line, "--json", "a.json", "--csv", "a.csv"]) == 0
    out = capsys.readouterr().out
    assert all(f"batch {size}, {runtime}, float32:" in out for size in (1, 2) for runtime in ("eager", "packed"))
    report = json.loads(Path("a.json").read_text())
    assert [row["label"] for row in report["rows"]] == ["dense", "evit keep=0.5"] * 4 and report["threads"] > 0
    with open("a.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["kept"]) for row in table] == [row["kept"] for row in report["rows"]]
    assert cli.main([*line, "--vs", "a.json"]) == 0
    out = capsys.readouterr().out
    assert out.count("batch 2, packed, float32") == 3, "its heading, and two rows beside"
    assert "than in the other run" not in out
    Path("b.json").write_text(json.dumps({**report, "processor": "Other CPU", "threads": 99}))
    assert cli.main([*line, "--vs", "b.json"]) == 0
    out = capsys.readouterr().out
    for name, there in (("processor", "Other CPU"), ("threads", "99")):
        assert f"another {name} than in the other run: {report[name]} here, {there} there" in " ".join(out.split())
    for wrong, said in (
        (["--csv", "a.csv"], "is there already"),
        (["--vs", "a.csv"], "is no JSON that vitrim benchmark wrote"),
        (["--vs", "nowhere.json"], "there is no file nowhere.json"),
        (["--csv", "same.csv", "--json", "same.csv"], "--csv and --json both name same.csv"),
        (["--batch-size", "0"], "give a whole number from 1"),
        (["--rounds", "0"], "give a whole number from 1"),
        (["--runtime", "trt"], "choose one of eager, packed, compiled, onnx"),
    ):
        assert cli.main([*line, *wrong]) == 2
        assert said in capsys.readouterr().err


def test_exported_files_stand_beside_the_dense_model(capsys):
    """A file of two images runs batches of three."""
    model = timm.create_model("test_vit", img_size=32, num_classes=3).eval()
    fast = vitrim.reduce(model, "evit", keep=0.5)
    vitrim.export(fast, "fast.pt2", images=torch.randn(2, 3, 32, 32), batch_size=2)
    arguments = [*SMALL[:-3], "--batch-size", "3", "--file", "fast.pt2"]
    assert cli.main(["benchmark", *arguments, "--json", "report.json"]) == 0
    dense, row = json.loads(Path("report.json").read_text())["rows"]
    title, head, _, *cells = capsys.readouterr().out.splitlines()[2:7]
    assert title == "batch 3, float32:" and head.split()[:3] == ["model", "runs", "in"]
    assert [line.split()[:2] for line in cells] == [["dense", "eager"], ["fast.pt2", "torch"]]
    assert (dense["runtime"], row["runtime"]) == ("eager", "torch")
    assert (row["label"], row["method"], row["options"]["keep"], row["peak_bytes"]) == ("fast.pt2", "evit", 0.5, None)
    assert row["gmacs"] == vitrim.profile(fast).gmacs < dense["gmacs"] and row["promised"] > 1
    assert cli.main(["benchmark", *arguments, "--method", "tome", "--r", "2", "--instead", "--json", "both.json"]) == 0
    rows = json.loads(Path("both.json").read_text())["rows"]
    assert [row["method"] for row in rows][:3] == ["dense", "tome", "evit"]
    assert all("fast.pt2" not in row.get("instead_of", ()) for row in rows)
    other = ["test_vit2" if word == "test_vit" else word for word in arguments]
    assert cli.main(["benchmark", *other]) == 2
    assert "fast.pt2 is of test_vit, and the dense model is test_vit2: give --model test_vit" in capsys.readouterr().err
    with pytest.raises(ValueError, match="computes in float32"):
        benchmark({"file": open_exported("fast.pt2")}, torch.randn(2, 3, 32, 32), Case(2, "eager", "bfloat16"))


def test_a_case_that_cannot_be_is_left_out_and_the_others_are_measured(capsys, monkeypatch):
    def measured(models, images, case, rounds, instead):
        if case.runtime == "onnx":
            raise ValueError("an exported file computes in float32")
        return benchmark(models, images, case, rounds, 1e-3, instead)

    monkeypatch.setattr(command, "benchmark", measured)
    assert cli.main(["benchmark", *SMALL, "--keep", "0.5", "--runtime", "onnx", "eager", "--json", "a.json"]) == 0
    assert "batch 1, onnx, float32 is left out: an exported file" in capsys.readouterr().out
    assert {row["runtime"] for row in json.loads(Path("a.json").read_text())["rows"]} == {"eager"}
    assert cli.main(["benchmark", *SMALL, "--keep", "0.5", "--runtime", "onnx"]) == 2
    assert "none of these cases can be measured" in capsys.readouterr().err


@pytest.mark.parametrize("runtime", ["eager", "compiled"])
def test_torchs_remarks_are_kept_back_while_compiled_models_are_timed(model, monkeypatch, caplog, runtime):
    """Dynamo's, where images keep different numbers of tokens; those of a model that is not compiled are told."""

    def run(images):
        logging.getLogger("torch._dynamo.convert_frame").warning("hit config.recompile_limit")
        return model(images)

    monkeypatch.setitem(RUNTIMES, runtime, lambda *_: run)
    monkeypatch.setattr(_benchmark, "measure_roofline", lambda *_: Roofline(1e9, 1e9))
    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)
    benchmark({"dense": model}, torch.randn(1, 3, 32, 32), Case(1, runtime, "float32"), 1, 1e-3)
    assert ("hit config.recompile_limit" in caplog.text) == (runtime == "eager")


def test_a_busy_machine_is_told(capsys, monkeypatch):
    for slow, said in ((1.2, False), (3.0, True)):
        rounds = [{"dense": 1.0, "evit keep=0.5": 0.5}] * 2 + [{"dense": slow, "evit keep=0.5": 0.5}] * 2
        monkeypatch.setattr(_benchmark, "times_in_turn", lambda *_, rounds=rounds: rounds)
        assert cli.main(["benchmark", *SMALL, "--keep", "0.5"]) == 0
        assert ("the machine was busy: a batch of dense took" in capsys.readouterr().out) == said


def test_another_run_without_these_rows_is_told(capsys):
    with open("b.json", "w") as file:
        row = {"label": "dense", "batch_size": 7, "runtime": "eager", "precision": "float32", "ms": 1}
        json.dump({"rows": [row]}, file)
    assert cli.main(["benchmark", *SMALL, "--vs", "b.json"]) == 0
    assert "the other run has none of these rows" in capsys.readouterr().out
