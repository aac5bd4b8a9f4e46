"""What timm's `Library` answers, by name and about a model, and which models and names have one."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import DropPath, HybridEmbed, PatchEmbed
from torch import nn

import vitrim
from vitrim.backbones import LIBRARIES, TIMM, Library, library_of, library_with
from vitrim.common.on_meta import Undrawn
from vitrim.common.unwrapping import innermost, unwrap
from vitrim.data.config import _is_patch_embed, data_config

SIZES = {"img_size": 64, "num_classes": 3}


def small(name: str = "test_vit", **arguments) -> nn.Module:
    return timm.create_model(name, **{**SIZES, **arguments})


def on_meta(name: str, **arguments) -> nn.Module:
    with torch.device("meta"), Undrawn():
        return timm.create_model(name, **arguments)


# -- which library


def test_every_supported_model_and_any_other_of_timm_has_a_library():
    for name in ("test_vit", "lvvit_t", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "resnet18"):
        assert library_of(on_meta(name)) is TIMM is library_with(name)
    assert (
        [library.name for library in LIBRARIES] == ["timm", "transformers"]
        and LIBRARIES[0] is TIMM
        and isinstance(TIMM, Library)
    )


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: vitrim.reduce(model, "evit")])
def test_wrapped_and_reduced_models_and_others_have_none(wrap):
    with pytest.raises(
        ValueError, match=r"is no model of timm or transformers: give the dense model itself, without wrappers"
    ):
        library_of(wrap(small()))
    with pytest.raises(ValueError, match=r"Linear is no model of timm"):
        library_of(nn.Linear(1, 1))


def test_names_that_nobody_has_are_refused_with_names_like_them():
    with pytest.raises(ValueError, match=r"^timm has no model 'deit_smal_patch16_224': did you mean deit_small_patch"):
        library_with("deit_smal_patch16_224")
    with pytest.raises(
        ValueError, match=r"^timm has no model 'zzzzzzz': timm.list_models\(\) lists its names; hf:NAME takes"
    ):
        library_with("zzzzzzz")
    assert library_with("hf-hub:somebody/something") is TIMM and not TIMM.has_model("hf-hub:somebody/something")


def test_a_library_must_answer_everything():
    class Half(Library):
        name = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half(())


# -- by name


def test_create_makes_what_timm_makes():
    torch.manual_seed(0)
    made = TIMM.create("test_vit", **SIZES)
    torch.manual_seed(0)
    wanted = small()
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), wanted.parameters(), strict=True))
    assert TIMM.has_weights("test_vit") and not TIMM.has_weights("lvvit_s")
    assert TIMM.version == timm.__version__


def test_arguments_are_those_of_the_models_and_not_of_the_factory():
    assert {"img_size", "num_classes", "embed_dim", "skip_lam", "window_size"} <= TIMM.argument_names
    assert not {"pretrained", "checkpoint_path", "pretrained_cfg", "device", "dtype", "self"} & TIMM.argument_names


# -- about a model


def test_how_a_model_was_made():
    model = small(qk_norm=True, drop_rate=None)
    assert TIMM.architecture(model) == "test_vit"
    recorded = TIMM.recorded_arguments(model)
    assert {**SIZES, "qk_norm": True}.items() <= recorded.items() and None not in recorded.values()
    assert TIMM.architecture(timm.models.VisionTransformer(depth=1)) is None


def test_the_head_says_how_many_classes():
    model = small()
    assert (TIMM.classes(model), TIMM.classes(small(num_classes=0))) == (3, 0)
    model.head = nn.Linear(model.num_features, 7)
    assert TIMM.classes(model) == 7 and model.num_classes == 3
    assert TIMM.current_arguments(model) == {"num_classes": 7, "global_pool": model.global_pool}
    assert TIMM.classifier(on_meta("deit_tiny_distilled_patch16_224")).out_features == 1000


def test_labels_of_lvvit_are_as_they_are_now():
    model = on_meta("lvvit_t")
    model.token_labels = True
    assert TIMM.current_arguments(model)["token_labels"] is True


def test_what_was_pruned():
    model = small()
    depth = len(model.blocks)
    assert TIMM.pruned_arguments(model) == {"depth": depth}
    model.prune_intermediate_layers([1], prune_norm=True)
    assert TIMM.pruned_arguments(model) == {"depth": 2, "final_norm": False}
    assert "depth" not in TIMM.pruned_arguments(on_meta("swin_tiny_patch4_window7_224"))


def test_images_and_labels():
    model = small(in_chans=1)
    TIMM.record_data(model, {"mean": (0.1,), "std": (0.2,), "label_names": ["cat", "dog", "owl"]})
    config = TIMM.data_config(model)
    assert (config["mean"], config["std"]) == ((0.1,), (0.2,)) and TIMM.image_size(model) == (64, 64)
    assert TIMM.label_names(model) == {"0": "cat", "1": "dog", "2": "owl"} and TIMM.label_names(small()) == {}
    TIMM.record_data(model, {"label_names": {1: "dog"}})
    assert TIMM.label_names(model) == {"1": "dog"}
    assert TIMM.image_size(on_meta("resnet18")) is None


def test_features_are_what_has_no_classifier_or_is_a_tower_of_clip():
    given = {name: TIMM.gives_features(on_meta(name)) for name in ("vit_base_patch16_clip_224.openai", "test_vit")}
    assert given == {"vit_base_patch16_clip_224.openai": True, "test_vit": False}
    assert TIMM.gives_features(small(num_classes=0))


def test_drop_path_rises_linearly_and_goes():
    model = small()
    TIMM.set_drop_path(model, 0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.3 * i / (len(rates) - 1) for i in range(len(rates))])
    assert isinstance(model.blocks[-1].drop_path2, DropPath)
    TIMM.set_drop_path(model, 0.0)
    assert not any(isinstance(module, TIMM.idle) for module in model.modules())


def test_a_reduced_model_answers_for_decay_with_its_prefix():
    model = small()
    reduced = vitrim.reduce(model, "evit")
    assert TIMM.undecayed(model) and reduced.no_weight_decay() == {f"backbone.{n}" for n in TIMM.undecayed(model)}
    assert reduced.group_matcher().keys() == TIMM.layer_groups(model).keys() == {"stem", "blocks"}


def test_names_of_weights():
    keys = {name: TIMM.part_keys(on_meta(name)) for name in ("test_vit", "lvvit_t")}
    assert keys["test_vit"] == {"classifier": ("head.",), "first_conv": ("patch_embed.proj.",)}
    assert keys["lvvit_t"] == {"classifier": ("head.", "aux_head."), "first_conv": ("patch_embed.conv1.",)}
    assert TIMM.part_keys(nn.Linear(1, 1)) == keys["test_vit"]


# -- wrappers, and patch embeddings as the data's room sees them


class Average:
    def __init__(self, model: nn.Module):
        self.ema = model


def test_every_wrapper_is_looked_into():
    model = small()
    for wrapped in (nn.DataParallel(model), torch.compile(model), Average(torch.compile(model)), model):
        assert innermost(wrapped) is model
    assert innermost(timm.utils.ModelEmaV3(model)) is not model
    assert data_config(Average(model))["input_size"] == (3, 64, 64)


def test_wrappers_are_checked_before_they_are_taken_off_and_others_stay():
    model, seen = small(), []
    parallel = nn.DataParallel(model)
    assert unwrap(torch.compile(parallel), seen.append) is model and seen[1:] == [parallel]
    holder = nn.Module()
    holder.module = model
    assert unwrap(holder, seen.append) is holder


@pytest.mark.parametrize(
    "name",
    ["test_vit", "lvvit_t", "swin_tiny_patch4_window7_224", "vit_small_r26_s32_224", "resnet18"],
)
def test_a_patch_embedding_is_known_by_what_it_has(name):
    for module in on_meta(name).modules():
        assert _is_patch_embed(module) == isinstance(module, PatchEmbed)
        assert not (isinstance(module, HybridEmbed) and _is_patch_embed(module))
