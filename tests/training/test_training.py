"""The loop: seeded draws, batches over processes, interruption, refusals; on a tiny model and images made here."""

import csv
import errno
import json
from dataclasses import replace
from pathlib import Path

import fresh
import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from train_once import draw_photographs, small_model

import vitrim
from vitrim.data import data_config, open_dataset, open_loader
from vitrim.data.unlabelled import unlabelled
from vitrim.training import RECIPES, RunStopped, Settings, checkpoints, finetune, get_recipe, override, short
from vitrim.training.objective import Teacher
from vitrim.training.recipes import for_methods
from vitrim.training.steps import Stepper

SCRIPT = Path(__file__).with_name("train_once.py")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """20 images of three classes."""
    return draw_photographs(tmp_path_factory.mktemp("photographs"), 20)


def quick(recipe="distill", **changes):
    return override(
        get_recipe(recipe, small=True), **{"batch_size": 8, "epochs": 2, "lr": 1e-3, "backbone_scale": 1.0, **changes}
    )


def run(photographs, out, recipe=None, method="evit", keep=0.6, **more):
    settings = Settings(out, cpu=True, show=False, log_every=1)
    return finetune(small_model(), method, photographs, recipe or quick(), settings, keep=keep, **more)


def once(photographs, out, *options, processes=1):
    """`train_once.py` in processes of its own: the exit code, and what it said."""
    said = out.with_name(f"{out.name} said")
    return fresh.run(SCRIPT, photographs, out, *options, "--processes", processes, folder=said, processes=processes)


def by_torchrun(photographs, out, *options):
    """The same in two processes that torchrun has started."""
    launcher, said = SCRIPT.with_name("by_torchrun.py"), out.with_name(f"{out.name} said")
    return fresh.run(launcher, SCRIPT, photographs, out, *options, "--processes", 2, folder=said)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# -- recipes


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_short_form_of_one_to_three_epochs(name):
    recipe = get_recipe(name)
    assert recipe.name == name
    small = short(recipe)
    assert 1 <= small.epochs <= 3
    assert small.batch_size <= 64
    held = {"budget": 400.0} if recipe.weights.budget else {}  # few steps: docs/recipes/tofe.md
    assert small.weights == replace(recipe.weights, **held)


def test_published_numbers():
    idle, tofe, dynamic = get_recipe("idlevit"), get_recipe("tofe"), get_recipe("dynamicvit")
    assert (idle.weights.logit_kl, idle.weights.features, idle.weights.cut) == (5, 500, 20)
    assert (tofe.weights.approximation, tofe.weights.budget, tofe.frozen_epochs) == (2, 5, 5)
    assert (dynamic.weights.ratio, dynamic.weights.logit_kl, dynamic.weights.token_mse) == (2, 0.5, 0.5)
    assert get_recipe("evit_scratch").keep_start == 10


def test_distill_adds_what_a_method_cannot_be_trained_without():
    distill, tofe = get_recipe("distill"), get_recipe("tofe")
    assert for_methods(distill, [vitrim.ToFe()]).weights.budget == 400
    assert for_methods(distill, [vitrim.DynamicViT()]).weights.ratio == 2
    assert for_methods(distill, [vitrim.EViT()]) == distill
    assert for_methods(tofe, [vitrim.DynamicViT()]) == tofe


def test_override_reaches_every_part_and_refuses_the_rest():
    changed = override(get_recipe("idlevit"), epochs=3, cut=0.0, mixup=0.2)
    assert (changed.epochs, changed.weights.cut, changed.augmentation.mixup) == (3, 0.0, 0.2)
    assert changed.weights.logit_kl == 5
    with pytest.raises(ValueError, match="no field epoch"):
        override(changed, epoch=3)
    with pytest.raises(ValueError, match="choose one of distill"):
        get_recipe("distil")


# -- learning


@pytest.mark.parametrize(("method", "recipe"), [("evit", "distill"), ("idlevit", "idlevit"), ("tome", "distill")])
def test_the_loss_falls_and_the_result_loads(photographs, tmp_path, method, recipe):
    options = {"keep": 0.6} if method != "tome" else {}
    settings = Settings(tmp_path, cpu=True, show=False, log_every=1)
    plan = quick(recipe, epochs=8, lr=3e-3)
    report = finetune(small_model(), method, photographs, plan, settings, **options)
    losses = [float(row["loss"]) for row in rows(tmp_path / "steps.csv")]
    assert len(losses) == report.steps == 16
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(vitrim.load(tmp_path)(images), report.model(images), atol=1e-5)


