"""Trials of benchmarks/finetune.toml: each can be made, a result has its own settings, tables refuse to mix."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vitrim
from vitrim.common.on_meta import on_meta
from vitrim.evaluate import environment
from vitrim.training.student import make_student

ROOT = Path(__file__).resolve().parents[2]
TOML = """
[settings]
model = "test_vit"
weights = "weights.safetensors"
data = "photographs"
minutes = 1
batch = 4
per_class = 2
precision = "no"
seed = 3

[group.tiny]
about = "two trials that take no time"
settings = { steps = 1 }
trial = [
    { name = "EViT, half seen", method = "evit", macs = 0.8, changes = { lr = 1e-4 }, learn = "first", judge = "last" },
    { name = "tofe, 0.8", method = "tofe", macs = 0.8, options = { adaptive = "instance" } },
]
"""
WNIDS = [
    *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),  # Imagenette's
    *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
]
pytestmark = pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")


@pytest.fixture(scope="module")
def benchmarks():
    """Imports a module of benchmarks/."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def trials(benchmarks):
    return benchmarks("finetune_trials")


@pytest.fixture(scope="module")
def tables(benchmarks):
    return benchmarks("finetune_tables")


def groups_and_trials():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        groups = importlib.import_module("finetune_trials").read_groups()
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return [
        pytest.param(group, trial, id=f"{group.name}/{trial.file}")
        for group in groups.values()
        for trial in group.trials
    ]


# -- the TOML


@pytest.mark.parametrize(("group", "trial"), groups_and_trials())
def test_every_trial_can_be_made(group, trial, benchmarks):
    recipe = benchmarks("finetune").recipe_of(trial, group.settings.batch)
    changed = {**asdict(recipe), **asdict(recipe.weights), **asdict(recipe.augmentation)}
    assert {key: changed[key] for key in trial.changes} == trial.changes
    assert recipe.batch_size == group.settings.batch
    with on_meta():
        dense = timm.create_model(group.settings.model).eval()
    student, _ = make_student(dense, trial.method, recipe, trial.macs, trial.options)
    assert vitrim.profile(student).share == pytest.approx(trial.macs, abs=0.02)
    assert {key: getattr(student.methods[0], key) for key in trial.options} == trial.options


def test_every_result_has_its_trial(trials):
    known = {f"{g.name}/{t.file}": t for g in trials.read_groups().values() for t in g.trials}
    for path in trials.RESULTS.rglob("*.json"):
        result = json.loads(path.read_text())
        assert known[f"{result['group']}/{path.stem}"].name == result["trial"]["name"]
        assert path.parent.name == result["group"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('method = "evit"', 'methode = "evit"', r"a trial of tiny has methode: allowed are name, method, macs"),
        ('method = "evit", ', "", r"a trial of tiny: .*'method'"),
        ('learn = "first"', 'learn = "some"', r"learn = 'some' in 'EViT, half seen': give one of all, first"),
        ("steps = 1", "stepps = 1", r"the settings of tiny has stepps: allowed are model"),
        ("seed = 3\n", "", r"the settings of tiny: .*'seed'"),
        ('"tofe, 0.8"', '"evit half seen"', r"two trials of the name evit-half-seen"),
        ("[settings]", "[setting]", r"lacks 'settings'"),
        ("[settings]", "[settings", r"is no TOML"),
    ],
)
def test_what_the_toml_cannot_mean_is_refused(before, after, message, trials, tmp_path):
    path = tmp_path / "trials.toml"
    path.write_text(TOML.replace(before, after))
    with pytest.raises(ValueError, match=message) as error:
        trials.read_groups(path)
    assert "\n" not in str(error.value)


# -- the runner


def draw(folder, each=2):
    for label, name in enumerate(WNIDS):
        for split in ("train", "val"):
            (folder / split / name).mkdir(parents=True)
            for number in range(each):
                Image.new("RGB", (40, 40), (20 * label, 90 * number, 60)).save(folder / split / name / f"{number}.png")


@pytest.fixture(scope="module")
def runner(benchmarks, tmp_path_factory):
    """Runs the command on a tiny model and tiny photographs: results' folder, command line -> exit code."""
    shared = tmp_path_factory.mktemp("shared")
    draw(shared / "photographs")
    (shared / "trials.toml").write_text(TOML)
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), shared / "weights.safetensors")
    finetune, patch = benchmarks("finetune"), pytest.MonkeyPatch()
    patch.setattr(finetune, "SHARED", shared)
    where = ["--trials", str(shared / "trials.toml"), "--results", str(shared / "results")]
    yield lambda *arguments: (shared / "results", finetune.main([*arguments, *where]))
    patch.undo()


@pytest.fixture(scope="module")
def results(runner):
    folder, code = runner("tiny")
    assert code == 0
    return {path.stem: json.loads(path.read_text()) for path in (folder / "tiny").iterdir()}


