"""Evaluation: figures checked by hand, by published values and by slow plain versions."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from scipy.stats import binomtest
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitrim.backbones.timm.checkpoints import load_checkpoint
from vitrim.common import progress as _progress
from vitrim.common.on_meta import on_meta
from vitrim.data import Batch, Unreadable, open_dataset, open_loader
from vitrim.evaluate import (
    environment,
    evaluate,
    evaluate_many,
    knn_hits,
    throughput_in_turn,
    wilson_interval,
    without_classifier,
)
from vitrim.evaluate import timing as _timing

SHARED = Path(os.environ.get("VITRIM_SHARED", Path(__file__).parents[2] / ".." / "shared"))


class AtOnce:
    """A timer that waits for nothing."""

    def __init__(self, seconds, call, arguments):
        assert seconds == 2
        call(*arguments)

    def start(self):
        pass

    cancel = join = start


class Told(nn.Module):
    """Its logits are the first pixels of its images, moved along by `shift` classes."""

    def __init__(self, classes=6, shift=0, outputs=None):
        super().__init__()
        self.num_classes, self.shift, self.outputs = classes, shift, outputs or classes or 6

    def forward(self, images):
        return images.flatten(1)[:, : self.outputs].roll(self.shift, dims=1)


def told_images(predictions, classes=6):
    """Images whose logits put the prediction first and the other classes behind it in order."""
    logits = -torch.arange(classes).repeat(len(predictions), 1).float()
    logits[torch.arange(len(predictions)), torch.tensor(predictions)] = 10
    return logits.reshape(-1, 1, 1, classes)


def batches(images, labels, size):
    return list(zip(images.split(size), torch.as_tensor(labels).split(size), strict=True))


def small_vit(num_classes=3, seed=0, **options):
    torch.manual_seed(seed)
    size = dict(img_size=32, patch_size=16, embed_dim=16, depth=1, num_heads=2)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **size, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def photographs(root, each=4, damaged=False):
    from PIL import Image

    generator = np.random.default_rng(0)
    for name in "abc":
        (root / name).mkdir()
        for i in range(each):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    if damaged:
        (root / "b" / "1.png").write_bytes(b"damaged")
    return root


# classifiers


def test_counts_by_hand():
    predictions, labels = [0, 1, 2, 3, 4, 5, 0, 0], [0, 1, 2, 3, 5, 4, 1, 5]
    result = evaluate(Told(), batches(told_images(predictions), labels, 3))
    assert result.images == 8 and result.nonfinite == 0 and result.skipped == ()
    assert result.top1 == 100 * 4 / 8
    assert result.top5 == 100 * 5 / 8  # the last class but the prediction is the sixth: missed in three images
    assert result.top1_interval == tuple(100 * share for share in wilson_interval(4, 8))
    assert result.agreement is None and result.cosine is None and result.knn is None


def test_agreement_is_with_the_dense_models_prediction_and_not_with_the_labels():
    images, labels = told_images([0, 1, 2, 3]), [5, 5, 5, 3]
    results = evaluate_many({"dense": Told(), "same": Told(), "moved": Told(shift=1)}, batches(images, labels, 2))
    assert [results[name].agreement for name in ("dense", "same", "moved")] == [None, 100.0, 0.0]
    assert results["same"].top1 == 25.0 and results["same"].agreement_interval[0] > 50
    assert evaluate(Told(shift=1), batches(images, labels, 2), dense=Told()) == results["moved"]
    assert evaluate_many({"moved": Told(shift=1)}, batches(images, labels, 2))["moved"].agreement is None


def test_top5_needs_five_classes():
    result = evaluate(Told(4), batches(told_images([0, 1], 4), [0, 0], 2))
    assert result.top1 == 50 and result.top5 is None and "top5" not in result.as_dict()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_outputs_that_are_no_numbers_are_counted_and_never_right(bad):
    images, labels = told_images([0, 0, 1, 2]), [0, 0, 1, 2]
    images[0, 0, 0, 0], images[2] = bad, bad
    results = evaluate_many({"dense": Told(), "other": Told()}, batches(images, labels, 3))
    assert results["other"].nonfinite == 2 and results["other"].top1 == results["other"].agreement == 50
    assert results["other"].top5 == 50


@pytest.mark.parametrize(
    "model, labels, message",
    [
        (Told(outputs=4), [0, 1], r"model gives \(2, 4\) where .* = \(2, 6\) is wanted"),
        (Told(), [0, 6], "labels reach from 0 to 6 and model has 6 classes"),
        (Told(), [-1, 0], "labels reach from -1 to 0"),
        (nn.Sequential(), [0, 1], "same number of classes"),
    ],
)
def test_wrong_shapes_and_labels_are_refused(model, labels, message):
    with pytest.raises(ValueError, match=message):
        evaluate(model, batches(told_images([0, 1]), labels, 2))


def test_models_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"same number of classes, not \{'dense': 6, 'model': 4\}"):
        evaluate(Told(4), [], dense=Told())
    with pytest.raises(ValueError, match="same number of classes, not none"):
        evaluate_many({}, [])
    with pytest.raises(ValueError, match="have no classifier"):
        evaluate(Told(0), [], features=False)
    with pytest.raises(ValueError, match="neighbours=0"):
        evaluate(Told(0), [], neighbours=0)


def test_image_sizes_and_outputs_that_a_model_does_not_give_are_refused():
    with pytest.raises(ValueError, match=r"model does not take images of shape \(2, 3, 40, 40\): Input height"):
        evaluate(small_vit(), [(torch.zeros(2, 3, 40, 40), torch.tensor([0, 1]))])

    class Pair(Told):
        def forward(self, images):
            return super().forward(images), None

    with pytest.raises(ValueError, match="gives a tuple and no tensor of logits"):
        evaluate(Pair(), batches(told_images([0]), [0], 1))


def test_an_empty_loader_is_refused():
    with pytest.raises(ValueError, match="holds no image"):
        evaluate(Told(), [])


def test_results_do_not_depend_on_batch_size_workers_or_company(tmp_path):
    root = photographs(tmp_path)
    models = {"dense": small_vit().train(), "other": small_vit(seed=1).train()}
    dataset = open_dataset(root, models["dense"])
    first = evaluate_many(models, open_loader(dataset, 5, 0))
    for batch_size, workers in [(1, 0), (4, 2), (100, 0)]:
        assert evaluate_many(models, open_loader(dataset, batch_size, workers)) == first
    assert evaluate(models["other"], open_loader(dataset, 3, 0), dense=models["dense"]) == first["other"]
    assert first["dense"].images == 12 and all(module.training for module in models["dense"].modules())


def test_modes_come_back_as_they_were_even_after_an_error():
    model = small_vit(drop_rate=0.5).train()
    model.blocks.eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(ValueError, match="does not take"):
        evaluate(model, [(torch.zeros(1, 3, 8, 8), torch.tensor([0]))])
    assert [module.training for module in model.modules()] == before


def test_skipped_images_are_named_in_the_result(tmp_path):
    dataset = open_dataset(photographs(tmp_path, damaged=True), small_vit())
    result = evaluate(small_vit(), open_loader(dataset, 1, 0))  # one batch holds the damaged image alone
    assert result.images == 11 and [entry.name for entry in result.skipped] == ["b/1.png"]
    assert result.as_dict()["skipped"][0]["name"] == "b/1.png"


def test_data_without_a_readable_image_is_refused():
    batch = Batch(torch.empty(0, 3, 0, 0), torch.empty(0, dtype=torch.long), (Unreadable("x.jpg", "empty"),) * 3)
    with pytest.raises(ValueError, match=r"none of the 3 images can be read, the first, x\.jpg, because: empty"):
        evaluate(Told(), [batch])


def test_progress_reports_images_and_running_accuracy(tmp_path, capsys):
    seen = []
    loader = batches(told_images([0, 1, 2, 3]), [0, 1, 0, 0], 2)
    evaluate_many({"dense": Told()}, loader, progress=lambda *report: seen.append(report))
    assert seen == [(2, None, {"dense": 100.0}), (4, None, {"dense": 50.0})]
    dataset = open_dataset(photographs(tmp_path, damaged=True), small_vit())
    seen.clear()
    evaluate(small_vit(), open_loader(dataset, 5, 0), progress=lambda done, total, _: seen.append((done, total)))
    assert seen == [(5, 12), (10, 12), (12, 12)]
    evaluate(Told(), loader, progress=True)
    assert capsys.readouterr().out == ""


def test_the_progress_bar_shows_running_figures_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(_progress, "_on_terminal", lambda: True)
    monkeypatch.setattr(_progress, "Timer", AtOnce)
    evaluate(Told(), batches(told_images([0, 1, 2, 3]), [0, 1, 0, 0], 2), progress=True)
    assert "model 50" in capsys.readouterr().err


# features


def clusters(n=60, classes=3, width=8, spread=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.eye(width)[:classes] * 5
    return centres[labels] + spread * torch.randn(n, width, generator=generator), labels


def plain_knn(features, labels, k, temperature=0.07):
    """Row by row, in float64."""
    unit = features.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    hits = []
    for i in range(len(unit)):
        cosines = unit @ unit[i]
        others = [j for j in np.argsort(-cosines) if j != i][:k]
        votes = np.zeros(int(labels.max()) + 1)
        for j in others:
            votes[labels[j]] += np.exp(cosines[j] / temperature)
        hits.append(votes.argmax() == labels[i].item())
    return hits


def test_neighbours_find_clusters_and_do_not_count_themselves():
    features, labels = clusters()
    assert knn_hits(features, labels, k=5).all()
    lonely = torch.cat([labels[:-1], torch.tensor([9])])  # the only one of its class: only it could vote for it
    assert knn_hits(features, lonely, k=5).sum() == 59
    assert not knn_hits(features[:2], torch.tensor([0, 1])).any()


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("chunk", [7, 1024])
def test_neighbours_agree_with_a_plain_version(k, chunk):
    features, labels = clusters(90, spread=4.0)
    hits = knn_hits(features, labels * 7, k=k, chunk=chunk)
    assert hits.tolist() == plain_knn(features, labels, k) and 0 < hits.sum() < 90


def test_neighbours_never_hold_more_than_a_chunk_of_cosines():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            self.size = max([self.size, *(leaf.numel() for leaf in tree_leaves(result) if torch.is_tensor(leaf))])
            return result

    with Largest() as largest:
        knn_hits(*clusters(400), k=3, chunk=10)
    assert largest.size == 10 * 400


def test_neighbours_refuse_a_single_row():
    with pytest.raises(ValueError, match="need two rows"):
        knn_hits(torch.zeros(1, 4), torch.zeros(1, dtype=torch.long))


def test_models_without_classifier_are_judged_by_features():
    features, labels = clusters(width=6)
    loader = batches(features.reshape(-1, 1, 1, 6), labels, 7)
    models = {"dense": Told(0), "same": Told(0), "moved": Told(0, shift=1)}
    results = evaluate_many(models, loader, neighbours=5)
    assert results["dense"].cosine is None and results["same"].cosine == pytest.approx(1, abs=1e-6)
    assert abs(results["moved"].cosine) < 0.1
    assert all(result.knn == 100 and result.top1 is None for result in results.values())
    assert results["same"].knn_interval == (100 * wilson_interval(60, 60)[0], 100.0)
    assert evaluate_many(models, batches(features.reshape(-1, 1, 1, 6), labels, 60), neighbours=5)[
        "moved"
    ].cosine == pytest.approx(results["moved"].cosine, abs=1e-6)


def test_features_that_are_no_numbers_are_counted_and_left_out_of_the_cosine():
    features, labels = clusters(width=6)
    features[0, 2] = float("nan")
    loader = batches(features.reshape(-1, 1, 1, 6), labels, 7)
    result = evaluate(Told(0), loader, dense=Told(0), neighbours=5)
    assert result.nonfinite == 1 and result.images == 60
    assert result.cosine == pytest.approx(1, abs=1e-6) and result.knn == 100 * 59 / 60


def test_features_none_of_which_are_numbers_are_all_wrong():
    features, labels = clusters(width=6)

    class Broken(Told):
        def forward(self, images):
            return super().forward(images) * float("nan")

    loader = batches(features.reshape(-1, 1, 1, 6), labels, 7)
    for models in ({"dense": Told(0), "other": Broken(0)}, {"dense": Broken(0), "other": Told(0)}):
        results = evaluate_many(models, loader, neighbours=5)
        broken = results["other" if isinstance(models["other"], Broken) else "dense"]
        assert broken.nonfinite == 60 and broken.knn == 0 and broken.knn_interval[1] < 10
        assert results["other"].cosine is None


def test_one_image_has_no_neighbours():
    result = evaluate(Told(0), batches(told_images([0]), [0], 1), dense=Told(0))
    assert result.knn is None and result.cosine == pytest.approx(1, abs=1e-6)


def test_which_models_give_features():
    names = {
        "vit_tiny_patch16_224": False,
        "vit_base_patch16_clip_224.openai": True,
        "vit_base_patch16_clip_224.openai_ft_in1k": False,
        "vit_base_patch16_siglip_224.webli": True,
        "vit_small_patch14_reg4_dinov2": True,
    }
    with on_meta():
        found = {name: without_classifier(timm.create_model(name)) for name in names}
    assert found == names
    with on_meta():
        assert not without_classifier(timm.create_model("vit_base_patch16_clip_224.openai", num_classes=37))


# intervals


@pytest.mark.parametrize(
    "successes, trials, low, high",  # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_against_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)
    reference = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((reference.low, reference.high), abs=1e-6)


@pytest.mark.parametrize("successes, trials", [(0, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_nonsense(successes, trials):
    with pytest.raises(ValueError, match="give 0 <= successes <= trials"):
        wilson_interval(successes, trials)


# numbers and devices


def test_bfloat16_by_autocast_where_the_processor_has_it(tmp_path):
    if not _timing._has_bfloat16(torch.device("cpu")):
        pytest.skip("this CPU has no bfloat16")
    seen = []

    class Watched(Told):
        def __init__(self):
            super().__init__(3)
            self.layer = nn.Linear(6, 3)

        def forward(self, images):
            seen.append(self.layer(images.flatten(1)))
            return seen[-1]

    model = Watched()
    evaluate(model, batches(told_images([0, 1]), [0, 1], 2), dtype="bfloat16")
    assert seen[0].dtype == torch.bfloat16 and model.layer.weight.dtype == torch.float32
    evaluate(model, batches(told_images([0, 1]), [0, 1], 2))
    assert seen[1].dtype == torch.float32


def test_dtypes_and_devices_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    data = batches(told_images([0]), [0], 1)
    for options, message in [
        ({"dtype": "bfloat16"}, 'has no such arithmetic: use dtype="float32"'),
        ({"dtype": "float16"}, "float16.* is for GPUs"),
        ({"dtype": "int8"}, 'dtype="int8": choose one of float32, bfloat16, float16'),
        ({"device": "abacus"}, 'device="abacus": give cpu'),
        ({"device": "cuda:99"}, 'device="cuda:99": there is none here'),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(Told(), data, **options)
        with pytest.raises(ValueError, match=message):
            throughput_in_turn({"dense": Told()}, torch.zeros(1, 1, 1, 6), **options)


# throughput


class Clock:
    """A clock that only the models move, each by its own cost, and the machine's load by rounds."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def model(self, name, cost):
        clock = self

        class Costly(nn.Module):
            def forward(self, batch):
                clock.calls.append(name)
                clock.now += cost
                return batch

        return Costly()


