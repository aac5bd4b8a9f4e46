"""Save and load: `config.json` says how to make the model again, `model.safetensors` holds its weights."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..methods import LastClassAttention
from .build import attach, make_method
from .model import ReducedViT

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save(model: ReducedViT, folder: str | Path) -> Path:
    """Write `config.json` and `model.safetensors` into `folder`; each is written beside and renamed.

    Raises ValueError for a model that timm's `create_model` cannot make again (no architecture name, or arguments that
    are no plain values).
    """
    folder = Path(folder)
    config = _config(model)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in model.state_dict().items()}
    _replace(folder / WEIGHTS, lambda path: save_file(state, path))
    _replace(folder / CONFIG, lambda path: Path(path).write_text(json.dumps(config, indent=2) + "\n"))
    return folder


def load(folder: str | Path) -> ReducedViT:
    """The model that `save` wrote, in eval mode, on the CPU.

    Raises ValueError if the folder is not one that `save` wrote.
    """
    folder = Path(folder)
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {' and no '.join(missing)}: give a folder written by save()")
    try:
        model = _made_again(json.loads((folder / CONFIG).read_text()))
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (KeyError, TypeError, AttributeError, RuntimeError, SafetensorError, ValueError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{folder} does not hold a model as save() writes it: {said}") from error
    return model.eval()


def _made_again(config: dict[str, Any]) -> ReducedViT:
    """The model that `config.json` describes, with fresh weights."""
    backbone = _backbone(config)
    methods = [make_method(entry["method"], **_with_guide(entry["options"])) for entry in config["methods"]]
    model = attach(backbone, methods)
    backbone.pretrained_cfg.update(config["data"])
    return model


def _config(model: ReducedViT) -> dict[str, Any]:
    data = timm.data.resolve_model_data_config(model.backbone)
    names = (getattr(model.backbone, "pretrained_cfg", None) or {}).get("label_names")
    return {
        **_backbone_config(model.backbone),
        "methods": methods_config(model),
        "data": {
            **{key: data[key] for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")},
            **({"label_names": names} if names else {}),
        },
        "versions": {name: version(name) for name in ("vitrim", "timm", "torch")},
    }


def _backbone_config(backbone: nn.Module) -> dict[str, Any]:
    architecture = (getattr(backbone, "pretrained_cfg", None) or {}).get("architecture")
    if not architecture:
        raise ValueError("the model was not made by timm.create_model, so load() could not make it again: build it so")
    return {"backbone": architecture, "arguments": _arguments(backbone)}


def _backbone(config: dict[str, Any]) -> nn.Module:
    return timm.create_model(config["backbone"], **_as_arguments(config["arguments"]))


def methods_config(model: ReducedViT) -> list[dict[str, Any]]:
    """Name and options of every method, in plain values; a guide by the model that it asks.

    Raises ValueError for a guide that is not `LastClassAttention`.
    """
    entries = [{"method": method.name, "options": method.options()} for method in model.methods]
    for entry, method in zip(entries, model.methods, strict=True):
        if method.guide is not None:
            entry["options"]["score"] = {"last_class_attention": _backbone_config(_asked(method.guide))}
    return entries


def _asked(guide) -> nn.Module:
    if not isinstance(guide, LastClassAttention):
        raise ValueError(
            "a method guided by a callable cannot be saved: guide it by vitrim.LastClassAttention(model), or give the "
            "scores with each call"
        )
    return guide.model


def _with_guide(options: dict[str, Any]) -> dict[str, Any]:
    """The options with the guide made again, with fresh weights."""
    if not isinstance(options.get("score"), dict):
        return options
    return {**options, "score": LastClassAttention(_backbone(options["score"]["last_class_attention"]))}


def _arguments(backbone: nn.Module) -> dict[str, Any]:
    """timm's own record of how the model was built, brought up to date."""
    recorded = dict(getattr(backbone, "_model_args", {}))
    odd = [f"{key}={value!r}" for key, value in recorded.items() if not _is_plain(value)]
    if odd:
        raise ValueError(
            f"the model was built with {', '.join(odd)}, which config.json cannot hold, and load() would build another "
            'model without it: give timm the name instead, such as act_layer="relu", or save the state dict yourself'
        )
    return {**recorded, "num_classes": backbone.num_classes, "global_pool": backbone.global_pool}


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, type(None))) or (
        isinstance(value, (list, tuple)) and all(map(_is_plain, value))
    )


def _as_arguments(recorded: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in recorded.items()}


def _replace(path: Path, write) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(str(beside))
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
