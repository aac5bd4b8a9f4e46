"""Token labels in a run: the dense LV-ViT labels every patch, and the tokens left learn the labels of their patches."""

import csv
import math
from pathlib import Path

import pytest
import timm
import torch
from settings import randomise
from torch import nn
from train_once import draw_photographs, small_model

import vitrim
from vitrim.backbones import TokenLogits
from vitrim.runtime.build import attach
from vitrim.training import Settings, finetune, get_recipe, losses, override
from vitrim.training.objective import Objective, Teacher, TeacherOutputs, token_label_loss
from vitrim.training.student import make_student

ONLY = {"classification": 0.0, "token_labels": 1.0}
METHODS = {
    "evit": {"keep": 0.6},
    "tome": {"r": 3},
    "idlevit": {"keep": 0.6},
    "dynamicvit": {"keep": 0.6},
    "tofe": {"keep": 0.6, "at": (1, 2)},
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """16 images of three classes."""
    return draw_photographs(tmp_path_factory.mktemp("photographs"), 16)


def lvvit(**options):
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2, "stem_channels": 8}
    return randomise(timm.create_model("lvvit_t", num_classes=3, **size, **options)).eval()


def pictures(batch=4):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def run(photographs, out, recipe, method="evit", model=None, **changes):
    own = {"batch_size": 8, "epochs": 1, "lr": 1e-3, "backbone_scale": 1.0, **changes}
    plan = override(get_recipe(recipe, small=True), **own)
    settings = Settings(out, cpu=True, show=False, log_every=1)
    return finetune(model or lvvit(), method, photographs, plan, settings, **METHODS[method])


def parts(out: Path, name: str) -> list[float]:
    with open(out / "steps.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


# -- the loss


def test_merged_tokens_learn_the_mean_of_their_patches_and_masked_ones_nothing():
    patches = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7], [0.25, 0.75]])
    taught = TeacherOutputs(torch.zeros(2, 2), torch.zeros(2, 5, 8), patch_logits=patches.log().expand(2, -1, -1))
    said = torch.tensor([[0.5, 0.5], [0.8, 0.2], [0.1, 0.9]]).log().expand(2, -1, -1)
    owners = torch.tensor([[0, 1, 1, -1], [0, 0, 2, 1]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], requires_grad=True)
    loss = token_label_loss(TokenLogits(torch.zeros(2, 2), said, owners=owners, mask=mask), taught)

    def cross(target, probability):
        return -target * math.log(probability) - (1 - target) * math.log(1 - probability)

    first = (cross(0.5, 0.5) + cross((0.9 + 0.3) / 2, 0.8)) / 2
    second = (cross(0.25, 0.8) + cross(0.3, 0.1)) / 2
    assert loss.item() == pytest.approx((first + second) / 2)
    assert not loss.requires_grad


def test_the_class_token_learns_from_labels_and_the_prediction_from_the_teacher():
    said = TokenLogits(torch.randn(2, 3), torch.randn(2, 4, 3), mask=torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 1]]))
    taught, target = (
        TeacherOutputs(torch.randn(2, 3), torch.zeros(0), patch_logits=torch.randn(2, 4, 3)),
        torch.tensor([1, 2]),
    )
    recipe = override(get_recipe("evit_finetune"), token_labels=1.0, logit_kl=1.0, smoothing=0.0)
    learned = Objective(recipe, 0.0, 0.0).parts(said, None, target, taught)
    assert set(learned) == {"classification", "token_labels", "logit_kl"}
    assert torch.equal(learned["classification"], losses.classification(said.logits, target))
    assert torch.equal(learned["logit_kl"], losses.logit_kl(said.prediction(), taught.logits))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_both_heads_speak_where_token_labels_are_learned_and_no_patch_is_mixed(weight):
    recipe = override(get_recipe("evit_finetune"), token_labels=weight)
    student, _ = make_student(lvvit(), "evit", recipe, None, {"keep": 0.6})
    said = student.train()(pictures())
    assert isinstance(said, TokenLogits) == bool(weight)
    assert not weight or said.mixed is None


