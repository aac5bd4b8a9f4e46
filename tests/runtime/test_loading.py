"""Load: nobody's config can fetch, read elsewhere or ask for absurd memory; all that is wrong is one line."""

from __future__ import annotations

import builtins
import json
import os
import resource
import socket
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from saving_setup import X, number_of, numbered, saved, tiny
from settings import capture

import vitrim
from vitrim.methods import METHODS, import_path
from vitrim.runtime.build import attach
from vitrim.runtime.saved_config import fingerprint

BEFORE = Path(__file__).parent / "saved_before"
WRONG = r"^.* does not hold a model as save\(\) writes it: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    vitrim.reduce(tiny(), "evit", keep=0.6).save(folder)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    for name in os.listdir(folder):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return tmp_path


def rewrite(folder: Path, **changed) -> None:
    """The config with other contents, in both its places."""
    config = {**json.loads((folder / "config.json").read_text()), **changed}
    config = {key: value for key, value in config.items() if value is not ...}
    config["save"] = fingerprint(config)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"vitrim": json.dumps(config)})


# -- folders of before


@torch.no_grad()
@pytest.mark.parametrize("name", ["evit", "tofe"])
def test_folders_that_an_earlier_version_saved(name, tmp_path):
    known = load_file(BEFORE / f"{name}.safetensors")
    model = vitrim.load(BEFORE / name)
    torch.testing.assert_close(model(known["images"]), known["logits"])
    for key, value in load_file(BEFORE / name / "model.safetensors").items():
        assert torch.equal(model.state_dict()[key], value), key
    again = saved(model, tmp_path)
    assert torch.equal(again(known["images"]), model(known["images"]))
    assert vitrim.profile(again) == vitrim.profile(model)


@torch.no_grad()
def test_one_of_half_precision_keeps_its_dtype(tmp_path):
    """Format 1 had no dtypes, and weights in those of the model."""
    model = attach(tiny(), "tofe", at=(1, 2)).half().eval()
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in ("format", "dtype", "save")}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    again = vitrim.load(tmp_path)
    assert torch.equal(again(X.half()), model(X.half()))
    assert again.methods[0].kept_shares.dtype == torch.float32


def test_weights_of_before_with_the_config_of_a_later_save_are_refused(tmp_path):
    numbered(1).save(tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=WRONG + "config.json belongs to other weights than model.safetensors"):
        vitrim.load(tmp_path)


def test_a_newer_format_is_named(copy):
    rewrite(copy, format=3)
    with pytest.raises(ValueError, match=r"format 3 is newer than this vitrim, which reads up to 2: install a newer"):
        vitrim.load(copy)


# -- configs that mean harm


HARM = {
    "pretrained": True,
    "checkpoint_path": "/etc/hostname",
    "pretrained_cfg": {"url": "http://127.0.0.1:9/x", "file": "/etc/hostname"},
    "pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x"},
    "cache_dir": "elsewhere",
    "scriptable": True,
    "features_only": True,
    "pruned": True,
    "pretrained_strict": False,
    "device": "cuda",
    "dtype": "float16",
    "model_name": "resnet18",
    "img_size": [[[[[40]]]]],
    "depth": 10**6,
    "embed_dim": 1e300,
    "num_classes": 10**8,
    "num_heads": {"a": 1},
}


@pytest.mark.parametrize(("key", "value"), HARM.items())
def test_arguments_that_are_no_plain_ones_of_an_architecture(key, value, copy, monkeypatch):
    read = json.loads((copy / "config.json").read_text())
    rewrite(copy, arguments={**read["arguments"], key: value})
    _forbid(monkeypatch, copy)
    with pytest.raises(
        ValueError, match=WRONG + f"config.json: arguments: .*{key}|{key}=1000000, and the file of weights"
    ):
        vitrim.load(copy)


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:timm/vit_tiny_patch16_224",
        "hf_hub:a/b",
        "local-dir:/tmp",
        "../x",
        "timm/vit",
        "resnetter",
        "",
        3,
        None,
        ["a"],
    ],
)
def test_names_that_timm_would_look_up_elsewhere(name, copy, monkeypatch):
    rewrite(copy, backbone=name)
    _forbid(monkeypatch, copy)
    with pytest.raises(ValueError, match=WRONG + "config.json: backbone"):
        vitrim.load(copy)


def test_a_guide_is_no_way_around(copy):
    harm = {"backbone": "vit_tiny_patch16_224", "arguments": {"checkpoint_path": "/etc/hostname"}}
    guided = [{"method": "evit", "options": {"score": {"last_class_attention": harm}}}]
    rewrite(copy, methods=guided)
    with pytest.raises(ValueError, match=WRONG + "config.json: arguments: 'checkpoint_path' is no argument"):
        vitrim.load(copy)


