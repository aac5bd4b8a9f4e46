"""Checkpoints of other frameworks, heads, stems and kinds of numbers: taken with a word, or refused with the reason."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from vitrim.backbones.timm.checkpoints import load_checkpoint


def vit(seed=0, num_classes=3, **options):
    torch.manual_seed(seed)
    size = dict(img_size=32, patch_size=16, embed_dim=16, depth=2, num_heads=2)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **{**size, **options})
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


def same(model, other):
    state, others = model.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(torch.equal(state[key], others[key]) for key in state)


def refused(model, path):
    """The one line of the refusal; the model is as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_checkpoint(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    said = str(caught.value).replace(str(path.parent), "")
    assert "\n" not in said and len(said) <= 300 and path.name in said
    return said


# prefixes


@pytest.mark.parametrize("prefix", ["model.", "net.", "backbone.", "encoder.", "model.backbone.", "a.b.c."])
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_a_prefix_in_front_of_every_key_is_taken_off(tmp_path, prefix, wrapper):
    source, target = vit(0), vit(1)
    state = {prefix + key: value for key, value in source.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    notes = load_checkpoint(target, tmp_path / "w.pth")
    assert same(source, target)
    if prefix != "backbone.":  # so a reduced model is saved
        assert notes == (f"prefix {prefix!r} taken off {len(state)} keys",)


def test_what_lies_beside_the_model_in_a_larger_module_is_named(tmp_path):
    source, target = vit(0), vit(1)
    state = {f"model.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(3)}}, tmp_path / "w.ckpt")
    notes = load_checkpoint(target, tmp_path / "w.ckpt")
    assert same(source, target) and notes[1] == "1 key outside of it left out: loss.weight"


def test_two_models_in_one_file_are_refused(tmp_path):
    state = {f"{who}.{key}": value for who in ("student", "teacher") for key, value in vit(0).state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    assert "holds more than one model, under student., teacher.: save one" in refused(vit(1), tmp_path / "w.pth")


def test_a_state_dict_under_a_key_of_ones_own_is_found_if_it_is_the_only_one(tmp_path):
    source, target = vit(0), vit(1)
    optimiser = torch.optim.AdamW(source.parameters()).state_dict()
    inside = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save({"epoch": 3, "model_state_dict": inside, "optimizer_state_dict": optimiser}, tmp_path / "w.pth")
    assert load_checkpoint(target, tmp_path / "w.pth") == ("weights taken from 'model_state_dict'",)
    assert same(source, target)
    torch.save({"student": source.state_dict(), "teacher": source.state_dict()}, tmp_path / "two.pth")
    assert "more than one state dict, under student, teacher: save one" in refused(vit(1), tmp_path / "two.pth")


def test_a_prefix_and_another_resolution(tmp_path):
    source, target = vit(0), vit(1, img_size=64)
    torch.save({f"net.{key}": value for key, value in source.state_dict().items()}, tmp_path / "w.pth")
    notes = load_checkpoint(target, tmp_path / "w.pth")
    assert notes[0].startswith("prefix 'net.'") and notes[1].startswith("pos_embed resampled")


# heads and stems


FLAGS = {
    "more classes": ({"num_classes": 7}, {}, "has 7 classes: create the model with num_classes=7"),
    "one class": ({"num_classes": 1}, {}, "has 1 class: create the model with num_classes=1"),
    "no head": (
        {"num_classes": 0},
        {},
        "no classifier: create the model with num_classes=0",
    ),
    "a head too many": ({}, {"num_classes": 0}, "has 3 classes: create the model with num_classes=3"),
    "gray": ({"in_chans": 1}, {}, "takes images of 1 channel: create the model with in_chans=1"),
    "five channels": (
        {"in_chans": 5},
        {},
        "takes images of 5 channels: create the model with in_chans=5",
    ),
    "gray model": ({}, {"in_chans": 1}, "takes images of 3 channels: create the model with in_chans=3"),
    "both": ({"in_chans": 1, "num_classes": 7}, {}, "num_classes=7, in_chans=1"),
    "deeper": ({"depth": 5}, {}, "it has 5 blocks, not 2: choose the model that it was made for"),
    "wider": ({"embed_dim": 32}, {}, "it has 32 channels, not 16: choose the model that it was made for"),
    "other": ({"depth": 1, "embed_dim": 8}, {}, "it has 1 block, not 2, and 8 channels, not 16: choose"),
}


@pytest.mark.parametrize("file, model, said", FLAGS.values(), ids=FLAGS)
def test_what_differs_is_named_with_the_flag_that_mends_it(tmp_path, file, model, said):
    torch.save(vit(0, **file).state_dict(), tmp_path / "w.pth")
    assert said in refused(vit(1, **model), tmp_path / "w.pth")
    if "create the model" in said:
        target = vit(1, **{**model, "num_classes": 3, "in_chans": 3, **file})
        load_checkpoint(target, tmp_path / "w.pth")
        assert same(target, vit(0, **file))


@pytest.mark.parametrize(
    "name, options",
    [
        ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1, 1, 1)}),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2}),
        ("lvvit_t", {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "stem_channels": 4}),
    ],
)
def test_heads_and_stems_of_every_family_are_known(tmp_path, name, options):
    def made(**more):
        return timm.create_model(name, **options, **more)

    torch.save(made(num_classes=7).state_dict(), tmp_path / "w.pth")
    assert "num_classes=7" in refused(made(num_classes=3), tmp_path / "w.pth")
    torch.save(made(num_classes=7, in_chans=1).state_dict(), tmp_path / "gray.pth")
    assert "in_chans=1" in refused(made(num_classes=7), tmp_path / "gray.pth")
    torch.save(made(num_classes=0).state_dict(), tmp_path / "none.pth")
    assert "num_classes=0" in refused(made(num_classes=7), tmp_path / "none.pth")


