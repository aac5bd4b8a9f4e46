"""LV-ViT: the model against its description, its registration, training with token labels, and reduction on it."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from counting import counted_macs
from settings import randomise
from torch import nn

import vitrim
from vitrim.backbones import LVViT, TokenLogits
from vitrim.common.on_meta import on_meta

SMALL = dict(img_size=48, patch_size=8, embed_dim=24, depth=4, num_heads=3, mlp_ratio=3.0, skip_lam=2.0, num_classes=5)


def small(**options) -> LVViT:
    return randomise(LVViT(**{**SMALL, "stem_channels": 8, **options})).eval()


def pictures(batch: int = 2, size: int = 48) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def described(model: LVViT, images: torch.Tensor, heads: int, skip_lam: float) -> torch.Tensor:
    """The forward pass from the papers' description, on the checkpoint's names alone."""
    w = model.state_dict()

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    x = images
    for j, (stride, padding) in enumerate([(2, 3), (1, 1), (1, 1)], start=1):
        x = F.conv2d(x, w[f"patch_embed.conv{j}.weight"], stride=stride, padding=padding)
        stats = [w[f"patch_embed.bn{j}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        x = F.relu(F.batch_norm(x, *stats, eps=1e-5))
    x = F.conv2d(
        x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=w["patch_embed.proj.weight"].shape[2]
    )
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), 1, -1), x], dim=1) + w["pos_embed"]
    for i in range(len(model.blocks)):
        q, k, v = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").chunk(3, dim=-1)
        q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear(out.transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj") / skip_lam
        hidden = F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(hidden, f"blocks.{i}.mlp.fc2") / skip_lam
    x = norm(x, "norm")
    return linear(x[:, 0], "head") + 0.5 * linear(x[:, 1:], "aux_head").max(dim=1).values


@torch.no_grad()
@pytest.mark.parametrize("skip_lam", [1.0, 2.0, 3.0])
def test_agrees_with_its_description(skip_lam):
    model = small(skip_lam=skip_lam)
    torch.testing.assert_close(model(pictures()), described(model, pictures(), 3, skip_lam), rtol=1e-5, atol=1e-5)


def published_names(depth: int) -> set[str]:
    """Parameter names of the published checkpoints."""
    names = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    for j in (1, 2, 3):
        stats = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        names |= {f"patch_embed.conv{j}.weight"} | {f"patch_embed.bn{j}.{key}" for key in stats}
    for i in range(depth):
        names |= {f"blocks.{i}.attn.qkv.weight"}
        for layer in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            names |= {f"blocks.{i}.{layer}.weight", f"blocks.{i}.{layer}.bias"}
    return names | {f"{layer}.{key}" for layer in ("norm", "head", "aux_head") for key in ("weight", "bias")}


@pytest.mark.parametrize(
    ("name", "depth", "channels", "heads", "stem", "skip_lam", "millions", "crop"),
    [
        ("lvvit_t", 12, 240, 4, 64, 1, 8.5, 0.9),
        ("lvvit_s", 16, 384, 6, 64, 2, 26.2, 0.9),
        ("lvvit_m", 20, 512, 8, 64, 2, 55.8, 1.0),
        ("lvvit_l", 24, 768, 12, 128, 3, 150.0, 1.0),
    ],
)
def test_registered_sizes(name, depth, channels, heads, stem, skip_lam, millions, crop):
    with on_meta():
        model = timm.create_model(name)
    assert type(model) is LVViT and set(model.state_dict()) == published_names(depth)
    assert model.pos_embed.shape == (1, 197, channels) and model.blocks[0].attn.num_heads == heads
    assert model.patch_embed.conv1.weight.shape == (stem, 3, 7, 7)
    assert model.blocks[0].mlp.fc1.out_features == 3 * channels
    assert getattr(model.blocks[0].ls1, "value", 1) == skip_lam
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    config = timm.data.resolve_model_data_config(model)
    assert config["crop_pct"] == crop and config["mean"] == (0.485, 0.456, 0.406)


# -- timm's interface


@torch.no_grad()
def test_reset_classifier_resets_both_heads():
    model = small()
    model.reset_classifier(9)
    assert model.head.out_features == model.aux_head.out_features == 9
    assert model(pictures()).shape == (2, 9)
    model.reset_classifier(0)
    assert model(pictures()).shape == (2, 24)
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(9, "avg")


@torch.no_grad()
def test_other_sizes_resample_the_positions():
    model, dynamic = small(), small(dynamic_img_size=True)
    with pytest.raises(ValueError, match="set_input_size"):
        model(pictures(size=64))
    model.set_input_size(img_size=(64, 64))
    assert model.pos_embed.shape[1] == 65
    torch.testing.assert_close(model(pictures(size=64)), dynamic(pictures(size=64)))
    with pytest.raises(ValueError, match="multiples"):
        dynamic(pictures(size=60))
    with pytest.raises(ValueError, match="patch size"):
        model.set_input_size(patch_size=(16, 16))


def test_checkpoint_of_another_size_loads():
    state = small(img_size=64).state_dict()
    model = timm.create_model("lvvit_t", **{**SMALL, "stem_channels": 8})
    model.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(state, model))
    assert torch.equal(model.patch_embed.proj.weight, state["patch_embed.proj.weight"])


def test_groups_and_decay():
    model = small()
    assert {"pos_embed", "cls_token"} <= model.no_weight_decay()
    assert len(model.feature_info) == 4
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert sorted(name for group in groups.values() for name in group) == sorted(n for n, _ in model.named_parameters())
    features = timm.create_model("lvvit_t", features_only=True, **{**SMALL, "stem_channels": 8})(pictures())
    assert features[-1].shape == (2, 24, 6, 6)


def test_checkpointing_recomputes_the_same_gradient():
    plain, saving = (small(token_labels=labels).train() for labels in (True, True))
    saving.set_grad_checkpointing()
    for model in (plain, saving):
        torch.manual_seed(3)
        out = model(pictures())
        (out.logits.square().sum() + out.token_logits.square().sum()).backward()
    torch.testing.assert_close(plain.pos_embed.grad, saving.pos_embed.grad)
    assert plain.pos_embed.grad.abs().max() > 0


# -- token labels and mix-token


def test_training_returns_what_a_token_label_loss_needs():
    model = small().train()
    out = model(pictures(4))
    assert isinstance(out, TokenLogits)
    assert out.logits.shape == (4, 5) and out.token_logits.shape == (4, 36, 5) and out.mixed.shape == (36,)
    (out.logits.sum() + out.token_logits.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.mix_token = False
    assert model(pictures(4)).mixed is None
    model.token_labels = False
    assert model(pictures(4)).shape == (4, 5)


@torch.no_grad()
def test_mixing_takes_patches_from_the_partner(monkeypatch):
    box = torch.zeros(6, 6, dtype=torch.bool)
    box[1:4, 2:6] = True
    monkeypatch.setattr("vitrim.backbones.lvvit.model.random_box", lambda grid, device: box.flatten())
    model, images = small(), pictures(3)
    images[:, :, 16:] = images[:, :, 16:].roll(1, 0)
    model.train()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eval()
    patches = model.patch_embed(images)
    x, mixed = model.embed(images)
    for i in range(3):
        for j in range(36):
            source = 2 - i if box.flatten()[j] else i
            torch.testing.assert_close(x[i, 1 + j], patches[source, j] + model.pos_embed[0, 1 + j])
    out = TokenLogits(torch.zeros(3, 5), torch.zeros(3, 36, 5), mixed)
    classes, tokens = torch.randn(3, 5), torch.randn(3, 36, 5)
    torch.testing.assert_close(out.class_targets(classes), 2 / 3 * classes + 1 / 3 * classes.flip(0))
    expected = tokens.clone()
    expected[:, box.flatten()] = tokens.flip(0)[:, box.flatten()]
    assert torch.equal(out.token_targets(tokens), expected)


def test_boxes_are_boxes_and_uniform_in_area():
    from vitrim.backbones.lvvit.token_labels import random_box

    shares = []
    for _ in range(300):
        box = random_box((8, 12), torch.device("cpu")).view(8, 12)
        rows, columns = box.any(1), box.any(0)
        assert box.sum() == rows.sum() * columns.sum()
        assert (rows.int().diff() != 0).sum() <= 2 and (columns.int().diff() != 0).sum() <= 2
        shares.append(box.float().mean().item())
    assert min(shares) < 0.02 and max(shares) > 0.5 and 0.2 < sum(shares) / 300 < 0.5


def test_token_targets_follow_the_tokens_left():
    owners = torch.tensor([[0, 1, -1, 1], [2, 2, 2, 0]])
    labels = torch.randn(2, 4, 3)
    targets = TokenLogits(torch.zeros(2, 3), torch.zeros(2, 3, 3), owners=owners).token_targets(labels)
    torch.testing.assert_close(targets[0, 1], (labels[0, 1] + labels[0, 3]) / 2)
    torch.testing.assert_close(targets[1, 2], labels[1, :3].mean(0))
    assert torch.equal(targets[0, 0], labels[0, 0]) and torch.equal(targets[1, 0], labels[1, 3])
    assert not targets[0, 2].any()


def test_reduced_model_trains_with_token_labels():
    fast = vitrim.reduce(small(), "evit", keep=0.5).train()
    out = fast(pictures(4))
    tokens = out.token_logits.shape[1]
    assert tokens < 36 and out.owners.shape == (4, 36) and int(out.owners.max()) == tokens - 1
    assert out.token_targets(torch.randn(4, 36, 5)).shape == out.token_logits.shape
    (out.logits.sum() + out.token_logits.sum()).backward()
    assert fast.backbone.pos_embed.grad.abs().sum() > 0


# -- reduction


@torch.no_grad()
@pytest.mark.parametrize(
    ("method", "options"), [("evit", dict(keep=0.6)), ("topk", dict(keep=0.6)), ("idlevit", dict(keep=0.6))]
)
def test_prediction_runs_over_the_tokens_left(method, options):
    model = small()
    fast = vitrim.reduce(model, method, **options)
    x = fast.forward_features(pictures())
    assert x.shape[1] == (37 if method == "idlevit" else fast.body.prefix + vitrim.profile(fast).tokens[-1])
    expected = model.head(x[:, 0]) + 0.5 * model.aux_head(x[:, 1:]).max(dim=1).values
    torch.testing.assert_close(fast(pictures()), expected)
    torch.testing.assert_close(fast.forward_head(x), expected)


@torch.no_grad()
def test_masked_tokens_have_no_say():
    model, x = small(), torch.randn(2, 37, 24)
    mask = (torch.rand(2, 36) < 0.5).float()
    body = vitrim.reduce(model, "topk").body
    tokens = vitrim.Tokens(x, prefix=1, grid=(6, 6), mask=mask)
    kept = torch.stack([model.aux_head(x[i, 1:][mask[i] == 1]).max(dim=0).values for i in range(2)])
    torch.testing.assert_close(body.head(tokens), model.head(x[:, 0]) + 0.5 * kept)


@torch.no_grad()
@pytest.mark.parametrize(
    ("method", "options"), [(None, {}), ("evit", dict(keep=0.6)), ("topk", dict(keep=0.4)), ("idlevit", dict(keep=0.5))]
)
def test_macs_are_torchs(method, options):
    model = small()
    model = model if method is None else vitrim.reduce(model, method, **options)
    assert counted_macs(model, pictures(1)) == vitrim.profile(model).macs


@pytest.mark.parametrize(
    ("name", "size", "keep", "printed"),
    [
        ("lvvit_s", 224, 1.0, 6.6),
        ("lvvit_m", 224, 1.0, 12.7),
        ("lvvit_s", 384, 1.0, 21.9),
        ("lvvit_s", 224, 0.7, 4.7),
        ("lvvit_s", 224, 0.5, 3.9),
        ("lvvit_s", 240, 0.9, 6.8),
        ("lvvit_s", 256, 0.8, 6.9),
        ("lvvit_s", 256, 0.7, 6.2),
        ("lvvit_s", 272, 0.7, 7.1),
        ("lvvit_s", 304, 0.5, 7.4),
        ("lvvit_s", 448, 0.7, 21.5),
    ],
)
def test_published_gmacs_of_evit(name, size, keep, printed):
    """EViT Tables 3 and 5b, BAT Table 2, IdleViT Table S1."""
    with on_meta():
        fast = vitrim.reduce(timm.create_model(name, img_size=size), "evit", keep=keep)
    assert vitrim.profile(fast).gmacs == pytest.approx(printed, abs=0.05, rel=0.011)


@pytest.mark.parametrize(
    ("name", "keep", "most"),
    [
        ("lvvit_s", 0.9, 5.8),
        ("lvvit_s", 0.8, 5.25),
        ("lvvit_s", 0.7, 4.77),
        ("lvvit_s", 0.6, 4.35),
        ("lvvit_s", 0.5, 4.02),
        ("lvvit_m", 0.9, 11.2),
        ("lvvit_m", 0.8, 9.9),
        ("lvvit_m", 0.7, 8.9),
    ],
)
def test_idlevit_costs_no_more_than_published(name, keep, most):
    """IdleViT Tables 1 and S1; where the printed figure does not follow from the text, what the text gives."""
    with on_meta():
        fast = vitrim.reduce(timm.create_model(name), "idlevit", keep=keep)
    assert vitrim.profile(fast).gmacs <= most


def test_save_and_load(tmp_path):
    model = timm.create_model("lvvit_t", **{**SMALL, "stem_channels": 8})
    fast = vitrim.reduce(randomise(model), "evit", keep=0.6).eval()
    fast.save(tmp_path)
    again = vitrim.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(pictures()), fast(pictures()))
    copied = copy.deepcopy(again)
    assert copied.pretrained_cfg["crop_pct"] == 0.9


def test_refusals():
    with pytest.raises(ValueError, match="odd"):
        LVViT(patch_size=7)
    with pytest.raises(ValueError, match="global_pool"):
        LVViT(**SMALL, global_pool="avg")
