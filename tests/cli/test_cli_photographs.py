"""What the commands say about photographs, classes and outputs, so that no figure misleads without a word."""

from __future__ import annotations

import json
import os
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vitrim
from vitrim import cli
from vitrim.cli.shared import measure as _measure
from vitrim.common.text import few, first_line, shortened, visible

NAMES = [f"c{i}" for i in range(1, 11)]
QUICK = ["--rounds", "1", "--workers", "0", "--threads", "1", "--batch-size", "20", "--device", "cpu"]


def colour(index: int) -> tuple[int, int, int]:
    return 25 * index, 250 - 25 * index, 0


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Ten classes, each of one colour, and a model that knows them in torchvision's order."""
    root = tmp_path_factory.mktemp("ten")
    for index, name in enumerate(NAMES):
        (root / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (40, 40), colour(index)).save(root / "data" / name / f"{i}.png")
    save_file(knowing(sorted(NAMES)).state_dict(), root / "torchvision.safetensors")
    return root


def knowing(order: list[str]) -> torch.nn.Module:
    """A model that tells the colours apart, with its classes in this order: its head is solved for, not trained."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32, num_classes=10).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key]) for key in ("mean", "std"))
    pixels = torch.stack([(torch.tensor(colour(NAMES.index(name))) / 255 - mean) / std for name in order])
    with torch.no_grad():
        features = model.forward_head(
            model.forward_features(pixels[:, :, None, None].expand(-1, -1, 32, 32)), pre_logits=True
        )
        design = torch.cat([features, torch.ones(10, 1)], dim=1).double()
        solved = torch.linalg.lstsq(design, torch.eye(10).double()).solution.float()
        model.head.weight.copy_(solved[:-1].T)
        model.head.bias.copy_(solved[-1])
    return model


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """In a folder of the test's own; speed is measured, but not for long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_measure, "throughput_in_turn", partial(_measure.throughput_in_turn, seconds=0.001))


def model(root, classes=10, weights="torchvision.safetensors"):
    return [
        *["--model", "test_vit", "--image-size", "32", "--num-classes", str(classes)],
        "--checkpoint",
        str(root / weights),
    ]


def evaluated(capsys, *arguments, command="evaluate"):
    assert cli.main([command, *arguments, *QUICK, "--keep", "1", "--json", "f.json"]) == 0
    said = capsys.readouterr().out
    return json.loads(Path("f.json").read_text()), said


def refused(capsys, *arguments) -> str:
    assert cli.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and len(err.replace(str(Path.cwd()), "")) <= 330
    return err


# 47: the order of classes


def test_classes_in_another_order_are_said_and_a_class_map_mends_it(capsys, root):
    given = [*model(root), "--data", str(root / "data")]
    wrong, said = evaluated(capsys, *given)
    assert wrong["dense"]["top1"] <= 20
    assert "not in torchvision's order (c1, c10, c2 and 7 more)" in said
    assert "no better than chance (10.0 % for 10 classes)" in said and "--class-map FILE" in said
    Path("map.json").write_text(json.dumps({name: index for index, name in enumerate(sorted(NAMES))}))
    right, said = evaluated(capsys, *given, "--class-map", "map.json")
    assert right["dense"]["top1"] == 100 and right["labels"] == "by the class map" and right["classes"]["c10"] == 1
    assert "chance" not in said and "torchvision" not in said


def test_what_the_model_knows_goes_before_the_order(capsys, root):
    named = knowing(sorted(NAMES))
    named.pretrained_cfg = {**named.pretrained_cfg, "label_names": sorted(NAMES)}
    vitrim.reduce(named, "topk", keep=0.9).save("saved")
    figures, said = evaluated(capsys, "--checkpoint", "saved", "--data", str(root / "data"))
    assert figures["dense"]["top1"] == 100 and "by the model's own label names" in said


# 46: limits


def test_a_limit_judges_every_class_and_says_so(capsys, root):
    given = [*model(root), "--data", str(root / "data"), "--limit", "12"]
    for command in ("evaluate", "compare"):
        figures, said = evaluated(capsys, *given, command=command)
        assert figures["images"] == 12 and figures["found"] == 12
        assert "12 of 30 images (drawn at random, alike from every class, seed 0)" in said
        assert figures["chosen"] == "drawn at random, alike from every class, seed 0"


# 49: what is left out


