"""ToFe after training: the selectors' biases are shifted so that masks without noise keep what was learned."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from references.tofe_setup import put_on

import vitrim
from vitrim.data import data_config
from vitrim.data.unlabelled import unlabelled
from vitrim.training.calibration import between, calibrate, some_of


def kept_shares(fast, images):
    """What each place keeps on the mean in instance-adaptive inference."""
    _, learned = fast(images, losses=True)
    return [w.selected.sum(dim=1).mean().item() / w.place.patches for w in learned.place_records]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"reuse": False}, {"selector": "dynamicvit"}, {"approximator": "conv"}])
def test_masks_keep_on_the_mean_the_shares_that_were_learned(options):
    fast = put_on("deit", keep=(0.7, 0.5, 0.3), adaptive="instance", **options).eval()
    images = torch.randn(24, 3, 40, 40)
    for place in fast.methods[0].places:
        fast.methods[0].shift(place, -3.0)
    before = kept_shares(fast, images)
    calibrate(fast, images.split(10))
    after = kept_shares(fast, images)
    one = 1 / fast.methods[0].places[0].patches  # an image that would keep none keeps its best token
    assert max(abs(share - wanted) for share, wanted in zip(after, (0.7, 0.5, 0.3), strict=True)) < 0.5 * one
    assert max(abs(share - wanted) for share, wanted in zip(before, (0.7, 0.5, 0.3), strict=True)) > one


@torch.no_grad()
def test_batch_adaptive_inference_stays_as_it_is():
    fast = put_on("deit", keep=(0.7, 0.5, 0.3)).eval()
    images = torch.randn(6, 3, 40, 40)
    before, biases = fast(images), [s.decide.bias.clone() for s in fast.methods[0].selectors]
    calibrate(fast, [images])
    assert torch.equal(fast(images), before)
    assert not any(torch.equal(s.decide.bias, b) for s, b in zip(fast.methods[0].selectors, biases, strict=True))
    assert fast.methods[0].adaptive == "batch"
    assert not fast.methods[0].masked


@torch.no_grad()
def test_a_place_that_keeps_all_is_left_alone():
    fast = put_on("deit", keep=(1.0, 0.5, 0.3), adaptive="instance").eval()
    bias = fast.methods[0].selectors[0].decide.bias.clone()
    calibrate(fast, [torch.randn(6, 3, 40, 40)])
    assert torch.equal(fast.methods[0].selectors[0].decide.bias, bias)


def test_the_threshold_lies_between_the_tokens_kept_and_the_next():
    scores = torch.tensor([3.0, -float("inf"), 1.0, 2.0, -1.0])
    assert [between(scores, kept) for kept in (1, 2, 3)] == [2.5, 1.5, 0.0]
    assert between(scores, 4) < -1.0
    assert between(scores, 9) < -1.0
    assert between(scores, 0) == 2.5


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("selector", ["mlp", "dynamicvit"])
def test_training_starts_at_the_counts_that_were_asked_for(share, selector):
    torch.manual_seed(0)
    model = vitrim.runtime.build.attach(put_on("deit").backbone, "tofe", keep=[share], at=1, selector=selector)
    drawn = []
    model.train()
    with torch.no_grad():
        for _ in range(20):
            _, learned = model(torch.randn(8, 3, 40, 40), losses=True)
            drawn.append(learned.place_records[0].selected.mean())
    assert torch.stack(drawn).mean().item() == pytest.approx(share, abs=0.08)


def test_some_photographs_are_read_as_at_inference_and_the_transform_comes_back(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.new("RGB", (50, 40), (10 * i, 0, 0)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "a" / "3.png").write_bytes(b"no image")
    photographs = unlabelled(tmp_path, data_config(put_on("deit").backbone))
    upright = photographs[0][0]
    photographs.transform = learning = lambda image: torch.zeros(1)
    batches = some_of(photographs, torch.device("cpu"))
    assert photographs.transform is learning
    assert sum(len(batch) for batch in batches) == 39
    assert torch.equal(batches[0][0], upright)
