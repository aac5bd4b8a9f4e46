"""timm's model interface: optimisers, layer decay, feature users and heads take a reduced model as they take timm's."""

from __future__ import annotations

import pytest
import timm
import torch
from settings import CLASSES, backbones, dense, images, pairs, reduced
from timm.models import group_parameters
from timm.models._features import FeatureGetterNet
from timm.optim import create_optimizer_v2, param_groups_layer_decay

import vitrim
from vitrim.runtime.build import attach

FIRST = next(b.values[0] for b in backbones(lambda b: b.cls))
NAMES = ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2", "test_vit3"]


@pytest.mark.parametrize("backbone", backbones(lambda b: not b.grid and b.timms))
def test_attributes_are_the_models_own(backbone):
    model = dense(backbone)
    fast = vitrim.reduce(model, "random", keep=1.0)
    names = ["num_classes", "num_features", "head_hidden_size", "embed_dim", "num_prefix_tokens", "global_pool"]
    for name in [name for name in names if hasattr(model, name)]:
        assert getattr(fast, name) == getattr(model, name), name
    assert fast.get_classifier() == model.get_classifier()
    assert fast.feature_info == model.feature_info


def test_pretrained_cfg_is_the_models_own_and_absent_where_there_is_none():
    model = timm.create_model("deit_tiny_patch16_224")
    fast = vitrim.reduce(model, "evit")
    assert fast.pretrained_cfg == fast.default_cfg == model.pretrained_cfg
    assert timm.data.resolve_model_data_config(fast) == timm.data.resolve_model_data_config(model)
    assert vitrim.reduce(dense(FIRST), "evit").pretrained_cfg == {}


@torch.no_grad()
@pytest.mark.parametrize("pool", ["token", "avg", "max", "avgmax", ""])
@pytest.mark.parametrize("classes", [0, 3])
def test_reset_classifier(pool, classes):
    model, fast = dense(FIRST), vitrim.reduce(dense(FIRST), "evit", keep=1.0)
    for one in (model, fast):
        torch.manual_seed(0)
        one.reset_classifier(classes, pool)
    x = images(FIRST)
    assert torch.equal(fast(x), model(x)) and fast.num_classes == classes
    reduced_logits = vitrim.reduce(model, "evit", keep=0.5)(x)
    assert reduced_logits.shape[-1] == model(x).shape[-1] and reduced_logits.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("pre_logits", [False, True])
@pytest.mark.parametrize(("backbone", "method"), pairs("star", lambda b, m: not b.grid and b.timms))
def test_head_of_features_is_the_model(backbone, method, pre_logits):
    x, model, theirs = images(backbone), reduced(backbone, method), dense(backbone)
    if not method.static:
        with pytest.raises(ValueError, match="different numbers of tokens: ask for restore=True"):
            model.forward_features(x)
        return
    features = model.forward_features(x)
    if model.weighs and model.global_pool not in ("token", "max", ""):
        with pytest.raises(ValueError, match=r"weigh merged tokens by size.*restore=True"):
            model.forward_head(features)
        return
    torch.testing.assert_close(model.forward_head(features), model(x))
    wanted = theirs.forward_head(theirs.forward_features(x), pre_logits=pre_logits)
    assert model.forward_head(features, pre_logits=pre_logits).shape == wanted.shape


@torch.no_grad()
def test_restored_features_can_be_pooled_where_tokens_were_merged():
    backbone = next(b.values[0] for b in backbones(lambda b: b.name == "gap"))
    model, x = vitrim.reduce(dense(backbone), "tome", r=3), images(backbone)
    with pytest.raises(ValueError, match="weigh merged tokens"):
        model.forward_head(model.forward_features(x))
    assert model.forward_head(model.forward_features(x, restore=True)).shape == (2, CLASSES)


@pytest.mark.parametrize("name", NAMES)
def test_no_weight_decay_names_the_same_parameters(name):
    model = timm.create_model(name)
    fast = vitrim.reduce(model, "random")
    own = dict(fast.named_parameters())
    assert {n for n in fast.no_weight_decay() if n in own} == {
        f"backbone.{n}" for n in model.no_weight_decay() if n in dict(model.named_parameters())
    }


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_group_matcher_groups_as_timm_does(name, coarse):
    model = timm.create_model(name)
    fast = vitrim.reduce(model, "random")
    theirs = group_parameters(model, model.group_matcher(coarse))
    ours = group_parameters(fast, fast.group_matcher(coarse))
    assert ours == {group: [f"backbone.{n}" for n in names] for group, names in theirs.items()}


def _scales(model: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate scale and weight decay of every parameter."""
    named = {id(p): name.removeprefix("backbone.") for name, p in model.named_parameters()}
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, layer_decay=0.7, no_weight_decay_list=model.no_weight_decay()
    )
    return {named[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("name", NAMES)
def test_layer_decay_is_timms(name):
    model = timm.create_model(name)
    assert _scales(vitrim.reduce(model, "random")) == _scales(model)


def test_optimizers_reach_learned_parts_too():
    fast = attach(timm.create_model("deit_tiny_patch16_224"), "dynamicvit")
    optimizer = create_optimizer_v2(fast, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    grouped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert grouped == {id(p) for p in fast.parameters()}
    learned = {id(p) for p in fast.methods.parameters()}
    scales = {g["lr_scale"] for g in optimizer.param_groups for p in g["params"] if id(p) in learned}
    assert scales == {1.0}, "learned parts have the full learning rate"


@torch.no_grad()
def test_feature_users_take_it():
    fast = vitrim.reduce(timm.create_model("test_vit").eval(), "evit", keep=0.5, at=(1, 2))
    net = FeatureGetterNet(fast, out_indices=(0, 2, 5), output_fmt="NCHW")
    maps = net(torch.randn(1, 3, 160, 160))
    assert [m.shape for m in maps] == [(1, fast.embed_dim, 10, 10)] * 3
    assert net.feature_info.channels() == [fast.embed_dim] * 3


@torch.no_grad()
def test_forward_intermediates_as_a_dictionary():
    x = images(FIRST)
    options = {"output_dict": True, "return_prefix_tokens": True}
    ours = vitrim.reduce(dense(FIRST), "evit", keep=1.0).forward_intermediates(x, **options)
    theirs = dense(FIRST).forward_intermediates(x, **options)
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image_features"], theirs["image_features"])
    for name in ("image_intermediates", "image_intermediates_prefix"):
        assert all(map(torch.equal, ours[name], theirs[name]))


def test_distilled_training_returns_two_predictions():
    row = next(b.values[0] for b in backbones(lambda b: b.name == "distilled"))
    model = dense(row).train()
    model.set_distilled_training(True)
    fast, x = vitrim.reduce(model, "evit", keep=1.0), images(row)
    assert all(map(torch.equal, fast.train()(x), model(x)))
    halves = vitrim.reduce(model, "evit", keep=0.5).train()(x)
    assert [h.shape for h in halves] == [(2, CLASSES)] * 2


def test_timm_weights_load_unchanged():
    model, other = timm.create_model("deit_tiny_patch16_224"), timm.create_model("deit_tiny_patch16_224")
    fast = vitrim.reduce(model, "evit")
    fast.backbone.load_state_dict(other.state_dict())
    assert {n.removeprefix("backbone.") for n in fast.state_dict()} == set(other.state_dict())
