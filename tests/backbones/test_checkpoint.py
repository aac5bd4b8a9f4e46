"""Checkpoints: what loads, and the one line for what does not."""

import pickle
from collections import OrderedDict

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

from vitrim.backbones.timm.checkpoints import load_checkpoint
from vitrim.runtime.build import attach


def vit(seed=0, num_classes=3, img_size=32, patch_size=16, embed_dim=16, depth=2, **options):
    torch.manual_seed(seed)
    size = dict(img_size=img_size, patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=2)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **size, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


def same(model, other):
    state, others = model.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(torch.equal(state[key], others[key]) for key in state)


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt", ".bin"])
def test_a_plain_state_dict_loads_from_every_kind_of_file(tmp_path, ending):
    source, target, file = vit(0), vit(1), tmp_path / f"weights{ending}"
    save_file(source.state_dict(), file) if ending == ".safetensors" else torch.save(source.state_dict(), file)
    assert not same(source, target)
    assert load_checkpoint(target, file) == ()
    assert same(source, target)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_and_prefixed_state_dicts_load(tmp_path, wrapper, prefix):
    source, target = vit(0), vit(1)
    state = OrderedDict((prefix + key, value) for key, value in source.state_dict().items())
    torch.save({wrapper: state, "epoch": 3, "arch": "vit"}, tmp_path / "w.pth")
    assert load_checkpoint(target, str(tmp_path / "w.pth")) == ()
    assert same(source, target)


@pytest.mark.parametrize("method", ["evit", "dynamicvit"])
def test_of_a_saved_reduced_model_the_backbone_is_taken(tmp_path, method):
    source, target = vit(0, depth=4), vit(1, depth=4, img_size=64)
    attach(source, method).save(tmp_path)
    notes = load_checkpoint(target, tmp_path / "model.safetensors")
    assert any("of the method left out" in note for note in notes) == (method == "dynamicvit")
    assert any(note.startswith("pos_embed resampled") for note in notes)
    assert torch.equal(source.blocks[3].mlp.fc1.weight, target.blocks[3].mlp.fc1.weight)


def test_lvvit_is_resampled_too(tmp_path):
    small = dict(patch_size=8, embed_dim=16, depth=2, num_heads=2, stem_channels=4, num_classes=3)
    torch.save(timm.create_model("lvvit_t", img_size=32, **small).state_dict(), tmp_path / "w.pth")
    larger = timm.create_model("lvvit_t", img_size=48, **small)
    assert load_checkpoint(larger, tmp_path / "w.pth") == ("pos_embed resampled from 1 x 17 x 16 to 1 x 37 x 16",)


def test_averaged_weights_come_first(tmp_path):
    source, averaged, target = vit(0), vit(1), vit(2)
    torch.save({"state_dict": source.state_dict(), "state_dict_ema": averaged.state_dict()}, tmp_path / "w.pth")
    load_checkpoint(target, tmp_path / "w.pth")
    assert same(averaged, target)


def test_wrapped_models_are_unwrapped(tmp_path):
    source, target = vit(0), vit(1)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    load_checkpoint(nn.DataParallel(target), tmp_path / "w.pth")
    assert same(source, target)
    compiled = torch.compile(vit(2), backend="eager")
    load_checkpoint(compiled, tmp_path / "w.pth")
    assert same(source, compiled._orig_mod)


def test_position_embeddings_of_another_resolution_are_resampled(tmp_path):
    source, target = vit(0, img_size=64), vit(1, img_size=96)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    notes = load_checkpoint(target, tmp_path / "w.pth")
    assert notes == ("pos_embed resampled from 1 x 17 x 16 to 1 x 37 x 16",)
    expected = resample_abs_pos_embed(source.pos_embed, new_size=(6, 6), num_prefix_tokens=1)
    assert torch.allclose(target.pos_embed, expected)
    assert torch.equal(target.blocks[1].attn.qkv.weight, source.blocks[1].attn.qkv.weight)


def test_original_keys_of_deit3_are_renamed_by_timm(tmp_path):
    source, target = vit(0, init_values=1.0), vit(1, init_values=1.0)
    original = {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
        for key, value in source.state_dict().items()
    }
    torch.save({"model": original}, tmp_path / "w.pth")
    assert load_checkpoint(target, tmp_path / "w.pth")[0].startswith(
        "4 keys renamed or left out by timm: blocks.0.gamma_1"
    )
    assert same(source, target)


