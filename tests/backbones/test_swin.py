"""Swin: timm bit for bit without a reduction; idle tokens skip every linear layer and are masked out of the windows."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from counting import counted_macs
from settings import level, randomise
from timm.models.swin_transformer import SwinTransformer

import vitrim
from vitrim.backbones import SwinBackbone
from vitrim.common.on_meta import on_meta
from vitrim.runtime.build import attach

SMALL = dict(patch_size=2, embed_dim=16, depths=(1, 2, 6, 1), num_heads=(1, 2, 4, 8), num_classes=5)
GEOMETRIES = {
    "whole": dict(img_size=48, window_size=3),  # 24, 12, 6, 3: every grid divides
    "padded": dict(img_size=(40, 44), window_size=3),  # 20x22, 10x11, 5x6, 3x3: windows and merging pad
    "one_window": dict(img_size=32, window_size=7),  # 16, 8, 4, 2: the later stages fit into one window
    "always": dict(img_size=32, window_size=7, always_partition=True),
    "any_size": dict(img_size=(40, 44), window_size=3, strict_img_size=False),
}
IDLE = dict(keep=0.6, score="predictor")


def small(geometry: str = "whole", **options) -> SwinTransformer:
    return randomise(SwinTransformer(**{**SMALL, **GEOMETRIES[geometry], **options})).eval()


def fast(model: SwinTransformer, method: str = "idlevit", **options) -> vitrim.ReducedViT:
    """Reduced, the learned parts random but far from even."""
    reduced = attach(model, method, **(options or (IDLE if method == "idlevit" else {})))
    randomise(reduced.methods)
    return reduced


def pictures(model: SwinTransformer, batch: int = 2) -> torch.Tensor:
    size = model.patch_embed.img_size
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("name", timm.list_models(module="swin_transformer"))
def test_every_timm_name_bitwise(name):
    """Every name of timm's Swin module, with few blocks and 16 channels, else as it is."""
    create = dict(embed_dim=16, depths=(1, 1, 4, 1), num_heads=(1, 2, 4, 8), num_classes=5)
    model = randomise(timm.create_model(name, **create)).eval()
    x = pictures(model, 1)
    assert torch.equal(fast(model, keep=1.0, score="predictor")(x), model(x))
    assert (fast(model)(x) - model(x)).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_keep_everything_is_timm_bitwise(geometry):
    model = small(geometry)
    reduced, x = fast(model, keep=1.0, score="predictor"), pictures(model)
    assert torch.equal(reduced(x), model(x))
    assert torch.equal(reduced.forward_features(x), model.forward_features(x))
    assert torch.equal(reduced.forward_head(reduced.forward_features(x)), model(x))
    for options in (dict(norm=True), dict(indices=[0, 2], stop_early=True)):
        ours, theirs = (m.forward_intermediates(x, **options) for m in (reduced, model))
        assert torch.equal(ours[0], theirs[0])
        assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))


# -- an independent block, written out token by token


