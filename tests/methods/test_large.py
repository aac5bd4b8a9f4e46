"""Maps between very many tokens: made in parts they say the same, bit for bit, and hold no more than the model."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vitrim
from vitrim.deploy.memory import peak_bytes
from vitrim.methods.bat import match
from vitrim.methods.diffrate import most_similar
from vitrim.methods.dpcknn import nearest_peaks
from vitrim.methods.parts import large
from vitrim.methods.parts.clustering import density_peaks, squared_distances
from vitrim.methods.pitome import energy
from vitrim.methods.tome import bipartite_soft_matching

MAKES = {
    "bat": lambda z: vars(density_peaks(z, 4, 3)),
    "dpcknn": lambda z: vars(nearest_peaks(z, 4, 3)),
    "tome": lambda z: dict(enumerate(bipartite_soft_matching(z, 5))),
    "diffrate": lambda z: dict(enumerate(most_similar(z[:, :9], z[:, 9:]))),
    "pitome": lambda z: {"energy": energy(z, 0.5)},
    "pairs": lambda z: dict(enumerate(match(z, 5))),
}


@pytest.mark.parametrize("entries", [130, 1100])  # five rows of one image; two images
@pytest.mark.parametrize("name", MAKES)
def test_parts_decide_as_the_whole(name, entries, monkeypatch):
    z = torch.randn(3, 23, 8)
    z[:, 3] = z[:, 7]  # a tie
    whole = MAKES[name](z)
    monkeypatch.setitem(large.LARGEST, "cpu", entries)
    parts = MAKES[name](z)
    assert whole.keys() == parts.keys()
    assert all(whole[key] is parts[key] is None or torch.equal(whole[key], parts[key]) for key in whole)


def test_distances_are_symmetric_in_parts_too(monkeypatch):
    z = torch.randn(2, 23, 8)
    whole = squared_distances(z)
    monkeypatch.setitem(large.LARGEST, "cpu", 130)
    parts = squared_distances(z)
    assert torch.equal(parts, parts.transpose(1, 2)) and torch.equal(parts, whole)


@torch.no_grad()
@pytest.mark.parametrize("name", ["tome", "dpcknn", "bat", "diffrate", "pitome"])
def test_no_more_memory_than_the_dense_model(name):
    """1024 tokens of few channels: there a map of all pairs is larger than anything that the model holds."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=128, patch_size=4, embed_dim=192, depth=4, num_heads=1, num_classes=3).eval()
    fast, x = (
        vitrim.reduce(model, name, **({"r": 100} if name == "tome" else {"keep": 0.5})),
        torch.randn(4, 3, 128, 128),
    )
    assert peak_bytes(fast, x) <= 1.05 * peak_bytes(model, x)
