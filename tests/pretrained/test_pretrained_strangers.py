"""A folder from a stranger: nothing in its files makes transformers fetch, run code, or read outside of the folder."""

from __future__ import annotations

import builtins
import json
import os
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import build

import vitrim

transformers = pytest.importorskip("transformers")

CODE = "raise SystemExit('code of a stranger ran')"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder as vitrim saves it, and beside it what it must not read."""
    root = tmp_path_factory.mktemp("pretrained")
    vitrim.reduce(build("ViTForImageClassification"), "evit", keep=0.5).save_pretrained(root / "good")
    return root / "good"


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory):
    import timm

    model = timm.create_model("test_vit", num_classes=5)
    config = transformers.TimmWrapperConfig(architecture="test_vit", num_labels=5, model_args={"num_classes": 5})
    config.model_args = {}
    wrapper = transformers.TimmWrapperForImageClassification(config).eval()
    wrapper.timm_model.load_state_dict(model.state_dict())
    folder = tmp_path_factory.mktemp("wrapped")
    vitrim.reduce(wrapper, "evit", keep=0.5).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    return copied(good, tmp_path)


def copied(source: Path, root: Path) -> Path:
    folder, elsewhere = root / "folder", root / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
        (elsewhere / path.name).write_bytes(path.read_bytes())
    return folder


def configured(**changed):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changed}))

    return change


def in_vitrim(**changed):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["vitrim"] |= changed
        (folder / "config.json").write_text(json.dumps(config))

    return change


def sharded(name: str):
    """The weights in shards, of which one lies elsewhere."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        place = name.format(elsewhere=folder.parent / "elsewhere")
        files = {key: place for key in weights}
        index = {"metadata": {"total_size": 1}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def linked(name: str):
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(folder.parent / "elsewhere" / name)

    return change


def adapter(folder: Path) -> None:
    said = {"base_model_name_or_path": "somebody/else", "peft_type": "LORA", "auto_mapping": None}
    (folder / "adapter_config.json").write_text(json.dumps(said))


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def other_config(name: str):
    def change(folder: Path) -> None:
        text = (folder / "config.json").read_text()
        (folder / "config.1.0.0.json").write_text(text)
        configured(configuration_files=[name])(folder)

    return change


def processor_of_code(folder: Path) -> None:
    (folder / "mine.py").write_text(CODE)
    said = {"auto_map": {"AutoImageProcessor": "mine.Mine"}, "image_processor_type": "Mine"}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def model_of_code(folder: Path) -> None:
    (folder / "mine.py").write_text(CODE)
    configured(auto_map={"AutoModel": "mine.Mine", "AutoConfig": "mine.Mine"})(folder)


REFUSED = {
    "another config": (other_config("config.1.0.0.json"), "configuration_files"),
    "another config elsewhere": (other_config("../elsewhere/config.1.0.0.json"), "configuration_files"),
    "other weights": (configured(transformers_weights="../elsewhere/model.safetensors"), "transformers_weights"),
    "pickled weights by name": (configured(transformers_weights="adapter_model.bin"), "transformers_weights"),
    "pickled weights": (pickled, "no weights in .safetensors"),
    "a kernel of the hub": (configured(attn_implementation="somebody/kernel"), "attn_implementation"),
    "a kernel of a part": (configured(vision_config={"_attn_implementation": "a/b"}), "_attn_implementation"),
    "kernels by part": (configured(attn_implementation={"vision_config": "a/b"}), "attn_implementation"),
    "quantised by a package": (configured(quantization_config={"quant_method": "gptq"}), "quantization_config"),
    "an adapter of another model": (adapter, "adapter_config.json: it names a base model"),
    "a shard above": (sharded("../elsewhere/model.safetensors"), "no safetensors file in the folder"),
    "an absolute shard": (sharded("{elsewhere}/model.safetensors"), "no safetensors file in the folder"),
    "a pickled shard": (sharded("model.bin"), "no safetensors file in the folder"),
    "a link to a config": (linked("config.json"), "config.json in .* is a link out of the folder"),
    "a link to weights": (linked("model.safetensors"), "model.safetensors in .* is a link out of the folder"),
    "a link to a processor": (linked("preprocessor_config.json"), "is a link out of the folder"),
    "a class of nobody's": (configured(architectures=["os.system"]), "is not supported"),
    "a class of path": (configured(architectures=["mine:Mine"]), "is not supported"),
    "a method's file": (
        in_vitrim(methods=[{"method": "mine", "class": "mine:Mine", "options": {}}]),
        "not vitrim's own, and its code was not allowed",
    ),
    "a method in the place of one": (
        in_vitrim(methods=[{"method": "evit", "class": "my_file.py:Class", "options": {}}]),
        "not vitrim's own",
    ),
    "a guide to be fetched": (
        in_vitrim(methods=[{"method": "evit", "options": {"score": {"last_class_attention": {"backbone": "hf:a/b"}}}}]),
        "backbone|arguments",
    ),
    "more layers than weights": (configured(num_hidden_layers=10**7), "layers"),
    "absurd widths": (configured(hidden_size=3 * 10**9), "."),
    "absurd images": (configured(image_size=10**8), "."),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_leads_out_of_the_folder_is_refused(kind, folder, monkeypatch):
    change, said = REFUSED[kind]
    change(folder)
    _forbid(monkeypatch, folder)
    with pytest.raises(ValueError, match=said) as refused:
        vitrim.load(folder)
    assert "\n" not in str(refused.value) and len(str(refused.value)) <= 400


IGNORED = {
    "code of a model": model_of_code,
    "code of a processor": processor_of_code,
    "another name": configured(_name_or_path="../elsewhere"),
    "a name of the hub": configured(_name_or_path="somebody/else"),
}


@pytest.mark.parametrize("kind", IGNORED)
def test_what_is_not_asked_for_is_neither_run_nor_read(kind, folder, monkeypatch):
    (folder.parent / "elsewhere" / "preprocessor_config.json").write_text('{"image_mean": [9, 9, 9]}')
    IGNORED[kind](folder)
    _forbid(monkeypatch, folder)
    model = vitrim.load(folder)
    assert vitrim.for_images(model).pretrained_cfg["mean"][0] < 1


WRAPPED = {
    "a name of the hub": {"architecture": "hf-hub:timm/vit_tiny_patch16_224"},
    "a folder": {"architecture": "local-dir:/tmp"},
    "a checkpoint": {"model_args": {"checkpoint_path": "/etc/hostname"}},
    "a url": {"model_args": {"pretrained_cfg": {"url": "http://127.0.0.1:9/x"}}},
    "weights": {"model_args": {"pretrained": True}},
    "a cache": {"model_args": {"cache_dir": "elsewhere"}},
    "no arguments": {"model_args": ["checkpoint_path"]},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_wrapped_timm_model_is_built_from_plain_arguments_of_a_listed_name(kind, wrapped, tmp_path, monkeypatch):
    folder = copied(wrapped, tmp_path)
    configured(**WRAPPED[kind])(folder)
    _forbid(monkeypatch, folder)
    with pytest.raises(ValueError, match=r"config.json: (architecture|model_args)="):
        vitrim.load(folder)


def test_good_folders_load(good, wrapped, tmp_path):
    for folder in (good, wrapped):
        assert vitrim.load(folder).methods[0].keep == 0.5
    folder = copied(good, tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(weights)}
    for name in set(files.values()):
        part = {key: weights[key] for key in weights if files[key] == name}
        save_file(part, folder / name, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    once, again = (vitrim.load(place).state_dict() for place in (good, folder))
    assert once.keys() == again.keys() and all(torch.equal(value, again[key]) for key, value in once.items())


def _forbid(monkeypatch, folder: Path) -> None:
    """No file beside the folder is opened, and no connection."""
    opened, connect = builtins.open, socket.socket.connect

    def only_here(file, *args, **kwargs):
        if isinstance(file, (str, os.PathLike)):
            assert not Path(file).resolve().is_relative_to(folder.parent / "elsewhere"), file
            assert str(file) != "/etc/hostname"
        return opened(file, *args, **kwargs)

    def nowhere(self, address):
        raise AssertionError(f"it connects to {address}")

    monkeypatch.setattr(builtins, "open", only_here)
    monkeypatch.setattr(socket.socket, "connect", nowhere)
    assert connect is not nowhere
