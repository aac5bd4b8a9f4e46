"""Texts beside images: what CLIP's and SigLIP's text towers make of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...common.text import first_line
from ..library import Texts

BATCH = 64  # sentences at a time
WAY = "save it into the folder of the weights"


def read_texts(model: Any, texts: Sequence[str]) -> Texts:
    """The sentences' features, and how they are compared with images. Raises ValueError as `Library.read_texts`."""
    if not hasattr(model, "text_model"):
        raise ValueError(f"{type(model).__name__} reads no texts: give a CLIPModel or SiglipModel")
    tokens = _tokens(model, texts)
    parts = [_features(model, {key: value[i : i + BATCH] for key, value in tokens.items()}) for i in _starts(texts)]
    apart = hasattr(model, "logit_bias")  # trained with a sigmoid
    bias = float(model.logit_bias) if apart else 0.0
    return Texts(normalize(torch.cat(parts).float(), dim=-1), float(model.logit_scale.exp()), bias, apart)


def _starts(texts: Sequence[str]) -> range:
    return range(0, len(texts), BATCH)


def _features(model: Any, tokens: dict[str, Tensor]) -> Tensor:
    output = model.get_text_features(**tokens)
    return output if isinstance(output, Tensor) else output.pooler_output


def _tokens(model: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """By the tokenizer that lies with the weights, as transformers' zero-shot pipeline calls it: SigLIP has learned on
    texts of one length."""
    tokenizer, config = _tokenizer(model), model.config.text_config
    padding = "max_length" if hasattr(model, "logit_bias") else True
    longest = {"truncation": True, "max_length": config.max_position_embeddings}
    found = tokenizer(list(texts), padding=padding, return_tensors="pt", **longest)
    device = next(model.parameters()).device
    return {key: found[key].to(device) for key in ("input_ids", "attention_mask") if key in found}


def _tokenizer(model: Any) -> Any:
    from transformers import AutoTokenizer

    place = model.config._name_or_path or type(model).__name__
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(f"the tokenizer of {place} cannot be loaded: {first_line(error)[:120]}; {WAY}") from error
    # Without files transformers makes one that knows no words.
    if set(tokenizer("a photo")["input_ids"]) <= set(tokenizer.all_special_ids):
        raise ValueError(f"no tokenizer lies beside the weights of {place}: {WAY}")
    return tokenizer
