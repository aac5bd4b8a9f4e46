"""`vitrim benchmark`: memory, and where the time of a forward goes. Sums and likeness are tested, never a speed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import vitrim
from vitrim import cli
from vitrim.backbones.packed import PackedLinear
from vitrim.cli import benchmark as command
from vitrim.core.reductions import Reduction
from vitrim.core.tokens import Tokens
from vitrim.deploy import detail as _detail
from vitrim.deploy.benchmark import Case, benchmark
from vitrim.deploy.detail import DECIDING, GATHERS, PARTS, Clock, InLoop, detail, watching
from vitrim.deploy.memory import peak_bytes
from vitrim.methods import METHODS
from vitrim.runtime.turns import Step

SIZES: Any = {"img_size": 64, "num_classes": 3}
CASE = Case(2, "eager", "float32")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", **SIZES).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def everything_patched() -> dict:
    """What the clock stands in front of, as it is now."""
    heirs = _detail._with_heirs(Reduction)
    classes = [Tokens, Step, *heirs, *METHODS.values(), *vitrim.backbones.FAMILIES]
    return {(cls, name): value for cls in classes for name, value in vars(cls).items() if callable(value)}


# -- memory


@pytest.mark.parametrize("runtime", ["eager", "packed"])
def test_more_images_take_more_memory_and_fewer_tokens_less(model, images, runtime):
    fast = vitrim.reduce(model, "evit", keep=0.3, at=0)
    runs = [vitrim.optimize(each) if runtime == "packed" else each for each in (model, fast)]
    small, large = (peak_bytes(runs[0], images[:size], runtime) for size in (1, 4))
    assert small and large and 3 * small < large <= 4.1 * small
    reduced = peak_bytes(runs[1], images, runtime)
    assert reduced and reduced < large


def test_packed_weights_are_no_part_of_a_forward(model, images):
    packed = vitrim.optimize(model)
    first, again = peak_bytes(packed, images, "packed"), peak_bytes(packed, images, "packed")
    assert first == again and any(isinstance(part, PackedLinear) for part in packed.modules())


def test_what_pytorch_does_not_see_has_no_figure(model, images):
    assert peak_bytes(model, images, "onnx") is None and peak_bytes(model, images, "compiled") is None


# -- where the time goes


def test_the_parts_make_the_whole(model, images, monkeypatch):
    """The clock ticks once at each look: every moment between two looks belongs to one part."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(_detail.time, "perf_counter", lambda: float(next(ticks)))
    rows, refused = detail({"dense": model, "evit": vitrim.reduce(model, "evit", keep=0.5)}, images, CASE, 2)
    looks = next(ticks)
    assert [row.label for row in rows] == ["dense", "evit"] and not refused
    assert all(list(row.ms) == list(PARTS) for row in rows)
    # Three rounds, of which the first is dropped; between two forwards nobody counts.
    assert 3 * sum(row.whole for row in rows) / 1000 == looks - 6
    assert all(sum(row.share(part) for part in PARTS) == pytest.approx(1) for row in rows)
    dense, evit = rows
    assert dense.ms[DECIDING] == dense.ms[GATHERS] == 0 and evit.ms[DECIDING] > 0 and evit.ms[GATHERS] > 0


def test_the_parts_make_the_time_that_passes(model, images):
    clock = Clock(torch.device("cpu"))
    before = _detail.time.perf_counter()
    with watching(clock, InLoop(model)), clock.part("rest"):
        InLoop(model)(images)
    passed = _detail.time.perf_counter() - before
    assert 0 < sum(clock.spent.values()) <= passed


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dynamicvit"])
@pytest.mark.filterwarnings("ignore:.*learned parts")
def test_the_clock_changes_no_result_and_leaves_nothing_behind(model, images, name):
    fast = vitrim.reduce(model, name)
    before, parts = everything_patched(), {key: dict(part.__dict__) for key, part in fast.named_modules()}
    with torch.inference_mode():
        plain = fast(images)
        with watching(Clock(torch.device("cpu")), InLoop(fast)):
            assert everything_patched() != before
            assert torch.equal(fast(images), plain)
        assert torch.equal(fast(images), plain)
    assert everything_patched() == before
    assert {key: dict(part.__dict__) for key, part in fast.named_modules()} == parts
    assert not torch.overrides._get_current_function_mode_stack()


def test_nothing_is_left_behind_by_a_forward_that_fails(model, images):
    before = everything_patched()
    with pytest.raises(ValueError, match="takes 3 channels"):
        detail({"dense": model}, images[:, :2], CASE, 1)
    assert everything_patched() == before


@pytest.mark.parametrize("family", ["swin", "lvvit", "eva"])
def test_other_families(family):
    names: dict[str, tuple[str, Any]] = {
        "swin": ("swin_tiny_patch4_window7_224", {"img_size": 56, "window_size": 7, "depths": (1, 1, 1, 1)}),
        "lvvit": ("lvvit_t", {"img_size": 64, "depth": 2}),
        "eva": ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}),
    }
    name, options = names[family]
    dense = timm.create_model(name, **options, num_classes=3).eval()
    side = options["img_size"]
    x = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        assert torch.equal(InLoop(dense)(x), dense(x)), "a dense model runs through the loop with the same bits"
    rows, _ = detail({"dense": dense}, x, Case(1, "eager", "float32"), 1)
    assert all(rows[0].ms[part] > 0 for part in ("attention", "MLP", "norms", "ends", "rest"))


def test_runtimes_that_run_no_loop_are_refused(model, images):
    with pytest.raises(ValueError, match="detail looks into the loop of eager and packed; onnx does not go through it"):
        detail({"dense": model}, images, Case(2, "onnx", "float32"))


def test_the_command(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "benchmark", partial(benchmark, seconds=1e-3))
    line = ["benchmark", "--model", "test_vit", "deit_tiny_patch16_224", "--image-size", "32", "--rounds", "1"]
    assert (
        cli.main([*line, "--batch-size", "2", "--detail", "--keep", "0.5", "--json", "a.json", "--csv", "a.csv"]) == 0
    )
    out = capsys.readouterr().out
    assert out.count("where the time of a forward goes") == 2 and "memory" in out and out.count("dense") >= 4
    rows = json.loads(Path("a.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["test_vit"] * 2 + ["deit_tiny_patch16_224"] * 2
    assert all(row["peak_bytes"] > 0 and list(row["detail"]) == list(PARTS) for row in rows)
    assert cli.main([*line, "--batch-size", "2", "--keep", "0.5", "--vs", "a.json"]) == 0
    assert "test_vit, dense" in capsys.readouterr().out