def test_what_was_found_judged_and_left_out_adds_up(capsys, root, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in NAMES:
        (data / name).symlink_to(root / "data" / name)
    (data / "c3").unlink()
    (data / "c3").mkdir()
    for i, kind in enumerate(("png", "gif", "heic", "avif", "weird")):
        Image.new("RGB", (40, 40), colour(2)).save(data / "c3" / f"{i}.{kind}", "PNG")
    (data / "c3" / "broken.jpg").write_bytes(b"no picture")
    os.mkfifo(data / "c3" / "pipe.jpg")
    Image.new("RGB", (40, 40)).save(data / "loose.jpg")
    figures, said = evaluated(capsys, *model(root), "--data", str(data))
    assert (figures["found"], figures["images"], len(figures["skipped"])) == (31, 29, 2)
    assert "31 images" in said and "29 images were judged; 2 cannot be read" in said
    assert figures["left_out"] == {".heic": 1, ".avif": 1, ".weird": 1, "photographs beside the class folders": 1}
    assert "left out: .avif (1), .heic (1), .weird (1), photographs beside the class folders (1)" in said


# 37: other classes


def test_training_refuses_to_be_judged_on_other_classes(capsys, root, tmp_path):
    for split, names in {"train": ("cat", "dog"), "val": ("dog", "wolf"), "same": ("cat", "dog")}.items():
        for i, name in enumerate(names):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (40, 40), colour(i)).save(tmp_path / split / name / f"{number}.png")
    start = ["--model", "test_vit", "--image-size", "32", "--num-classes", "2", "--scratch", "--recipe", "evit_scratch"]
    start += ["--short", "--batch-size", "4", "--cpu", "--workers", "0", "--keep", "0.5", "--data", "train"]
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


# 38: outputs that are no numbers


def test_outputs_that_are_not_finite_are_said(capsys, root, monkeypatch):
    forward = vitrim.ReducedViT.forward

    def broken(self, images, **options):
        output = forward(self, images, **options)
        output[0] = float("nan")
        return output

    monkeypatch.setattr(vitrim.ReducedViT, "forward", broken)
    given = [*model(root), "--data", str(root / "data")]
    for command in ("evaluate", "compare"):
        _, said = evaluated(capsys, *given, command=command)
        assert "evit keep=1: the outputs for 2 of 30 images hold NaN or infinity and count as wrong" in said
        assert "dense: the outputs" not in said


def test_weights_that_are_not_finite_are_refused_also_in_a_saved_folder(capsys, root, tmp_path):
    broken = knowing(NAMES)
    with torch.no_grad():
        broken.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
    torch.save(broken.state_dict(), "w.pth")
    vitrim.reduce(broken, "topk", keep=0.9).save("saved")
    data = ["--data", str(root / "data"), *QUICK]
    for checkpoint in (model(tmp_path, weights="w.pth"), ["--checkpoint", "saved"]):
        assert "blocks.1.mlp.fc1.weight holds NaN or infinity" in refused(capsys, "evaluate", *checkpoint, *data)


# 39: damaged folders

DAMAGE = {
    "list": "[1, 2]",
    "number": "3",
    "null": "null",
    "text": '"config"',
    "no JSON": "{",
    "empty": "",
    "deep": "[" * 100_000,
    "no backbone": "{}",
    "backbone a list": '{"backbone": [1]}',
    "bytes": b"\xff\xfe\x00",
}


@pytest.fixture(scope="module")
def saved(root):
    vitrim.reduce(knowing(NAMES), "topk", keep=0.9).save(root / "saved")
    return root / "saved"


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("command", ["profile", "evaluate"])
def test_a_damaged_configuration_is_one_line_with_the_files_name(capsys, root, saved, tmp_path, command, content):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    os.link(saved / "model.safetensors", tmp_path / "damaged" / "model.safetensors")
    data = ["--data", str(root / "data")] if command == "evaluate" else []
    line = refused(capsys, command, "--checkpoint", "damaged", *data)
    assert "damaged" in line and "config.json" in line


CHANGES = {
    "interpolation": {"data": {"interpolation": "magic"}},
    "mean": {"data": {"mean": "grey"}},
    "infinite mean": {"data": {"mean": [0.5, float("inf"), 0.5]}},
    "std": {"data": {"std": [0, 0.2, 0.2]}},
    "crop": {"data": {"crop_pct": -1}},
    "crop mode": {"data": {"crop_mode": "hexagon"}},
    "number of means": {"data": {"mean": [0.5], "std": [0.5]}},
    "embedding": {"arguments": {"embed_dim": 7}},
    "patches of none": {"arguments": {"patch_size": 0}},
    "size": {"arguments": {"img_size": "large"}},
    "unknown": {"arguments": {"nonsense": 1}},
    "another model": {"backbone": "resnet18"},
    "no model": {"backbone": "nothing_at_all"},
    "method": {"methods": [{"method": "magic", "options": {}}]},
    "option": {"methods": [{"method": "topk", "options": {"keep": "half"}}]},
    "methods a number": {"methods": 3},
    "data a list": {"data": [1]},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_configuration_that_says_what_cannot_be_is_one_line(capsys, saved, tmp_path, change):
    (tmp_path / "saved").mkdir()
    config = json.loads((saved / "config.json").read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    os.link(saved / "model.safetensors", tmp_path / "saved" / "model.safetensors")
    assert "saved" in refused(capsys, "profile", "--checkpoint", "saved")


@pytest.mark.parametrize(
    "flag", ["--in-chans 1", "--num-classes 3", "--image-size 64", "--mean 0.5", "--std 0.5 0.5 0.5"]
)
def test_a_saved_folder_keeps_its_own_settings(capsys, saved, flag):
    assert f"leave out {flag.split()[0]}" in refused(capsys, "profile", "--checkpoint", str(saved), *flag.split())


# 21: channels


def test_a_gray_model_is_built_and_normalised_as_typed(capsys, root, tmp_path):
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32, num_classes=10, in_chans=1).state_dict(), "gray.safetensors")
    given = [*model(tmp_path, weights="gray.safetensors"), "--data", str(root / "data")]
    assert "(--in-chans 1)" in refused(capsys, "evaluate", *given, *QUICK)
    assert "one mean and one std (--mean, --std)" in refused(capsys, "evaluate", *given, *QUICK, "--in-chans", "1")
    typed = ["--in-chans", "1", "--mean", "0.5", "--std", "0.25"]
    figures, _ = evaluated(capsys, *given, *typed)
    assert figures["images"] == 30
    assert "--in-chans 0" in refused(capsys, "profile", "--model", "test_vit", "--in-chans", "0")


