"""Load: the model that a folder holds, whole, or one line that says why not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..common.absent import absent
from ..common.kinds_given import check_path
from ..common.tensor_files import DTYPES as CODES
from ..common.tensor_files import digest, open_tensors
from ..common.text import cut, reason
from ..methods import METHODS, Method, import_method, register_method, source_hash
from .model import ReducedViT
from .own_folder import check_links
from .pretrained_files import is_pretrained, load_pretrained
from .rebuilding import Shapes, build_shapes, check_tensors, fill, give_memory, on
from .saved_config import NAMES, NotAllowed, SavedConfig, parse_config

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KEY = "vitrim"  # of the config in the metadata of the weights
LARGEST_CONFIG = 1 << 22  # bytes


def load(folder: str | Path, methods: str | type[Method] | Iterable[type[Method] | str] = ()) -> Any:
    """The model that `save` wrote, in eval mode, on the CPU, in the dtype that it had.

    methods: one or several that are not vitrim's own and may run, as classes or as "my_file.py:Mine"; those that are
             registered already may, too

    The file of weights has a copy of its config inside. So what is loaded is always one whole save, also while others
    write to the folder, or after a writer was killed. `config.json` may be edited, in its methods and data; one that
    belongs to another save is ignored, and the copy is used. Nothing is unpickled, and no file outside of the folder is
    read, by a link neither (those within the hub's own cache are followed).

    Raises ValueError, in one line, if the folder is not one that `save` wrote, or has a method that may not run. Warns
    where the source of a method's class is other than it was at saving.

    Example:
        >>> vitrim.reduce(model, "evit", keep=0.5).save("fast")
        >>> again = vitrim.load("fast")
        >>> list(again.methods), again.training
        ([EViT(keep=0.5)], False)
    """
    check_path("folder", folder, "give a folder that save() wrote")
    several: Any = [methods] if isinstance(methods, (str, type)) else methods
    for method in several:
        import_method(method) if isinstance(method, str) else register_method(method)
    folder = Path(folder)
    if is_pretrained(folder):
        return load_pretrained(folder)
    _check_folder(folder)
    check_links(folder, (CONFIG, WEIGHTS))
    try:
        config, model = _loaded(folder)
    except NotAllowed as error:
        raise ValueError(
            f"{folder} was saved with the method {cut(error.path, 80)}, not vitrim's own: allow its code by "
            "--method FILE.py:CLASS (in Python load(folder, methods=[its class]))"
        ) from error
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {reason(error)}") from error
    except Exception as error:  # timm, torch, json and safetensors each raise their own, over what others wrote
        raise ValueError(f"{folder} does not hold a model as save() writes it: {_said(error)}") from error
    for saved in config.methods:
        if saved.source not in (None, source_hash(METHODS[saved.name])):
            warnings.warn(
                f"the source of method {saved.name} differs from that at saving: outputs may differ; "
                f"{folder} was saved from another {saved.path}",
                stacklevel=2,
            )
    return model.eval()


def _check_folder(folder: Path) -> None:
    """Raise ValueError for what is no folder with the two files of a save."""
    missing = [name for name in (CONFIG, WEIGHTS) if not holds_file(folder, name)]
    if not missing:
        return
    if folder.is_file():
        saved = not [name for name in (CONFIG, WEIGHTS) if not holds_file(folder.parent, name)]
        way = f"give {folder.parent}" if saved else f"one with {CONFIG} and {WEIGHTS} in it"
        raise ValueError(f"{folder} is a file, and load() takes the folder that save() wrote: {way}")
    if not folder.is_dir():
        raise ValueError(absent("folder", folder, "give a folder written by save()"))
    raise ValueError(f"{folder} has no {' and no '.join(missing)}: give a folder written by save()")


def holds_file(folder: Path, name: str) -> bool:
    """Whether there is such a file in a folder. Raises ValueError, in one line, for a folder that cannot be opened."""
    try:
        return (folder / name).is_file()
    except OSError as error:
        raise ValueError(f"{folder} cannot be opened: {reason(error)}") from error


def holds_save(folder: Path) -> bool:
    """Whether the files in a folder are a save of vitrim's, perhaps a broken one; False where there is none."""
    try:
        config = read_json(folder / CONFIG)
    except (ValueError, OSError):
        config = None
    if isinstance(config, dict):
        return {"backbone", "methods"} <= config.keys()
    try:
        with open_tensors(folder / WEIGHTS) as weights:
            return KEY in (weights.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _loaded(folder: Path) -> tuple[SavedConfig, ReducedViT]:
    shown = read_json(folder / CONFIG)
    config = _in_file(CONFIG, shown)
    with open_tensors(folder / WEIGHTS) as weights:
        inside = _inside(weights)
        if _of_another_save(shown, inside):
            config = _in_file(WEIGHTS, inside)
        elif inside is not None:
            config = _edited(config, _in_file(WEIGHTS, inside))
        stored = shapes_in(weights)
        config = _with_dtypes(config, stored)
        model = build_shapes(config, len(stored))
        check_tensors(model, stored, config)
        with on("cpu"):
            tensors = {name: weights.get_tensor(name).clone() for name in stored}
    if config.digest not in (None, digest(tensors)):
        raise ValueError(f"{WEIGHTS} is damaged: its tensors are not those that were saved")
    return config, fill(give_memory(model), tensors)


def _edited(shown: SavedConfig, inside: SavedConfig) -> SavedConfig:
    """`config.json`, whose methods and data may be edited. Raises ValueError where it makes another model of the
    weights: a number of heads has no shape that could tell."""
    for part in ("architecture", "dtype", "dtypes", "digest"):
        if getattr(shown, part) != getattr(inside, part):
            raise ValueError(f"{CONFIG}: its {part} is not that of the weights: only methods and data may be edited")
    return shown


def _of_another_save(shown: dict[str, Any], inside: dict[str, Any] | None) -> bool:
    """Whether `config.json` does not belong to these weights, which then say themselves what they belong to.

    Raises ValueError where they don't: weights of before, that a later save has put its config beside.
    """
    if inside is not None:
        return shown.get("save") != inside.get("save")
    if "save" in shown:
        raise ValueError(f"{CONFIG} belongs to other weights than {WEIGHTS}")
    return False


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError, RecursionError or OSError for what is none, or far too large."""
    if path.stat().st_size > LARGEST_CONFIG:
        raise ValueError(f"{path.name} is larger than any config")
    try:
        return _parsed(path.read_text(encoding="utf-8-sig"))  # editors on Windows put a mark in front
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: {_said(error)}") from error


def _parsed(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error})") from error


def _inside(weights: Any) -> dict[str, Any] | None:
    """The config that the weights carry; None: they are of a save before there was one."""
    text = (weights.metadata() or {}).get(KEY)
    if text is None:
        return None
    raw = _parsed(text)
    if not isinstance(raw, dict):
        raise ValueError(f"{WEIGHTS}: the config that it carries is no JSON object")
    return raw


def _in_file(name: str, raw: Any) -> SavedConfig:
    try:
        return parse_config(raw)
    except NotAllowed:
        raise
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def shapes_in(weights: Any) -> Shapes:
    """Shape and dtype of every tensor in an open file; no values are read."""
    slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118  it is no mapping
    unknown = {name: entry.get_dtype() for name, entry in slices.items() if entry.get_dtype() not in CODES}
    if unknown:
        name, code = next(iter(unknown.items()))
        raise ValueError(f"{WEIGHTS}: {name} is {code}, which no model of vitrim has")
    return {name: (tuple(entry.get_shape()), CODES[entry.get_dtype()]) for name, entry in slices.items()}


def _with_dtypes(config: SavedConfig, stored: Shapes) -> SavedConfig:
    """Where dtypes were not recorded, those of the file; most tensors have the model's."""
    floating = {name: dtype for name, (_, dtype) in stored.items() if dtype.is_floating_point}
    if config.dtype is not None or not floating:
        return config
    most = max(NAMES, key=list(floating.values()).count)
    others = {name: NAMES[dtype] for name, dtype in floating.items() if dtype != most}
    return replace(config, dtype=NAMES[most], dtypes=others)


def _said(error: Exception) -> str:
    """One line of what went wrong; other people's errors with their names."""
    message = " ".join(str(error).split())
    plain = type(error) is ValueError
    return cut(message if plain else f"{type(error).__name__}: {message}", 200)