# kinds of numbers


def changed(key="blocks.1.mlp.fc1.weight", to=lambda tensor: tensor):
    state = vit(0).state_dict()
    state[key] = to(state[key])
    return state


def with_one(value):
    def put(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[3] = value
        return tensor

    return put


def quantised(tensor):
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


KINDS = {
    "nan": (with_one(float("nan")), "holds NaN or infinity"),
    "infinity": (with_one(float("inf")), "holds NaN or infinity"),
    "half infinity": (lambda t: (1e10 * t).half(), "holds NaN or infinity"),
    "int8": (lambda t: t.to(torch.int8), "is int8, and the model's is float32"),
    "int64": (lambda t: t.to(torch.int64), "is int64, and the model's is float32"),
    "bool": (lambda t: t > 0, "is bool, and the model's is float32"),
    "complex": (lambda t: t.to(torch.complex64), "is complex64, and the model's is float32"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "is float8_e4m3fn, whose scale is not in the file"),
    "float8 e5m2": (lambda t: t.to(torch.float8_e5m2), "is float8_e5m2, whose scale is not in the file"),
    "meta": (lambda t: t.to("meta"), "is without data (on the meta device)"),
    "sparse": (lambda t: t.to_sparse(), "is sparse (sparse_coo)"),
    "sparse rows": (lambda t: t.to_sparse_csr(), "is sparse (sparse_csr)"),
    "too large": (lambda t: t.double() * 1e60, "holds numbers too large for float32"),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("change, said", KINDS.values(), ids=KINDS)
def test_what_is_no_plain_weight_is_refused_by_its_key_and_nothing_is_loaded(tmp_path, change, said):
    torch.save(changed(to=change), tmp_path / "w.pth")
    line = refused(vit(1), tmp_path / "w.pth")
    assert said in line and "blocks.1.mlp.fc1.weight" in line


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_quantised_tensors_are_refused(tmp_path):
    torch.save(changed(to=quantised), tmp_path / "w.pth")
    assert "blocks.1.mlp.fc1.weight" in (said := refused(vit(1), tmp_path / "w.pth")) or "w.pth" in said


def test_safetensors_of_float8_and_whole_numbers_are_refused(tmp_path):
    for kind in (torch.float8_e4m3fn, torch.uint8):
        save_file(changed(to=lambda t, kind=kind: t.to(kind)), tmp_path / "w.safetensors")
        assert str(kind).removeprefix("torch.") in refused(vit(1), tmp_path / "w.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_converted_and_said(tmp_path, dtype):
    source = vit(0).to(dtype)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    target = vit(1)
    notes = load_checkpoint(target, tmp_path / "w.pth")
    assert same(target, source.float())
    assert notes == (f"{len(source.state_dict())} tensors converted from {str(dtype)[6:]} to float32",)


def test_the_first_key_is_named_and_numbers_are_no_keys(tmp_path):
    state = changed("pos_embed", with_one(float("nan")))
    state["cls_token"] = state["cls_token"] * float("inf")
    torch.save(state, tmp_path / "w.pth")
    assert "cls_token holds" in refused(vit(1), tmp_path / "w.pth")
    torch.save({0: torch.zeros(2)}, tmp_path / "numbered.pth")
    assert "is not a checkpoint" in refused(vit(1), tmp_path / "numbered.pth")


def test_control_characters_in_keys_are_escaped(tmp_path):
    torch.save({**vit(0).state_dict(), "\x1b[31mred": torch.zeros(2)}, tmp_path / "w.pth")
    assert r"1 unexpected: \x1b[31mred" in refused(vit(1), tmp_path / "w.pth")


def test_a_model_without_memory_is_refused(tmp_path):
    torch.save(vit(0).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="has no memory for weights"):
        load_checkpoint(vit(1).to("meta"), tmp_path / "w.pth")
