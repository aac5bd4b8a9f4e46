"""Reduced models by name in timm's registry, made, filled, trained and saved as timm's scripts do."""

from __future__ import annotations

import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from settings import randomise
from timm.models import load_checkpoint, resolve_model_input_args
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, ModelEmaV3

import vitrim
import vitrim.timm
from vitrim.backbones import TIMM
from vitrim.methods import METHODS
from vitrim.runtime.by_name import FAMILIES, OPTIONS
from vitrim.runtime.saved_config import parse_architecture

SMALL = {"img_size": 40, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}
NAME = "vitrim_deit_tiny_patch16_224"


def by_name(name=NAME, **given):
    """As timm's validate.py and train.py make a model."""
    given = {"pretrained": False, "num_classes": None, "global_pool": None, **SMALL, **given}
    return timm.create_model(**resolve_model_input_args(name, {}, **given))


@pytest.mark.parametrize(
    ("method", "options"), [("evit", {"keep": 0.6}), ("tome", {"r": 4}), ("evit", {"macs": 0.7}), ("bat", {})]
)
@torch.no_grad()
def test_it_is_the_model_that_reduce_makes(method, options, tmp_path):
    dense = randomise(timm.create_model("deit_tiny_patch16_224", **SMALL)).eval()
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    fast, images = vitrim.reduce(dense, method, **options), torch.randn(2, 3, 40, 40)
    named = by_name(method=method, **options).eval()
    load_checkpoint(named, str(tmp_path / "dense.safetensors"))
    assert torch.equal(named(images), fast(images)) and repr(named) == repr(fast)
    assert TIMM.architecture(named.backbone) == "deit_tiny_patch16_224" and named.num_classes == 1000
    named.save(tmp_path / "saved")
    assert torch.equal(vitrim.load(tmp_path / "saved")(images), fast(images))


def test_what_a_training_run_has_written_loads(tmp_path):
    model = by_name(method="evit", keep=0.5, num_classes=3, drop_path_rate=0.1)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-2, weight_decay=0.05, layer_decay=0.9)
    ema, saver = ModelEmaV3(model, decay=0.5), CheckpointSaver(model, optimizer, checkpoint_dir=str(tmp_path))
    model(torch.randn(2, 3, 40, 40)).square().sum().backward()
    optimizer.step()
    ema.update(model)
    saver.save_checkpoint(0, 1.0)
    again = by_name(method="evit", keep=0.5, num_classes=3)
    assert not load_checkpoint(again, str(tmp_path / "last.pth.tar"), use_ema=False).missing_keys
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_names_have_the_tags_of_their_models_and_none_is_dense():
    names = timm.list_models("vitrim_*")
    assert {name.removeprefix("vitrim_") for name in names} == {
        name for family in FAMILIES for name in timm.list_models(module=family)
    }
    for name in ("deit_tiny_patch16_224.fb_in1k", "vit_small_patch14_dinov2.lvd142m", "lvvit_s"):
        ours, base = timm.get_pretrained_cfg(f"vitrim_{name}"), timm.get_pretrained_cfg(name)
        assert (ours.hf_hub_id, ours.url, ours.input_size) == (base.hf_hub_id, base.url, base.input_size)
        assert timm.is_model(f"vitrim_{name}") and not TIMM.has_model(f"vitrim_{name}")
    assert not any(name.startswith("vitrim_") for name in TIMM.near_names("vitrim_deit_tiny"))
    with pytest.raises(ValueError, match="is no architecture that timm"):
        parse_architecture({"backbone": NAME, "arguments": {}})


def test_no_option_of_a_method_is_an_argument_of_timms():
    taken = TIMM.argument_names | {"pretrained", "pretrained_cfg", "cache_dir", "features_only", "checkpoint_path"}
    assert not taken & ({*OPTIONS} | {option for method in METHODS.values() for option in method.option_names()})


WRONG = {
    "no method was given: give method=NAME, one of evit": {},
    r"method=evitt is not known: did you mean evit\? ": {"method": "evitt"},
    "unexpected keyword argument 'kep'; options of evit are keep, at": {"method": "evit", "kep": 0.5},
    "keep": {"method": "evit", "keep": 3},
}


@pytest.mark.parametrize("said", WRONG)
def test_mistakes_are_one_line(said):
    with pytest.raises(ValueError, match=said) as error:
        by_name(**WRONG[said])
    assert "\n" not in str(error.value) and len(str(error.value)) <= 400


def test_a_script_of_timms_runs_as_it_is(tmp_path, monkeypatch, capsys):
    script = "import sys, timm, helper\nif __name__ == '__main__':\n    print(sys.argv, timm.is_model(helper.NAME))\n"
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "helper.py").write_text(f"NAME = {NAME!r}\n")
    monkeypatch.setattr(sys, "argv", ["vitrim.timm"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    argv = [str(tmp_path / "script.py"), "--model", "x"]
    vitrim.timm.main(argv)
    assert capsys.readouterr().out == f"{argv} True\n"


@pytest.mark.parametrize("argv", [[], ["--help"], ["nothing.py"]])
def test_without_a_script_it_says_so(argv):
    with pytest.raises(SystemExit, match=r"usage: python -m vitrim\.timm|there is no script nothing\.py"):
        vitrim.timm.main(argv)
