"""Save and load: what comes back is the same model, bit for bit."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file
from saving_setup import FILES, X, saved, tiny
from settings import methods, randomise
from torch import nn

import vitrim
from vitrim.runtime.build import attach
from vitrim.runtime.rebuilding import live_tables


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
        ("eva02_tiny_patch14_224", {}),
        ("vit_small_patch16_dinov3", {}),
        ("vit_small_patch16_rope_mixed_224", {}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_of_any_kind_come_back(name, options, dtype, tmp_path):
    model = vitrim.reduce(tiny(name, **options), "evit", keep=0.6).to(dtype)
    again = saved(model, tmp_path)
    assert torch.equal(again(X.to(dtype)), model(X.to(dtype)))
    ours, theirs = (dict(one.named_buffers()) | dict(one.named_parameters()) for one in (model, again))
    assert ours.keys() == theirs.keys() and all(ours[n].dtype == theirs[n].dtype for n in ours)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_swin_comes_back_with_its_tables(dtype, tmp_path):
    size = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (1, 1, 4, 1), "num_heads": (1, 2, 4, 8)}
    dense = randomise(timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, **size)).eval()
    model = attach(dense, "tofe", at=(3, 5)).to(dtype).eval()
    dense.set_input_size(img_size=48)
    model.fit_again()
    again = saved(model, tmp_path)
    x = torch.randn(1, 3, 48, 48).to(dtype)
    assert torch.equal(again(x), model(x))
    assert {name for _, name, _ in live_tables(model)} & load_file(tmp_path / FILES[1]).keys() == set(), (
        "worked out again"
    )


@torch.no_grad()
def test_a_table_that_would_come_out_otherwise_is_saved_too(tmp_path):
    dense = tiny("eva02_tiny_patch14_224", qkv_fused=True)  # the keys' bias is a table of zeros
    model = vitrim.reduce(dense, "evit", keep=0.6)
    dense.blocks[1].attn.k_bias.fill_(0.3)
    dense.rope.pos_embed.mul_(1 + 1e-6)
    again = saved(model, tmp_path)
    assert torch.equal(again(X), model(X))
    assert torch.equal(again.backbone.rope.pos_embed, dense.rope.pos_embed)
    assert torch.equal(saved(again, tmp_path)(X), model(X)), "also a second time"


@torch.no_grad()
def test_mixed_precision_comes_back(tmp_path):
    model = attach(tiny(), "tofe", at=(1, 2)).bfloat16()
    model.backbone.norm.float()
    again = saved(model.eval(), tmp_path)
    assert {n: t.dtype for n, t in again.state_dict().items()} == {n: t.dtype for n, t in model.state_dict().items()}
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


@torch.no_grad()
def test_values_that_are_no_numbers_come_back_too(tmp_path):
    model = vitrim.reduce(tiny(), "evit", keep=0.6)
    model.backbone.head.bias[0] = float("nan")
    model.backbone.head.bias[1] = -float("inf")
    model.backbone.head.bias[2] = -0.0
    again = saved(model, tmp_path).backbone.head.bias
    assert torch.equal(again.view(torch.int32), model.backbone.head.bias.view(torch.int32))


def test_the_file_is_one_that_safetensors_reads(tmp_path):
    model = vitrim.reduce(tiny().half(), "evit", keep=0.6)
    model.save(tmp_path)
    there, state = load_file(tmp_path / "model.safetensors"), model.state_dict()
    assert there.keys() == state.keys() and all(torch.equal(there[name], state[name]) for name in state)


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda dense: setattr(dense, "head", nn.Linear(48, 5)),
        lambda dense: setattr(dense, "head", nn.Identity()),
        lambda dense: setattr(dense, "blocks", dense.blocks[:3]),
        lambda dense: dense.prune_intermediate_layers([2], prune_head=False),
        lambda dense: dense.reset_classifier(0, ""),
        lambda dense: setattr(dense, "note", ["an attribute", "of the caller's"]),
        lambda dense: setattr(dense.blocks[0].mlp, "drop1", nn.Dropout(0.3)),
    ],
)
def test_what_the_config_can_say_is_said(change, tmp_path):
    dense = tiny()
    change(dense)
    model = vitrim.reduce(dense, "evit", keep=0.6, at=(0, 1)).eval()
    again = saved(model, tmp_path)
    assert torch.equal(again(X), model(X))
    assert again.num_classes in (again(X).shape[-1], 0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["evit", "idlevit", "dynamicvit", "evovit", "bat", "ats"])
def test_what_is_saved_is_what_runs(name, tmp_path):
    """Rates that a schedule has turned, and places that went with the blocks they were in."""
    model = attach(tiny(), name).eval()
    method = model.methods[0]
    method.set_rates([0.9 - 0.1 * j for j in range(len(method.places))])
    again = saved(model, tmp_path)
    assert torch.equal(again(X), model(X))
    assert [p.keep for p in again.methods[0].places] == [p.keep for p in method.places]


@torch.no_grad()
def test_places_that_went_with_their_blocks_stay_gone(tmp_path):
    model = vitrim.reduce(tiny(), [vitrim.ToMe(r=(5, 4, 3), at=(0, 1, 3)), vitrim.EViT(keep=0.5, at=2)])
    model.prune_intermediate_layers([2], prune_head=False)
    again = saved(model, tmp_path)
    assert torch.equal(again(X), model(X)) and len(again.backbone.blocks) == 3
    assert again.methods[0].options() == {"r": [5, 4], "at": [0, 1]}


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
    assert sorted(p.name for p in (tmp_path / "deep" / "folder").iterdir()) == FILES


@torch.no_grad()
def test_a_guide_travels_with_the_model_that_it_guides(tmp_path):
    asked = tiny("vit_small_patch16_224", depth=2)
    model = vitrim.reduce(tiny(), vitrim.EViT(keep=0.5, at=0, score=vitrim.LastClassAttention(asked)))
    again = saved(model, tmp_path)
    assert torch.equal(again(X), model(X))
    assert not torch.equal(again(X), vitrim.reduce(tiny(), vitrim.EViT(keep=0.5, at=0))(X)), "the guide decides"


def test_names_of_classes_come_back(tmp_path):
    model = vitrim.reduce(tiny(num_classes=2), "evit", keep=0.6)
    model.backbone.pretrained_cfg = {**model.pretrained_cfg, "label_names": ["cat", "dog"]}
    assert saved(model, tmp_path).pretrained_cfg["label_names"] == {"0": "cat", "1": "dog"}


def test_wrappers_are_taken_off(tmp_path):
    model = vitrim.reduce(tiny(), "evit", keep=0.6)
    vitrim.save(nn.DataParallel(model), str(tmp_path))
    assert vitrim.load(str(tmp_path)).methods[0].keep == 0.6