def slow_block(block, x: torch.Tensor, grid: tuple[int, int], selected: list[int]) -> torch.Tensor:
    """The masked training form for one image [n, c]: all keys of idle tokens left out, idle tokens unchanged."""
    attn, (height, width), (wh, ww), (down, right) = block.attn, grid, block.window_size, block.shift_size
    tall, wide = -(-height // wh) * wh, -(-width // ww) * ww
    qkv = F.linear(block.norm1(x), attn.qkv.weight, attn.qkv.bias).view(len(x), 3, attn.num_heads, -1)
    beyond = attn.qkv.bias.view(3, attn.num_heads, -1)

    def region(row, column):
        rows = 0 if row < tall - wh else 1 if row < tall - down else 2
        columns = 0 if column < wide - ww else 1 if column < wide - right else 2
        return (rows, columns) if down or right else 0

    slots = {}  # (row, column) after the shift -> number of the token, None beyond the grid
    for row in range(tall):
        for column in range(wide):
            inside = row < height and column < width
            slots[row, column] = (row + down) % height * width + (column + right) % width if inside else None
    out = x.clone()
    for (row, column), token in slots.items():
        if token not in selected:
            continue
        keys = [
            (r, c, j)
            for (r, c), j in slots.items()
            if r // wh == row // wh and c // ww == column // ww and (j is None or j in selected)
        ]
        logits, values = [], []
        for r, c, j in keys:
            _, k, v = beyond if j is None else qkv[j]
            offset = (row - r + wh - 1) * (2 * ww - 1) + column - c + ww - 1
            apart = 0.0 if region(r, c) == region(row, column) else -100.0
            q = qkv[token, 0]
            logits.append((q * k).sum(-1) * attn.scale + attn.relative_position_bias_table[offset] + apart)
            values.append(v)
        weights = torch.stack(logits).softmax(dim=0)
        attended = (weights[..., None] * torch.stack(values)).sum(0).flatten()
        out[token] = out[token] + F.linear(attended, attn.proj.weight, attn.proj.bias)
        out[token] = out[token] + block.mlp(block.norm2(out[token]))
    return out


@torch.no_grad()
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_idle_blocks_are_the_masked_form_token_by_token(geometry):
    model = small(geometry)
    reduced, x = fast(model), pictures(model)
    logits, trace = reduced(x, trace=True)
    for image in range(2):
        y, number = model.patch_embed(x[image : image + 1]), 0
        for stage in model.layers:
            y = stage.downsample(y)
            for block in stage.blocks:
                kept, size = trace[number].kept[image].tolist(), tuple(y.shape[1:3])
                whole = len(kept) == size[0] * size[1]
                y = block(y) if whole else slow_block(block, y.flatten(0, 2), size, kept).view(1, *size, -1)
                number += 1
        torch.testing.assert_close(model.forward_head(model.norm(y))[0], logits[image], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("idlevit", IDLE),
        ("tofe", dict(keep=0.6)),
        ("tofe", dict(keep=0.5, at=(1, 4, 7), approximator="conv")),
        ("tofe", dict(keep=0.5, at=4, approximator="block", selector="dynamicvit")),
    ],
)
def test_masked_and_gathered_agree(geometry, method, options):
    """Law 2: for the same decision both forms give the same logits."""
    model = small(geometry)
    reduced, x = fast(model, method, **options), pictures(model)
    logits = []
    for masked in (True, False):
        reduced.methods[0].masked = masked
        logits.append(reduced(x))
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
    assert (logits[0] - model(x)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("geometry", ["whole", "padded"])
def test_ragged_is_one_by_one(geometry):
    model = small(geometry)
    x = pictures(model, 4)
    reduced = level(fast(model, "tofe", adaptive="instance"), x.flip(-1))  # no token lies on the fence for x itself
    together, trace = reduced(x, trace=True)
    kept = torch.stack([(record.owners >= 0).sum(dim=1) for record in trace[5:9]])
    assert (kept.float().std(dim=1) > 0).all(), "the images keep different numbers"
    torch.testing.assert_close(together, torch.cat([reduced(x[j : j + 1]) for j in range(4)]), rtol=1e-5, atol=1e-5)
    reduced.methods[0].masked = True
    torch.testing.assert_close(together, reduced(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_idle_tokens_skip_every_linear_layer():
    model, rows = small(), {}
    reduced = fast(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "blocks" in name:
            module.register_forward_pre_hook(lambda m, x, name=name: rows.update({name: x[0][..., 0].numel()}))
    reduced(pictures(model, 1))
    tokens = vitrim.profile(reduced).tokens
    for i, (stage, j) in enumerate(SwinBackbone(model).places):
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            assert rows[f"layers.{stage}.blocks.{j}.{layer}"] == tokens[i]
    assert tokens == [576, 144, 144, 36, 36, 21, 12, 7, 7, 9]


@torch.no_grad()
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("method", "options"), [("idlevit", dict(keep=1.0, score="predictor")), ("idlevit", IDLE), ("tofe", {})]
)
def test_macs_are_torchs(geometry, method, options):
    model = small(geometry)
    reduced = fast(model, method, **options)
    assert counted_macs(reduced, pictures(model, 1)) == vitrim.profile(reduced).macs


@torch.no_grad()
def test_other_sizes_of_image():
    model = small("any_size")
    everything, idle = fast(model, keep=1.0, score="predictor"), fast(model)
    for size in ((40, 44), (36, 60)):
        x = torch.randn(2, 3, *size)
        assert torch.equal(everything(x), model(x))
        assert counted_macs(idle, x[:1]) == vitrim.profile(idle, size).macs
    with pytest.raises(ValueError, match="set_input_size"):
        fast(small())(torch.randn(1, 3, 64, 64))


# -- training


def test_training_draws_decisions_and_teaches_the_predictors():
    model = small(drop_path_rate=0.2)
    reduced = fast(model).train()
    torch.manual_seed(0)
    logits, learned = reduced(pictures(model), losses=True)
    assert [w.place.block for w in learned.place_records] == [5, 6, 7, 8]
    assert all(
        set(w.selected.unique().tolist()) <= {0.0, 1.0} and w.selected.requires_grad for w in learned.place_records
    )
    logits.square().sum().backward()
    for predictor in reduced.methods[0].predictors:
        assert predictor.decide[-1].weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("number", [1, 5])
def test_the_map_for_the_cut_loss_is_timms_attention(geometry, number):
    """The map over all tokens, times the values, through the projection, is the output of timm's window attention."""
    model = small(geometry)
    body = SwinBackbone(model)
    tokens = body.embed(pictures(model))
    for i in range(number):
        tokens = body.mlp(i, body.attend(i, tokens)[0])
    tokens = body.enter(number, tokens)
    evidence, block = body.probe(number, tokens), body.block(number)
    maps = evidence.attention_map()
    torch.testing.assert_close(evidence.mean_map(), maps.mean(dim=1))
    assert evidence.mean_map("logits").shape == evidence.mean_map().shape
    v = block.attn.qkv(evidence.h).unflatten(2, (3, block.attn.num_heads, -1))[:, :, 2]
    out = block.attn.proj(torch.einsum("bhij,bjhd->bihd", maps, v).flatten(2))
    expected = block._attn(evidence.h.unflatten(1, tokens.grid)).flatten(1, 2)
    if all(side % window == 0 for side, window in zip(tokens.grid, block.window_size, strict=True)):
        torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps.sum(-1)))
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    else:  # what the slots beyond the grid take is no token's
        lost = (1 - maps.sum(-1)).transpose(1, 2)[..., None] * block.attn.qkv.bias.view(3, block.attn.num_heads, -1)[2]
        torch.testing.assert_close(
            out + F.linear(lost.flatten(2), block.attn.proj.weight), expected, rtol=1e-4, atol=1e-5
        )


# -- which places, and what is refused


def test_default_places_lie_in_the_third_stage():
    with on_meta():
        idle = attach(timm.create_model("swin_tiny_patch4_window7_224"), "idlevit", **{**IDLE, "keep": 0.5})
        tofe = attach(timm.create_model("swin_tiny_patch4_window7_224"), "tofe", keep=0.5)
    assert [(p.block, p.keep) for p in idle.methods[0].places] == [(6, 0.5), (7, 0.25), (8, 0.125), (9, 0.125)]
    assert [p.block for p in tofe.methods[0].places] == [6, 7, 8]
    assert [tofe.methods[0].restore_before(p) for p in tofe.methods[0].places] == [7, 8, 10]
    assert len(tofe.methods[0].approximators) == 3
    assert vitrim.profile(idle).tokens[4:10] == [196, 196, 98, 49, 24, 24]


def test_a_budget_solves_the_keep_rate():
    model = small()
    assert 0.89 < vitrim.profile(attach(model, "idlevit", macs=0.9, score="predictor")).share <= 0.9


@pytest.mark.parametrize("method", [name for name in vitrim.METHODS if name not in ("idlevit", "tofe")])
def test_other_methods_are_refused_with_the_reason(method):
    reason = "tokens must keep their grid" if not vitrim.METHODS[method]().undoes else r"needs a \[CLS\] token"
    with pytest.raises(ValueError, match=f"{method}.*{reason}"):
        vitrim.reduce(small(), method)


@pytest.mark.parametrize("method", ["evit", "topk", "tome", "bat", "dynamicvit", "random", "grid"])
def test_pruning_and_merging_name_what_would_work(method):
    with pytest.raises(ValueError, match=f"{method} removes tokens for good.*idlevit.*tofe"):
        vitrim.reduce(small(), method)


class Changed(SwinTransformer):
    """A subclass may compute something else."""


def test_other_refusals():
    with pytest.raises(ValueError, match=r'needs a \[CLS\] token.*score="predictor"'):
        vitrim.reduce(small(), "idlevit")
    with pytest.raises(ValueError, match="tokens must keep their grid"):
        vitrim.reduce(small(), "tofe", reuse=False)
    with pytest.raises(ValueError, match="Changed is not supported"):
        vitrim.reduce(Changed(**SMALL, **GEOMETRIES["whole"]), "tofe")
    model = small()
    model.layers[2].blocks[0].mlp = torch.nn.Identity()
    with pytest.raises(ValueError, match="an MLP of this Swin is a Identity"):
        vitrim.reduce(model, "tofe")


def test_untrained_selectors_are_announced():
    with pytest.warns(UserWarning, match="random until"):
        vitrim.reduce(small(), "idlevit", **IDLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(small(), "idlevit", **IDLE)
