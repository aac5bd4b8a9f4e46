"""Models of transformers through a hub and back, with their cards, as models of their own class."""

from __future__ import annotations

import pytest
import torch
from fake_hub import serving
from small_models import build

import vitrim
from vitrim.runtime.describing import options_of
from vitrim.runtime.measured import match, weights_figures

NAMES = ["ViTForImageClassification", "CLIPModel", "Dinov2Model"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.mark.parametrize("name", NAMES)
def test_a_model_comes_back_from_the_hub_as_it_went(name, hub):
    fast = vitrim.reduce(build(name), "evit", keep=0.5)
    fast.push_to_hub("ada/fast", license="mit")
    card = hub.repos["ada/fast"]["README.md"].decode()
    assert "license: mit" in card and "- transformers" in card and "Nothing has been measured" in card
    for again in (vitrim.from_pretrained("ada/fast"), type(fast).from_pretrained("ada/fast", revision="main")):
        assert type(again).__name__ == name and again.methods[0].keep == 0.5
        state = fast.state_dict()
        assert state.keys() == again.state_dict().keys()
        assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


def test_figures_fit_before_and_after_it_was_saved(tmp_path):
    dense = build("ViTForImageClassification")
    fast = vitrim.reduce(dense, "evit", keep=0.5)
    row = {"gmacs": 1.0, "speed_up": 1.5, "method": "evit", "options": options_of(vitrim.for_images(fast).methods)}
    found = {"command": "evaluate", **row, "dense": {"gmacs": 2.0, "speed_up": 1.0}, **weights_figures(dense)}
    fast.save_pretrained(tmp_path, measured=found)
    assert "| speed-up over dense | 1.00 | 1.50 |" in (tmp_path / "README.md").read_text()
    assert match(found, vitrim.for_images(vitrim.load(tmp_path))).reduced["speed_up"] == 1.5
    fast.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain" / "README.md").exists(), "as transformers saves: Trainer's checkpoints have no card"
