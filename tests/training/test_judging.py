"""What a run says of its result: figures are of the very model written; judging never costs what was learned."""

from __future__ import annotations

import csv
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from train_once import draw_photographs, small_model

import vitrim
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import evaluate_many
from vitrim.methods import Method
from vitrim.training import RunStopped, Settings, checkpoints, finetune, get_recipe, override
from vitrim.training.steps import Stepper
from vitrim.training.validation import Validation


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """20 images of three classes: two steps of an epoch."""
    return draw_photographs(tmp_path_factory.mktemp("photographs"), 20)


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps one precision for the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def plan(name="distill", **changes):
    small = get_recipe(name, small=True)
    return override(small, **{"batch_size": 8, "epochs": 2, "lr": 1e-3, "backbone_scale": 1.0, **changes})


def run(photographs, out, recipe=None, method="evit", model=None, judged=True, settings=None, **more):
    model = model or small_model()
    loader = open_loader(open_dataset(photographs, model), 8, 0) if judged else None
    settings = Settings(out, cpu=True, show=False, log_every=1, **(settings or {}))
    more = {"keep": 0.6, **more} if method == "evit" else more
    return finetune(model, method, photographs, recipe or plan(), settings, judge_on=loader, **more)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def judged_again(out, photographs):
    """The figures of the folder, loaded anew, beside the dense model before the run."""
    loader = open_loader(open_dataset(photographs, small_model()), 8, 0)
    found = evaluate_many({"dense": small_model(), "student": vitrim.load(out)}, loader)
    student = found["student"].as_dict()
    return {name: student[name] for name in ("top1", "agreement")} | {"dense_top1": found["dense"].as_dict()["top1"]}


# -- of the very model that is written

RUNS = {
    "tofe, each image its own": ("tofe", {"at": (1, 2), "keep": (0.5, 0.3), "adaptive": "instance"}, {}, {}),
    "tofe": ("tofe", {"at": (1, 2), "keep": (0.5, 0.3)}, {}, {}),
    "a running mean of the weights": ("evit", {}, {"ema": 0.5, "judge_ema": True}, {}),
    "before its schedule is over": ("evit", {}, {"keep_epochs": 4}, {}),
    "bfloat16": ("evit", {}, {}, {"precision": "bf16"}),
    "bfloat16, tofe, each image its own": (
        "tofe",
        {"at": (1, 2), "keep": (0.5, 0.3), "adaptive": "instance"},
        {},
        {"precision": "bf16"},
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_figures_are_those_of_the_folder(photographs, tmp_path, fresh_accelerate, name):
    method, options, changes, settings = RUNS[name]
    report = run(photographs, tmp_path, plan(**changes), method, settings=settings, **options)
    figures = judged_again(tmp_path, photographs)
    assert {key: report.figures[key] for key in figures} == pytest.approx(figures)
    if not settings:
        last = rows(tmp_path / "epochs.csv")[-1]
        assert {key: float(last[key]) for key in figures} == pytest.approx(figures)


def test_the_model_that_is_judged_is_in_float32_and_is_the_one_returned(
    photographs, tmp_path, fresh_accelerate, monkeypatch
):
    seen, judge = [], Validation._judge

    def watched(self, student, batches, dtype):
        seen.append((student, dtype))
        return judge(self, student, batches, dtype)

    monkeypatch.setattr(Validation, "_judge", watched)
    report = run(photographs, tmp_path, plan(epochs=1), settings={"precision": "bf16"})
    tried, epoch, final = [torch.bfloat16, torch.float32, torch.float32], torch.bfloat16, torch.float32
    assert [dtype for _, dtype in seen] == [*tried, epoch, final]
    assert seen[-1][0] is report.model


def test_nothing_is_judged_twice_without_need(photographs, tmp_path, monkeypatch):
    calls, judge = [], Validation._judge
    monkeypatch.setattr(Validation, "_judge", lambda self, *args: calls.append(args) or judge(self, *args))
    run(photographs, tmp_path)
    assert len(calls) == 1 + 1 + 2  # one batch to try, the model before training, and each epoch


def test_figures_before_training_are_those_of_the_dense_model_with_the_method(photographs, tmp_path):
    report = run(photographs, tmp_path)
    loader, dense = open_loader(open_dataset(photographs, small_model()), 8, 0), small_model()
    found = evaluate_many({"dense": dense, "before": vitrim.reduce(dense, "evit", keep=0.6)}, loader)["before"]
    assert report.figures["untrained_top1"] == found.top1
    assert report.figures["untrained_agreement"] == found.agreement


def test_a_finished_run_that_is_resumed_says_its_figures_again(photographs, tmp_path):
    first = run(photographs, tmp_path)
    again = run(photographs, tmp_path, resume=True)
    assert again.figures == pytest.approx(first.figures)
    assert [row["epoch"] for row in rows(tmp_path / "epochs.csv")] == ["1", "2"]


# -- saved first


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory\nsomewhere"), OSError("the disk has gone"), ValueError("?")]
)
def test_where_judging_fails_what_was_learned_is_saved_and_judged_on_resume(
    photographs, tmp_path, monkeypatch, tmp_path_factory, error
):
    def broken(self, student):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "__call__", broken)
        with pytest.raises(RunStopped, match=r"judging failed after epoch 1 \(.*go on with --resume") as stopped:
            run(photographs, tmp_path)
    assert "\n" not in str(stopped.value)
    assert checkpoints.read(tmp_path / "checkpoints" / "last.pt")["step"] == 2
    report = run(photographs, tmp_path, resume=True)
    assert [row["epoch"] for row in rows(tmp_path / "epochs.csv")] == ["1", "2"]
    assert (tmp_path / "checkpoints" / "best.pt").exists()
    whole = tmp_path_factory.mktemp("whole")
    assert run(photographs, whole).figures == pytest.approx(report.figures)
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, tmp_path))
    assert all(torch.allclose(one[name], value, atol=1e-6) for name, value in two.items())