def test_a_result_has_the_settings_that_it_was_made_with(results, trials, tmp_path):
    (tmp_path / "trials.toml").write_text(TOML)
    group = trials.read_groups(tmp_path / "trials.toml")["tiny"]
    assert set(results) == {"evit-half-seen", "tofe-0.8"}
    for trial in group.trials:
        result = results[trial.file]
        assert (result["group"], result["trial"], result["settings"]) == ("tiny", asdict(trial), asdict(group.settings))
        assert result["command"].startswith("python benchmarks/finetune.py tiny --trials ")
        assert result["environment"] == environment(seed=3)
        assert set(result) >= {"commit", "date", "figures"}
        assert result["figures"]["steps"] == 1 and result["figures"]["dense"]["images"] == (
            20 if "tofe" in trial.name else 10
        )
    assert 0 < results["tofe-0.8"]["figures"]["share_mean"] < 2


def test_what_is_there_is_not_run_again(results, runner, capsys):
    folder, code = runner("tiny", "tofe-0.8")
    assert code == 0 and f"{folder / 'tiny' / 'tofe-0.8.json'} is there already" in capsys.readouterr().out
    assert json.loads((folder / "tiny" / "tofe-0.8.json").read_text()) == results["tofe-0.8"]


def test_settings_of_the_command_line_are_those_of_the_result(runner, tmp_path, results):
    folder, code = runner("tiny", "evit-half-seen", "--again", "--seed", "5", "--batch", "2")
    assert code == 0
    settings = json.loads((folder / "tiny" / "evit-half-seen.json").read_text())["settings"]
    assert settings == {**results["evit-half-seen"]["settings"], "seed": 5, "batch": 2}


def test_unknown_names_are_refused_in_one_line(runner, capsys):
    for arguments, message in {
        ("small",): "there is no group small: choose one of tiny",
        ("tiny", "bat"): "tiny has no trial bat: choose from evit-half-seen, tofe-0.8",
    }.items():
        assert runner(*arguments)[1] == 2
        assert capsys.readouterr().err == f"finetune.py: {message}\n"


# -- the tables


@pytest.fixture
def pair(trials):
    """Two results of one group that belong into one table."""
    first, other, *_ = trials.read_results(trials.read_groups()["methods"])
    return [copy.deepcopy(first), copy.deepcopy(other)]


MUST_AGREE = {
    ("settings", "precision"): "no",
    ("settings", "seed"): 1,
    ("settings", "data"): "data/other",
    ("settings", "model"): "deit_small_patch16_224",
    ("settings", "weights"): "other.safetensors",
    ("settings", "per_class"): 50,
    ("settings", "batch"): 64,
    ("settings", "minutes"): 5.0,
    ("settings", "steps"): 80,
    ("environment", "processor"): "another",
    ("environment", "cores"): 64,
    ("environment", "device"): "cuda",
    ("figures", "after", "images"): 500,
}


@pytest.mark.parametrize("path", MUST_AGREE, ids=".".join)
def test_tables_refuse_to_mix(path, pair, tables):
    tables.check_alike(pair)
    *parts, key = path
    inner = pair[1]
    for part in parts:
        inner = inner[part]
    inner[key] = MUST_AGREE[path]
    what = "photographs judged" if key == "images" else key
    message = rf"^methods/tome and methods/bat do not belong into one table: {what} .* and {MUST_AGREE[path]}; run both"
    with pytest.raises(ValueError, match=message) as error:
        tables.check_alike(pair)
    assert "\n" not in str(error.value)


def test_every_setting_must_agree_or_is_the_trials_own(trials, tables):
    assert set(tables.MUST_AGREE["settings"]) == {f.name for f in fields(trials.TrialSettings)}


def test_a_table_of_files_refuses_too(trials, tables, tmp_path):
    group = trials.read_groups()["methods"]
    for result, trial in zip(trials.read_results(group), group.trials, strict=True):
        result["settings"]["precision"] = "no" if trial.name == "tofe" else "bf16"
        path = trials.result_file(tmp_path, "methods", trial)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"methods/tome and methods/tofe do not .*: precision bf16 and no"):
        tables.finetuned("methods", folder=tmp_path)


def test_a_table_says_what_was_not_recorded(pair, tables):
    assert (
        "Not recorded: the trial's method, options, recipe and changes, model, weights, data, seed"
        in tables.trained_on(pair)
    )
    for result in pair:
        result["trial"] |= {"method": "tome"}
        result["settings"] |= {"model": "deit", "weights": "w", "data": "d", "seed": 0}
        result |= {"command": "python", "commit": "0", "date": "2026-01-01"}
        del result["settings_of"]
    assert tables.trained_on(pair).endswith("timm 1.0.31).")


def test_the_tables_of_the_docs_are_those_of_the_files(benchmarks):
    tables = benchmarks("tables")
    for page in ("results/finetuning.md", "recipes/distill.md", "recipes/tofe.md"):
        text = (ROOT / "docs" / page).read_text()
        assert "<!-- table: finetune_" in text and tables.filled(text) == text
