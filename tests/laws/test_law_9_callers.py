"""Law 9: nothing of the caller's is changed. A model, methods, lists, and the state of the process are after every
public call as they were before it."""

from __future__ import annotations

import copy
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import accelerate  # noqa: F401  its import adds a filter of warnings, which is not ours
import numpy as np
import pytest
import timm
import torch
from settings import BACKBONES, CLASSES, BackboneRow, dense, images, randomise
from torch import nn
from torch.utils.data import DataLoader

import vitrim
from vitrim.data import data_config, open_dataset
from vitrim.evaluate import environment, evaluate, evaluate_many, throughput_in_turn, without_classifier
from vitrim.runtime.build import attach
from vitrim.training import Settings, finetune, get_recipe, override

FAMILIES = [pytest.param(b, id=b.name) for b in BACKBONES if b.name in ("deit", "lvvit", "eva02", "dinov3", "swin")]
DEIT = BACKBONES[0]
PLAIN = (bool, int, float, str, type(None), tuple)


def about(model: nn.Module) -> dict[str, Any]:
    """All that a caller could find changed about a model; tensors by identity, by their version and by their values."""
    found: dict[str, Any] = {}
    for path, one in model.named_modules():
        found[f"{path}|is"] = id(one), type(one), one.training
        found[f"{path}|has"] = tuple(one.__dict__)
        for key, value in one.__dict__.items():
            if isinstance(value, PLAIN):
                found[f"{path}|{key}"] = value
            elif key.endswith("_hooks") or key in ("pretrained_cfg", "default_cfg", "_model_args", "feature_info"):
                found[f"{path}|{key}"] = copy.deepcopy(list(value.items()) if hasattr(value, "items") else value)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[f"{name}|tensor"] = id(tensor), tensor.requires_grad, tensor._version, tensor.device, tensor.dtype
        found[f"{name}|values"] = tensor.detach().clone()
        found[f"{name}|grad"] = None if tensor.grad is None else tensor.grad.clone()
    return found


def about_the_process() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [*map(str, np.random.get_state())],
        "dtype": torch.get_default_dtype(),
        # Not torch.get_default_device, which torch 2.9 cannot answer after set_default_device(None).
        "device": torch.empty(0).device,
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "fused": timm.layers.use_fused_attn(),
        "precision": torch.get_float32_matmul_precision(),
        "printing": repr(torch._tensor_str.PRINT_OPTS),
        "filters": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The keys whose values differ."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return torch.equal(a, b)
        return type(a) is type(b) and a == b

    return [key for key in {**before, **after} if not same(before.get(key), after.get(key))]


@contextmanager
def unchanged(*models: nn.Module, except_for: tuple[str, ...] = ()) -> Iterator[None]:
    """Fails if anything about the models, or about the process, is not as it was."""
    before, process = [about(model) for model in models], about_the_process()
    yield
    after, process_after = [about(model) for model in models], about_the_process()
    assert [d for d in differences(process, process_after) if d not in except_for] == []
    for was, now in zip(before, after, strict=True):
        assert differences(was, now) == []


def mixed_modes(row: BackboneRow) -> nn.Module:
    """A model in train mode with parts in eval mode, some of it frozen, a hook on it, gradients, its own config."""
    model = dense(row).train()
    parts = list(model.modules())
    for one in parts[::3]:
        one.training = False
    for p in list(model.parameters())[::2]:
        p.requires_grad_(False)
    for p in list(model.parameters())[1::4]:
        p.grad = torch.ones_like(p)
    parts[-1].register_forward_hook(lambda *_: None)
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "architecture": "made up", "tags": ["a"]}
    return model


def _method(row: BackboneRow) -> vitrim.Method:
    return vitrim.IdleViT(keep=0.6, score="predictor") if row.grid else vitrim.EViT(keep=[0.8, 0.7, 0.6], at=[1, 2, 3])


CALLS: dict[str, Callable[[BackboneRow, nn.Module], object]] = {
    "reduce": lambda row, m: attach(m, _method(row)),
    "reduce by name": lambda row, m: attach(m, "tofe" if row.grid else "tome"),
    "reduce to a budget": lambda row, m: attach(m, "tofe" if row.grid else "evit", macs=0.8),
    "reduce a copy": lambda row, m: attach(m, _method(row), copy=True),
    "profile": lambda row, m: vitrim.profile(m, row.image),
    "profile reduced": lambda row, m: vitrim.profile(attach(m, _method(row)), row.image),
    "data_config": lambda row, m: data_config(m),
    "environment": lambda row, m: environment(),
    "without_classifier": lambda row, m: without_classifier(m),
}
LEARNS = ("torch",)  # learned parts start from random weights, drawn as those of any module


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("row", FAMILIES)
def test_what_does_not_run_the_model(row, name):
    model = mixed_modes(row)
    with unchanged(model, except_for=LEARNS if row.grid else ()):
        CALLS[name](row, model)


