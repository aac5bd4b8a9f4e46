"""Save: a folder that makes the same model again, bit for bit, or a refusal before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from ..backbones import library_of
from ..backbones.admission import unwrapped
from ..backbones.packed import PackedLinear
from ..common.files import check_no_file
from ..common.kinds_given import check_path
from ..common.order import check_order
from ..common.tensor_files import digest, open_tensors, write_tensors
from ..common.whole import Beside, held
from ..methods.parts.stored_shares import StoredShares
from .comparison import differences, other_settings, other_tables
from .describing import candidates
from .loading import CONFIG, KEY, WEIGHTS, holds_save
from .model import ReducedViT, unwrap
from .pretrained import ReducedPretrained
from .pretrained_files import save_pretrained
from .rebuilding import build_shapes, fill, give_memory, on
from .saved_config import NAMES, SavedConfig, parse_config


@dataclass(frozen=True)
class Save:
    """What is to be written: the config, and every tensor; and what it makes, over the same tensors."""

    config: SavedConfig
    tensors: dict[str, Tensor]
    again: ReducedViT


class Another(Exception):
    """A config would make another model. early: it could not even be built."""

    def __init__(self, message: str, early: bool = False):
        super().__init__(message)
        self.early = early


def save(model: nn.Module, folder: str | Path) -> Path:
    """Write `config.json` and `model.safetensors` into `folder`, for `load`; returns the folder.

    First the model is built again from its config and compared with this one. Then both files are written beside the
    old ones, and the weights are read back and compared, before they replace them. So at every moment the folder holds
    what it held before, or all of this save. Other files in it stay.

    Raises ValueError for a model that `load` could not make again, with the first difference, for a folder whose files
    are no save of vitrim's, and where the file system refuses.

    Example:
        >>> folder = vitrim.save(vitrim.reduce(model, "evit"), "fast")
        >>> sorted(path.name for path in folder.iterdir())
        ['config.json', 'model.safetensors']
    """
    check_order("vitrim.save", model, folder, "folder")
    check_path("folder", folder, "give the name of a folder, '.' for the current one")
    check_no_file(folder)
    for whole in (unwrapped(model), getattr(unwrap(model), "backbone", None)):
        if isinstance(whole, ReducedPretrained):
            return save_pretrained(whole, folder)
    save_state = _made(model)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_folder(folder)
        _write(save_state, folder)
    except (OSError, SafetensorError) as error:
        good = "what it held before is as it was" if holds_save(folder) else "nothing was saved"
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"{folder} cannot be saved to: {reason}; {good}") from error
    return folder


def check_saves(model: nn.Module) -> None:
    """Raise ValueError, with the first difference and the way out, for a model that `load` could not make again from
    what `save` would write."""
    _made(model)


def remade(model: nn.Module) -> ReducedViT:
    """The model that `load` would give back after `save`, in eval mode, over the weights of this one, so that it can be
    tried before anything is written. Raises ValueError as `check_saves` does."""
    return _made(model).again.eval()


def _write(save_state: Save, folder: Path) -> None:
    known = digest(save_state.tensors)
    text = _text(replace(save_state.config, digest=known))
    with Beside(folder / WEIGHTS) as weights, Beside(folder / CONFIG) as config:
        write_tensors(weights.file, save_state.tensors, {"format": "pt", KEY: text})
        config.file.write(text.encode())
        weights.sync()
        config.sync()
        _check_written(weights.name, known)
        with held(folder):
            weights.publish()  # this is the save: the weights carry their config
            config.publish()


def _check_written(path: Path, known: str) -> None:
    """Raise OSError where the file does not hold the tensors of which `known` is the digest."""
    with open_tensors(path) as written, on("cpu"):
        if digest({name: written.get_tensor(name) for name in written.keys()}) != known:  # noqa: SIM118  no mapping
            raise OSError("the weights came back from the disk as something else, or changed while they were written")


def _check_folder(folder: Path) -> None:
    """Raise ValueError where files of others would be replaced."""
    present = [name for name in (CONFIG, WEIGHTS) if (folder / name).exists()]
    if present and not holds_save(folder):
        raise ValueError(
            f"{folder} holds a {present[0]} that is no save of vitrim's: give another folder, or move that away"
        )


def _made(model: nn.Module) -> Save:
    """The model as it would be written, after it has been made again from that."""
    model = unwrap(model)
    if type(model) is not ReducedViT:
        raise ValueError(f"{type(model).__name__} is no reduced model: save what vitrim.reduce has made of it")
    if any(isinstance(part, PackedLinear) for part in model.modules()):
        raise ValueError(
            "the model comes from vitrim.optimize, which is for one machine: save the model that it was made of, and "
            "optimize what load() gives back"
        )
    for method in model.methods:
        if isinstance(method, StoredShares):
            method.read_shares()
    problem = ""
    for config in candidates(model):
        try:
            return _proven(model, config)
        except Another as other:
            problem = problem if problem and other.early else str(other)
    raise ValueError(
        f"the model cannot be saved, since load() would make another: {problem}; merge adapters, build it by "
        f"{library_of(model.backbone).factory}'s arguments, or save its state_dict() yourself"
    )


def _proven(model: ReducedViT, config: SavedConfig) -> Save:
    try:
        again = give_memory(build_shapes(parse_config(json.loads(_text(config)))))
    except Exception as error:  # whatever timm raises over what it is given
        raise Another(f"{type(error).__name__}: {' '.join(str(error).split())}"[:200], early=True) from error
    _stop_at(differences(model, again))
    tables = other_tables(model, again)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    tensors = {**state, **tables}
    made = {**again.state_dict(), **{name: tensor for name, tensor in again.named_buffers() if name in tables}}
    dtypes = {
        name: NAMES[t.dtype] for name, t in tensors.items() if t.is_floating_point() and t.dtype != made[name].dtype
    }
    fill(again, tensors)
    _stop_at(other_settings(model, again))
    return Save(replace(config, dtypes=dtypes), tensors, again)


def _stop_at(found: Iterator[str]) -> None:
    for difference in found:
        raise Another(difference)


def _text(config: SavedConfig) -> str:
    return json.dumps(config.as_json(), indent=2, allow_nan=False) + "\n"
