"""`evaluate`, `compare` and `finetune` on images without labels; nearest neighbours and where they are sought."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from vitrim.cli import main
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import evaluate_many

pytestmark = pytest.mark.usefixtures("in_own_folder")
QUICK = ["--rounds", "1", "--workers", "0", "--threads", "1", "--batch-size", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Weights with and without a classifier; pictures in `classes`, of three classes, and the same ones in `flat`."""
    root, noise = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    for classes in (3, 0):
        torch.manual_seed(0)
        model = timm.create_model("test_vit", img_size=32, num_classes=classes)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        save_file(model.state_dict(), root / f"{classes}.safetensors")
    (root / "flat").mkdir()
    for name in "abc":
        (root / "classes" / name).mkdir(parents=True)
        for number in range(3):
            file = root / "classes" / name / f"{number}.png"
            Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
            shutil.copy(file, root / "flat" / f"{name}{number}.png")
    return root


def options(made, classes=3):
    weights = ["--checkpoint", str(made / f"{classes}.safetensors"), "--num-classes", str(classes)]
    return ["--model", "test_vit", "--image-size", "32", *weights]


def run(capsys, *arguments):
    """What a command prints, and its JSON."""
    assert main([*map(str, arguments), "--json", "f.json"]) == 0
    with open("f.json") as file:
        return capsys.readouterr().out, json.load(file)


def test_evaluate_without_labels_shows_likeness_and_speed_and_no_accuracy(made, capsys):
    said, figures = run(capsys, "evaluate", *options(made), "--data", made / "flat", *QUICK, "--keep", "0.5")
    first, second = said.splitlines()[:2]
    assert (
        "9 images" in first and "no labels" in first and "--label-file" in second and "one folder per class" in second
    )
    assert "top-1" not in said and "agreement with dense, %" in said and "cosine with the logits of dense" in said
    assert "top1" not in figures and "top5" not in figures and figures["change"] is None and figures["labels"] == "none"
    low, high = figures["cosine_interval"]
    assert low <= figures["cosine"] <= high and figures["agreement_interval"][0] <= figures["agreement"]
    assert figures["images"] == 9 and figures["images_per_s"] > 0


def test_the_same_images_with_labels_agree_alike(made, capsys):
    _, without = run(capsys, "evaluate", *options(made), "--data", made / "flat", *QUICK, "--keep", "0.5")
    said, labelled = run(capsys, "evaluate", *options(made), "--data", made / "classes", *QUICK, "--keep", "0.5")
    assert labelled["agreement"] == without["agreement"] and "top-1, %" in said and "no labels" not in said
    assert "top1" in labelled and "cosine" not in labelled


def test_a_label_file_gives_labels(made, capsys, tmp_path):
    (tmp_path / "labels.txt").write_text("".join(f"{n}{i}.png {'abc'.index(n)}\n" for n in "abc" for i in range(3)))
    more = ["--label-file", tmp_path / "labels.txt", "--keep", "0.5"]
    said, figures = run(capsys, "evaluate", *options(made), "--data", made / "flat", *QUICK, *more)
    assert "top1" in figures and "no labels" not in said


def test_compare_without_labels_is_judged_by_agreement_and_draws_it(made, capsys):
    rows = ["--method", "evit", "topk", "--keep", "0.9", "0.5", "--best-under", "0.9", "--target-change", "1"]
    said, figures = run(capsys, "compare", *options(made), "--data", made / "flat", *QUICK, *rows, "--out", "a.svg")
    (title,) = (line for line in said.splitlines() if line.startswith("model"))
    assert "agreement" in title and "cosine" in title and "top-1" not in title and "change" not in title
    assert "no labels" in said.splitlines()[0]
    assert "9 images leave ± " in said and "take 400 or more" in said and "to choose between" in said
    with open("a.svg") as file:
        assert "agreement with dense in %" in file.read()
    assert all("top1" not in row and "agreement" in row for row in figures["rows"][1:])


def test_features_without_labels_have_a_cosine_alone(made, capsys):
    data = ["--data", made / "flat", *QUICK, "--keep", "0.5"]
    said, figures = run(capsys, "evaluate", *options(made, 0), *data)
    assert "cosine with the features of dense" in said and "neighbour" not in said and "agreement" not in figures
    said, figures = run(capsys, "compare", *options(made, 0), *data, "--out", "a.svg")
    assert "agreement" not in said and "cosine" in figures["rows"][1] and "cosine" not in figures["rows"][0]