def test_the_dense_model_stays_as_it_is_and_is_never_trained(photographs, tmp_path):
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = finetune(model, "evit", photographs, quick(), Settings(tmp_path, cpu=True, show=False), keep=0.6)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    after = report.model.backbone.state_dict()
    assert not torch.equal(after["blocks.0.mlp.fc1.weight"], before["blocks.0.mlp.fc1.weight"])


def test_the_teacher_is_the_dense_model_in_eval_mode():
    model = small_model()
    teacher = Teacher(model, after=[1]).train()
    images = torch.randn(2, 3, 32, 32)
    taught = teacher(images)
    assert not teacher.model.training
    with torch.no_grad():
        assert torch.equal(taught.logits, model(images))
        assert torch.equal(taught.tokens, model.forward_features(images))
    assert taught.stages[1].shape == (2, 17, 32)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_micro_batches_accumulate_the_whole_batch(photographs, tmp_path):
    plans = {"whole": None, "parts": 2}
    for name, micro in plans.items():
        settings = Settings(tmp_path / name, cpu=True, show=False, micro_batch=micro)
        finetune(small_model(), "evit", photographs, quick(epochs=1), settings, keep=0.6)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in plans)
    for name in whole:
        assert torch.allclose(whole[name], parts[name], atol=2e-5), name


def test_judged_after_every_epoch_and_the_best_is_kept(photographs, tmp_path):
    loader = open_loader(open_dataset(photographs, small_model()), 8, 0)
    report = run(photographs, tmp_path, judge_on=loader)
    assert {"top1", "agreement", "dense_top1"} <= report.figures.keys()
    judged = rows(tmp_path / "epochs.csv")
    assert [row["epoch"] for row in judged] == ["1", "2"]
    best = checkpoints.read(tmp_path / "checkpoints" / "best.pt")
    assert best["best"] == max(float(row["top1"]) for row in judged)


def test_keep_rates_follow_the_schedule_of_the_scratch_recipe(photographs, tmp_path):
    plan = replace(quick("evit_scratch", epochs=4), keep_start=1, keep_epochs=2)
    report = run(photographs, tmp_path, plan)
    keeps = [float(row["keep 1"]) for row in rows(tmp_path / "steps.csv")]
    assert keeps[:2] == [1.0, 1.0]
    assert keeps == sorted(keeps, reverse=True)
    assert keeps[-1] == pytest.approx(0.6)
    assert report.model.methods[0].places[0].keep == pytest.approx(0.6)


def test_a_run_that_ends_before_its_schedule_is_saved_at_its_own_keep_rates(photographs, tmp_path):
    plan = replace(quick("evit_scratch", epochs=1), keep_epochs=2)
    report = run(photographs, tmp_path, plan)
    assert float(rows(tmp_path / "steps.csv")[-1]["keep 1"]) > 0.6
    assert report.model.methods[0].places[0].keep == pytest.approx(0.6)


def test_from_scratch_nobody_teaches_and_the_student_is_judged_alone(photographs, tmp_path):
    loader = open_loader(open_dataset(photographs, small_model()), 8, 0)
    plan = quick("evit_scratch", epochs=1)
    report = run(photographs, tmp_path, plan, judge_on=loader, scratch=True)
    assert "top1" in report.figures
    assert not {"agreement", "dense_top1"} & report.figures.keys()
    with pytest.raises(ValueError, match="recipe distill learns from the dense model, and from scratch there is none"):
        run(photographs, tmp_path, scratch=True)


def lvvit():
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2, "stem_channels": 8}
    return timm.create_model("lvvit_t", num_classes=3, **size).eval()


def swin():
    size = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1, 4, 1), "num_heads": (1, 2, 4, 8)}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, **size).eval()


@pytest.mark.parametrize(
    ("make", "method", "recipe", "options"),
    [
        (lvvit, "evit", "evit_finetune", {"keep": 0.6}),
        (lvvit, "idlevit", "idlevit", {"keep": 0.6}),
        (swin, "idlevit", "idlevit", {"keep": 0.6, "score": "predictor"}),
        (swin, "tofe", "tofe", {"keep": 0.6, "at": (3, 5)}),
        (small_model, "tofe", "tofe", {"keep": 0.6, "at": (1, 2), "reuse": False}),
        (small_model, "tofe", "distill", {"keep": 0.6, "at": (1, 2), "adaptive": "instance"}),
    ],
)
def test_other_families_and_forms_train_and_their_results_load(photographs, tmp_path, make, method, recipe, options):
    settings = Settings(tmp_path, cpu=True, show=False, log_every=1)
    report = finetune(make(), method, photographs, quick(recipe, epochs=1, drop_path=0.1), settings, **options)
    assert report.steps == len(rows(tmp_path / "steps.csv")) == 2
    assert vitrim.load(tmp_path).methods[0].name == method


