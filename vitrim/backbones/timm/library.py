"""timm as a `Library`: its list of names, its factory, and what its models say about themselves."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import infer_imagenet_subset, resolve_model_data_config
from timm.layers import DropPath, Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ...common.places import TIMM_LISTING
from ...common.text import first_line, nearest
from ..library import Library
from .checkpoints import load_checkpoint
from .record import config_of, part_keys

_REMOTE = ("hf-hub:", "hf_hub:", "local-dir:")  # names that timm looks up elsewhere than in its own list
REDUCED = "vitrim_"  # in front of names of reduced models, which `vitrim.timm` registers: none of them is dense
_LABELS = ("token_labels", "mix_token")  # LV-ViT's, which may be set after it was made
# Words for the size in timm's names; LV-ViT's are letters.
_SIZES = {"tiny", "small", "medium", "little", "base", "large", "huge", "giant", "gigantic", "t", "s", "m", "l"}
_DROP_PATHS = ("drop_path", "drop_path1", "drop_path2")

# Said by the config in another way, or about where a model comes from.
_RECORDED = {"pretrained_cfg", "default_cfg", "pretrained_model_args", "_model_args", "_traits", "num_classes"}
# How values are computed, rates of training, what a later change of size would refer to.
_FREE = {"grad_checkpointing", "_fast_norm", "drop_rate", "feature_info", *_LABELS}
_FREE |= {"_ref_window_sizes", "_ref_grid_size", "target_shift_size"}


class TimmLibrary(Library):
    """timm, and LV-ViT, which vitrim registers with timm."""

    name = "timm"
    factory = "timm.create_model"
    listing = TIMM_LISTING
    loggers = ("huggingface_hub", "timm.models")
    idle = (DropPath,)
    mlps = (Mlp,)
    incidental = frozenset(_RECORDED | _FREE)

    @property
    def version(self) -> str:
        return timm.__version__

    # -- by name

    def has_model(self, name: str) -> bool:
        return timm.is_model(name) and not name.startswith(REDUCED)

    def near_names(self, name: str) -> list[str]:
        return nearest(name, timm.list_models(exclude_filters=f"{REDUCED}*"), n=3)

    def looks_up(self, name: str) -> bool:
        return name.startswith(_REMOTE)

    def has_weights(self, name: str) -> bool:
        return timm.models.is_model_pretrained(name)

    def published(self, name: str) -> dict[str, str]:
        config = timm.get_pretrained_cfg(name) if self.has_model(name) else None
        known = {"base_model": getattr(config, "hf_hub_id", None), "license": getattr(config, "license", None)}
        return {key: value for key, value in known.items() if value}

    def create(self, name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
        return timm.create_model(name, pretrained=pretrained, **arguments)

    def family_of(self, name: str) -> list[str]:
        words = name.partition(".")[0].split("_")
        at = next((i for i, word in enumerate(words) if word in _SIZES), None)
        if at is None:
            return []
        others = ["_".join([*words[:at], size, *words[at + 1 :]]) for size in _SIZES - {words[at]}]
        return [other for other in timm.list_models() if other in others]

    def create_unlisted(self, config: Mapping[str, Any], **arguments: Any) -> VisionTransformer:
        """A plain Vision Transformer that no list has, with random weights. config: its `pretrained_cfg`."""
        model: Any = VisionTransformer(**arguments)
        model.pretrained_cfg = model.default_cfg = dict(config)
        return model

    @functools.cached_property
    def argument_names(self) -> frozenset[str]:
        classes = {base for family in self.families for model in family.models for base in model.__mro__}
        model_classes = [cls for cls in classes if issubclass(cls, nn.Module) and cls is not nn.Module]
        names = {name for cls in model_classes for name in inspect.signature(cls.__init__).parameters}
        return frozenset(names - {"self", "args", "kwargs", "options", "device", "dtype"})

    # -- how a model was made

    def owns(self, model: Any) -> bool:
        return any(cls.__module__.partition(".")[0] == "timm" for cls in type(model).__mro__)

    def architecture(self, model: Any) -> str | None:
        return config_of(model).get("architecture") or None

    def recorded_arguments(self, model: Any) -> dict[str, Any]:
        given = getattr(model, "_model_args", {})
        return {key: value for key, value in given.items() if key in self.argument_names and value is not None}

    def current_arguments(self, model: Any) -> dict[str, Any]:
        labels = {key: vars(model)[key] for key in _LABELS if key in vars(model)}
        return {"num_classes": self.classes(model), "global_pool": model.global_pool, **labels}

    def pruned_arguments(self, model: Any) -> dict[str, Any]:
        depth = {"depth": len(model.blocks)} if hasattr(model, "blocks") else {}
        norms = [getattr(model, name, None) for name in ("norm", "fc_norm")]
        return {**depth, **({"final_norm": False} if all(type(norm) is nn.Identity for norm in norms) else {})}

    # -- what goes in and comes out

    def classes(self, model: Any) -> int:
        head = self.classifier(model)
        if type(head) is nn.Linear:
            return head.out_features
        return 0 if type(head) is nn.Identity else model.num_classes

    def classifier(self, model: Any) -> nn.Module:
        heads = model.get_classifier()
        return heads[0] if isinstance(heads, (tuple, list)) else heads

    def gives_features(self, model: Any) -> bool:
        """As `Library` says. timm counts the width of CLIP's shared space (512, 768 ...) as `num_classes`; towers
        fine-tuned on an ImageNet have that ImageNet's number of classes."""
        config, classes = config_of(model), model.num_classes
        untouched = classes == config.get("num_classes") and not infer_imagenet_subset({"num_classes": classes})
        return classes == 0 or (untouched and "_clip_" in (config.get("architecture") or ""))

    def image_size(self, model: Any) -> tuple[int, int] | None:
        return getattr(getattr(model, "patch_embed", None), "img_size", None)

    def patch_size(self, model: Any) -> tuple[int, int] | None:
        return getattr(getattr(model, "patch_embed", None), "patch_size", None)

    def set_size(self, model: Any, image_size: tuple[int, int], patch_size: tuple[int, int]) -> None:
        changed = {} if patch_size == self.patch_size(model) else {"patch_size": patch_size}
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of how timm interpolates
                model.set_input_size(img_size=image_size, **changed)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:  # each class has its own
            size, patch = (" x ".join(map(str, pair)) for pair in (image_size, patch_size))
            raise ValueError(
                f"{type(model).__name__} takes no images of {size} pixels in patches of {patch}: {first_line(error)}"
            ) from error

    def data_config(self, model: Any) -> dict[str, Any]:
        return resolve_model_data_config(model)

    def label_names(self, model: Any) -> dict[str, str]:
        names = config_of(model).get("label_names") or {}
        by_index = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
        return {str(index): str(name) for index, name in by_index.items()}

    def record_data(self, model: Any, data: dict[str, Any]) -> None:
        model.pretrained_cfg.update(data)

    # -- training and weights

    def set_drop_path(self, model: Any, rate: float) -> None:
        blocks = [module for module in model.modules() if any(hasattr(module, name) for name in _DROP_PATHS)]
        for i, block in enumerate(blocks):
            share = rate * i / max(1, len(blocks) - 1)
            for name in _DROP_PATHS:
                if hasattr(block, name):
                    setattr(block, name, DropPath(share) if share else nn.Identity())

    def undecayed(self, model: Any) -> set[str]:
        return set(model.no_weight_decay())

    def layer_groups(self, model: Any, coarse: bool = False) -> dict[str, Any]:
        return model.group_matcher(coarse)

    def part_keys(self, model: Any) -> dict[str, tuple[str, ...]]:
        return part_keys(model)

    def load_checkpoint(self, model: Any, path: str | Path) -> tuple[str, ...]:
        return load_checkpoint(model, path)
