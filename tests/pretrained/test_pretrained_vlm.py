"""Laws of vision-language models: the tower is reduced, and the language model reads a feature for every patch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from counting import counting
from small_models import IMAGE, differing, images, transformers
from small_vlms import OTHERS, answer, build_vlm, inputs, written
from torch import nn

import vitrim
from vitrim.backbones.transformers.towers import READERS, part_at

WRITES = "ForConditionalGeneration"
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in READERS}
CASES |= {f"{kind}{WRITES} {how}": (f"{kind}{WRITES}", more) for how, (kind, more) in OTHERS.items()}
GENERATING = [case for case, (name, _) in CASES.items() if name.endswith(WRITES)]


def build(case: str) -> tuple[Any, dict[str, Any]]:
    """The model of a case, and what it is called with."""
    name, more = CASES[case]
    return build_vlm(name, **more), inputs(name, images())


def holder(model: nn.Module) -> Any:
    return part_at(model, READERS[type(model).__name__].holder)


def tower(model: nn.Module) -> Any:
    return part_at(model, READERS[type(model).__name__].path)


def features(model: nn.Module, given: dict[str, Any]) -> torch.Tensor:
    """What stands for the images in the language model."""
    told = {key: value for key, value in given.items() if key in ("pixel_values", "image_sizes")}
    found = model.get_image_features(**told).pooler_output
    return torch.cat(list(found)) if isinstance(found, (list, tuple)) else found


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_nothing_reduced_is_transformers_bitwise(case):
    model, given = build(case)
    before = answer(model, given), features(model, given)
    fast = vitrim.reduce(model, "tome", r=0)
    assert torch.equal(answer(fast, given), before[0]) and torch.equal(features(fast, given), before[1])
    assert isinstance(fast, type(model)) and type(fast).__name__ == type(model).__name__ and fast is not model
    assert fast.config is not None and fast.state_dict().keys() == model.state_dict().keys()
    if case in GENERATING:
        assert differing(written(fast, given), written(model, given)) == []


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_reduced_it_is_given_as_many_features_and_the_tower_costs_what_the_plan_says(case):
    model, given = build(case)
    model.requires_grad_(False)
    path = f"{type(model).__name__}.{READERS[type(model).__name__].path}"
    tiles = given["pixel_values"].flatten(0, -4).shape[0]
    dense, plan = features(model, given), vitrim.profile(model)
    with counting() as count:
        model(**given)
    assert count.by_part[path] == tiles * plan.macs and plan.macs == plan.dense_macs
    fast = vitrim.reduce(model, "tome", r=8)
    with counting() as count:
        out = answer(fast, given)
    plan = vitrim.profile(fast)
    assert count.by_part[path] == tiles * plan.macs and plan.share < 0.8
    reduced = features(fast, given)
    assert reduced.shape == dense.shape and not torch.allclose(reduced, dense)
    assert out.isfinite().all() and out.shape == answer(model, given).shape
    assert torch.equal(answer(model, given), answer(build(case)[0], given)), "the given model is as it was"


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")
@pytest.mark.parametrize("method", vitrim.METHODS)
def test_every_method_runs_and_the_model_goes_on_writing(method):
    fast = vitrim.reduce(build_vlm("LlavaForConditionalGeneration"), method)
    given = inputs("LlavaForConditionalGeneration", images())
    assert written(fast, given)[0].shape == (2, given["input_ids"].shape[1] + 4)
    wanted: list[torch.Tensor] = []
    handle = holder(fast).multi_modal_projector.register_forward_pre_hook(lambda module, args: wanted.append(args[0]))
    answer(fast, given)
    handle.remove()
    alone = fast.reduced(given["pixel_values"])
    assert torch.equal(alone, wanted[0]) and alone.shape == (2, 64, 48)


@torch.no_grad()
def test_several_layers_are_read_in_their_order():
    fast = vitrim.reduce(build("LlavaForConditionalGeneration of three layers")[0], "tome", macs=0.7)
    first, second, third = fast.reduced(images()).chunk(3, dim=-1)
    assert torch.equal(first, third) and not torch.allclose(first, second) and fast.reduced.body.depth == 4


@torch.no_grad()
def test_layers_behind_the_one_that_is_read_are_not_run_unless_they_are_asked_for():
    model, given = build("LlavaModel")
    fast, ran = vitrim.reduce(model, "tome", r=0), []
    for i in range(5):
        tower(fast).encoder.layers[i].mlp.register_forward_hook(lambda *_, i=i: ran.append(i))
    answer(fast, given)
    assert ran == [0, 1, 2, 3] and vitrim.profile(fast).dense_unread_macs == vitrim.profile(model).unread_macs > 0
    assert "read by nobody" in str(vitrim.profile(fast)) and vitrim.profile(fast).share < 0.85
    assert torch.equal(answer(fast, given, vision_feature_layer=-1), answer(model, given, vision_feature_layer=-1))
    assert ran[4:] == [0, 1, 2, 3, 4]
    assert torch.equal(answer(fast, given, vision_feature_layer=1), answer(model, given, vision_feature_layer=1))
    assert ran[9:] == [0]
    pixels = given["pixel_values"]
    assert differing(tower(fast)(pixels), tower(model)(pixels)) == [], "by itself a tower returns all that it has"
    both = [holder(one).get_image_features(pixels, output_hidden_states=True) for one in (fast, model)]
    assert differing(both[0].hidden_states, both[1].hidden_states) == [] and len(both[0].hidden_states) == 6
    assert both[0].last_hidden_state is not None and holder(fast).get_image_features(pixels).last_hidden_state is None


def test_methods_act_where_somebody_reads():
    model, _ = build("LlavaModel")
    assert [place.block for place in vitrim.reduce(model, "tome", r=4).methods[0].places] == [0, 1, 2, 3]
    assert vitrim.profile(vitrim.reduce(model, "evit", macs=0.6)).share == pytest.approx(0.6, abs=0.02)
    with pytest.raises(ValueError, match=r"4.*0 to 3"):
        vitrim.reduce(model, "tome", r=4, at=4)


def test_a_pooling_head_that_nobody_reads_is_not_run():
    model = build_vlm("PaliGemmaModel")
    config = model.config
    config.vision_config.vision_use_head = True
    model = type(model)(config).eval().requires_grad_(False)
    given = inputs("PaliGemmaModel", images())
    path = "PaliGemmaModel.vision_tower"
    for one in (model, vitrim.reduce(model, "tome", macs=0.7)):
        with counting() as count:
            one(**given)
        assert count.by_part[path] == 2 * vitrim.profile(one).macs
    assert vitrim.profile(model).unread_macs > 0 and torch.equal(
        answer(vitrim.reduce(model, "tome", r=0), given), answer(model, given)
    )


def test_weights_are_shared_and_the_given_model_is_left_alone():
    model, _ = build("SmolVLMForConditionalGeneration")
    fast: Any = vitrim.reduce(model, "tome", macs=0.7)
    assert all(a is b for a, b in zip(fast.parameters(), model.parameters(), strict=True))
    fast.train()
    fast.gradient_checkpointing_enable()
    assert not any(part.training for part in model.modules())
    assert not any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
    assert type(tower(model)).__module__.startswith("transformers.") and "vitrim" not in model.config.to_dict()


def _pixtral() -> Any:
    vision = transformers.PixtralVisionConfig(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=3, image_size=IMAGE, patch_size=4, intermediate_size=48
    )
    text = transformers.LlamaConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=99)
    return transformers.LlavaModel(transformers.LlavaConfig(vision_config=vision, text_config=text))


def _named(name: str) -> Any:
    """A model of that class without anything in it."""
    return nn.Module.__new__(getattr(transformers, name))


def _padded() -> Any:
    name = "SmolVLMModel"
    fast, given = vitrim.reduce(build_vlm(name), "tome", r=4), inputs(name, images())
    mask = torch.ones(2, 1, IMAGE, IMAGE, dtype=torch.long)
    mask[0, 0, 16:] = 0
    return fast(**given, pixel_attention_mask=mask)


REFUSED = {
    "LlavaModel's vision tower is a PixtralVisionModel, and vitrim runs ViTModel": lambda: vitrim.reduce(
        _pixtral(), "tome"
    ),
    "Qwen2VLForConditionalGeneration is not supported: its tower runs images of all sizes": lambda: vitrim.reduce(
        _named("Qwen2VLForConditionalGeneration"), "tome"
    ),
    "Qwen2_5_VLForConditionalGeneration is not supported: .*windows": lambda: vitrim.reduce(
        _named("Qwen2_5_VLForConditionalGeneration"), "tome"
    ),
    "Qwen3VLModel is not supported: .*merges": lambda: vitrim.reduce(_named("Qwen3VLModel"), "tome"),
    "Qwen2_5_VisionTransformerPretrainedModel is not supported: .*windows": lambda: vitrim.reduce(
        _named("Qwen2_5_VisionTransformerPretrainedModel"), "tome"
    ),
    "VideoLlavaModel is not supported: of transformers vitrim runs .*Llava": lambda: vitrim.reduce(
        _named("VideoLlavaModel"), "tome"
    ),
    "vision_feature_layer is 0, and the tower's 5 layers have outputs 1 to 5": lambda: vitrim.reduce(
        build_vlm("LlavaModel", vision_feature_layer=0), "tome"
    ),
    "some images are padded .* or ask the dense model": _padded,
    "prediction_only": lambda: vitrim.reduce(build_vlm("LlavaModel"), [], prediction_only=True),
    "needs a \\[CLS\\] token": lambda: vitrim.reduce(build_vlm("PaliGemmaModel"), "evit"),
    "answers prompts .*give its tower, model.model.vision_tower": lambda: vitrim.for_images(
        build_vlm("LlavaForConditionalGeneration")
    ),
    "reduced already": lambda: vitrim.reduce(vitrim.reduce(build_vlm("LlavaModel"), "tome"), "tome"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_refusals_say_what_to_do(said):
    with pytest.raises(ValueError, match=said) as caught:
        REFUSED[said]()
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)


@torch.no_grad()
def test_images_without_padding_may_say_so():
    model, given = build("Idefics3Model")
    given["pixel_attention_mask"] = torch.ones(2, 1, IMAGE, IMAGE, dtype=torch.long)
    fast = vitrim.reduce(model, "tome", r=0)
    assert torch.equal(answer(fast, given), answer(model, given))