def test_a_predictor_learns_its_keep_rates(photographs, tmp_path):
    options = {"method": "idlevit", "score": "predictor"}
    run(photographs, tmp_path, quick(epochs=1), **options)
    assert "ratio" in rows(tmp_path / "steps.csv")[0]


def test_learned_parts_start_from_the_seed(photographs, tmp_path):
    plan = quick("dynamicvit", epochs=1)
    for seed in (1, 2):
        torch.manual_seed(seed)
        run(photographs, tmp_path / str(seed), plan, method="dynamicvit")
    one, two = (load_file(tmp_path / str(seed) / "model.safetensors") for seed in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_a_method_has_learned_is_where_the_next_run_starts(photographs, tmp_path):
    first = run(photographs, tmp_path / "1", quick("dynamicvit", epochs=1), method="dynamicvit").model.methods[0]
    frozen = quick("dynamicvit", epochs=1, lr=1e-30, min_lr=0.0)
    settings = Settings(tmp_path / "2", cpu=True, show=False)
    second = finetune(small_model(), first, photographs, frozen, settings).model.methods[0]
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.allclose(one, two) for one, two in pairs)


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps one precision for the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_mixed_precision_ends_in_a_model_of_full_precision(photographs, tmp_path, fresh_accelerate):
    settings = Settings(tmp_path, cpu=True, show=False, precision="bf16", checkpointing=True, micro_batch=4)
    report = finetune(small_model(), "evit", photographs, quick(epochs=1), settings, keep=0.6)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(vitrim.load(tmp_path)(images), report.model(images))


def test_the_backbone_rests_in_the_frozen_epochs(photographs, tmp_path):
    plan = replace(quick("dynamicvit", epochs=1), frozen_epochs=1)
    report = run(photographs, tmp_path, plan, method="dynamicvit")
    before, after = small_model().state_dict(), report.model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


# -- interruption


@pytest.fixture(scope="module")
def uninterrupted(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    run(photographs, out)
    return load_file(out / "model.safetensors")


def test_killed_in_the_middle_of_an_epoch_it_resumes_to_the_same_weights(photographs, tmp_path, uninterrupted):
    code, _ = once(photographs, tmp_path, "--kill", 3, "--saved-at", 2)
    assert code == -9
    code, said = once(photographs, tmp_path, "--resume")
    assert code == 0, said
    resumed = load_file(tmp_path / "model.safetensors")
    assert all(torch.allclose(resumed[name], value, atol=1e-6) for name, value in uninterrupted.items())
    assert [int(row["step"]) for row in rows(tmp_path / "steps.csv")] == [0, 1, 2, 3]


def test_two_processes_learn_what_one_learns(photographs, tmp_path, uninterrupted):
    code, said = by_torchrun(photographs, tmp_path, "--judge")
    assert code == 0, said
    assert [float(row["top1"]) >= 0 for row in rows(tmp_path / "epochs.csv")] == [True, True]
    assert json.loads((tmp_path / "report.json").read_text()) == {"steps": 4, "processes": 2}
    together = load_file(tmp_path / "model.safetensors")
    assert all(torch.allclose(together[name], value, atol=1e-5) for name, value in uninterrupted.items())


def test_one_process_is_killed_and_two_go_on_mixing_as_it_would_have(photographs, tmp_path):
    run(photographs, tmp_path / "one", quick("evit_finetune", mixup=0.8, cutmix=1.0))
    mixing = ["--recipe", "evit_finetune", "--mix"]
    once(photographs, tmp_path / "two", *mixing, "--kill", 2, "--saved-at", 1)
    code, said = once(photographs, tmp_path / "two", *mixing, "--resume", processes=2)
    assert code == 0, said
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(two[name], value, atol=1e-5) for name, value in one.items())