def test_a_run_killed_between_saving_and_judging_judges_first_when_it_goes_on(photographs, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(self, student):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Validation, "__call__", killed)
        run(photographs, tmp_path)
    run(photographs, tmp_path, resume=True)
    judged = rows(tmp_path / "epochs.csv")
    assert [(row["step"], row["epoch"]) for row in judged] == [("1", "1"), ("3", "2")]
    best = checkpoints.read(tmp_path / "checkpoints" / "best.pt")
    assert best["best"] == max(float(row["top1"]) for row in judged)


# -- looked at before the first step


@pytest.fixture
def no_step(monkeypatch):
    """Fails where a step is taken."""
    monkeypatch.setattr(Stepper, "take", lambda *_: pytest.fail("a step was taken"))


def test_a_device_without_the_precision_is_said_before_the_first_step(
    photographs, tmp_path, fresh_accelerate, monkeypatch, no_step
):
    monkeypatch.setattr("vitrim.evaluate.timing._has_bfloat16", lambda device: False)
    with pytest.raises(ValueError, match="no such arithmetic"):
        run(photographs, tmp_path, settings={"precision": "bf16"})
    assert not (tmp_path / "checkpoints").exists()


def test_validation_photographs_that_cannot_be_read_are_said_before_the_first_step(photographs, tmp_path, no_step):
    val = tmp_path / "val"
    shutil.copytree(photographs, val)
    for file in val.rglob("*.png"):
        file.write_bytes(b"no image")
    loader = open_loader(open_dataset(val, small_model()), 8, 0)
    settings = Settings(tmp_path / "out", cpu=True, show=False)
    with pytest.raises(ValueError, match=r"none of the 20 images can be read, the first, .*because"):
        finetune(small_model(), "evit", photographs, plan(), settings, judge_on=loader, keep=0.6)


def test_what_only_inference_cannot_do_is_said_before_the_first_step(photographs, tmp_path, no_step):
    stack = [vitrim.DynamicViT((0.6,), at=1), vitrim.ToFe((0.5, 0.3), at=(2, 3), approximator="conv")]
    with pytest.raises(ValueError, match='approximator="conv" needs all 16 patches, and 9 are left'):
        run(photographs, tmp_path, plan(), stack, judged=False)


def cast(dtype):
    return small_model().to(dtype)


def frozen():
    return small_model().requires_grad_(False)


class Masked(vitrim.DynamicViT):
    """Holds keep rates by a loss, and has nothing of its own that learns."""

    def build(self, body):
        super().build(body)
        self.requires_grad_(False)


@pytest.mark.parametrize(
    ("model", "method", "changes", "said"),
    [
        (
            lambda: cast(torch.bfloat16),
            "evit",
            {},
            r"bfloat16 weights, and they learn in float32: call model.float\(\)",
        ),
        (lambda: cast(torch.float16), "evit", {}, "float16 weights"),
        (lambda: cast(torch.float64), "evit", {}, "float64 weights"),
        (lambda: small_model().to("meta"), "evit", {}, "on the meta device and has no weights"),
        (frozen, "evit", {}, "nothing would learn: every parameter of the model is frozen"),
        (small_model, "evit", {"frozen": ("",)}, "nothing would learn"),
        (small_model, "evit", {"frozen_epochs": 1}, "frozen_epochs 1: .* evit has no learned parts"),
        (small_model, [Masked(0.6)], {"frozen_epochs": 2}, "frozen_epochs 2: .* dynamicvit has no learned parts"),
        (frozen, [Masked(0.6)], {}, "nothing would learn"),
    ],
)
def test_a_run_in_which_nothing_can_learn_is_refused(photographs, tmp_path, no_step, model, method, changes, said):
    with pytest.raises(ValueError, match=said) as refused:
        run(photographs, tmp_path, plan(**changes), method, model(), judged=False)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300
    assert issubclass(Masked, Method)


def test_parameters_that_came_frozen_stay_as_they_are(photographs, tmp_path):
    model = small_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" in name)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = run(photographs, tmp_path, plan(epochs=1), model=model, judged=False).model.backbone.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "mlp" in name}
    assert [p.requires_grad for p in model.parameters()] == ["mlp" in name for name, _ in model.named_parameters()]


def test_only_a_methods_own_parts_may_learn(photographs, tmp_path):
    report = run(photographs, tmp_path, plan(epochs=1), "dynamicvit", frozen(), judged=False)
    before, after = small_model().state_dict(), report.model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
