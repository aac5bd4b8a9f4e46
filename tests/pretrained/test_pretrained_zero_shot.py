"""Reduced CLIP and SigLIP in transformers' pipeline that compares photographs with texts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from small_models import IMAGE, TEXT, build, transformers

import vitrim

LABELS = ["a cat", "two dogs", "a red owl"]
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "photo", "of", "cat", "two", "dogs", "red", "owl"]
SPECIAL = {"pad_token": WORDS[0], "bos_token": WORDS[1], "eos_token": WORDS[2], "unk_token": WORDS[3]}


def tokenizer() -> Any:
    """Words by number, a start and an end around them."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, SPECIAL["unk_token"])
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", TEXT["bos_token_id"]), ("</s>", TEXT["eos_token_id"])]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **SPECIAL)


def scores(model: Any, picture: Image.Image) -> dict[str, float]:
    processor = transformers.ViTImageProcessor(size={"height": IMAGE, "width": IMAGE})
    run = transformers.pipeline(
        "zero-shot-image-classification", model=model, tokenizer=tokenizer(), image_processor=processor, device="cpu"
    )
    return {found["label"]: found["score"] for found in run(picture, candidate_labels=LABELS)}


@torch.no_grad()
@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel"])
def test_photographs_are_compared_with_texts(name):
    model, picture = build(name), Image.effect_noise((50, 40), 80).convert("RGB")
    for p in (model.logit_scale, getattr(model, "logit_bias", model.logit_scale)):
        p.data.zero_()  # scores between 0 and 1 that differ
    wanted = scores(model, picture)
    assert set(wanted) == set(LABELS) and len(set(wanted.values())) == 3
    assert scores(vitrim.reduce(model, "tome", r=0), picture) == wanted
    found = scores(vitrim.reduce(model, "tome", macs=0.7), picture)
    assert set(found) == set(LABELS) and found != wanted and all(0 < score < 1 for score in found.values())
