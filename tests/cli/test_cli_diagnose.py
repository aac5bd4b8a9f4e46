"""`vitrim diagnose`: what it prints and writes, with and without labels, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vitrim
from vitrim import cli
from vitrim.data import open_dataset, open_loader

MODEL = ["--model", "test_vit", "--image-size", "64", "--num-classes", "3", "--checkpoint", "3.safetensors"]
FEATURES = ["--model", "test_vit", "--image-size", "64", "--num-classes", "0", "--checkpoint", "0.safetensors"]
QUICK = ["--device", "cpu", "--workers", "0", "--batch-size", "4", "--json", "d.json"]
BOTH = ["--method", "evit", "idlevit", "--keep", "0.5"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Weights with and without a classifier; nine pictures in `classes`, of three classes, and the same in `flat`."""
    root, noise = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    for classes in (3, 0):
        torch.manual_seed(0)
        model = timm.create_model("test_vit", img_size=64, num_classes=classes)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        save_file(model.state_dict(), root / f"{classes}.safetensors")
    (root / "flat").mkdir()
    for name in "abc":
        (root / "classes" / name).mkdir(parents=True)
        for number in range(3):
            file = root / "classes" / name / f"{number}.png"
            Image.fromarray(noise.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(file)
            shutil.copy(file, root / "flat" / f"{name}{number}.png")
    return root


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, made):
    monkeypatch.chdir(tmp_path)
    for entry in made.iterdir():
        Path(entry.name).symlink_to(entry)


def run(capsys, *arguments):
    """What is printed, and the JSON."""
    assert cli.main(["diagnose", *map(str, arguments), *QUICK]) == 0
    return capsys.readouterr().out, json.loads(Path("d.json").read_text())


def test_the_figures_are_those_of_the_library(capsys):
    said, figures = run(capsys, "classes", *MODEL, *BOTH)
    model = timm.create_model("test_vit", img_size=64, num_classes=3, checkpoint_path="3.safetensors").eval()
    fast = [vitrim.reduce(model, method, keep=0.5) for method in ("evit", "idlevit")]
    found = vitrim.view.diagnose(fast, open_loader(open_dataset("classes", model), 4, 0))
    assert [row["name"] for row in figures["rows"]] == list(found.models) and figures["images"] == 9
    for row, each in zip(figures["rows"], found.models.values(), strict=True):
        assert row["similarity"] == pytest.approx(each.similarity) and row["left_out"] == each.left_out
        assert row.get("agreement") == each.agreement.agreement and row["share"] == each.share
    assert figures["differing"] == found.found
    assert [one["file"] for one in figures["photographs"]] == [one.name for one in found.differing]
    assert {row["name"]: row["top1"] for row in figures["classes_found"]} == {
        row.name: row.top1 for row in found.classes
    }
    for title in (
        "Re-selected patches (IdleViT, supplement, Table 4)",
        "Top-1 by class",
        "left out: EViT keep=0.5 (no",
    ):
        assert title in said


def test_without_labels_there_is_agreement_and_no_top1(capsys):
    said, figures = run(capsys, "flat", *MODEL, *BOTH)
    assert "no labels" in said and "Top-1" not in said and "Agreement by class" in said
    assert figures["rows"][1]["agreement"] >= 0 and all(row["top1"] is None for row in figures["classes_found"])


def test_a_folder_in_other_parts_is_read_without_labels(capsys):
    Path("years/2023/may").mkdir(parents=True)
    shutil.copy("flat/a0.png", "years/2023/may")
    assert cli.main(["diagnose", "years", *MODEL, *QUICK]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    _, figures = run(capsys, "years", *MODEL, "--unlabelled")
    assert figures["images"] == 1 and figures["labels"] == "none"


def test_features_are_compared_by_cosine(capsys):
    said, figures = run(capsys, "flat", *FEATURES, *BOTH, "--differing", "2")
    assert "cosine with dense" in said and "agreement" not in said and len(figures["photographs"]) == 2
    assert set(figures["photographs"][0]["cosines"]) == {"EViT keep=0.5", "IdleViT keep=0.5"}


def test_a_page_and_unreadable_images(capsys):
    Path("some").mkdir()
    shutil.copy("flat/a0.png", "some")
    Path("some/b.png").write_bytes(b"no picture")
    said, figures = run(capsys, "some", *MODEL, *BOTH, "--out", "report.html")
    assert "1 cannot be read:" in said and "b.png" in said and len(figures["skipped"]) == 1
    assert f"the page is {Path('report.html').resolve()}" in said
    assert Path("report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_limit_a_saved_folder_and_a_repetition(capsys):
    model = timm.create_model("test_vit", img_size=64, num_classes=3, checkpoint_path="3.safetensors")
    vitrim.reduce(model.eval(), "topk", keep=0.5).save("saved")
    _, figures = run(capsys, "flat", "--checkpoint", "saved", "--limit", "4")
    assert figures["images"] == 4 and [row["method"] for row in figures["rows"]] == ["dense", "topk"]
    assert cli.main(["diagnose", "--config", "d.json", "--json", "e.json"]) == 0
    again = json.loads(Path("e.json").read_text())
    assert again["rows"] == figures["rows"] and again["photographs"] == figures["photographs"]


REFUSED = {
    "no data": ([], "vitrim diagnose needs DATA: a folder with one folder per class"),
    "no such folder": (["nowhere", *MODEL], "there is no file or folder nowhere"),
    "an empty folder": (["hollow", *MODEL], "hollow holds no image"),
    "another ending": (["flat", "--out", "d.pdf"], "d.pdf must end in .html or .htm"),
    "a page that is there": (["flat", "--out", "there.html"], "there.html is there already"),
    "fewer than none": (["flat", "--differing", "-1"], "--differing -1: give a whole number from 0"),
    "labels of nothing": (["flat", "--unlabelled", "--limit-per-class", "2"], "--limit-per-class is about labels"),
    "an unknown method": (["flat", "--method", "evti"], "method 'evti' is not known: did you mean evit?"),
    "a stranger to the method": (
        ["flat", *MODEL, "--method", "evit", "--r", "3"],
        "--r 3 is no option of evit: give --keep, or",
    ),
    "classes of another model": (["two", *MODEL], "has 2 classes"),
}


@pytest.mark.parametrize("arguments, said", REFUSED.values(), ids=REFUSED.keys())
def test_refusals(capsys, arguments, said):
    Path("hollow").mkdir()
    Path("there.html").touch()
    for name in "ab":
        shutil.copytree(Path("classes", name), Path("two", name))
    before = sorted(Path().rglob("*"))
    assert cli.main(["diagnose", *arguments]) == 2 and sorted(Path().rglob("*")) == before
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("vitrim: error: ") and len(err[-1]) <= 320 and said in err[-1], err
