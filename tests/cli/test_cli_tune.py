"""`vitrim tune`: the file it writes, what it says, `--plan` in other commands, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

import vitrim
from vitrim import cli
from vitrim.runtime.plan_file import Plan, read_plans, write_plans
from vitrim.tune.judge import Judge

MODEL = ["--model", "test_vit", "--image-size", "64", "--num-classes", "3", "--checkpoint", "small.safetensors"]
SEARCH = [*MODEL, "--method", "tome", "--macs", "0.8", "--trials", "3", "--images", "16", "--held-out", "16"]
RUN = ["--device", "cpu", "--workers", "0", "--out", "plan.json"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    save_file(timm.create_model("test_vit", img_size=64, num_classes=3).state_dict(), folder / "small.safetensors")
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0)
    for number in range(34):
        pixels = noise.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number:02d}.png")
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, made):
    monkeypatch.chdir(tmp_path)
    os.link(made / "small.safetensors", "small.safetensors")
    Path("photos").symlink_to(made / "photos")


def run(*arguments: object) -> int:
    return cli.main([*map(str, arguments)])


def test_a_plan_is_searched_and_used(capsys):
    assert run("tune", "photos", *SEARCH, *RUN, "--json", "t.json", "--picture", "front.svg") == 0
    said, figures = capsys.readouterr().out, json.loads(Path("t.json").read_text())
    assert "searched on 16 photographs of photos, reported on 16 others" in said and "--plan plan.json" in said
    (plan,) = read_plans("plan.json")
    assert plan.share <= 0.8 and figures["rows"][0]["plan"]["share"] == plan.share
    assert Path("front.svg").read_text().count("<svg") == 1
    assert sorted(os.listdir()) == ["front.svg", "photos", "plan.json", "small.safetensors", "t.json"]
    dense = timm.create_model("test_vit", img_size=64, num_classes=3)
    tokens = vitrim.profile(vitrim.reduce(dense, "plan.json")).tokens
    assert "searched on" not in capsys.readouterr().err
    write_plans("other.json", [replace(plan, model="vit_other")], {})
    vitrim.reduce(dense, "other.json")
    assert "the plan was searched on vit_other, and this is test_vit" in capsys.readouterr().err
    Path("other.json").unlink()
    assert run("profile", *MODEL, "--plan", "plan.json", "--json", "p.json") == 0
    assert [block["mlp_tokens"] for block in json.loads(Path("p.json").read_text())["blocks"]] == list(tokens)


def test_it_is_the_same_again_and_never_written_over(capsys):
    assert run("tune", "photos", *SEARCH, *RUN) == 0
    before = read_plans("plan.json")
    assert run("tune", "photos", *SEARCH, *RUN) == 2
    assert "plan.json" in capsys.readouterr().err and read_plans("plan.json") == before
    assert run("tune", "photos", *SEARCH, *RUN, "--overwrite") == 0
    assert read_plans("plan.json") == before


LATENCY = [*MODEL, "--method", "tome", "--latency", "0.8", "--batch-size", "2", *SEARCH[-6:]]


@pytest.fixture
def quick_clock(monkeypatch):
    """Pieces by a clock that is not read, whole models by one that is read once."""
    monkeypatch.setattr("vitrim.tune.latency.in_turn", lambda runs, batch: {key: _taken(*key) for key in runs})
    monkeypatch.setattr("vitrim.tune.latency.ROUNDS_IN_THE_END", 1)


def _taken(name: str, n: Any, part: str = "") -> float:
    whole = {"dense": 2.0, "end": 0.1}.get(name, n / 8 if isinstance(n, int) else 0.0)
    return whole / 2 if part == "mlp" else whole + 0.1 * (name == "tome")


def test_a_plan_for_milliseconds(capsys, quick_clock):
    assert run("tune", "photos", *LATENCY, *RUN, "--json", "t.json", "--picture", "front.svg") == 0
    said, written = capsys.readouterr().out, json.loads(Path("plan.json").read_text())
    assert "promised" in said and "batch 2, float32" in said
    (plan,) = read_plans("plan.json")
    assert plan.by == "latency" and plan.measured_on["batch_size"] == 2 and plan.figures["latency"]["promised"] <= 0.8
    assert set(written["tables"]["tome"]["curves"]) == {"attention", "mlp", "last block", "tome"}
    assert "pieces, measured" in Path("front.svg").read_text()
    assert run("profile", *MODEL, "--plan", "plan.json", "--latency", "0.8") == 0
    assert "plan, latency=0.8" in capsys.readouterr().out
    wrongs = {"--macs 0.8": "give --latency, not --macs 0.8", "--latency 0.5": "none for --latency 0.5"}
    for given, wrong in wrongs.items():
        assert run("profile", *MODEL, "--plan", "plan.json", *given.split()) == 2
        assert wrong in capsys.readouterr().err


def _stopped(monkeypatch, how):
    """A search that is stopped when it judges its third plan."""
    judge, seen = Judge.judge, []

    def stopping(self, *given, **options):
        seen.append(given)
        if len(seen) == 3:
            how()
        return judge(self, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "judge", stopping)
        return run("tune", "photos", *LATENCY, *RUN)


def _interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("how", "code"), [(_interrupt, 130), (lambda: os.kill(os.getpid(), signal.SIGTERM), 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_search_that_is_stopped_says_how_to_go_on(how, code, capsys, monkeypatch, quick_clock):
    before = signal.getsignal(signal.SIGTERM)
    assert _stopped(monkeypatch, how) == code and signal.getsignal(signal.SIGTERM) == before
    said = capsys.readouterr().err.strip().splitlines()
    assert said == ["vitrim: stopped: 2 plans are judged and kept; give the same command again to go on"]
    assert "plan.json.trials.jsonl" in os.listdir() and "plan.json" not in os.listdir()
    assert run("tune", "photos", *LATENCY, *RUN) == 0
    resumed = read_plans("plan.json")[0].methods
    assert run("tune", "photos", *LATENCY, *RUN, "--overwrite") == 0
    assert read_plans("plan.json")[0].methods == resumed


def test_auto_is_a_method_of_the_commands(capsys):
    assert run("profile", *MODEL, "--method", "auto", "--macs", "0.8", "--json", "p.json") == 0
    said, figures = capsys.readouterr(), json.loads(Path("p.json").read_text())
    assert said.err.startswith("vitrim: auto chose prunemerge") and "prunemerge (auto, macs=0.8)" in said.out
    assert figures["method"] == "prunemerge" and figures["budget"] == 0.8
    assert figures["gmacs"] <= 0.8 * figures["dense_gmacs"]


@pytest.mark.parametrize("start", ["plan", "auto"])
def test_finetune_starts_from_a_plan_and_ends_with_before_and_after(capsys, start):
    dense = timm.create_model("test_vit", img_size=64, num_classes=3)
    options = {"pruned": [1, 2, 0], "merged": [2, 1, 1], "at": [0, 1, 2]}
    plans = [
        Plan((("prunemerge", options),), budget, 0.6, "test_vit", len(dense.blocks), 16, prediction_only=True)
        for budget in (0.7, 0.6)
    ]
    write_plans("plan.json", plans, {})
    given = ["--plan", "plan.json", "--macs", "0.6"] if start == "plan" else ["--method", "auto", "--macs", "0.8"]
    where = ["--data", "photos", "--val", "photos", "--limit", "8", "--out", "out", "--json", "f.json"]
    quick = ["--short", "--batch-size", "8", "--device", "cpu", "--workers", "0", "--threads", "1"]
    assert run("finetune", *MODEL, *given, *where, *quick) == 0
    figures, lines = json.loads(Path("f.json").read_text()), capsys.readouterr().out.splitlines()
    rows = {line[:18].strip(): line for line in lines if line.startswith(("dense ", "reduced, "))}
    assert f"{figures['untrained_agreement']:.1f} %" in rows["reduced, untrained"]
    assert f"{figures['agreement']:.1f} %" in rows["reduced, trained"]
    fast = vitrim.load("out")
    assert fast.prediction_only and vitrim.profile(fast).gmacs == pytest.approx(figures["gmacs"])
    if start == "plan":
        assert {key: fast.methods[0].options()[key] for key in options} == options
    else:
        assert figures["gmacs"] <= 0.8 * figures["dense_gmacs"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["tune", "photos", *SEARCH, *RUN, "--macs", "0.001"], "cannot cost 0.001 of the dense model"),
        (["tune", "photos", *SEARCH, *RUN, "--macs", "2"], "--macs 2 is no share"),
        (["tune", "photos", *SEARCH, *RUN, "--trials", "0"], "--trials 0"),
        (["tune", "photos", *LATENCY, *RUN, "--macs", "0.5"], "--macs and --latency are both given"),
        (["tune", "photos", *LATENCY, *RUN, "--latency", "1.5"], "--latency 1.5 is no share"),
        (["tune", "photos", *LATENCY, *RUN, "--batch-size", "0"], "--batch-size 0: give a whole number from 1"),
        (["tune", "photos", *SEARCH, *RUN, "--batch-size", "4"], "--batch-size is about milliseconds"),
        (["tune", "photos", *LATENCY, *RUN, "--precision", "float16"], "--precision float16 is for GPUs"),
        (["profile", *MODEL, "--method", "tome", "--latency", "0.5"], "--latency 0.5 picks a plan of --plan"),
        (["tune", "photos", *SEARCH, "--out", "plan.txt"], ".json"),
        (["tune", "photos", *SEARCH, *RUN, "--method", "toem"], "'toem' is no method, did you mean tome?"),
        (["tune", "photos", *SEARCH, *RUN, "--method", "tome+"], "a stack is names with + between them"),
        (["tune", "photos", *SEARCH, *RUN, "--method", "auto"], "auto needs no search"),
        (["tune", "photos/00.png", *SEARCH, *RUN], "has 1 photograph that can be read, and a search needs 32 or more"),
        (["tune", "nowhere", *SEARCH, *RUN], "nowhere"),
        (["tune", *SEARCH, *RUN], "needs DATA"),
        (["profile", *MODEL, "--plan", "nowhere.json"], "there is no plan nowhere.json"),
        (["profile", *MODEL, "--plan", "small.safetensors"], "no JSON"),
        (["profile", *MODEL, "--plan", "plan.json", "--method", "evit"], "leave out --method"),
        (["profile", *MODEL, "--method", "auto"], "give --macs"),
        (["profile", *MODEL, "--method", "auto", "--macs", "0.1"], "out of reach, its plans cost"),
        (["profile", *MODEL, "--method", "auto", "--macs", "0.8", "--keep", "0.5"], "--keep 0.5 is no option of auto"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(command, said, capsys):
    before = sorted(os.listdir())
    assert run(*command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vitrim: error: ") and said in error and len(error) <= 320
    assert sorted(os.listdir()) == before