def test_a_half_written_checkpoint_is_never_picked_up(photographs, tmp_path):
    run(photographs, tmp_path)
    last = tmp_path / "checkpoints" / "last.pt"
    whole = last.read_bytes()
    (last.parent / ".last.pt.part").write_bytes(whole[:1000])
    assert run(photographs, tmp_path, resume=True).steps == 4
    last.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        run(photographs, tmp_path, resume=True)


def test_a_full_disk_leaves_the_last_good_checkpoint(photographs, tmp_path, monkeypatch):
    run(photographs, tmp_path, quick(epochs=1))
    last = tmp_path / "checkpoints" / "last.pt"
    good = last.read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(RunStopped, match=r"no space left .*last\.pt; the last good checkpoint is .*last\.pt"):
        checkpoints.write(last, {"step": 7})
    assert last.read_bytes() == good
    assert [p.name for p in last.parent.iterdir() if p.name.startswith(".")] == []


def test_another_run_is_not_resumed_and_what_differs_is_said(photographs, tmp_path):
    run(photographs, tmp_path, quick(epochs=1))
    with pytest.raises(ValueError, match=r"another run \(methods: .*0\.6.* there, .*0\.8.* here\)"):
        run(photographs, tmp_path, quick(epochs=1), keep=0.8, resume=True)
    with pytest.raises(ValueError, match=r"recipe\.lr: 0\.001 there, 0\.01 here"):
        run(photographs, tmp_path, quick(epochs=1, lr=1e-2), resume=True)
    with pytest.raises(ValueError, match="nothing to resume"):
        run(photographs, tmp_path / "elsewhere", resume=True)


def test_a_loss_that_is_not_finite_stops_with_its_parts(photographs, tmp_path, monkeypatch):
    update = Stepper._update

    def spoil(self, step):
        update(self, step)
        if step == 2:
            self.student.backbone.head.weight.data.fill_(float("nan"))

    monkeypatch.setattr(Stepper, "_update", spoil)
    with pytest.raises(RunStopped, match=r"not finite at step 3 .*logit_kl nan.*last good checkpoint is .*last\.pt"):
        run(photographs, tmp_path)


# -- refusals


def test_one_class_is_refused(photographs, tmp_path):
    only = tmp_path / "only"
    (only / "a").mkdir(parents=True)
    for file in (photographs / "a").iterdir():
        (only / "a" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"one class|1 class"):
        run(only, tmp_path / "out", quick("evit_finetune"))
    assert run(only, tmp_path / "out").steps > 0


def test_a_recipe_whose_loss_the_method_lacks_is_refused(photographs, tmp_path):
    with pytest.raises(ValueError, match="'cut', which only idlevit"):
        run(photographs, tmp_path, quick("idlevit"), method="evit")
    with pytest.raises(ValueError, match="'ratio', which only dynamicvit and tofe"):
        run(photographs, tmp_path, quick("dynamicvit"), method="evit")


def test_guides_are_refused(photographs, tmp_path):
    with pytest.raises(ValueError, match="guided by a callable"):
        run(photographs, tmp_path, score=lambda images: images[:, 0, ::8, ::8].flatten(1))


def test_trackers_that_are_not_installed_are_refused(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard"])
    settings = Settings(tmp_path, cpu=True, show=False, trackers=("tensorboard", "wandb"))
    with pytest.raises(ValueError, match=r"--trackers wandb: not installed; pip install"):
        finetune(small_model(), "evit", photographs, quick(), settings, keep=0.6)


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file or folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="holds no image"):
        run(tmp_path, tmp_path / "out")


def test_photographs_behind_links_are_found_once(photographs, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(photographs, target_is_directory=True)
    (tmp_path / "here" / "circle").symlink_to(tmp_path / "here", target_is_directory=True)
    found = unlabelled(tmp_path / "here", data_config(small_model()))
    assert len(found) == 20


def test_unreadable_images_give_way_and_are_named(photographs, tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for i, file in enumerate(sorted((photographs / "a").iterdir())):
        (mixed / file.name).write_bytes(file.read_bytes() if i != 2 else b"no image")
    report = run(mixed, tmp_path / "out", quick(batch_size=7))
    assert list(report.unreadable.values()) == ["not an image, or damaged from its first bytes"]


def test_a_budget_out_of_reach_names_the_range(photographs, tmp_path):
    settings = Settings(tmp_path, cpu=True, show=False)
    with pytest.raises(ValueError, match="out of reach"):
        finetune(small_model(), "evit", photographs, quick(), settings, macs=0.01)
