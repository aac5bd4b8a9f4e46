"""`vitrim benchmark --instead`: what one would do without a method keeps the weights, and is shown at equal time."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import vitrim
from vitrim import cli
from vitrim.backbones import library_of
from vitrim.cli import benchmark as command
from vitrim.deploy import benchmark as _benchmark
from vitrim.deploy.benchmark import Case, benchmark
from vitrim.deploy.instead import FAMILY, KINDS, PATCH, RESOLUTION, Alternatives, Resized, fitted, resized
from vitrim.deploy.roofline import Roofline

NAME, SMALLER = "deit_small_patch16_224", "deit_tiny_patch16_224"
SIZES: Any = {"img_size": 96, "num_classes": 3}
LINE = ["benchmark", "--model", NAME, "--image-size", "96", "--num-classes", "3", "--rounds", "1", "--batch-size", "1"]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(NAME, **SIZES).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights of both models, of which the larger finds all classes alike, and a picture of each of three classes."""
    root = tmp_path_factory.mktemp("instead")
    for name in (NAME, SMALLER):
        torch.manual_seed(1)
        save_file(timm.create_model(name, **SIZES).state_dict(), root / f"{name}.safetensors")
    for colour in ("red", "green", "blue"):
        (root / "data" / colour).mkdir(parents=True)
        Image.new("RGB", (110, 110), colour).save(root / "data" / colour / "1.png")
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch, folder):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(command, "benchmark", partial(benchmark, seconds=1e-3))
    monkeypatch.setattr(_benchmark, "measure_roofline", lambda *_: Roofline(1e9, 1e9))


# -- the models


@pytest.mark.parametrize("size, patch, changed", [
    ((64, 64), (16, 16), {"pos_embed"}),
    ((96, 96), (24, 24), {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}),
])  # fmt: skip
def test_a_resized_model_shares_its_weights_and_leaves_its_origin_alone(model, size, patch, changed):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = resized(model, size, patch)
    assert made(torch.randn(2, 3, *size)).shape == (2, 3)
    own, other = dict(model.named_parameters()), dict(made.named_parameters())
    assert {key for key in own if own[key].data_ptr() != other[key].data_ptr()} == changed
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert library_of(made).image_size(made) == size and library_of(made).patch_size(made) == patch
    assert model(torch.randn(1, 3, 96, 96)).shape == (1, 3)


def test_as_timm_resizes_it(model):
    made = resized(model, (64, 64), (16, 16))
    wanted: Any = timm.create_model(NAME, **SIZES).eval()
    wanted.load_state_dict(model.state_dict())
    wanted.set_input_size(img_size=(64, 64))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(made(x), wanted(x))
        assert torch.equal(Resized(made, (64, 64))(x), wanted(x))


def test_candidates_cost_less_and_cost_what_they_say(model):
    every = Alternatives(model)
    assert not every.missing and list(every.by_kind) == list(KINDS)
    for kind, candidates in every.by_kind.items():
        assert candidates and all(c.macs < every.dense_macs and c.kind == kind for c in candidates)
        made = every.model(candidates[0])
        exact = vitrim.profile(made).macs
        assert exact == pytest.approx(candidates[0].macs, rel=0.1 if kind == PATCH else 1e-9)
        assert every.model(candidates[0]) is made
    assert [c.name for c in every.by_kind[FAMILY]] == [SMALLER]
    half, fifth = every.nearest([0.5]), every.nearest([0.2])
    assert [c.kind for c in half] == [c.kind for c in fifth] == list(KINDS) and half[0].macs > fifth[0].macs


def test_oblong_images_stay_oblong():
    dense = timm.create_model("test_vit", img_size=(64, 128), num_classes=3)
    sizes = [c.image_size for c in Alternatives(dense).by_kind[RESOLUTION]]
    assert sizes and all(0.3 <= height / width <= 0.7 for height, width in sizes)


def test_what_a_model_cannot_do_has_its_reason():
    lvvit = Alternatives(timm.create_model("lvvit_t", img_size=64, depth=2))
    assert "patch size of LV-ViT's" in lvvit.missing[PATCH] and RESOLUTION not in lvvit.missing
    assert "timm has none" in Alternatives(timm.create_model("test_vit", img_size=64)).missing[FAMILY]