def test_a_baseline_is_beside_it_without_labels_too(made, capsys):
    more = ["--keep", "0.5", "--baseline", made / "3.safetensors"]
    said, figures = run(capsys, "evaluate", *options(made), "--data", made / "flat", *QUICK, *more)
    assert "beside it the reduced model's agreement" in said
    assert figures["baseline"]["agreement"] == figures["agreement"] and figures["baseline"]["change"] is None


def test_what_is_about_labels_is_refused(made, capsys):
    arguments = ["evaluate", *options(made), "--data", made / "flat", *QUICK, "--limit-per-class", "2"]
    assert main([*map(str, arguments)]) == 2
    assert "is read without labels, and --limit-per-class is about labels" in capsys.readouterr().err


# -- nearest neighbours


def test_neighbours_are_said_and_so_is_where_they_are_sought(made, capsys):
    said, figures = run(capsys, "evaluate", *options(made, 0), "--data", made / "classes", *QUICK, "--keep", "0.5")
    assert "nearest neighbours: the 8 nearest of each image vote, among the 9 judged images, without itself" in said
    assert (figures["neighbours"], figures["bank_images"]) == (8, 9) and "without itself" in figures["bank"]


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_a_folder_may_be_the_bank(made, capsys, tmp_path, command):
    for name in "bc":  # other classes come first in the bank: names say which are the same
        shutil.copytree(made / "classes" / name, tmp_path / "some" / name)
    bank, some = made / "classes", tmp_path / "some"
    arguments = [command, *options(made, 0), "--data", some, "--bank", bank, *QUICK, "--keep", "0.5"]
    said, figures = run(capsys, *arguments)
    assert f"the 9 nearest of each image vote, among the 9 images of {bank}" in said
    assert (figures["neighbours"], figures["bank"], figures["bank_images"]) == (9, str(bank), 9)
    model = timm.create_model("test_vit", img_size=32, num_classes=0, checkpoint_path=made / "0.safetensors")
    known = open_dataset(bank, model)
    judged = open_dataset(some, model, class_map=known.classes.mapping)
    loaders = [open_loader(dataset, 4, 0) for dataset in (judged, known)]
    wanted = evaluate_many({"dense": model.eval()}, loaders[0], bank=loaders[1])["dense"].knn
    assert (figures["dense"] if command == "evaluate" else figures["rows"][0])["knn"] == wanted


@pytest.mark.parametrize(
    ("classes", "data", "said"),
    [
        (3, "classes", "the model has a classifier"),
        (0, "flat", "flat has no labels, which nearest neighbours need"),
        (0, "more", "has no images of 1 class of"),
    ],
)
def test_banks_that_do_not_fit_are_refused(made, capsys, tmp_path, classes, data, said):
    shutil.copytree(made / "classes", tmp_path / "more")
    shutil.copytree(made / "classes" / "a", tmp_path / "more" / "d")
    where = tmp_path / "more" if data == "more" else made / data
    bank = ["--data", where, "--bank", made / "classes"]
    assert main([*map(str, ["evaluate", *options(made, classes), *bank, *QUICK])]) == 2
    assert said in capsys.readouterr().err


# -- finetune


@pytest.mark.parametrize(("val", "said"), [("classes", "top-1"), ("flat", "agreement"), (None, "GMACs")])
def test_finetune_ends_with_before_and_after(made, capsys, val, said):
    machine = ["--workers", "0", "--threads", "1", "--device", "cpu", "--short", "--batch-size", "4", "--keep", "0.5"]
    judged = [] if val is None else ["--val", made / val]
    where = ["--data", made / "flat", "--out", "out", *judged]
    printed, figures = run(capsys, "finetune", *options(made), *where, *machine)
    last = printed.splitlines()[-1]
    before, after = last.split("; ")
    assert before.startswith("before: dense, ") and f"{figures['dense_gmacs']:.3f} GMACs" in before
    assert after.startswith(f"after: {said}" if val else "after: ") and f"{figures['gmacs']:.3f} GMACs (" in after
    assert ("top-1" in before) == (val == "classes") and ("agreement" in after) == (val is not None)
    assert ("cosine" in figures) == (val == "flat")
