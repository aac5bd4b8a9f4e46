"""Save and load: the same model comes back, or one line says why not; a failed save leaves nothing half written."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from settings import CLASSES, capture, methods, randomise
from torch import nn

import vitrim
from vitrim.runtime import saving
from vitrim.runtime.build import attach

TINY = dict(img_size=40, patch_size=8, embed_dim=48, depth=4, num_heads=3, num_classes=CLASSES)
X = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def tiny(name: str = "deit_tiny_patch16_224", **options) -> nn.Module:
    return randomise(timm.create_model(name, **{**TINY, **options})).eval()


def saved(model: vitrim.ReducedViT, folder) -> vitrim.ReducedViT:
    model.save(folder)
    return vitrim.load(folder)


@torch.no_grad()
@pytest.mark.parametrize("row", methods(lambda m: not m.says("guide")))
def test_every_method_comes_back(row, tmp_path):
    model = attach(tiny(), row.make()).eval()
    for one in model.methods:
        randomise(one, seed=1)
    again = saved(model, tmp_path)
    assert torch.equal(again(X), model(X))
    assert not again.training
    assert [type(one) for one in again.methods] == [type(one) for one in model.methods]
    assert all(a.options() == b.options() for a, b in zip(again.methods, model.methods, strict=True))
    assert vitrim.profile(again) == vitrim.profile(model)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("deit3_small_patch16_224", {"drop_path_rate": 0.2}),
        ("vit_small_patch14_reg4_dinov2", {}),
        ("vit_base_patch32_clip_224", {"act_layer": "relu"}),
        ("deit_tiny_patch16_224", {"num_classes": 0}),
        ("deit_tiny_patch16_224", {"img_size": (24, 40), "dynamic_img_size": True}),
        ("deit_tiny_patch16_224", {"qk_norm": True, "init_values": 0.1}),
        ("lvvit_t", {"img_size": 40, "stem_channels": 8}),
    ],
)
def test_models_of_any_kind_come_back(name, options, tmp_path):
    model = vitrim.reduce(tiny(name, **options), "evit", keep=0.6)
    assert torch.equal(saved(model, tmp_path)(X), model(X))


@torch.no_grad()
def test_what_was_changed_afterwards_comes_back(tmp_path):
    model = vitrim.reduce(tiny(), "evit", keep=0.6)
    model.reset_classifier(5, "avg")
    model.backbone.set_input_size(img_size=(48, 56))
    x = torch.randn(1, 3, 48, 56)
    again = saved(model, tmp_path)
    assert torch.equal(again(x), model(x)) and model(x).shape == (1, 5)
    assert again.global_pool == "avg"


@torch.no_grad()
def test_a_stack_of_methods_comes_back_in_order(tmp_path):
    model = vitrim.reduce(tiny(), [vitrim.ToMe(r=4, at=(0, 1)), vitrim.EViT(keep=0.6, at=2)])
    again = saved(model, tmp_path)
    assert [one.name for one in again.methods] == ["tome", "evit"]
    assert torch.equal(again(X), model(X))


@torch.no_grad()
def test_a_budget_is_saved_as_the_rate_it_came_to(tmp_path):
    model = vitrim.reduce(tiny(), "evit", macs=0.7)
    assert saved(model, tmp_path).methods[0].keep == model.methods[0].keep


def test_how_images_are_prepared_comes_back(tmp_path):
    model = vitrim.reduce(tiny(), "evit", keep=0.6)
    model.backbone.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "crop_pct": 0.77}
    model.save(tmp_path)
    again = vitrim.load(tmp_path)
    assert tuple(again.pretrained_cfg["mean"]) == (0.1, 0.2, 0.3) and again.pretrained_cfg["crop_pct"] == 0.77
    assert timm.create_model("deit_tiny_patch16_224").pretrained_cfg["crop_pct"] == 0.9, "no other model is touched"


@torch.no_grad()
def test_training_goes_on_from_a_loaded_model(tmp_path):
    model = saved(vitrim.reduce(tiny(), "evit", keep=0.6), tmp_path)
    with torch.enable_grad():
        model.train()(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_config_is_readable_and_says_versions(tmp_path):
    vitrim.reduce(tiny(), "evit", keep=(0.9, 0.5), at=(1, 3)).save(tmp_path / "deep" / "folder")
    config = json.loads((tmp_path / "deep" / "folder" / "config.json").read_text())
    assert config["methods"] == [{"method": "evit", "options": {"keep": [0.9, 0.5], "at": [1, 3]}}]
    assert config["backbone"] == "deit_tiny_patch16_224"
    assert set(config["versions"]) == {"vitrim", "timm", "torch"}
    assert sorted(p.name for p in (tmp_path / "deep" / "folder").iterdir()) == ["config.json", "model.safetensors"]


@torch.no_grad()
def test_a_guide_travels_with_the_model_that_it_guides(tmp_path):
    asked = tiny("vit_small_patch16_224", depth=2)
    model = vitrim.reduce(tiny(), vitrim.EViT(keep=0.5, at=0, score=vitrim.LastClassAttention(asked)))
    again = saved(model, tmp_path)
    assert torch.equal(again(X), model(X))
    assert not torch.equal(again(X), vitrim.reduce(tiny(), vitrim.EViT(keep=0.5, at=0))(X)), "the guide decides"


# -- what cannot be


def test_models_that_create_model_cannot_make_again_are_refused(tmp_path):
    from timm.models.vision_transformer import VisionTransformer

    with pytest.raises(ValueError, match="was not made by timm"):
        vitrim.reduce(VisionTransformer(**TINY), "evit").save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"built with act_layer=<class .*ReLU'>.*act_layer=\"relu\""):
        vitrim.reduce(tiny(act_layer=nn.ReLU), "evit").save(tmp_path / "b")
    with pytest.raises(ValueError, match="guided by a callable cannot be saved"):
        vitrim.reduce(tiny(), vitrim.EViT(score=lambda images: images.mean())).save(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_save_did_not_write(tmp_path):
    with pytest.raises(ValueError, match=r"has no config.json and no model.safetensors: give a folder written by save"):
        vitrim.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no model.safetensors"):
        vitrim.load(tmp_path)


def _broken(folder, what: str) -> None:
    vitrim.reduce(tiny(), "evit", keep=0.6).save(folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    read = json.loads(config.read_text())
    if what == "no json":
        config.write_text("{")
    elif what == "no text":
        config.write_bytes(b"\xff\xfe\x00")
    elif what == "a list":
        config.write_text("[1]")
    elif what == "a key less":
        config.write_text(json.dumps({key: value for key, value in read.items() if key != "methods"}))
    elif what == "unknown backbone":
        config.write_text(json.dumps({**read, "backbone": "deit_enormous"}))
    elif what == "unknown method":
        config.write_text(json.dumps({**read, "methods": [{"method": "evitt", "options": {}}]}))
    elif what == "cut short":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif what == "other weights":
        state = load_file(weights)
        save_file({name: tensor for name, tensor in state.items() if "norm" not in name}, weights)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no json", "JSONDecodeError"),
        ("no text", "UnicodeDecodeError"),
        ("a list", "TypeError"),
        ("a key less", "KeyError: 'methods'"),
        ("unknown backbone", "deit_enormous"),
        ("unknown method", "'evitt' is not known"),
        ("cut short", "SafetensorError"),
        ("other weights", r"Missing key\(s\).*norm1.weight"),
    ],
)
def test_broken_folders_are_one_line(what, said, tmp_path):
    _broken(tmp_path, what)
    with pytest.raises(ValueError, match=f"does not hold a model as save\\(\\) writes it: .*{said}") as caught:
        vitrim.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_save_that_fails_leaves_the_old_one_whole(tmp_path, monkeypatch):
    old = vitrim.reduce(tiny(), "evit", keep=0.6)
    old.save(tmp_path)

    def full(file, tensors, metadata):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(saving, "write_tensors", full)
    with pytest.raises(OSError, match="no space"):
        vitrim.reduce(tiny(), "topk", keep=0.3).save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(vitrim.load(tmp_path)(X), old(X))


def test_loading_runs_no_code_from_the_folder(tmp_path):
    """Weights are safetensors, and methods come by name from a list."""
    vitrim.reduce(tiny(), "evit", keep=0.6).save(tmp_path)
    torch.save({"x": capture}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="SafetensorError"):
        vitrim.load(tmp_path)