def test_models_that_are_not_supported(copy):
    rewrite(copy, backbone="resnet18", arguments={})
    with pytest.raises(ValueError, match=WRONG + r"timm\.models\.resnet\.ResNet is not supported"):
        vitrim.load(copy)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_leads_nowhere_but_within_the_folder(name, copy, folder):
    (copy / name).rename(copy / "own")
    (copy / name).symlink_to("own")
    assert vitrim.load(copy).methods[0].keep == 0.6
    for target in (folder / name, "/etc/hostname"):
        (copy / name).unlink()
        (copy / name).symlink_to(target)
        with pytest.raises(ValueError, match=f"{name} in .* is a link out of the folder: put the file itself there"):
            vitrim.load(copy)


@pytest.mark.parametrize("path", ["my_file.py:Mine", "os:system", "/tmp/my_file.py:Mine", "../my_file:Mine"])
def test_code_that_a_config_names_is_never_imported(path, copy, monkeypatch):
    for name in ("evit", "mine"):
        rewrite(copy, methods=[{"method": name, "class": path, "options": {}}])
        _forbid(monkeypatch, copy)
        with pytest.raises(ValueError, match=r"was saved with the method .*, not vitrim's own: allow its code by"):
            vitrim.load(copy)
        monkeypatch.undo()


def _forbid(monkeypatch, folder: Path) -> None:
    """No other file is opened, and no connection."""
    opened = builtins.open

    def only_here(file, *args, **kwargs):
        assert not isinstance(file, (str, os.PathLike)) or Path(file).parent == folder, file
        return opened(file, *args, **kwargs)

    def nowhere(*args, **kwargs):
        raise AssertionError("it connects")

    monkeypatch.setattr(builtins, "open", only_here)
    monkeypatch.setattr(socket.socket, "connect", nowhere)


ABSURD = {
    "a window": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 40000, "window_size": 5000, "embed_dim": 8, "num_heads": [1] * 4},
    ),
    "an image": ("vit_small_patch16_dinov3", {"img_size": 160000, "depth": 4, "embed_dim": 48, "num_heads": 3}),
    "a width": ("deit_tiny_patch16_224", {"embed_dim": 6_000_000, "depth": 4}),
    "classes": ("deit_tiny_patch16_224", {"num_classes": 9_000_000, "depth": 4}),
    "depths": ("swin_tiny_patch4_window7_224", {"depths": [9_000_000, 1, 1, 1]}),
    "no width": ("deit_tiny_patch16_224", {"embed_dim": 0, "depth": 4}),
    "no patch": ("deit_tiny_patch16_224", {"patch_size": 0, "depth": 4}),
    "less than none": ("deit_tiny_patch16_224", {"depth": -3}),
    "no heads": ("deit_tiny_patch16_224", {"num_heads": 0, "depth": 4}),
    "text": ("deit_tiny_patch16_224", {"depth": "4"}),
    "a layer": ("deit_tiny_patch16_224", {"block_fn": "exec", "depth": 4}),
}


@pytest.mark.parametrize(("name", "arguments"), ABSURD.values(), ids=ABSURD.keys())
def test_sizes_that_the_weights_do_not_have_cost_nothing(name, arguments, copy):
    method = [{"method": "tofe" if name.startswith("swin") else "evit", "options": {"at": [2]}}]
    rewrite(copy, backbone=name, arguments=arguments, methods=method)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ValueError, match=WRONG):
        vitrim.load(copy)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert time.monotonic() - began < 20


def test_tables_beyond_all_weights_are_not_worked_out(tmp_path):
    size = dict(img_size=64, depth=2, embed_dim=48, num_heads=3, patch_size=16)
    vitrim.reduce(timm.create_model("vit_small_patch16_rope_224", **size), "topk", at=1).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    rewrite(tmp_path, arguments={**config["arguments"], "img_size": 64000})
    with pytest.raises(ValueError, match=WRONG + r"it asks for \d+\.\d GB of tables beside 0\.\d+ GB of weights"):
        vitrim.load(tmp_path)


# -- configs that are damaged


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


DAMAGED = {
    "cut": ("{", "config.json: it is no JSON"),
    "bytes": (b"\xff\xfe\x00", "config.json: UnicodeDecodeError"),
    "empty": ("", "config.json: it is no JSON"),
    "a list": ("[1]", r"config.json: it is no JSON object, it is \[1\]"),
    "a number": ("3", "config.json: it is no JSON object, it is 3"),
    "null": ("null", "config.json: it is no JSON object"),
    "text": ('"evit"', "config.json: it is no JSON object"),
    "nothing in it": ("{}", "config.json: it has no 'methods'"),
    "deep": (nested(200_000), "config.json: RecursionError"),
    "long": (" " * (1 << 22) + "{}", "config.json is larger than any config"),
    "nan": ('{"methods": NaN}', "config.json: NaN is no number of JSON"),
    "digits": ('{"methods": ' + "9" * 10000 + "}", "config.json: "),
}


