"""Every method in every command, with its defaults and with what may be typed: it runs, or one line says why not."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vitrim
from vitrim import cli
from vitrim.cli.shared import measure as _measure
from vitrim.methods import METHODS

MODELS = {
    "plain": ["--model", "test_vit", "--image-size", "64"],
    "no class token": ["--model", "test_vit2", "--image-size", "64"],
    "windows": ["--model", "swin_tiny_patch4_window7_224"],
}
TYPED = {"defaults": [], "budget": ["--macs", "0.8"], "keep": ["--keep", "0.7"], "r": ["--r", "2"]}
SMALL = ["--model", "test_vit", "--image-size", "32", "--num-classes", "2"]
QUICK = ["--rounds", "1", "--workers", "0", "--threads", "1", "--batch-size", "4", "--device", "cpu"]
pytestmark = pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes of two pictures, and a checkpoint."""
    root = tmp_path_factory.mktemp("plans")
    draw = np.random.default_rng(0)
    for i in range(4):
        (root / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "data" / "ab"[i % 2] / f"{i}.png")
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32, num_classes=2).state_dict(), root / "w.safetensors")
    return root


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """In a folder of the test's own; speed is measured, but not for long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_measure, "throughput_in_turn", partial(_measure.throughput_in_turn, seconds=0.001))


def on_images(folder) -> list[str]:
    return [*SMALL, "--checkpoint", str(folder / "w.safetensors"), "--data", str(folder / "data"), *QUICK]


def refused(capsys, *arguments) -> str:
    assert cli.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("vitrim: error: ") and err.count("\n") == 1 and len(err) <= 300 + 16
    return err


CASES = [(model, typed) for model in MODELS for typed in TYPED if model == "plain" or typed == "defaults"]


@pytest.mark.parametrize("model, typed", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_profile_of_every_method(capsys, method, model, typed):
    """A traceback would leave `main` as an exception."""
    model, typed = MODELS[model], TYPED[typed]
    code = cli.main(["profile", *model, "--method", method, *typed])
    out, err = capsys.readouterr()
    if code == 0:
        assert f"{method} {METHODS[method].dial}=" in out
    else:
        assert code == 2 and out == "" and err.count("\n") == 1 and method in err and len(err) <= 300 + 16
    if model is MODELS["plain"] and typed in ([], ["--macs", "0.8"]):
        assert code == 0, err


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_judged_with_its_defaults(capsys, folder, method):
    assert cli.main(["evaluate", *on_images(folder), "--method", method, "--json", "f.json"]) == 0
    assert f"{method} {METHODS[method].dial}=" in capsys.readouterr().out
    assert json.loads(Path("f.json").read_text())["method"] == method


def test_every_method_is_compared_with_its_defaults(capsys, folder):
    assert cli.main(["compare", *on_images(folder), "--method", *METHODS, "--json", "f.json"]) == 0
    rows = [row["method"] for row in json.loads(Path("f.json").read_text())["rows"]]
    assert rows == ["dense", *(name for name, cls in METHODS.items() for _ in range(3 if cls.dial == "keep" else 1))]


def test_every_method_is_compared_at_a_budget(capsys, folder):
    assert cli.main(["compare", *on_images(folder), "--method", *METHODS, "--macs", "0.9", "--json", "f.json"]) == 0
    rows = json.loads(Path("f.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["dense", *METHODS]


# 50: rows that nobody asked for, and those that are missing


def test_values_of_an_option_that_a_method_does_not_take_are_refused_with_the_way_out(capsys, folder):
    line = refused(capsys, "compare", *on_images(folder), "--method", "evit", "tome", "--keep", "0.9", "0.7")
    assert "--keep 0.9 0.7 is no option of tome: give --r too, or for all methods --macs" in line
    line = refused(capsys, "compare", *on_images(folder), "--method", "evit", "tome", "topk", "--r", "1", "2")
    assert "--r 1 2 is no option of evit or topk: give --keep too" in line
    assert not Path("compare.png").exists()


def test_options_and_defaults_that_a_table_does_not_show_are_said(capsys, folder):
    given = [*on_images(folder), "--method", "evit", "tome"]
    assert cli.main(["compare", *given, "--keep", "0.9", "--r", "1", "--no-fuse"]) == 0
    out = capsys.readouterr().out
    assert "--fuse is no option of tome" in out and "--keep is no option" not in out
    assert cli.main(["compare", *given, "--keep", "0.9", "--macs", "0.8"]) == 0
    assert "--keep is no option of tome" in capsys.readouterr().out
    assert cli.main(["compare", *given]) == 0
    assert "tome r=13 is the method's default: --r or --macs gives more rows" in capsys.readouterr().out


def test_a_picture_is_only_written_where_it_is_told_and_over_where_that_was_asked_for(capsys, folder):
    given = ["compare", *on_images(folder), "--keep", "0.5"]
    before = set(Path().iterdir())
    assert cli.main(given) == 0 and set(Path().iterdir()) == before
    Path("compare.png").write_text("mine")
    capsys.readouterr()
    assert "compare.png is there already: give another --out, or --overwrite" in refused(
        capsys, *given, "--out", "compare.png"
    )
    assert Path("compare.png").read_text() == "mine"
    assert cli.main([*given, "--out", "compare.png", "--overwrite"]) == 0
    assert Path("compare.png").stat().st_size > 1000


def test_a_page_is_only_written_over_where_that_was_asked_for(capsys, monkeypatch):
    from vitrim.cli.shared import demo_plans

    monkeypatch.setattr(demo_plans, "COSTS", (0.5,))
    Path("demo.html").write_text("mine")
    given = ["demo", "--images", "8", "--rounds", "1", "--batch-size", "8", "--device", "cpu"]
    assert cli.main(given) == 0 and Path("demo.html").read_text() == "mine"
    assert str(Path("demo-2.html").resolve()) in capsys.readouterr().out and Path("demo-2.html").stat().st_size > 1000


@pytest.mark.parametrize("typed", [["--data", ""], ["--data="], ["--json", ""], ["--out="], [""]])
def test_an_empty_value_is_no_current_folder(capsys, folder, typed):
    assert "is empty: give a value" in refused(capsys, "compare", *on_images(folder), *typed)


def test_two_methods_of_one_name_keep_their_options_apart(capsys):
    model = timm.create_model("test_vit", img_size=64)
    stack = [vitrim.ToMe(r=2, at=(0, 1)), vitrim.ToMe(r=1, at=(2,)), vitrim.EViT(keep=0.5, at=(4,))]
    vitrim.reduce(model, stack).save("stack")
    assert cli.main(["profile", "--checkpoint", "stack", "--json", "-"]) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    assert (options["tome"]["r"], options["tome 2"]["r"], options["evit"]["keep"]) == (2, 1, 0.5)


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_a_folder_that_takes_no_file_is_noticed_before_the_work(capsys, folder, monkeypatch, option):
    monkeypatch.setattr("vitrim.cli.compare.open_model", lambda *_: pytest.fail("the work has begun"))
    line = refused(capsys, "compare", *on_images(folder), option, "/proc/x.png")
    assert "/proc/x.png cannot be written" in line


def test_prediction_only_in_every_command(capsys, folder, tmp_path):
    """compare has the dense model with it as a row; profile takes it, a saved folder too; training does not."""
    images, report = on_images(folder), tmp_path / "report.json"
    assert cli.main(["compare", *images, "--keep", "0.5", "--prediction-only", "--json", str(report)]) == 0
    out = capsys.readouterr().out
    dense, alone, evit = json.loads(report.read_text())["rows"]
    assert "dense, prediction only" in out and "computes class tokens alone" in out
    assert dense["gmacs"] > alone["gmacs"] > evit["gmacs"] and alone["method"] == "dense"
    assert alone["agreement"] == 100.0 and alone["top1"] == dense["top1"]
    vitrim.reduce(timm.create_model("test_vit", img_size=32, num_classes=2), "evit").save(tmp_path / "saved")
    for saved in ([], ["--keep", "0.4"]):
        line = ["profile", "--checkpoint", str(tmp_path / "saved"), *saved, "--prediction-only", "--json", str(report)]
        assert cli.main(line) == 0
        assert json.loads(report.read_text())["blocks"][-1]["mlp_tokens"] == 0
    capsys.readouterr()
    train = ["finetune", *SMALL, "--data", str(folder / "data"), "--out", "out", "--prediction-only"]
    assert "--prediction-only changes nothing in training" in refused(capsys, *train)
    assert "pooling is 'avg'" in refused(capsys, "profile", *MODELS["no class token"], "--prediction-only")