@pytest.mark.parametrize("row", FAMILIES)
def test_running_a_reduced_model(row):
    """A forward in train mode draws dropout and moves the running means of batch norms, as the dense model's does."""
    model, x = dense(row).eval(), images(row)
    fast = attach(model, _method(row)).eval()
    with unchanged(model, fast):
        with torch.no_grad():
            fast(x, trace=True, losses=True)
            fast.forward_features(x, restore=True)
            fast.forward_intermediates(x, norm=True)
        fast(x).sum().backward(inputs=[x.requires_grad_()])


@pytest.mark.parametrize("row", FAMILIES)
def test_judging_and_timing(row):
    model, x = mixed_modes(row), images(row)
    fast, batches = attach(mixed_modes(row), _method(row)), [(x, torch.tensor([0, 1]))]
    with unchanged(model, fast):
        evaluate(fast, batches, dense=model)
        evaluate_many({"dense": model, "fast": fast}, batches, features=True, neighbours=1)
        throughput_in_turn({"dense": model, "fast": fast}, x, rounds=1, seconds=1e-4)


def test_methods_and_lists_that_were_given():
    evit = vitrim.EViT(keep=[0.8, 0.6], at=[1, 3])
    tofe = vitrim.ToFe(keep=0.5, at=[2])
    rates, blocks, stack = [0.9, 0.7], [1, 2], [evit, vitrim.ToMe(r=2, at=[0])]
    state = [copy.deepcopy(one.__dict__) for one in (evit, tofe)]
    fast = vitrim.reduce(dense(DEIT), stack)
    attach(dense(DEIT), tofe)
    vitrim.reduce(dense(DEIT), "evit", keep=rates, at=blocks)
    fast(images(DEIT)), fast.train(), fast.requires_grad_(False), fast.bfloat16()
    assert stack[0] is evit and len(stack) == 2
    assert (rates, blocks) == ([0.9, 0.7], [1, 2])
    for one, before in zip((evit, tofe), state, strict=True):
        assert {k: v for k, v in one.__dict__.items() if isinstance(v, PLAIN)} == {
            k: v for k, v in before.items() if isinstance(v, PLAIN)
        }
        assert not list(one.parameters()) and not list(one.buffers())


# -- guides


@torch.no_grad()
def test_a_guide_leaves_the_model_that_it_asks_as_it_is():
    asked, model, x = mixed_modes(DEIT), dense(DEIT), images(DEIT)
    randomise(asked, seed=5)
    with unchanged(asked, model):
        guide = vitrim.LastClassAttention(asked)
        before = guide(x)
        for fast in (
            vitrim.reduce(model, vitrim.EViT(keep=0.5, score=guide)),
            vitrim.reduce(model, "evit", keep=0.5, score=guide),
        ):
            fast.eval()(x)
            assert not any(p.requires_grad for p in fast.methods.parameters())
            assert not any(one.training for one in fast.train().methods[0].guide.modules())
            fast.eval()
        assert torch.equal(guide(x), before)


@torch.no_grad()
def test_a_guide_goes_its_own_way_from_then_on():
    asked, x = dense(DEIT), images(DEIT)
    guide = vitrim.LastClassAttention(asked)
    before = guide(x)
    randomise(asked, seed=9).train()
    assert torch.equal(guide(x), before)
    guide.to(torch.float64)
    assert next(asked.parameters()).dtype == torch.float32
    assert all(a is not b for a, b in zip(guide.parameters(), asked.parameters(), strict=True))


@torch.no_grad()
def test_a_guide_scores_as_the_models_last_attention_does():
    asked, x, seen = dense(DEIT), images(DEIT), []
    scores = vitrim.LastClassAttention(asked.train())(x)
    asked.eval().blocks[-1].attn.qkv.register_forward_hook(lambda module, args, out: seen.append(out))
    asked(x)
    q, k, _ = seen[0].unflatten(2, (3, 3, -1)).permute(2, 0, 3, 1, 4)
    wanted = (q @ k.transpose(-2, -1) / 4).softmax(dim=-1)[:, :, 0, 1:].mean(dim=1)
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-6)


def test_a_model_that_cannot_be_copied_is_refused():
    model = dense(DEIT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model.blocks[0].attn.qkv)
    for call in (lambda: vitrim.LastClassAttention(model), lambda: vitrim.reduce(model, "evit", copy=True)):
        with pytest.raises(ValueError, match="this VisionTransformer cannot be copied"):
            call()


