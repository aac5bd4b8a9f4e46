"""Vision-language models where they live: pipelines, folders, tiles, several images, video, exports."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from small_models import IMAGE, images, transformers
from small_vlms import IMAGE_TOKEN, answer, build_vlm, inputs
from tokenizers import Tokenizer, models, pre_tokenizers

import vitrim
from vitrim import cli

LLAVA = "LlavaForConditionalGeneration"


def _processor() -> Any:
    """LLaVA's, with a tokenizer of 99 words."""
    names = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(94)), "<image>"]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    sizes = {"size": {"shortest_edge": IMAGE}, "crop_size": {"height": IMAGE, "width": IMAGE}}
    return transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(**sizes),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


@torch.no_grad()
def test_pipeline():
    model, processor, photograph = build_vlm(LLAVA), _processor(), Image.new("RGB", (50, 40), (200, 10, 30))

    def said(one: Any) -> str:
        run = transformers.pipeline("image-text-to-text", model=one, processor=processor, device="cpu")
        return run(images=photograph, text="<image> w5 w7", max_new_tokens=4)[0]["generated_text"]

    assert said(vitrim.reduce(model, "tome", r=0)) == said(model)
    assert len(said(vitrim.reduce(model, "tome", macs=0.7)).split()) == 3 + 4


@torch.no_grad()
def test_images_of_different_numbers_of_tiles():
    model: Any = build_vlm("LlavaNextModel", image_grid_pinpoints=[[32, 32], [32, 64]])
    tiles, sizes = images(6).unflatten(0, (2, 3)), torch.tensor([[32, 64], [32, 30]])
    wanted = model.get_image_features(tiles, sizes).pooler_output
    same: Any = vitrim.reduce(model, "tome", r=0)
    found = same.get_image_features(tiles, sizes).pooler_output
    assert [len(part) for part in wanted] == [200, 136]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    fast: Any = vitrim.reduce(model, "tome", macs=0.7)
    assert [len(part) for part in fast.get_image_features(tiles, sizes).pooler_output] == [200, 136]


@torch.no_grad()
@pytest.mark.parametrize("name", ["Idefics3Model", "SmolVLMModel"])
def test_prompts_of_different_numbers_of_images(name):
    model = build_vlm(name)
    pixels = images(4).unflatten(0, (2, 2))
    pixels[1, 1] = 0  # transformers' filling, which it takes out
    places = [[1, *[IMAGE_TOKEN] * (16 * count), *[5] * (33 - 16 * count)] for count in (2, 1)]
    given = {"input_ids": torch.tensor(places), "pixel_values": pixels}
    assert torch.equal(answer(vitrim.reduce(model, "tome", r=0), given), answer(model, given))
    assert answer(vitrim.reduce(model, "tome", macs=0.7), given).isfinite().all()


@torch.no_grad()
def test_video():
    model: Any = build_vlm("LlavaOnevisionModel")
    frames = images(3).unsqueeze(0)
    wanted = model.get_video_features(frames).pooler_output
    same, fast = vitrim.reduce(model, "tome", r=0), vitrim.reduce(model, "tome", macs=0.7)
    assert torch.equal(same.get_video_features(frames).pooler_output, wanted)
    assert fast.get_video_features(frames).pooler_output.shape == wanted.shape


@torch.no_grad()
@pytest.mark.parametrize("name", [LLAVA, "InternVLForConditionalGeneration"])
def test_half_precision_and_prompts_without_an_image(name):
    model = build_vlm(name).bfloat16()
    same, given = vitrim.reduce(model, "tome", r=0), inputs(name, images().bfloat16())
    assert torch.equal(answer(same, given), answer(model, given))
    words = {"input_ids": torch.tensor([[1, 5, 7]])}
    assert torch.equal(answer(vitrim.reduce(model, "tome", macs=0.7), words), answer(model, words))


@torch.no_grad()
@pytest.mark.parametrize("name", [LLAVA, "SmolVLMModel"])
def test_the_tower_is_exported_alone(name):
    fast, x = vitrim.reduce(build_vlm(name), "tome", macs=0.7), images()
    program = torch.export.export(fast.reduced, (x,))
    torch.testing.assert_close(program.module()(x), fast.reduced(x), rtol=1e-4, atol=1e-4)


def test_profile_of_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    build_vlm(LLAVA).save_pretrained("llava")
    assert cli.main(["profile", "--model", "hf:llava", "--method", "tome", "--macs", "0.7"]) == 0
    said = capsys.readouterr().out
    assert "read by nobody" in said and "59 54 49 44 of 64 patch tokens left" in said


def test_a_copy_has_weights_of_its_own():
    model = build_vlm(LLAVA)
    own = vitrim.reduce(model, "tome", copy=True)
    assert not {id(p) for p in own.parameters()} & {id(p) for p in model.parameters()}


def test_gradients_reach_tower_and_language_model():
    fast = vitrim.reduce(build_vlm("InternVLForConditionalGeneration"), "tome", macs=0.7).train()
    given = inputs("InternVLForConditionalGeneration", images())
    fast(**given, labels=given["input_ids"]).loss.backward()
    assert all(p.grad is not None for name, p in fast.named_parameters() if "layer.0" in name or "layers.0" in name)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")
@pytest.mark.parametrize("way", ["vitrim", "transformers"])
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("LlavaForConditionalGeneration", "evit"),
        ("InternVLForConditionalGeneration", "dynamicvit"),
        ("Gemma3Model", "tome"),
        ("SmolVLMForConditionalGeneration", "tome"),
    ],
)
def test_saved_and_loaded(name, method, way, tmp_path):
    model, given = build_vlm(name), inputs(name, images())
    fast = vitrim.reduce(model, method, macs=0.75)
    vitrim.save(fast, tmp_path) if way == "vitrim" else fast.save_pretrained(tmp_path)
    for again in (vitrim.load(tmp_path), type(fast).from_pretrained(tmp_path)):
        assert torch.equal(answer(again, given), answer(fast, given)) and type(again) is type(fast)
    dense = getattr(transformers, name).from_pretrained(tmp_path).eval()
    assert torch.equal(answer(dense, given), answer(model, given))
