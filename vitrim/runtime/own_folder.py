"""Before a folder from a stranger is opened: whatever in it leads out of it, or would run its code, is refused.

vitrim's own configs are plain values (`saved_config.py`). Those of transformers' models go through transformers, which
follows some of what they name: what it would follow is looked for here, in all of the config.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..backbones import TIMM
from ..common.tensor_files import open_tensors
from ..common.text import reason
from ..core.values import as_several, as_whole, shown
from .saved_config import is_plain

INDEX = "model.safetensors.index.json"
KERNELS_OF_TORCH = (None, "eager", "sdpa", "flex_attention")
# Files beside the weights by which transformers goes elsewhere, and why.
_STRAYS = {"adapter_config.json": "it names a base model to load: merge the adapter before you save"}
# Keys of a config, at any depth, that name other files, kernels or code, and what may stand there all the same.
_STRAY_KEYS: dict[str, tuple[Any, ...]] = {
    "configuration_files": (),
    "transformers_weights": (None,),
    "quantization_config": (None,),
    **dict.fromkeys(("attn_implementation", "_attn_implementation", "_attn_implementation_internal"), KERNELS_OF_TORCH),
    **dict.fromkeys(("experts_implementation", "_experts_implementation"), (None, "eager")),
}

_LAYERS = ("num_hidden_layers", "depth", "depths", "num_layers")  # no model has more of them than tensors


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Raise ValueError for a link in the folder that leads out of it. The hub's own cache is made of links: those of
    its snapshots may lead to the files that belong to them."""
    home = folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    for path in (folder / name for name in names):
        target = path.resolve()
        if path.is_symlink() and not (target.is_relative_to(home) or target.parent == blobs):
            raise ValueError(f"{path.name} in {folder} is a link out of the folder: put the file itself there")


def check_pretrained_folder(folder: Path, config: dict[str, Any], shards: Any) -> None:
    """Raise ValueError for what would make transformers read, fetch or run anything but the files of the folder.

    config: of `config.json`
    shards: what the index of the weights holds; None where there is none
    """
    check_links(folder, sorted(entry.name for entry in os.scandir(folder)))
    for name, why in _STRAYS.items():
        if (folder / name).exists():
            raise ValueError(f"{folder} holds {name}: {why}")
    for key, value in _entries(config):
        if key in _STRAY_KEYS and not _is_one_of(value, _STRAY_KEYS[key]):
            raise ValueError(f"{folder}/config.json: {key}={shown(value)} names what is not in the folder")
    if "architecture" in config and config.get("model_type") == "timm_wrapper":
        _check_wrapped(folder, config)
    if shards is not None:
        _check_shards(folder, shards)
    _check_layers(folder, config)


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested objects with its value."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict):
        yield from value.items()
    for inner in inside:
        yield from _entries(inner)


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Whether it, or each of an object's values (one for each part of a model), is allowed."""
    return all(inner in allowed for inner in value.values()) if isinstance(value, dict) else value in allowed


def _check_wrapped(folder: Path, config: dict[str, Any]) -> None:
    """transformers hands these to `timm.create_model`, which looks some names up elsewhere, and reads files."""
    name, arguments = config["architecture"], config.get("model_args") or {}
    if not (isinstance(name, str) and TIMM.has_model(name)):
        raise ValueError(f"{folder}/config.json: architecture={shown(name)} is no name of timm's list")
    plain = isinstance(arguments, dict) and all(map(is_plain, arguments.values()))
    if not plain or not set(arguments) <= TIMM.argument_names:
        raise ValueError(f"{folder}/config.json: model_args={shown(arguments)} are no plain arguments of a model")


def _check_shards(folder: Path, shards: Any) -> None:
    files = shards.get("weight_map") if isinstance(shards, dict) else None
    names = set(map(str, files.values())) if isinstance(files, dict) else {""}
    for name in sorted(names):
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(f"{folder}/{INDEX}: {shown(name)} is no safetensors file in the folder")


def _check_layers(folder: Path, config: dict[str, Any]) -> None:
    """Modules take memory also where they have no weights."""
    try:
        tensors = sum(len(open_tensors(path).keys()) for path in folder.glob("*.safetensors"))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the weights in {folder} cannot be read: {reason(error)}") from error
    if not tensors:
        raise ValueError(f"{folder} holds no weights in .safetensors, and other files of weights are not read")
    for key, value in _entries(config):
        if key in _LAYERS and sum(as_whole(number) or 0 for number in as_several(value) or (value,)) > tensors:
            raise ValueError(f"{folder}/config.json: {key}={shown(value)}, and the weights are {tensors:,} tensors")