@pytest.mark.parametrize(("text", "said"), DAMAGED.values(), ids=DAMAGED.keys())
def test_files_that_are_no_config(text, said, copy):
    (copy / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=WRONG + said) as caught:
        vitrim.load(copy)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


ODD = (None, 0, -1, 2.5, True, "x", [], [1], {}, {"a": 1}, [[[]]], 10**12)


@pytest.mark.parametrize("key", ["format", "backbone", "arguments", "methods", "data", "dtype", "dtypes", "versions"])
def test_odd_values_of_every_key_are_one_line(key, copy):
    for value in (*ODD, ...):
        rewrite(copy, **{key: value})
        try:
            number = vitrim.load(copy)
        except ValueError as error:
            assert "\n" not in str(error) and str(copy) in str(error)
        else:
            assert key in ("format", "dtypes", "versions", "dtype"), (key, value, number)


@pytest.mark.parametrize("key", ["mean", "std", "interpolation", "crop_pct", "crop_mode", "label_names", "url", "file"])
def test_how_images_are_prepared_is_checked(key, copy):
    data = json.loads((copy / "config.json").read_text())["data"]
    for value in ("x", -1, True, [0, "a"], {"a": 1}, [], 10**12, [[1]], ["x"], None, [0, 0, 0]):
        rewrite(copy, data={**data, key: value})
        fine = key == "mean" and value == [0, 0, 0]
        try:
            vitrim.load(copy)
        except ValueError as error:
            assert not fine and f"data: {key}" in str(error).replace("'", ""), error
        else:
            assert fine, (key, value)


def test_odd_methods_and_options_are_one_line(copy):
    odd = [{"method": "evit", "options": {"keep": value}} for value in ODD if value != [1]]
    odd += [{"method": value, "options": {}} for value in ODD] + [{"method": "evit", "options": v} for v in ODD[:-1]]
    odd += [{"method": "evit", "options": {"kep": 0.5}}, {"method": "evit", "options": {"score": {"file": "x"}}}]
    odd += [{"method": "evit", "options": {"at": 77}}, {"options": {}}, {"method": "evit"}, "evit", 3, None]
    for entry in odd:
        rewrite(copy, methods=[entry])
        if entry == {"method": "evit", "options": {}}:
            continue
        with pytest.raises(ValueError, match=WRONG) as caught:
            vitrim.load(copy)
        assert "\n" not in str(caught.value)


# -- weights that are others


def test_weights_must_be_the_models_own_by_name_shape_and_dtype(copy):
    weights = copy / "model.safetensors"
    state, metadata = load_file(weights), safe_open(weights, "pt").metadata()
    name = "backbone.blocks.0.norm1.weight"
    wrong = {
        f"{name} is missing": {key: value for key, value in state.items() if key != name},
        "more belongs to nothing in the model": {**state, "more": torch.zeros(1)},
        rf"{name} is \[47\], not \[48\]": {**state, name: state[name][1:].clone()},
        f"{name} is torch.float64, not torch.float32": {**state, name: state[name].double()},
        f"{name} is torch.int32, not torch.float32": {**state, name: state[name].int()},
        "C64, which no model of vitrim has|is torch.complex64": {**state, name: state[name].to(torch.complex64)},
    }
    for said, tensors in wrong.items():
        try:
            save_file(tensors, weights, metadata)
        except Exception:  # older safetensors know no complex numbers
            continue
        with pytest.raises(ValueError, match=WRONG + f".*({said})"):
            vitrim.load(copy)


