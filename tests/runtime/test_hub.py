"""Through a hub and back: what is uploaded is a folder that was saved whole, what is fetched is weights and words."""

from __future__ import annotations

import json

import pytest
import torch
from fake_hub import serving
from saving_setup import X, tiny

import vitrim


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@torch.no_grad()
def test_a_model_comes_back_from_the_hub_as_it_went(hub):
    fast = vitrim.reduce(tiny(), "evit", keep=0.6)
    commit = fast.push_to_hub("ada/fast", license="apache-2.0", commit_message="First", private=True)
    assert commit.commit_url.startswith("http") and hub.commits == ["First"]
    assert hub.made[0]["name"] == "fast" and hub.made[0].get("private", hub.made[0].get("visibility")) in (
        True,
        "private",
    )
    assert sorted(set(hub.repos["ada/fast"]) - {".gitattributes"}) == ["README.md", "config.json", "model.safetensors"]
    card = hub.repos["ada/fast"]["README.md"].decode()
    assert "license: apache-2.0" in card and 'vitrim.from_pretrained("ada/fast")' in card
    for again in (vitrim.from_pretrained("ada/fast"), vitrim.ReducedViT.from_pretrained("ada/fast", revision="main")):
        assert torch.equal(again(X), fast(X)) and again.methods[0].keep == 0.6


def test_nothing_but_weights_and_words_is_fetched(hub):
    vitrim.reduce(tiny(), "evit").push_to_hub("ada/fast")
    strange = ("mine.py", "pytorch_model.bin", "adapter_config.json", "a/model.safetensors.py", "weights.pkl")
    hub.repos["ada/fast"] |= dict.fromkeys(strange, b"x")
    hub.asked.clear()
    vitrim.from_pretrained("ada/fast")
    fetched = {path.rpartition("/")[2] for method, path in hub.asked if "/resolve/" in path}
    assert fetched == {"README.md", "config.json", "model.safetensors"}


def test_a_config_that_names_another_is_refused_after_it_was_fetched(hub):
    vitrim.reduce(tiny(), "evit").push_to_hub("ada/fast")
    config = json.loads(hub.repos["ada/fast"]["config.json"])
    hub.repos["ada/fast"]["config.json"] = json.dumps({**config, "backbone": "hf_hub:somebody/else"}).encode()
    hub.asked.clear()
    with pytest.raises(ValueError, match="is no architecture that timm"):
        vitrim.from_pretrained("ada/fast")
    assert all("ada/fast" in path for _, path in hub.asked)


def test_what_cannot_be_saved_reaches_no_hub(hub):
    changed = vitrim.reduce(tiny(), "evit")
    changed.backbone.blocks[1].mlp.act = torch.nn.ReLU()
    for model, said in ((changed, "cannot be saved"), (tiny(), "is no reduced model")):
        with pytest.raises(ValueError, match=said):
            vitrim.runtime.sharing.push_to_hub(model, "ada/fast")
    with pytest.raises(ValueError, match="holds no figures"):
        vitrim.reduce(tiny(), "evit").push_to_hub("ada/fast", measured={"top1": 99.0})
    assert hub.asked == [] and hub.made == []


def test_what_the_hub_does_not_have_is_one_line(hub, tmp_path):
    refused = {
        "ada/none": "ada/none cannot be fetched from the hub: there is no folder and no repository of that name",
        "none": "there is no folder none: give one, or a repository of the hub, USER/NAME",
        "ada/a..b": "ada/a..b cannot be fetched from the hub: Cannot have -- or ..",
        "../ada/none": "there is no folder",
    }
    for name, said in refused.items():
        with pytest.raises(ValueError) as error:
            vitrim.from_pretrained(name)
        assert str(error.value).startswith(said) and "\n" not in str(error.value), error.value
    with pytest.raises(ValueError, match="there is no folder"):
        vitrim.from_pretrained(tmp_path / "none")


def test_without_a_connection_what_was_fetched_before_is_there(hub, monkeypatch):
    vitrim.reduce(tiny(), "evit").push_to_hub("ada/fast")
    vitrim.from_pretrained("ada/fast")
    hub.asked.clear()
    assert vitrim.from_pretrained("ada/fast", local_files_only=True).methods[0].name == "evit"
    with pytest.raises(ValueError, match="not in the cache"):
        vitrim.from_pretrained("ada/other", local_files_only=True)
    assert hub.asked == []
