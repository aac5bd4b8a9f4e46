"""ToFe, instance-adaptive: true batches equal one by one, cost the tokens present, and give dense features."""

from __future__ import annotations

import pytest
import torch
from counting import counted_macs
from references.tofe_setup import OPTIONS, ROWS, kept_of, put_on
from settings import dense, images, level
from torch import nn
from torch._dynamo.testing import CompileCounter

import vitrim
from vitrim.runtime.build import attach


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["deit", "siglip", "avgmax", "lvvit"])
def test_a_ragged_batch_costs_its_own_tokens_and_equals_one_by_one(name, options):
    fast, x = put_on(name, "instance", **options), images(ROWS[name], batch=4)
    logits, trace = fast(x, trace=True)
    alone = torch.cat([fast(x[j : j + 1]) for j in range(4)])
    torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-5)
    counts = torch.tensor([[len(stage) for stage in image] for image in kept_of(trace, fast.methods[0])])
    assert len({tuple(row) for row in counts.tolist()}) > 1, "the images must differ for this to say anything"
    singles = [counted_macs(fast, x[j : j + 1]) for j in range(4)]
    assert counted_macs(fast, x) == sum(singles)
    assert vitrim.image_macs(fast, counts).tolist() == singles


@torch.no_grad()
def test_linear_layers_see_no_padding_and_approximators_frozen_tokens_alone():
    fast, x = put_on("deit", "instance"), images(ROWS["deit"], batch=5)
    rows: dict[str, list[int]] = {}
    for name, module in fast.named_modules():
        if isinstance(module, nn.Linear):
            record = rows.setdefault(name, [])
            module.register_forward_hook(lambda _, given, out, record=record: record.append(given[0][..., 0].numel()))
    _, trace = fast(x, trace=True)
    kept = [sum(map(len, stage)) for stage in zip(*kept_of(trace, fast.methods[0]), strict=True)]
    for place, count in zip(fast.methods[0].places, kept, strict=True):
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            assert rows[f"backbone.blocks.{place.block}.{layer}"] == [count + 5]
    for stage in range(2):
        assert rows[f"methods.0.approximators.{stage}.mlp.fc1"] == [5 * 25 - kept[stage]]


@torch.no_grad()
def test_dense_features_of_a_ragged_batch_are_those_of_its_images():
    fast, x = put_on("registers", "instance"), images(ROWS["registers"], batch=4)
    for fill in ("last", "zeros", "neighbours"):
        whole = fast.forward_features(x, restore=True, fill=fill)
        alone = torch.cat([fast.forward_features(x[j : j + 1], restore=True, fill=fill) for j in range(4)])
        assert whole.shape == (4, 5 + 25, 48)
        torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-5)
    grids = fast.forward_intermediates(x, intermediates_only=True)
    assert {tuple(grid.shape) for grid in grids} == {(4, 48, 5, 5)}
    with pytest.raises(ValueError, match="restore=True"):
        fast.forward_features(x)


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "gap_no_cls"])
def test_an_image_that_would_keep_nothing_keeps_its_best_token(name):
    fast, x = put_on(name, "instance"), images(ROWS[name], batch=3)
    for selector in fast.methods[0].selectors:
        selector.decide.bias[0] -= 1e4
    logits, trace = fast(x, trace=True)
    assert [[len(stage) for stage in image] for image in kept_of(trace, fast.methods[0])] == [[1, 1, 1]] * 3
    assert logits.isfinite().all()


@torch.no_grad()
def test_everything_kept_is_the_dense_model():
    fast, x = put_on("deit", "instance"), images(ROWS["deit"])
    for selector in fast.methods[0].selectors:
        selector.decide.bias[0] += 1e4
    torch.testing.assert_close(fast(x), dense(ROWS["deit"])(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_images_decide_for_themselves_whatever_their_batch():
    fast, x = put_on("deit", "instance"), images(ROWS["deit"], batch=6)
    decided = kept_of(fast(x, trace=True)[1], fast.methods[0])
    for group in ([0, 3], [5, 1, 2], [4]):
        assert kept_of(fast(x[group], trace=True)[1], fast.methods[0]) == [decided[j] for j in group]


# -- compilers


@torch.no_grad()
def test_ragged_batches_compile_around_their_shapes_and_not_again_for_every_batch():
    torch.compiler.reset()
    model, counter = dense(ROWS["deit"]), CompileCounter()
    model.blocks = model.blocks[:1]  # every graph break costs seconds
    fast = level(attach(model, "tofe", at=0, adaptive="instance").eval(), images(ROWS["deit"], batch=8))
    compiled = torch.compile(fast, backend=counter)
    frames = []
    for seed in range(5):  # torch 2.9 learns from the third batch, too, which shapes vary
        x = images(ROWS["deit"], batch=4 + seed % 2, seed=seed)
        assert torch.equal(compiled(x), fast(x))
        frames.append(counter.frame_count)
    assert frames[0] > 0 and frames[-1] == frames[-2]
    torch.compiler.reset()


@torch.no_grad()
def test_the_masked_form_exports_the_same_predictions():
    fast, x = put_on("deit", "instance"), images(ROWS["deit"], batch=3)
    ragged = fast(x)
    fast.methods[0].masked = True
    program = torch.export.export(fast, (x,))
    torch.testing.assert_close(program.module()(x), ragged, rtol=1e-5, atol=1e-5)