def test_files_that_are_no_weights(copy):
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    for content in (b"", whole[:5], whole[:1000], whole[:-1], b"\xff" * 100, whole[:8] + b"[" * 1000):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match=WRONG + "SafetensorError"):
            vitrim.load(copy)
    torch.save({"x": capture}, weights)  # pickled code is not run
    with pytest.raises(ValueError, match="SafetensorError"):
        vitrim.load(copy)


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9, 1.0])
def test_a_bit_that_has_flipped_is_noticed(where, copy):
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[min(header + int(where * (len(content) - header)), len(content) - 1)] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=WRONG + "model.safetensors is damaged: its tensors are not those"):
        vitrim.load(copy)


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("arguments", {"num_heads": 6}, "architecture"),
        ("backbone", "vit_tiny_patch16_224", "architecture"),
        ("dtype", "float16", "dtype"),
        ("dtypes", {"backbone.head.bias": "float16"}, "dtypes"),
        ("tensors", "0" * 64, "digest"),
    ],
)
def test_only_methods_and_data_may_be_edited(key, value, part, copy):
    config = json.loads((copy / "config.json").read_text())
    value = {**config[key], **value} if key == "arguments" else value
    (copy / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(
        ValueError, match=WRONG + f"config.json: its {part} is not that of the weights: only methods and"
    ):
        vitrim.load(copy)
    data = {**config["data"], "crop_pct": 0.5}
    methods = [{"method": "topk", "options": {"keep": 0.3}}]
    (copy / "config.json").write_text(json.dumps({**config, "data": data, "methods": methods}))
    again = vitrim.load(copy)
    assert again.methods[0].name == "topk" and again.pretrained_cfg["crop_pct"] == 0.5


def test_folders_that_save_did_not_write(tmp_path):
    with pytest.raises(ValueError, match=r"has no config.json and no model.safetensors: give a folder written by save"):
        vitrim.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no model.safetensors"):
        vitrim.load(tmp_path)
    (tmp_path / "config.json").unlink()
    numbered(1).save(tmp_path / "a")
    (tmp_path / "a" / "config.json").unlink()
    os.mkfifo(tmp_path / "a" / "config.json")
    with pytest.raises(ValueError, match=r"has no config.json"):
        vitrim.load(tmp_path / "a")


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path):
    numbered(1).save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"is a file, and load\(\) takes the folder that save\(\) wrote: give .*/a$"):
        vitrim.load(tmp_path / "a" / "model.safetensors")
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"w\.pth is a file, .*: one with config\.json and model\.safetensors in it$"):
        vitrim.load(tmp_path / "w.pth")


@pytest.mark.parametrize("what", ["folder", "config.json", "model.safetensors"])
def test_folders_and_files_that_may_not_be_read(what, copy, monkeypatch):
    """Root may read any, so permissions would prove nothing."""
    denied = PermissionError(13, "Permission denied", str(copy / what))
    if what == "folder":
        monkeypatch.setattr(Path, "is_file", lambda path: (_ for _ in ()).throw(denied))
    else:
        reader = "read_json" if what == "config.json" else "open_tensors"
        monkeypatch.setattr(f"vitrim.runtime.loading.{reader}", lambda path: (_ for _ in ()).throw(denied))
    opened = "opened" if what == "folder" else "read"
    with pytest.raises(ValueError, match=f"^{copy} cannot be {opened}: Permission denied$"):
        vitrim.load(copy)


class Own(vitrim.EViT):
    """A method of somebody's own."""

    name = "own-of-this-test"


def test_a_method_of_ones_own_that_is_not_allowed_is_what_the_message_begins_with(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, Own.name, Own)
    vitrim.ReducedViT(tiny(), [Own(0.5, at=1)]).save(tmp_path)
    monkeypatch.delitem(METHODS, Own.name)
    said = f"{tmp_path} was saved with the method {import_path(Own)}, not vitrim's own: allow its code by "
    with pytest.raises(ValueError) as caught:
        vitrim.load(tmp_path)
    assert str(caught.value) == (said + "--method FILE.py:CLASS (in Python load(folder, methods=[its class]))"), (
        "and not that the folder holds no model"
    )
    config = json.loads((tmp_path / "config.json").read_text())
    long = [{**config["methods"][0], "class": "module:" + "x" * 1000}]
    rewrite(tmp_path, methods=long)
    with pytest.raises(ValueError, match=r"was saved with the method module:x+\.\.\.x+, not vitrim's own") as caught:
        vitrim.load(tmp_path)
    assert len(str(caught.value).replace(str(tmp_path), "")) <= 300


def test_a_config_inside_the_weights_is_held_to_the_same(tmp_path):
    numbered(1).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    for inside in ("{", "[1]", nested(100_000), json.dumps({"backbone": "hf-hub:a/b", "methods": [], "arguments": {}})):
        save_file(load_file(weights), weights, {"vitrim": inside})
        with pytest.raises(ValueError, match=WRONG):
            vitrim.load(tmp_path)


def test_default_devices_and_dtypes_of_the_caller_do_not_matter(tmp_path):
    model = vitrim.reduce(tiny("vit_small_patch16_dinov3"), "evit", keep=0.5)
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        again = saved(model, tmp_path)
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
        # As if it had never been set: torch 2.9 cannot answer get_default_device otherwise, which transformers asks.
        vars(torch._GLOBAL_DEVICE_CONTEXT).pop("device_context", None)
    with torch.no_grad():
        assert torch.equal(again(X), model(X))
    assert number_of(saved(numbered(5), tmp_path)) == 5


def test_a_config_with_the_mark_of_a_windows_editor(copy):
    text = (copy / "config.json").read_bytes()
    (copy / "config.json").write_bytes(b"\xef\xbb\xbf" + text)
    vitrim.load(copy)
    (copy / "config.json").write_bytes(b"{")
    with pytest.raises(ValueError, match=WRONG + r"config.json: it is no JSON \(.*\)$"):
        vitrim.load(copy)