def test_names_of_the_family():
    library = library_of(timm.create_model("test_vit", img_size=32))
    assert library.family_of("deit_base_patch16_224.fb_in1k") == ["deit_small_patch16_224", SMALLER]
    assert "vit_base_patch14_dinov2" in library.family_of("vit_large_patch14_dinov2")
    assert library.family_of("lvvit_m") == ["lvvit_l", "lvvit_s", "lvvit_t"] and library.family_of("test_vit") == []


def test_images_are_made_to_fit():
    x = torch.rand(1, 3, 96, 96)
    assert fitted(x, (96, 96)) is x and fitted(x, (48, 64)).shape == (1, 3, 48, 64)


# -- beside the reduced models


def test_of_each_kind_the_nearest_in_time_stays(model, monkeypatch):
    """Times are given: the resolution that costs as many MACs is too slow, and the one that was chosen by time fits."""
    asked = []

    def times(runs, *_):
        asked.append(list(runs))
        known = {"dense": 10.0, "evit": 3.0, "dense at 80 px": 9.0, "dense at 64 px": 7.0, "dense at 48 px": 3.1}
        return [{label: known.get(label, 5.0) for label in runs}]

    monkeypatch.setattr(_benchmark, "times_in_turn", times)
    models = {"dense": model, "evit": vitrim.reduce(model, "evit", macs=0.6)}
    rows, refused = benchmark(
        models, torch.randn(1, 3, 96, 96), Case(1, "eager", "float32"), instead=Alternatives(model)
    )
    assert asked[0] == ["dense", "evit"] and {"dense at 48 px", "dense at 64 px"} & set(asked[1]) and not refused
    found = {row.kind: row for row in rows if row.instead_of}
    assert set(found) == set(KINDS) and all(row.instead_of == ("evit",) for row in found.values())
    assert found[RESOLUTION].label == "dense at 48 px" and found[RESOLUTION].speed_up == pytest.approx(10 / 3.1)
    assert all(row.peak_bytes and row.promised > 1 for row in found.values())
    assert len(rows) == 5


def test_the_command_judges_them_on_photographs(capsys):
    line = [*LINE, "--checkpoint", f"{NAME}.safetensors", "--keep", "0.5", "--instead", "--data", "data"]
    line += ["--workers", "0", "--class-map", "map.csv"]
    Path("map.csv").write_text("red,0\ngreen,1\nblue,2\n")
    assert cli.main([*line, "--json", "a.json", "--overwrite"]) == 0
    out = capsys.readouterr().out
    assert "judged on 3 images" in out and f"{SMALLER} is not judged" in out and "of its time" in out
    rows = {row["label"]: row for row in json.loads(Path("a.json").read_text())["rows"]}
    beside = [row for row in rows.values() if row["instead_of"]]
    assert {row["kind"] for row in beside} == set(KINDS)
    assert all(("top1" in row) == (row["label"] != SMALLER) for row in rows.values())
    assert cli.main([*line, "--smaller-checkpoint", f"{SMALLER}.safetensors", "--json", "a.json"]) == 0
    assert "is not judged" not in capsys.readouterr().out
    rows = {row["label"]: row for row in json.loads(Path("a.json").read_text())["rows"]}
    assert rows[SMALLER]["agreement"] is not None
    assert cli.main([*line, "--smaller-checkpoint", f"{NAME}.safetensors"]) == 2
    assert f"fits none of the smaller {SMALLER}" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_picture_is_written_whole(capsys, tmp_path, ending):
    picture = tmp_path / f"speed{ending}"
    assert cli.main([*LINE, "--macs", "0.6", "--instead", "--out", str(picture)]) == 0
    assert f"the picture is {picture}" in capsys.readouterr().out
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert picture.read_bytes().startswith(begins[ending]) and list(tmp_path.iterdir()) == [picture]
    if ending == ".svg":
        text = picture.read_text()
        assert all(f">{word}" in text for word in ("promised by MACs", "roofline", "dense", "evit", *KINDS))
    assert cli.main([*LINE, "--macs", "0.6", "--out", str(picture)]) == 2
    assert "is there already: give another --out, or --overwrite" in capsys.readouterr().err