# 15: numbers that the device does not compute in


@pytest.mark.parametrize("command", ["evaluate", "compare", "demo", "finetune"])
def test_bfloat16_is_refused_before_anything_is_opened(capsys, monkeypatch, command):
    monkeypatch.setattr("vitrim.evaluate.timing._has_bfloat16", lambda device: False)
    where = {"demo": [], "finetune": ["--data", "nowhere", "--out", "out"]}.get(command, ["--data", "nowhere"])
    named = [] if command == "demo" else ["--model", "nothing_at_all"]
    dtype = ["--precision", "bf16", "--cpu"] if command == "finetune" else ["--dtype", "bfloat16", "--device", "cpu"]
    assert "no bfloat16 arithmetic: use float32" in refused(capsys, command, *named, *where, *dtype)
    assert not Path("out").exists()


def test_float16_is_refused_on_a_cpu_by_finetune_too(capsys):
    where = ["--data", "nowhere", "--out", "out", "--cpu", "--precision", "fp16"]
    assert "--precision fp16: float16 is for GPUs" in refused(capsys, "finetune", "--model", "test_vit", *where)


# 40: what would steer the terminal

NASTY = "\x1b]0;owned\x07\x1b[31m \u202egpj.exe \udcff\u2028\x9b"


def test_nothing_in_a_name_steers_the_terminal():
    seen = visible(NASTY)
    assert seen == r"\x1b]0;owned\x07\x1b[31m \u202egpj.exe \udcff\u2028\x9b" and seen.isprintable()
    assert visible("κ-Fußgänger, 犬, 🐕.png") == "κ-Fußgänger, 犬, 🐕.png"
    assert few([NASTY] * 4).isprintable() and first_line(ValueError(NASTY)).isprintable()
    assert shortened("x" * 200) == "x" * 39 + "..." + "x" * 38 and len(shortened(NASTY * 50)) == 80


def test_names_of_files_classes_and_paths_are_escaped_wherever_they_are_printed(capsys, root, tmp_path):
    data = tmp_path / "data\x1b[32m"
    data.mkdir()
    for name in NAMES[1:]:
        (data / name).symlink_to(root / "data" / name)
    (data / "c1\x1b[33m").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40), colour(0)).save(data / "c1\x1b[33m" / f"{i}.png")
    (data / "c2\x1b[33m").mkdir()
    (data / "c1\x1b[33m" / "bad\x1b[31m\n.png").write_bytes(b"no picture")
    (data / "c1\x1b[33m" / "bad.\x1b[34m").write_bytes(b"no picture")
    _, said = evaluated(capsys, *model(root), "--data", str(data))
    lines = [
        *said.splitlines(),
        refused(capsys, "evaluate", *model(root), *QUICK, "--data", f"{data}/nowhere").rstrip("\n"),
        refused(capsys, "evaluate", *model(root, 7), *QUICK, "--data", str(data)).rstrip("\n"),
        refused(capsys, "evaluate", "--model", "\x1b[31mx", "--data", str(data)).rstrip("\n"),
        refused(capsys, "evaluate", "--data", str(data), "--\x1b[31m").rstrip("\n"),
        refused(capsys, "\x1b[31m").rstrip("\n"),
    ]
    assert all(line.isprintable() for line in lines)
    assert any(r"bad\x1b[31m\n.png: not an image" in line for line in lines)


def test_warnings_are_escaped(capsys):
    cli._show_warning(UserWarning(NASTY), UserWarning, "file.py", 3)
    assert capsys.readouterr().err.rstrip("\n").isprintable()


def test_the_draw_of_a_limit_is_spread_evenly(root):
    from vitrim.data import open_dataset

    dataset = open_dataset(root / "data", knowing(NAMES), limit=10)
    assert set(Counter(dataset.source.labels()[place] for place in dataset.chosen).values()) == {1}
