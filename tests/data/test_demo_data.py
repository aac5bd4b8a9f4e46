"""The demo's data and weights: canvases that repeat and keep their splits apart, parts that read digits."""

import importlib.util
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from timm.data import resolve_data_config
from torch.utils.data import DataLoader

from vitrim import profile
from vitrim.demo import DigitCanvases, build_model, load_model
from vitrim.demo.digits import CANVAS_SIZE, SourceDigits, normalise, paint_canvases, source_digits
from vitrim.demo.parts import TRAINED_COSTS, with_trained_parts

WEIGHTS = files("vitrim.demo").joinpath("digits_vit.safetensors")


@pytest.fixture(scope="module")
def test_split() -> DigitCanvases:
    return DigitCanvases("test", 500)


def test_same_seed_same_canvases():
    first, again, other = (DigitCanvases("test", 20, seed).canvases for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


def test_no_source_digit_is_in_both_splits(test_split):
    train, test = source_digits("train"), source_digits("test")
    assert sorted([*train.indices.tolist(), *test.indices.tolist()]) == list(range(1797))
    assert set(test_split.canvases.sources.tolist()) <= set(test.indices.tolist())
    same = (train.images.flatten(1)[:, None] == test.images.flatten(1)).all(-1)
    assert not same.any(), "the same picture lies in both splits under two numbers"


@pytest.mark.parametrize("count", [7, 100, 203])
def test_classes_are_balanced_and_labels_are_those_of_the_sources(count):
    digits = source_digits("train")
    canvases = paint_canvases(digits, count, torch.Generator().manual_seed(0))
    occurrences = torch.bincount(canvases.labels, minlength=10)
    assert occurrences.max() - occurrences.min() <= 1
    label_of = dict(zip(digits.indices.tolist(), digits.labels.tolist(), strict=True))
    assert canvases.labels.tolist() == [label_of[row] for row in canvases.sources.tolist()]


def test_digit_is_inside_the_canvas_and_a_small_part_of_it(test_split):
    top, left, side = test_split.canvases.boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + side <= CANVAS_SIZE).all() and (left + side <= CANVAS_SIZE).all()
    assert (side**2).max() < 0.15 * CANVAS_SIZE**2


def test_distractors_leave_the_digit_readable():
    digits = source_digits("test")
    blank = SourceDigits(torch.zeros_like(digits.images), digits.labels, digits.indices)
    canvases = paint_canvases(blank, 200, torch.Generator().manual_seed(0))
    assert (canvases.images.flatten(1).amax(1) > 128).all(), "no stroke was painted"
    centres = (canvases.boxes[:, :2] + canvases.boxes[:, 2:] / 2).long()
    middles = [image[y - 5 : y + 5, x - 5 : x + 5] for image, (y, x) in zip(canvases.images, centres, strict=True)]
    assert torch.stack(middles).max() < 64, "a stroke crosses the place of the digit"


def test_dataset_feeds_a_loader(test_split):
    images, labels = next(iter(DataLoader(test_split, batch_size=32)))
    assert images.shape == (32, 1, CANVAS_SIZE, CANVAS_SIZE) and images.dtype == torch.float32
    assert torch.equal(labels, test_split.canvases.labels[:32])
    whole = normalise(test_split.canvases.images)
    assert abs(whole.mean()) < 0.2 and abs(whole.std() - 1) < 0.3


@pytest.mark.parametrize(("arguments", "named"), [({"split": "val"}, "'val'"), ({"count": 0}, "count=0")])
def test_wrong_arguments_are_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        DigitCanvases(**arguments)


def test_weights_are_small_half_precision_and_fit():
    stored = load(WEIGHTS.read_bytes())
    assert len(WEIGHTS.read_bytes()) <= 1_000_000
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert stored.keys() == build_model().state_dict().keys()
    loaded = load_model()
    assert not loaded.training
    assert all(torch.equal(tensor, stored[name].float()) for name, tensor in loaded.state_dict().items())


def test_timm_reads_the_data_settings_from_the_model():
    config = resolve_data_config(model=load_model())
    assert config["input_size"] == (1, CANVAS_SIZE, CANVAS_SIZE)
    assert len(config["mean"]) == len(config["std"]) == 1


def test_model_reads_unseen_digits(test_split):
    model, canvases = load_model(), test_split.canvases
    with torch.inference_mode():
        found = torch.cat([model(normalise(images)).argmax(1) for images in canvases.images.split(100)])
    assert (found == canvases.labels).float().mean() >= 0.9


def script(name: str):
    """A script of benchmarks/, imported."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_runs_the_model_itself():
    train_demo = script("train_demo")
    torch.manual_seed(0)
    model, images = build_model(), torch.randn(2, 1, CANVAS_SIZE, CANVAS_SIZE)
    trainee = train_demo.Trainee(model)
    positions = train_demo.window_positions(CANVAS_SIZE, torch.Generator())
    torch.testing.assert_close(trainee(images, positions)[0], model(images))
    assert [train_demo.window_size(done) for done in (0, 0.5, 1)] == [24, 40, 64]


def test_all_that_the_package_brings_is_at_most_2_mb():
    stored = [path for path in WEIGHTS.parent.iterdir() if path.suffix == ".safetensors"]
    assert len(stored) == 2 and sum(path.stat().st_size for path in stored) <= 2_000_000


@pytest.mark.parametrize("cost", TRAINED_COSTS)
def test_trained_parts_cost_what_they_say_and_leave_the_model_as_it_is(cost):
    dense = load_model()
    tofe = with_trained_parts(dense, cost)
    assert cost - 0.01 < profile(tofe).share <= cost
    assert tofe.backbone is dense
    parts = list(tofe.methods[0].parameters())
    assert all(torch.equal(part, part.half().float()) for part in parts) and any(part.abs().sum() for part in parts)


def test_trained_parts_see_the_digit(test_split):
    """Far better than Random at this cost, whose accuracy is below 75 %."""
    model, images = with_trained_parts(load_model(), 0.5), test_split.canvases.images[:200]
    with torch.inference_mode():
        found = model(normalise(images)).argmax(1)
    assert (found == test_split.canvases.labels[:200]).float().mean() >= 0.8


def test_no_parts_for_another_cost():
    with pytest.raises(ValueError, match=r"no trained parts for the cost 0.6: there are some for 0.5, 0.4, 0.7"):
        with_trained_parts(load_model(), 0.6)


def test_training_of_the_parts_moves_them_alone_and_is_stored_as_measured(capsys, monkeypatch):
    parts = script("train_demo_parts")
    monkeypatch.setattr(parts, "BATCH_SIZE", 2)
    student, dense = parts.train(0.5, steps=2, seed=0), load_model()
    assert all(torch.equal(a, b) for a, b in zip(student.backbone.parameters(), dense.parameters(), strict=True))
    assert "ratio" in capsys.readouterr().out
    stored = parts.as_stored(student)
    assert all(torch.equal(student.methods[0].state_dict()[name], t.float()) for name, t in stored.items())
    again = parts.train(0.5, steps=2, seed=0)
    assert all(torch.equal(t, stored[name]) for name, t in parts.as_stored(again).items())