class Brightness(nn.Module):
    """A guide of the caller's own, with a dropout that must stay off."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 8).flatten(1))


def test_a_guide_of_the_callers_own_stays_in_its_mode():
    guide = Brightness().eval()
    with unchanged(guide):
        for fast in (
            vitrim.reduce(dense(DEIT).train(), "evit", keep=0.5, score=guide),
            vitrim.reduce(dense(DEIT).train(), vitrim.EViT(keep=0.5, score=guide)),
        ):
            fast.train().requires_grad_(False)


# -- told before `reduce`


@pytest.mark.parametrize("row", FAMILIES)
def test_checkpointing_that_the_model_was_told_of_is_done(row):
    model, calls = dense(row).train(), []
    block = model.layers[2].blocks[0] if row.grid else model.blocks[0]
    block.mlp.register_forward_pre_hook(lambda *_: calls.append(1))

    def runs(fast: vitrim.ReducedViT) -> int:
        calls.clear()
        fast(images(row)).sum().backward()
        return len(calls)

    fast = attach(model, _method(row)).train()
    assert runs(fast) == 1
    model.set_grad_checkpointing()
    assert runs(fast) == runs(attach(model, _method(row)).train()) == 2
    fast.set_grad_checkpointing(False)
    assert runs(fast) == 1
    model.set_grad_checkpointing(False)
    fast.set_grad_checkpointing()
    assert runs(fast) == 2


# -- files


SMALL = dict(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=3)


def test_saving_and_loading(tmp_path):
    name = "vit_tiny_patch16_224"
    model = randomise(timm.create_model(name, **SMALL)).train()
    model.pretrained_cfg["mean"] = (0.1, 0.2, 0.3)
    fast, registered = vitrim.reduce(model, "evit", keep=0.6), timm.models.get_pretrained_cfg(name).to_dict()
    with unchanged(fast):
        fast.save(tmp_path)
    again = vitrim.load(tmp_path)
    assert again.pretrained_cfg["mean"] == [0.1, 0.2, 0.3] or again.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    assert timm.models.get_pretrained_cfg(name).to_dict() == registered
    assert timm.create_model(name, **SMALL).pretrained_cfg["mean"] == registered["mean"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    from PIL import Image

    root, noise = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for i in range(9):
        (root / "abc"[i % 3]).mkdir(exist_ok=True)
        pixels = noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "abc"[i % 3] / f"{i}.png")
    return root


def test_reading_photographs(photographs):
    model = mixed_modes(DEIT)
    model.head, model.num_classes = nn.Linear(48, 3), 3
    with unchanged(model):
        dataset = open_dataset(photographs, model)
        assert len(dataset) == 9 and dataset[0][0].shape == (3, 40, 40)


@pytest.mark.parametrize("method", ["evit", "dynamicvit"])
def test_finetuning(photographs, tmp_path, method):
    """The student is a copy, the teacher another; the caller's random numbers go on as if nothing had been."""
    model = randomise(timm.create_model("vit_tiny_patch16_224", **SMALL)).train()
    list(model.parameters())[3].requires_grad_(False)
    model.blocks[1].eval()
    given = vitrim.METHODS[method](keep=0.6)
    recipe = override(get_recipe("distill", small=True), batch_size=4, epochs=1, lr=1e-3)
    settings = Settings(tmp_path, cpu=True, show=False)
    loader = DataLoader([(torch.randn(3, 32, 32), i % 3) for i in range(4)], batch_size=2)
    with unchanged(model, except_for=()):
        finetune(model, given, photographs, recipe, settings, judge_on=loader)
    assert given.places == () and not list(given.parameters())


def test_the_law_sees_what_it_looks_for():
    """The control: each of these changes is found."""
    for change in (
        lambda m: m.eval(),
        lambda m: m.requires_grad_(False),
        lambda m: m.blocks[1].register_forward_hook(lambda *_: None),
        lambda m: m.pretrained_cfg.update(mean=0),
        lambda m: m.pretrained_cfg["tags"].append("b"),
        lambda m: setattr(m.blocks[0], "marked", True),
        lambda m: m.head.weight.data.add_(1),
        lambda m: m.zero_grad(),
        lambda m: torch.rand(1),
        lambda m: random.random(),
        lambda m: np.random.rand(),
        lambda m: setattr(m, "head", nn.Linear(48, CLASSES)),
    ):
        with pytest.raises(AssertionError), unchanged(model := mixed_modes(DEIT)):
            change(model)
