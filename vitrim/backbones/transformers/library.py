"""transformers as a `Library`: models by hub name or folder, and what their configurations say about them."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from ...common.places import HF_LISTING
from ...common.text import few, first_line
from ..layers import kind
from ..library import Library, Texts
from .checks import check_version, installed_version
from .dialects import ENTRIES, entry_of
from .family import TransformersBackbone
from .images import ForImages
from .processors import fetch, record, recorded
from .stems import pair
from .texts import read_texts
from .towers import READERS, why_not
from .wrapper import CLASSES

PREFIX = "hf:"
LEARNED = "vitrim_methods."  # in the keys of what methods have learned, in a folder of vitrim's
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class TransformersLibrary(Library):
    """Hugging Face's transformers. Its names are `hf:` and a repository of the hub or a folder."""

    name = "transformers"
    factory = "AutoModelForImageClassification.from_pretrained"
    listing = HF_LISTING
    has_list = False
    extra = "transformers"
    loggers = ("huggingface_hub", "transformers")

    def check_installed(self) -> None:
        """Also raise ValueError for a version whose models vitrim does not run."""
        super().check_installed()
        check_version()

    @property
    def in_use(self) -> bool:
        return self.name in sys.modules

    @property
    def version(self) -> str:
        return installed_version()

    # -- by name

    def has_model(self, name: str) -> bool:
        return False

    def near_names(self, name: str) -> list[str]:
        return []

    def looks_up(self, name: str) -> bool:
        return name.startswith(PREFIX)

    def has_weights(self, name: str) -> bool:
        return self.looks_up(name)

    def published(self, name: str) -> dict[str, str]:
        place = name.removeprefix(PREFIX)
        return {"base_model": place} if place.count("/") == 1 and not Path(place).exists() else {}

    def create(self, name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
        self.check_installed()
        import transformers

        place = name.removeprefix(PREFIX)
        if arguments:
            raise ValueError(f"{name} is built as its config.json says: leave out {', '.join(arguments)}")
        config: Any = _found(place, lambda: transformers.AutoConfig.from_pretrained(place))
        if not config.architectures:
            raise ValueError(f"{name}: its config.json names no class of models under architectures: add it there")
        cls = class_named(config.architectures[0], name)
        if not pretrained:
            return cls(config)
        model = _found(place, lambda: whole(cls, place))
        fetch(model, place)
        return model

    def example(self, name: str) -> nn.Module:
        """As `Library` says; the name is that of a class. It has 4 layers, which are made in a moment; its other sizes
        are the defaults of its configuration."""
        self.check_installed()
        cls: Any = getattr(import_module(f"transformers.models.{ENTRIES[name].dialect.module}"), name)
        return cls(cls.config_class(num_hidden_layers=4))

    def family_of(self, name: str) -> list[str]:
        return []

    @property
    def argument_names(self) -> frozenset[str]:
        return frozenset()

    # -- about a model: how it was made

    def owns(self, model: nn.Module) -> bool:
        return kind(model).__module__.startswith("transformers.")

    def architecture(self, model: Any) -> str | None:
        return f"{PREFIX}{model.config._name_or_path}" if model.config._name_or_path else None

    def recorded_arguments(self, model: nn.Module) -> dict[str, Any]:
        return {}

    def current_arguments(self, model: nn.Module) -> dict[str, Any]:
        return {}

    def pruned_arguments(self, model: nn.Module) -> dict[str, Any]:
        return {}

    # -- about a model: what goes in and comes out

    def classes(self, model: Any) -> int:
        return 0 if self.gives_features(model) else model.config.num_labels

    def classifier(self, model: Any) -> nn.Module:
        names = ("classifier", "cls_classifier")
        return next((getattr(model, name) for name in names if hasattr(model, name)), nn.Identity())

    def gives_features(self, model: nn.Module) -> bool:
        entry = entry_of(kind(model))
        return entry is None or not entry.classifies or type(self.classifier(model)) is nn.Identity

    def image_size(self, model: nn.Module) -> tuple[int, int] | None:
        return TransformersBackbone(model).image_size

    def patch_size(self, model: nn.Module) -> tuple[int, int] | None:
        return pair(TransformersBackbone(model).config.patch_size)

    def set_size(self, model: nn.Module, image_size: tuple[int, int], patch_size: tuple[int, int]) -> None:
        if TransformersBackbone(model).dialect.has_any_size and patch_size == self.patch_size(model):
            record(model, {"input_size": (3, *image_size)})
            return
        raise ValueError(
            f"{type(model).__name__} keeps its image size: call it with interpolate_pos_encoding=True for others"
        )

    def data_config(self, model: nn.Module) -> dict[str, Any]:
        plain = {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash"}
        return {**IMAGENET, **plain, **recorded(model), "input_size": (3, *TransformersBackbone(model).image_size)}

    def guessed(self, model: Any) -> str:
        if recorded(model):
            return ""
        return "no image processor lies beside the weights, so images get ImageNet's mean and std and are not cropped"

    def label_names(self, model: Any) -> dict[str, str]:
        names = {} if self.gives_features(model) else model.config.id2label
        return {str(index): str(name) for index, name in names.items() if str(name) != f"LABEL_{index}"}

    def record_data(self, model: Any, data: dict[str, Any]) -> None:
        names = data.get("label_names")
        if names:
            model.config.id2label = dict(enumerate(names))
            model.config.label2id = {name: index for index, name in enumerate(names)}
        record(model, {key: value for key, value in data.items() if key != "label_names"})

    def for_images(self, model: nn.Module) -> nn.Module:
        return ForImages(model, self)

    def read_texts(self, model: nn.Module, texts: Sequence[str]) -> Texts:
        return read_texts(model, texts)

    # -- about a model: training and weights

    def set_drop_path(self, model: nn.Module, rate: float) -> None:
        if rate:
            raise ValueError(
                f"drop_path {rate:g}: {type(model).__name__} has its stochastic depth from its config: set it to 0"
            )

    def undecayed(self, model: nn.Module) -> set[str]:
        return {name for name, _ in model.named_parameters() if _UNDECAYED.search(name)}

    def layer_groups(self, model: nn.Module, coarse: bool = False) -> dict[str, Any]:
        body = TransformersBackbone(model)
        path = re.escape(".".join(filter(None, (body.path, body.dialect.layers))))
        return {"stem": r"(^|\.)embeddings\.", "blocks": [(rf"^{path}\.(\d+)", None), (r"norm", (99999,))]}

    def part_keys(self, model: nn.Module) -> dict[str, tuple[str, ...]]:
        return {"classifier": ("classifier", "cls_classifier", "distillation_classifier"), "first_conv": ()}

    def load_checkpoint(self, model: nn.Module, path: str | Path) -> tuple[str, ...]:
        raise ValueError(f"a model of transformers comes with its weights: give the folder, --model {PREFIX}{path}")


_UNDECAYED = re.compile(r"position_embedding|cls_token|class_embedding|mask_token|register_tokens|distillation_token")


def _found(place: str, load: Any) -> Any:
    """What `load` finds; ValueError in one line where a repository or folder is not to be had."""
    try:
        with without_bars():
            return load()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"hf:{place} cannot be loaded: {first_line(error)[:160]}; give a folder with config.json and weights, or a "
            "repository of the hub (a gated one needs `hf auth login`)"
        ) from error


@contextmanager
def without_bars() -> Generator[None]:
    """transformers shows no progress meanwhile."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def whole(cls: Any, place: Any, **arguments: Any) -> nn.Module:
    """transformers' model with its weights, every one of them. Raises ValueError, naming the first, where some are
    missing, for which transformers would draw random numbers, or are NaN; warns of those that it has no place for."""
    model, told = cls.from_pretrained(place, output_loading_info=True, **arguments)
    missing = sorted(set(told["missing_keys"]))
    left = sorted(key for key in told["unexpected_keys"] if LEARNED not in key)
    if missing and all(key.startswith("pooler.") for key in missing):  # DINO's, for one, have none
        return whole(cls, place, **{**arguments, "add_pooling_layer": False})
    if missing:
        raise ValueError(f"the weights lack {few(missing)} of {cls.__name__}")
    odd = [key for key, p in model.named_parameters() if p.is_floating_point() and not p.isfinite().all()]
    if odd:
        raise ValueError(f"{few(odd)} of {cls.__name__} holds NaN or infinity: take an earlier checkpoint")
    if left:
        warnings.warn(f"{place} holds weights that {cls.__name__} has no place for: {few(left)}", stacklevel=2)
    return model


def class_named(name: str, place: str) -> Any:
    """transformers' class of that name, from which the weights at `place` were saved. Raises ValueError for one that
    vitrim does not run."""
    import transformers

    known = (*ENTRIES, *READERS, *CLASSES)
    if name not in known or not hasattr(transformers, name):
        near = get_close_matches(name, known, n=3, cutoff=0.0)
        why = why_not(name) or f"of transformers vitrim runs {', '.join(near)}, and others like them"
        raise ValueError(f"{place} holds a {name}, which is not supported: {why}")
    return getattr(transformers, name)