def altered(**changes):
    state = vit().state_dict()
    for key, value in changes.items():
        name = key.replace("__", ".")
        state.pop(name) if value is None else state.update({name: value})
    return state


CLASSES = r"2 misshapen: head\.weight \(7 x 16, not 3 x 16\), head\.bias \(7, not 3\)"
MISFITS = {
    "missing": (
        lambda: altered(norm__weight=None, norm__bias=None),
        "choose the model that it was made for .2 missing: norm.weight, norm.bias",
    ),
    "unexpected": (
        lambda: altered(dist_token=torch.zeros(1, 1, 16)),
        "choose the model that it was made for .1 unexpected: dist_token",
    ),
    "many": (lambda: vit(depth=3).state_dict(), r"12 unexpected: blocks\.2\.norm1\.weight, .* and 9 more"),
    "classes": (lambda: vit(num_classes=7).state_dict(), CLASSES),
    "width": (lambda: vit(embed_dim=32).state_dict(), r"misshapen: cls_token \(1 x 1 x 32, not 1 x 1 x 16\), .* more"),
    "patches": (lambda: vit(patch_size=8).state_dict(), "it has patches of 8 x 8 pixels and the model of 16 x 16"),
    "another model": (lambda: timm.create_model("resnet10t", num_classes=3).state_dict(), "missing: .*unexpected: "),
    "no grid": (lambda: altered(pos_embed=torch.zeros(1, 4, 16)), r"misshapen: pos_embed \(1 x 4 x 16, not 1 x 5 x 16"),
}


@pytest.mark.parametrize("make, message", MISFITS.values(), ids=MISFITS)
def test_checkpoints_that_do_not_fit_name_the_keys_and_change_nothing(tmp_path, make, message):
    torch.save(make(), tmp_path / "w.pth")
    model = vit(5)
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(model, tmp_path / "w.pth")
    assert "\n" not in str(caught.value) and "w.pth does not fit the model" in str(caught.value)
    assert same(model, vit(5))


RAN = []


def run_code():
    RAN.append("ran")


class Payload:
    """What a hostile pickle does: run code on loading."""

    def __reduce__(self):
        return run_code, ()


def write_pickled_code(file):
    torch.save({"state_dict": vit().state_dict(), "extra": Payload()}, file)


def write_plain_pickle(file):
    file.write_bytes(pickle.dumps({"weight": Payload()}))


def write_whole_model(file):
    torch.save(vit(), file)


def write_truncated(file):
    torch.save(vit().state_dict(), file)
    file.write_bytes(file.read_bytes()[:3000])


FILES = {
    "absent.pth": (lambda file: None, "there is no checkpoint"),
    "folder": (lambda file: file.mkdir(), "is a folder: give the checkpoint file in it"),
    "text.pth": (lambda file: file.write_text("no checkpoint"), "is not a checkpoint or is damaged"),
    "empty.pt": (lambda file: file.write_bytes(b""), "is not a checkpoint or is damaged"),
    "truncated.pth": (write_truncated, "is not a checkpoint or is damaged"),
    "text.safetensors": (lambda file: file.write_text("no checkpoint"), "is not a safetensors file or is damaged"),
    "empty.safetensors": (lambda file: file.write_bytes(b""), "is not a safetensors file or is damaged"),
    "code.pth": (
        write_pickled_code,
        r"holds pickled code \(test_checkpoint\.run_code\), which is not run: save model\.state_dict\(\) alone",
    ),
    "pickle.pth": (write_plain_pickle, "holds pickled code|is not a checkpoint"),
    "model.pth": (write_whole_model, r"holds pickled code \(.+ and \d+ more\), which is not run"),
    "list.pth": (lambda file: torch.save([1, 2], file), "is not a checkpoint|no state dict of tensors"),
    "numbers.pth": (lambda file: torch.save({"epoch": 3}, file), "is no state dict of tensors: it holds epoch"),
    "nothing.pth": (lambda file: torch.save({}, file), "is no state dict of tensors: it is empty"),
    "tensor.pth": (lambda file: torch.save(torch.zeros(3), file), "is not a checkpoint|no state dict"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_checkpoint_are_refused_in_one_line(tmp_path, name):
    write, message = FILES[name]
    write(tmp_path / name)
    model = vit(5)
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(model, tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)
    assert same(model, vit(5)) and not RAN


def test_the_payload_would_have_run():
    pickle.loads(pickle.dumps(Payload()))
    assert RAN.pop() == "ran"