@torch.no_grad()
def test_the_teacher_labels_every_patch_by_its_auxiliary_head():
    model = lvvit()
    taught = Teacher(model, labels_patches=True)(pictures())
    assert torch.equal(taught.patch_logits, model.aux_head(model.forward_features(pictures())[:, 1:]))
    assert torch.equal(taught.logits, model(pictures()))
    assert Teacher(model)(pictures()).patch_logits is None


@pytest.mark.parametrize("method", METHODS)
def test_both_heads_together_are_the_prediction(method):
    fast = attach(lvvit(mix_token=False), method, **METHODS[method]).train()
    answers = []
    for both in (True, False):
        fast.backbone.token_labels = both
        torch.manual_seed(1)
        answers.append(fast(pictures()))
    torch.testing.assert_close(answers[0].prediction(), answers[1])


def test_a_student_that_drops_nothing_has_nothing_to_learn_from_its_teacher():
    model = lvvit()
    taught = Teacher(model, labels_patches=True)(pictures())
    fast = vitrim.reduce(lvvit(mix_token=False), "evit", keep=1.0).train()
    for norm in (module for module in fast.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.eval()
    loss = token_label_loss(fast(pictures()), taught)
    labels = taught.patch_logits.softmax(-1)
    entropy = -(labels * labels.log()).sum(-1).mean()
    torch.testing.assert_close(loss, entropy, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert fast.backbone.aux_head.weight.grad.abs().max() < 1e-6
    spoilt = token_label_loss(vitrim.reduce(lvvit(mix_token=False), "evit", keep=0.5).train()(pictures()), taught)
    assert spoilt > entropy


# -- runs


@pytest.mark.parametrize("method", METHODS)
def test_runs_end_in_models_that_predict_and_load(photographs, tmp_path, method):
    recipe = method if method in ("idlevit", "dynamicvit", "tofe") else "evit_finetune"
    report = run(photographs, tmp_path, recipe, method, token_labels=1.0, mixup=0.8)
    assert len(parts(tmp_path, "token_labels")) == report.steps == 2
    assert all(map(math.isfinite, parts(tmp_path, "loss")))
    with torch.no_grad():
        said = report.model(pictures())
        assert said.shape == (4, 3)
        torch.testing.assert_close(vitrim.load(tmp_path)(pictures()), said)


@pytest.mark.parametrize("method", ["evit", "tofe"])
def test_token_labels_alone_teach_the_auxiliary_head_and_not_the_class_head(photographs, tmp_path, method):
    recipe = {"evit": "evit_finetune", "tofe": "tofe"}[method]
    report = run(photographs, tmp_path, recipe, method, **ONLY, logit_kl=0.0, weight_decay=0.0)
    before, after = lvvit(), report.model.backbone
    assert not torch.equal(after.aux_head.weight, before.aux_head.weight)
    assert not torch.equal(after.blocks[0].mlp.fc1.weight, before.blocks[0].mlp.fc1.weight)
    assert torch.equal(after.head.weight, before.head.weight)


# -- refusals


def test_only_an_lvvit_with_its_auxiliary_head_can_label_patches(photographs, tmp_path):
    with pytest.raises(
        ValueError, match=r"LV-ViT's auxiliary head .* VisionTransformer has none: use a model such as lvvit_s"
    ):
        run(photographs, tmp_path, "evit_finetune", model=small_model(), token_labels=1.0)
    model = lvvit()
    model.aux_head = nn.Linear(32, 7)
    with pytest.raises(ValueError, match="tells 7 classes apart and the model 3"):
        run(photographs, tmp_path, "evit_finetune", model=model, token_labels=1.0)
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="tells 0 classes apart and the model 0"):
        run(photographs, tmp_path, "distill", model=model, token_labels=1.0)


def test_token_labels_need_a_teacher(photographs, tmp_path):
    plan = override(get_recipe("evit_scratch", small=True), token_labels=1.0)
    assert plan.teaches
    with pytest.raises(ValueError, match="from scratch there is none"):
        finetune(lvvit(), "evit", photographs, plan, Settings(tmp_path, cpu=True, show=False), scratch=True)
