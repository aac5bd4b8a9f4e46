"""Weights, saved folders and numbers that cannot be used: said before the work, in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from colours import NAMES, QUICK, evaluated, knowing, model, refused
from safetensors.torch import save_file

import vitrim

pytestmark = pytest.mark.usefixtures("in_own_folder")


# 38: outputs that are no numbers


def test_outputs_that_are_not_finite_are_said(capsys, colours, monkeypatch):
    forward = vitrim.ReducedViT.forward

    def broken(self, images, **options):
        output = forward(self, images, **options)
        output[0] = float("nan")
        return output

    monkeypatch.setattr(vitrim.ReducedViT, "forward", broken)
    given = [*model(colours), "--data", str(colours / "data")]
    for command in ("evaluate", "compare"):
        _, said = evaluated(capsys, *given, command=command)
        assert "evit keep=1: the outputs for 2 of 30 images hold NaN or infinity and count as wrong" in said
        assert "dense: the outputs" not in said


def test_weights_that_are_not_finite_are_refused_also_in_a_saved_folder(capsys, colours, tmp_path):
    broken = knowing(NAMES)
    with torch.no_grad():
        broken.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
    torch.save(broken.state_dict(), "w.pth")
    vitrim.reduce(broken, "topk", keep=0.9).save("saved")
    data = ["--data", str(colours / "data"), *QUICK]
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


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("command", ["profile", "evaluate"])
def test_a_damaged_configuration_is_one_line_with_the_files_name(capsys, colours, tmp_path, command, content):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    os.link(colours / "saved" / "model.safetensors", tmp_path / "damaged" / "model.safetensors")
    data = ["--data", str(colours / "data")] if command == "evaluate" else []
    line = refused(capsys, command, "--checkpoint", "damaged", *data)
    assert "damaged" in line and "config.json" in line


CHANGES = {
    "interpolation": {"data": {"interpolation": "magic"}},
    "mean": {"data": {"mean": "grey"}},
    "infinite mean": {"data": {"mean": [0.5, float("inf"), 0.5]}},
    "std": {"data": {"std": [0, 0.2, 0.2]}},
    "crop": {"data": {"crop_pct": -1}},
    "crop mode": {"data": {"crop_mode": "hexagon"}},
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
def test_a_configuration_that_says_what_cannot_be_is_one_line(capsys, colours, tmp_path, change):
    (tmp_path / "saved").mkdir()
    config = json.loads((colours / "saved" / "config.json").read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    os.link(colours / "saved" / "model.safetensors", tmp_path / "saved" / "model.safetensors")
    assert "saved" in refused(capsys, "profile", "--checkpoint", "saved")


@pytest.mark.parametrize(
    "flag", ["--in-chans 1", "--num-classes 3", "--image-size 64", "--mean 0.5", "--std 0.5 0.5 0.5"]
)
def test_a_saved_folder_keeps_its_own_settings(capsys, colours, flag):
    assert f"leave out {flag.split()[0]}" in refused(
        capsys, "profile", "--checkpoint", str(colours / "saved"), *flag.split()
    )


# 21: channels


def test_a_gray_model_is_built_and_normalised_as_typed(capsys, colours, tmp_path):
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32, num_classes=10, in_chans=1).state_dict(), "gray.safetensors")
    given = [*model(tmp_path, weights="gray.safetensors"), "--data", str(colours / "data")]
    assert "create the model with --in-chans 1" in refused(capsys, "evaluate", *given, *QUICK)
    assert "one number as --mean --std" in refused(capsys, "evaluate", *given, *QUICK, "--in-chans", "1")
    typed = ["--in-chans", "1", "--mean", "0.5", "--std", "0.25"]
    figures, _ = evaluated(capsys, *given, *typed)
    assert figures["images"] == 30
    assert "--in-chans 0" in refused(capsys, "profile", "--model", "test_vit", "--in-chans", "0")


# 15: numbers that the device does not compute in


@pytest.mark.parametrize("command", ["evaluate", "compare", "demo", "finetune"])
def test_images_that_are_not_there_are_told_before_a_model_is_opened(capsys, command):
    out = ["--out", "out"] if command == "finetune" else []
    places = ["--val"] if command == "finetune" else ["--bank"] if command == "evaluate" else []
    for where in (["--data", "nowhere"], *(["--data", ".", option, "nowhere"] for option in places)):
        told = refused(capsys, command, "--model", "nothing_at_all", *where, *out)
        assert "there is no file or folder nowhere" in told
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["evaluate", "compare", "demo", "finetune"])
def test_bfloat16_is_refused_before_anything_is_opened(capsys, monkeypatch, command):
    monkeypatch.setattr("vitrim.evaluate.timing._has_bfloat16", lambda device: False)
    where = {"demo": [], "finetune": ["--data", ".", "--out", "out"]}.get(command, ["--data", "."])
    named = [] if command == "demo" else ["--model", "vit_giant_patch14_224"]
    Path("a.jpg").touch()
    dtype = ["--precision", "bfloat16", "--device", "cpu"]
    assert "has no such arithmetic: use --precision float32" in refused(capsys, command, *named, *where, *dtype)
    assert not Path("out").exists()


def test_float16_is_refused_on_a_cpu_by_finetune_too(capsys):
    where = ["--data", ".", "--out", "out", "--device", "cpu", "--precision", "float16"]
    Path("a.jpg").touch()
    assert "--precision float16 is for GPUs" in refused(capsys, "finetune", "--model", "test_vit", *where)
