"""The RoPE family: timm bit for bit without a reduction; with one, rotary rows that follow their tokens."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from counting import counted_macs
from settings import randomise
from timm.layers import LayerNorm
from timm.models.eva import Eva
from torch import nn

import vitrim
from vitrim.core.packing import pack
from vitrim.core.reductions import Fuse, Keep, take_rows

SMALL = dict(img_size=40, patch_size=8, embed_dim=48, depth=4, num_heads=3, mlp_ratio=2.0, num_classes=5)
ROPE = dict(use_rot_pos_emb=True)
DINO = dict(rope_type="dinov3", num_reg_tokens=4, use_abs_pos_emb=False, init_values=1e-5, qkv_bias=False, **ROPE)
KINDS = {
    "eva": dict(init_values=0.1),
    "eva02": dict(
        qkv_fused=False, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True, ref_feat_shape=(3, 3), **ROPE
    ),
    "eva02_post_norm": dict(use_post_norm=True, global_pool="token"),
    "dinov3": dict(rope_rotate_half=True, **DINO),
    "pe": dict(global_pool="map", attn_type="rope", use_pre_transformer_norm=True, rope_grid_offset=1.0, **ROPE),
    "axial": dict(attn_type="rope", global_pool="token", no_embed_class=True, **ROPE),
    "mixed": dict(attn_type="rope", rope_type="mixed", global_pool="token", no_embed_class=True, **ROPE),
    "grouped": dict(attn_type="rope", num_kv_heads=1, qkv_fused=False, qk_norm=True, rope_rotate_half=True, **DINO),
    "register": dict(class_token=False, num_reg_tokens=1, **ROPE),
    "dropout": dict(drop_rate=0.2, proj_drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.3, **ROPE),
}
CLS = [kind for kind in KINDS if kind != "register"]


def small(kind: str, **options) -> Eva:
    return randomise(Eva(**{**SMALL, **KINDS[kind], **options})).eval()


def pictures(batch: int = 2, size: int = 40) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("name", timm.list_models(module="eva"))
def test_every_timm_name_bitwise(name):
    """Every name of timm's EVA module, two blocks deep and 128 wide, else as it is."""
    create = partial(timm.create_model, name, depth=2, embed_dim=128, num_heads=2, img_size=224, num_classes=5)
    model = randomise(create(num_kv_heads=1) if "sapiens" in name else create()).eval()
    x = torch.randn(1, 3, 224, 224)
    assert torch.equal(vitrim.reduce(model, "random", at=0, keep=1.0)(x), model(x))
    assert (vitrim.reduce(model, "random", at=0, keep=0.5)(x) - model(x)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_training_mode_is_timm_bitwise(kind):
    logits, gradients = [], []
    for model in (small(kind), vitrim.reduce(small(kind), "random", keep=1.0)):
        torch.manual_seed(1)
        logits.append(model.train()(pictures()))
        logits[-1].square().sum().backward()
        gradients.append([p.grad for p in getattr(model, "backbone", model).parameters()])
    assert torch.equal(*logits)
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


# -- rows follow their tokens: timm's own blocks on the kept tokens of one image at a time


def rope_of(model: Eva, i: int, index: torch.Tensor) -> torch.Tensor | None:
    """timm's rotary rows of the patches `index` in block i."""
    if model.rope is None:
        return None
    table = model.rope.get_embed()
    return (table[i] if model.rope_mixed else table)[..., index, :]


def embedded(model: Eva, image: torch.Tensor) -> torch.Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(image))[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", CLS)
def test_idle_blocks_are_timms_blocks_on_the_selected(kind):
    model, images = small(kind), pictures()
    fast = vitrim.reduce(model, "idlevit", keep=0.6)
    logits, trace = fast(images, trace=True)
    p = model.num_prefix_tokens
    for j in range(len(images)):
        x = embedded(model, images[j : j + 1])
        for i, block in enumerate(model.blocks):
            kept = trace[i].kept[j]
            rows = torch.cat([torch.arange(p), kept + p])
            x = x.clone()
            x[:, rows] = block(x[:, rows], rope=rope_of(model, i, kept))
        torch.testing.assert_close(model.forward_head(model.norm(x))[0], logits[j], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", CLS)
def test_pruned_blocks_are_timms_blocks_on_the_kept(kind):
    model, images = small(kind), pictures()
    fast = vitrim.reduce(model, "topk", keep=0.6, at=(0, 2))
    logits, trace = fast(images, trace=True)
    p, places = model.num_prefix_tokens, (0, 2)
    for j in range(len(images)):
        x, kept = embedded(model, images[j : j + 1]), torch.arange(25)
        for i, block in enumerate(model.blocks):
            x = half(block, x, partial(block.attn, rope=rope_of(model, i, kept)), 1)
            if i in places:
                chosen = (trace[i].kept[j][:, None] == kept).int().argmax(dim=1)
                x, kept = torch.cat([x[:, :p], x[:, p:][:, chosen]], dim=1), trace[i].kept[j]
            x = half(block, x, block.mlp, 2)
        torch.testing.assert_close(model.forward_head(model.norm(x))[0], logits[j], rtol=1e-5, atol=1e-5)


def half(block: nn.Module, x: torch.Tensor, branch, number: int) -> torch.Tensor:
    """One half of a block, pre-norm or post-norm."""
    norm = getattr(block, f"norm{number}")
    if "PostNorm" in type(block).__name__:
        return x + norm(branch(x))
    gamma = getattr(block, f"gamma_{number}")
    return x + branch(norm(x)) * (1 if gamma is None else gamma)


@torch.no_grad()
@pytest.mark.parametrize("kind", CLS)
def test_class_logits_are_those_of_timms_attention(kind):
    """IdleViT's score: folded without rotation and norms per head, else from rotated keys; prefix queries unrotated."""
    model, seen = small(kind), []
    body = vitrim.reduce(model, "idlevit").body
    tokens = body.embed(pictures())
    attention = torch.nn.functional.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "torch.nn.functional.scaled_dot_product_attention", lambda *a, **k: seen.append(a) or attention(*a, **k)
        )
        model(pictures())
    q, k = seen[0][:2]
    expected = (q[:, :, :1] @ k.transpose(2, 3)).mean(dim=(1, 2))[:, body.prefix :] * q.shape[-1] ** -0.5
    scores = body.probe(0, tokens).class_logits()
    assert body.foldable(0) == (kind in ("eva", "eva02_post_norm"))
    torch.testing.assert_close(scores - scores.mean(1, True), expected - expected.mean(1, True), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dinov3", "mixed"])
def test_a_fused_token_takes_the_rows_of_its_strongest_member(kind):
    body = vitrim.reduce(small(kind), "evit").body
    tokens = body.embed(pictures())
    kept = torch.tensor([[3, 20, 7], [24, 1, 2]])
    weights = torch.rand(2, 25).scatter(1, kept, 0.0)
    tokens = tokens.shrink(Fuse(kept, weights)).shrink(Keep(torch.tensor([[3, 0], [3, 2]])))
    strongest = weights.argmax(dim=1)
    assert tokens.position.tolist() == [[strongest[0], 3], [strongest[1], 2]]
    for i in range(4):
        rows = tokens.rope_rows(i)
        for j in range(2):
            expected = rope_of(body.model, i, tokens.position[j])
            assert torch.equal(rows[j] if rows.shape[1] > 1 else rows[j, 0], expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dinov3", "mixed", "grouped", "axial", "register"])
def test_ragged_is_one_by_one(kind):
    """Images that keep different numbers of tokens: rows follow them through a packed batch too."""
    model, kept = small(kind), torch.rand(3, 25) < torch.tensor([[0.3], [0.9], [0.6]])
    body = vitrim.reduce(model, "random").body
    tokens = body.embed(pictures(3))
    ragged = tokens.shrink(pack(kept, body.prefix))
    again = torch.rand(3, 25) < 0.7
    fewer = (kept & again).int()
    packed = [fewer[j][kept[j]].bool() for j in range(3)]
    longest = max(len(row) for row in packed)
    second = torch.stack([nn.functional.pad(row, (0, longest - len(row))) for row in packed])
    for i in (0, 1):
        ragged = body.mlp(i, body.attend(i, ragged)[0])
        logits = body.head(ragged.with_x(body.norm(ragged.x)))
        for j in range(3):
            single = one_by_one(body, tokens, j, [kept.int(), fewer][: i + 1])
            torch.testing.assert_close(logits[j], single, rtol=1e-5, atol=1e-5)
        if i == 0:
            ragged = ragged.shrink(pack(second, body.prefix, ragged.layout))


def one_by_one(body, tokens, j: int, stages: list[torch.Tensor]) -> torch.Tensor:
    """Logits of image j alone, keeping the patches of each stage before its block."""
    single = vitrim.Tokens(tokens.x[j : j + 1], body.prefix, tokens.grid, rope=tokens.rope, placed=True)
    here = torch.arange(25)
    for i, stage in enumerate(stages):
        stays = stage[j][here].bool()
        single = single.shrink(Keep(stays.nonzero().T))
        here = here[stays]
        single = body.mlp(i, body.attend(i, single)[0])
    return body.head(single.with_x(body.norm(single.x)))[0]


# -- sizes, pooling, cost, refusals


@torch.no_grad()
@pytest.mark.parametrize("kind", ["eva02", "dinov3", "mixed"])
def test_other_sizes(kind):
    """Cached tables after set_input_size, and tables made anew for each image."""
    model = small(kind)
    model.set_input_size(img_size=(56, 40))
    x = torch.randn(2, 3, 56, 40)
    assert torch.equal(vitrim.reduce(model, "random", keep=1.0)(x), model(x))
    dynamic = small(kind, dynamic_img_size=True)
    fast = vitrim.reduce(dynamic, "random", keep=1.0)
    for size in ((40, 40), (24, 64)):
        x = torch.randn(2, 3, *size)
        assert torch.equal(fast(x), dynamic(x))
    assert vitrim.reduce(dynamic, "evit", keep=0.5)(x).shape == (2, 5)
    with pytest.raises(ValueError, match="set_input_size"):
        vitrim.reduce(small(kind), "random")(x)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["eva02", "pe", "register"])
def test_merged_tokens_weigh_by_size_in_pooling(kind):
    """Pooling a merged token of size 2 equals pooling two tokens like it."""
    model = small(kind)
    body = vitrim.reduce(model, "random").body
    x = torch.randn(2, body.prefix + 25, 48)
    twice = torch.tensor([[0, *range(25)]]).expand(2, -1)
    size = torch.ones(2, 25)
    size[:, 0] = 2
    tokens = vitrim.Tokens(x, body.prefix, (5, 5), size=size)
    doubled = torch.cat([x[:, : body.prefix], take_rows(x[:, body.prefix :], twice)], dim=1)
    torch.testing.assert_close(body.head(tokens), model.forward_head(doubled), rtol=1e-5, atol=1e-5)


METHODS = [("random", dict(keep=1.0)), ("topk", dict(keep=0.4)), ("evit", {}), ("idlevit", {})]


@pytest.mark.parametrize(
    ("kind", "method", "options"),
    [(kind, *method) for kind in KINDS for method in METHODS if method[0] == "random" or kind in CLS],
)
def test_macs_are_torchs(kind, method, options):
    model = vitrim.reduce(small(kind), method, **options)
    assert counted_macs(model, pictures(1)) == vitrim.profile(model).macs


def test_a_register_is_no_class_token():
    with pytest.raises(ValueError, match=r"needs a \[CLS\] token"):
        vitrim.reduce(small("register"), "evit")
    assert vitrim.reduce(small("register"), "evit", score="tokens")(pictures()).shape == (2, 5)


class Changed(Eva):
    """A subclass may compute something else."""


def test_refusals():
    with pytest.raises(ValueError, match="patch_drop_rate"):
        vitrim.reduce(small("eva02", patch_drop_rate=0.1), "evit")
    with pytest.raises(ValueError, match="Changed is not supported"):
        vitrim.reduce(Changed(**SMALL), "evit")
    model = small("eva02")
    model.blocks[1].attn = nn.Identity()
    with pytest.raises(ValueError, match="block 1 has a Identity where only timm's EvaAttention, AttentionRope"):
        vitrim.reduce(model, "evit")
    model = small("eva02")
    model.blocks[2].mlp = LayerNorm(48)
    with pytest.raises(ValueError, match="block 2 has a LayerNorm where only timm's Mlp"):
        vitrim.reduce(model, "evit")
