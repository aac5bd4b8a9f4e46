"""Reduced models of transformers in a folder: the dense model's files, and in `config.json` what the reduction is.

transformers alone reads such a folder too, and makes the dense model of it.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .._version import __version__
from ..backbones.transformers.library import class_named, whole, without_bars
from ..backbones.transformers.processors import recorded
from ..backbones.transformers.wrapper import is_timm_wrapper
from ..common.files import check_no_file
from ..common.tensor_files import open_tensors
from ..common.text import few, reason
from .build import attach, is_of_transformers
from .describing import methods_config
from .model import ReducedViT
from .own_folder import INDEX, check_pretrained_folder
from .pretrained import METHODS_KEY, ReducedPretrained, as_pretrained, dense_part
from .pretrained_checks import check_whole
from .rebuilding import build_method
from .saved_config import parse_methods
from .wrapped_timm import as_wrapper

KEY = "vitrim"  # of config.json
CONFIG = "config.json"
LARGEST_CONFIG = 1 << 22  # bytes


def in_config(reduced: ReducedViT) -> dict[str, Any]:
    """What `config.json` says of the reduction."""
    only = {"prediction_only": True} if reduced.prediction_only else {}
    learned = sorted(reduced.methods.state_dict())
    named = {"learned": learned} if learned else {}
    known = recorded(reduced.backbone) if is_of_transformers(reduced) else {}
    data = {"data": known} if known else {}
    return {"version": __version__, "methods": methods_config(reduced), **only, **named, **data}


def save_pretrained(model: ReducedPretrained, folder: str | Path) -> Path:
    """All files of the model, written into a folder beside it and moved: weights first, `config.json` last; returns
    the folder.

    Raises ValueError for a model that would not come back whole, and where the file system refuses.
    """
    check_no_file(folder)
    folder = Path(folder)
    check_whole(model, dense_part(model.state_dict()))  # ty: ignore[missing-attribute]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as beside:
            with without_bars():
                model.save_pretrained(beside)
            for path in sorted(Path(beside).iterdir(), key=lambda path: path.name == CONFIG):
                os.replace(path, folder / path.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be saved to: {error.strerror or error}") from error
    return folder


def is_pretrained(folder: str | Path) -> bool:
    """Whether a folder holds a reduced model of transformers."""
    return _said(Path(folder)) is not None


def holds_pretrained(folder: str | Path) -> bool:
    """Whether a folder holds a model of transformers, reduced or not."""
    return {"architectures", "model_type"} <= _config(Path(folder)).keys()


def load_pretrained(folder: str | Path, cls: Any = None, **kwargs: Any) -> nn.Module:
    """The reduced model that a folder holds, in eval mode.

    cls:    transformers' class; default: the one that the config names
    kwargs: for transformers' `from_pretrained`

    Raises ValueError for a folder whose config names no reduction, or one that is not known.
    """
    dense, reduced = open_pretrained(folder, cls, **kwargs)
    return as_wrapper(reduced, dense) if is_timm_wrapper(type(dense)) else as_pretrained(reduced)


def open_pretrained(folder: str | Path, cls: Any = None, **kwargs: Any) -> tuple[nn.Module, ReducedViT]:
    """The dense model that a folder holds, and the reduced one over the same weights for images alone, in eval mode.

    Arguments and errors are those of `load_pretrained`.
    """
    folder = Path(folder)
    said = _said(folder)
    if said is None:
        raise ValueError(f"{folder} holds no reduced model of transformers: load it as a dense one, and reduce it")
    methods = [build_method(saved) for saved in parse_methods(said[KEY].get("methods"))]
    check_pretrained_folder(folder, _config(folder), _shards(folder))
    dense = _dense(folder, said["class"], cls, kwargs)
    reduced = attach(dense, methods, prediction_only=bool(said[KEY].get("prediction_only")))
    _fill(reduced.methods, folder, said[KEY].get("learned", []))
    return dense, reduced


def _dense(folder: Path, name: str, cls: Any, kwargs: dict[str, Any]) -> nn.Module:
    """The dense model; keys of methods among its weights are no surprise."""
    cls = class_named(name, str(folder)) if cls is None else cls
    ignoring = [*(cls._keys_to_ignore_on_load_unexpected or []), rf"^{METHODS_KEY}\."]
    quiet: Any = type(
        cls.__name__, (cls,), {"_keys_to_ignore_on_load_unexpected": ignoring, "__module__": cls.__module__}
    )
    alone = {"local_files_only": True, "use_safetensors": True}
    try:
        with without_bars():
            dense: Any = whole(quiet, folder, **{**kwargs, **alone}).eval()
    except ValueError:
        raise
    except Exception as error:  # transformers, torch and safetensors each raise their own, over what others wrote
        raise ValueError(f"{folder} does not hold a model as save() writes it: {reason(error)}") from error
    dense.__class__ = cls
    return dense


def _said(folder: Path) -> dict[str, Any] | None:
    """The class and the reduction that `config.json` names; None where it names none."""
    config = _config(folder)
    if not isinstance(config.get(KEY), dict) or not config.get("architectures"):
        return None
    return {KEY: config[KEY], "class": str(config["architectures"][0])}


def _config(folder: Path) -> dict[str, Any]:
    """What `config.json` holds; empty where it is none."""
    config = _json(folder / CONFIG)
    return config if isinstance(config, dict) else {}


def _json(path: Path) -> Any:
    """What a file of JSON holds; None for what is none, or far too large."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_CONFIG:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _shards(folder: Path) -> Any:
    """What the index of the weights holds, empty for one that is none; None where there is no index."""
    return (_json(folder / INDEX) or {}) if os.path.lexists(folder / INDEX) else None


def _fill(methods: nn.Module, folder: Path, names: Any) -> None:
    """Learned parts of methods from the files of weights, which number them in the order of `names`."""
    wanted = methods.state_dict()
    if not wanted:
        return
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open_tensors(path) as tensors:
            own = [key for key in tensors.keys() if key.startswith(f"{METHODS_KEY}.")]  # noqa: SIM118  no mapping
            found |= {key: tensors.get_tensor(key) for key in own}
    names = names if isinstance(names, list) else []
    state = {name: found.get(f"{METHODS_KEY}.{number}") for number, name in enumerate(names)}
    missing = [key for key, value in wanted.items() if getattr(state.get(key), "shape", None) != value.shape]
    if missing:
        raise ValueError(f"{folder} has no weights for {few(missing)} of the method")
    methods.load_state_dict({key: state[key] for key in wanted}, strict=True)