def test_throughput_in_turn_takes_ratios_within_rounds(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_timing.time, "perf_counter", lambda: clock.now)
    models = {"dense": clock.model("dense", 0.25), "half": clock.model("half", 0.125)}
    found = throughput_in_turn(models, torch.zeros(8, 3, 4, 4), rounds=3, seconds=0.25)
    assert found["dense"].images_per_s == 32 and found["half"].images_per_s == 64
    assert found["dense"].speed_up == 1 and found["half"].speed_up == 2
    assert clock.calls[-9:] == ["dense", "half", "half"] * 3  # each measurement fills the time, in turn


def test_throughput_is_robust_against_a_load_that_comes_and_goes(monkeypatch):
    clock, load = Clock(), iter([1, 1, 4, 4, 1, 1])  # the second of three rounds meets a busy machine
    monkeypatch.setattr(_timing.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(_timing, "_calls", lambda *_: 1)
    models = {"dense": nn.Identity(), "half": nn.Identity()}

    def take(cost):
        def forward(module, args):
            clock.now += cost * next(load)

        return forward

    models["dense"].register_forward_pre_hook(take(0.5))
    models["half"].register_forward_pre_hook(take(0.25))
    found = throughput_in_turn(models, torch.zeros(2, 1, 1, 1), rounds=3)
    assert found["half"].speed_up == 2 and found["half"].images_per_s == 8


def test_throughput_of_real_models_runs():
    models = {"dense": small_vit().train(), "other": small_vit(seed=1)}
    found = throughput_in_turn(models, torch.zeros(2, 3, 32, 32), rounds=2, seconds=0.01)
    assert list(found) == ["dense", "other"] and found["dense"].speed_up == 1
    assert all(entry.images_per_s > 0 and entry.speed_up > 0 for entry in found.values())
    assert models["dense"].training


@pytest.mark.parametrize("count, images, rounds", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_throughput_refuses_nothing_to_measure(count, images, rounds):
    with pytest.raises(ValueError, match="give at least one of each"):
        throughput_in_turn({"dense": Told()} if count else {}, torch.zeros(images, 1, 1, 6), rounds)


def test_environment_says_what_figures_were_measured_on(monkeypatch):
    found = environment(seed=7)
    assert found["torch"].startswith(torch.__version__.split("+")[0]) and found["timm"] == timm.__version__
    assert found["threads"] == torch.get_num_threads() and found["device"] == "cpu" and found["seed"] == 7
    assert found["processor"] and found["vitrim"]
    assert _timing._version("no package of this name") == "unknown"


# the real thing


def test_real_weights_on_real_photographs():
    weights, data = SHARED / "weights" / "deit_tiny_patch16_224.safetensors", SHARED / "data" / "imagenette" / "val"
    if not (weights.is_file() and data.is_dir()):
        pytest.skip(f"no weights and photographs in {SHARED}: set VITRIM_SHARED")
    model = timm.create_model("deit_tiny_patch16_224")
    assert load_checkpoint(model, weights) == ()
    result = evaluate(model, open_loader(open_dataset(data, model, crop_pct=1, limit_per_class=5), 25))
    assert result.images == 50 and not result.skipped and not result.nonfinite
    assert result.top1 == pytest.approx(66.0, abs=2.1)  # one image may tip over on another processor
    assert result.top1_interval[0] < 70.5 < result.top1_interval[1]  # what 1,000 photographs give
