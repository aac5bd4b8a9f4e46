"""What the commands say about photographs and classes, so that no figure misleads without a word."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from colours import NAMES, QUICK, colour, evaluated, knowing, model, refused
from PIL import Image

import vitrim
from vitrim import cli

pytestmark = pytest.mark.usefixtures("in_own_folder")


# 47: the order of classes


def test_classes_in_another_order_are_said_and_a_class_map_mends_it(capsys, colours):
    given = [*model(colours), "--data", str(colours / "data")]
    wrong, said = evaluated(capsys, *given)
    assert wrong["dense"]["top1"] <= 20
    assert "not in torchvision's order (c1, c10, c2 and 7 more)" in said
    assert "no better than chance (10.0 % for 10 classes)" in said and "--class-map FILE" in said
    Path("map.json").write_text(json.dumps({name: index for index, name in enumerate(sorted(NAMES))}))
    right, said = evaluated(capsys, *given, "--class-map", "map.json")
    assert right["dense"]["top1"] == 100 and right["labels"] == "by the class map" and right["classes"]["c10"] == 1
    assert "chance" not in said and "torchvision" not in said


def test_what_the_model_knows_goes_before_the_order(capsys, colours):
    named = knowing(sorted(NAMES))
    named.pretrained_cfg = {**named.pretrained_cfg, "label_names": sorted(NAMES)}
    vitrim.reduce(named, "topk", keep=0.9).save("saved")
    figures, said = evaluated(capsys, "--checkpoint", "saved", "--data", str(colours / "data"))
    assert figures["dense"]["top1"] == 100 and "by the model's own label names" in said


# 46: limits


def test_a_limit_judges_every_class_and_says_so(capsys, colours):
    given = [*model(colours), "--data", str(colours / "data"), "--limit", "12"]
    for command in ("evaluate", "compare"):
        figures, said = evaluated(capsys, *given, command=command)
        assert figures["images"] == 12 and figures["found"] == 12
        assert "12 of 30 images (drawn at random, alike from every class, seed 0)" in said
        assert figures["chosen"] == "drawn at random, alike from every class, seed 0"


def test_a_limit_below_the_number_of_classes_is_no_fair_draw(capsys, colours):
    given = [*model(colours), "--data", str(colours / "data"), "--limit", "3"]
    figures, said = evaluated(capsys, *given)
    assert figures["chosen"] == "drawn at random, seed 0" and "3 of 30 images (drawn at random, seed 0) at" in said


def test_one_image_is_one(capsys, colours, tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "one" / "a.png")
    _, said = evaluated(capsys, *model(colours), "--data", "one")
    assert ", 1 image at 32 x 32 (" in said
    (tmp_path / "one" / "bad.png").write_bytes(b"no picture")
    _, said = evaluated(capsys, *model(colours), "--data", "one")
    assert ", 2 images at 32 x 32 (" in said and "1 image was judged; 1 cannot be read:" in said


def test_a_list_of_a_few_names_is_no_class_map(capsys, colours, tmp_path):
    Path("names.txt").write_text("c1\nc2\nc3\n")
    line = refused(capsys, "evaluate", *model(colours), "--data", str(colours / "data"), "--class-map", "names.txt")
    assert "names.txt lists 3 names without an index, and the model has 10 classes: list all 10" in line


def test_what_may_not_be_read_or_found_is_one_line(capsys, colours, tmp_path, monkeypatch):
    scan = os.scandir

    def refuse(path="."):
        if str(path).endswith("c3"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    data = ["--data", str(colours / "data")]
    assert "torch/cifar10 needs the folder where it is stored: give it as --root" in refused(
        capsys, "evaluate", *model(colours), "--data", "torch/cifar10"
    )
    monkeypatch.setattr(os, "scandir", refuse)
    assert "c3 cannot be opened: Permission denied; make it readable" in refused(
        capsys, "evaluate", *model(colours), *data
    )


# 49: what is left out


def test_what_was_found_judged_and_left_out_adds_up(capsys, colours, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in NAMES:
        (data / name).symlink_to(colours / "data" / name)
    (data / "c3").unlink()
    (data / "c3").mkdir()
    for i, kind in enumerate(("png", "gif", "heic", "avif", "weird")):
        Image.new("RGB", (40, 40), colour(2)).save(data / "c3" / f"{i}.{kind}", "PNG")
    (data / "c3" / "broken.jpg").write_bytes(b"no picture")
    os.mkfifo(data / "c3" / "pipe.jpg")
    Image.new("RGB", (40, 40)).save(data / "loose.jpg")
    figures, said = evaluated(capsys, *model(colours), "--data", str(data))
    assert (figures["found"], figures["images"], len(figures["skipped"])) == (31, 29, 2)
    assert "31 images" in said and "29 images were judged; 2 cannot be read" in said
    assert figures["left_out"] == {".heic": 1, ".avif": 1, ".weird": 1, "photographs beside the class folders": 1}
    assert "left out: .avif (1), .heic (1), .weird (1), photographs beside the class folders (1)" in said


# 37: other classes


def test_training_refuses_to_be_judged_on_other_classes(capsys, colours, tmp_path):
    for split, names in {"train": ("cat", "dog"), "val": ("dog", "wolf"), "same": ("cat", "dog")}.items():
        for i, name in enumerate(names):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (40, 40), colour(i)).save(tmp_path / split / name / f"{number}.png")
    start = ["--model", "test_vit", "--image-size", "32", "--num-classes", "2", "--scratch", "--recipe", "evit_scratch"]
    start += ["--short", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--keep", "0.5", "--data", "train"]
    line = refused(capsys, "finetune", *start, "--val", "val", "--out", "never")
    assert "has other classes (dog, wolf) than the training photographs (cat, dog): cat, wolf would be judged" in line
    assert cli.main(["finetune", *start, "--val", "same", "--out", "out"]) == 0
    said = capsys.readouterr().out
    labels = "4 images, labels by name, in natural order (cat 0, dog 1)"
    assert f"training: {labels}" in said and f"validation: {labels}" in said
    # The names are saved with the model: it is not judged on any other two folders.
    assert "has not learned: wolf; it knows cat, dog" in refused(
        capsys, "evaluate", "--checkpoint", "out", "--data", "val", *QUICK
    )
    assert cli.main(["evaluate", "--checkpoint", "out", "--data", "same", *QUICK]) == 0
    assert "by the model's own label names" in capsys.readouterr().out


def test_a_class_map_belongs_to_the_run_that_it_began_with(capsys, colours, tmp_path):
    orders = {"a": NAMES, "b": sorted(NAMES)}
    maps = {name: {label: index for index, label in enumerate(order)} for name, order in orders.items()}
    for name, content in maps.items():
        Path(f"{name}.json").write_text(json.dumps(content))
    start = [
        "--model",
        "test_vit",
        "--image-size",
        "32",
        "--num-classes",
        "10",
        "--scratch",
        "--short",
        "--device",
        "cpu",
    ]
    start += ["--recipe", "evit_scratch", "--batch-size", "8", "--workers", "0", "--keep", "0.5"]
    start += ["--data", str(colours / "data")]
    assert cli.main(["finetune", *start, "--limit", "10", "--out", "out", "--class-map", "b.json"]) == 0
    assert "training: 10 of 30 images (drawn at random, alike from every class, seed 0), labels by the class map" in (
        capsys.readouterr().out
    )
    again = ["finetune", *start, "--limit", "10", "--out", "out", "--resume", "--class-map", "a.json"]
    assert cli.main(again) == 2 and "belongs to another run (class_map" in capsys.readouterr().err
    figures, _ = evaluated(capsys, "--checkpoint", "out", "--data", str(colours / "data"))
    assert figures["classes"] == maps["b"] and figures["labels"] == "by the model's own label names"


def test_the_draw_of_a_limit_is_spread_evenly(colours):
    from vitrim.data import open_dataset

    dataset = open_dataset(colours / "data", knowing(NAMES), limit=10)
    assert set(Counter(dataset.source.labels()[place] for place in dataset.chosen).values()) == {1}
