"""Weights from a file into a timm model, or one line that says why they do not fit."""

from __future__ import annotations

import inspect
import pickle
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from timm.models import clean_state_dict, load_state_dict
from torch import Tensor, nn

from ...common.absent import absent
from ...common.errors import OptionError
from ...common.text import counted, few, first_line, reason
from ...common.unwrapping import innermost
from ..weights import bare_name, check_tensors
from .misfits import in_words, misfit

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")  # of checkpoint files


def load_checkpoint(model: nn.Module, path: str | Path) -> tuple[str, ...]:
    """Load a timm state dict into `model`, every key of it, and say what had to be changed on the way.

    Reads .safetensors, and what torch.save wrote (the other `ENDINGS`) with `weights_only`: nothing is unpickled.
    Weights may lie under `state_dict_ema`, `model_ema`, `state_dict` or `model` (the first of these that is there),
    with the prefixes of DDP and torch.compile, or with another one in front of every key of the model (Lightning's
    `model.`); or under another key, if there is but one state dict in the file (`model_state_dict` beside an
    optimiser's). timm's own conversion for the model's family is applied: it renames the keys of original releases
    (DINOv2, DeiT-III, CLIP) and resamples position embeddings of another resolution. Of a reduced model's
    `model.safetensors` the backbone is taken. Floating-point weights of another precision are converted. A model that
    is compiled or wrapped by DDP is unwrapped.

    Returns the changes in words; empty if the weights went in as they were. Raises ValueError, and leaves the model as
    it was, for a file that is missing, no checkpoint, or pickled code; for missing, unexpected or misshapen keys; for
    tensors that are no plain weights (quantised, sparse, without data, of another kind of number than the model's); and
    for weights that are not finite.
    """
    model = innermost(model)
    path = Path(path).expanduser()
    found, taken = _read(path)
    raw, left_out = _backbone(found)
    raw, taken_off = _without_prefix(raw, model, path)
    check_tensors(raw, path)
    weights = _convert(raw, model, path)
    problem = misfit(weights, model, raw)
    if problem:
        raise OptionError(f"{path} does not fit the model: ", *problem)
    converted = _check_kinds(weights, model, path)
    model.load_state_dict(weights, strict=True)
    return (*taken, *left_out, *taken_off, *_changes(raw, weights), *converted)


def _backbone(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The backbone's weights, if the state is that of a reduced model, and what of it is left out in words."""
    if not all(key.startswith(("backbone.", "methods.")) for key in state):
        return state, ()
    learned = [key for key in state if key.startswith("methods.")]
    note = (f"{counted(len(learned), 'key')} of the method left out: {few(learned)}",) if learned else ()
    return {key.removeprefix("backbone."): state[key] for key in state if key not in learned}, note


def _without_prefix(
    state: dict[str, Tensor], model: nn.Module, path: Path
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The model's weights, where they lie in the file of a larger module that held the model under a name of its own.

    A prefix counts where most of the model's keys have it. Raises ValueError where two do (a student and its teacher).
    """
    own = model.state_dict().keys()
    found: dict[str, int] = {}
    for key in state:
        parts = key.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in own:
                prefix = "".join(f"{part}." for part in parts[:cut])
                found[prefix] = found.get(prefix, 0) + 1
    prefixes = [prefix for prefix, count in found.items() if 2 * count >= len(own)]
    if "" in prefixes or not prefixes:
        return state, ()
    if len(prefixes) > 1:
        raise ValueError(f"{path} holds more than one model, under {few(prefixes)}: save one of them alone")
    inside = {key.removeprefix(prefixes[0]): value for key, value in state.items() if key.startswith(prefixes[0])}
    outside = [key for key in state if not key.startswith(prefixes[0])]
    note = f"prefix {prefixes[0]!r} taken off {counted(len(inside), 'key')}"
    return inside, (
        note,
        *((f"{counted(len(outside), 'key')} outside of it left out: {few(outside)}",) * bool(outside)),
    )


def _read(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict in a file; where it lies under a key that timm does not know, which key that is."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the checkpoint file in it ({', '.join(ENDINGS)})")
    if not path.is_file():
        raise ValueError(absent("checkpoint", path, f"give a file ({', '.join(ENDINGS)})"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on old pickle protocols before it refuses them
            state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch, zipfile, pickle and safetensors each raise their own
        raise ValueError(_why_unreadable(path, error)) from error
    if _is_state(state):
        return state, ()
    inside = {key: value for key, value in state.items() if _is_state(value)}
    if len(inside) == 1:
        key, state = inside.popitem()
        return clean_state_dict(state), (f"weights taken from {key!r}",)
    if inside:
        raise ValueError(f"{path} holds more than one state dict, under {few(list(inside))}: save one of them alone")
    strangers = [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    found = f"it holds {few(strangers)}" if strangers else "it is empty"
    raise ValueError(f"{path} is no state dict of tensors: {found}; save model.state_dict()")


def _is_state(found: object) -> bool:
    return (
        isinstance(found, Mapping)
        and bool(found)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items())
    )


def _why_unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{path} cannot be read: {reason(error)}"
    if isinstance(error, SafetensorError):
        return f"{path} is not a safetensors file or is damaged: {first_line(error)}"
    unsafe = _pickled_code(path)
    if unsafe:
        return f"{path} holds pickled code ({few(unsafe)}), which is not run: save model.state_dict() alone"
    return f"{path} is not a checkpoint or is damaged: give a state dict saved by torch.save or safetensors"


def _pickled_code(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except (RuntimeError, ValueError, OSError, EOFError, pickle.UnpicklingError):
        return []


def _check_kinds(weights: Mapping[str, Tensor], model: nn.Module, path: Path) -> tuple[str, ...]:
    """What is converted, in words. Raises ValueError for numbers of another kind, and for those too large for the
    model's precision: torch would cast both without a word."""
    changed: dict[tuple[torch.dtype, torch.dtype], int] = {}
    for key, own in model.state_dict().items():
        given = weights[key]
        if own.is_meta:
            raise ValueError(f"the model has no memory for weights ({key} is on the meta device): build it elsewhere")
        if own.dtype == given.dtype:
            continue
        if own.is_floating_point() != given.is_floating_point() or own.is_complex() != given.is_complex():
            names = f"{bare_name(given.dtype)}, and the model's is {bare_name(own.dtype)}"
            raise ValueError(f"{path} does not fit the model: {key} is {names}: such numbers are not converted")
        if own.is_floating_point() and not given.to(own.dtype).isfinite().all():
            raise ValueError(f"{path}: {key} holds numbers too large for {bare_name(own.dtype)}")
        changed[given.dtype, own.dtype] = changed.get((given.dtype, own.dtype), 0) + 1
    return tuple(
        f"{counted(count, 'tensor')} converted from {bare_name(old)} to {bare_name(new)}"
        for (old, new), count in changed.items()
    )


def _convert(state: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """timm's conversion for the model's family; where that fails, the keys usually tell why."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    _check_patches(state, model, path)
    options = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
    try:
        return convert(dict(state), model, **options)
    except Exception as error:
        reason = misfit(state, model, state) or (f"timm cannot convert it: {first_line(error)}",)
        raise OptionError(f"{path} does not fit the model: ", *reason) from error


def _check_patches(state: dict[str, Tensor], model: nn.Module, path: Path) -> None:
    """timm would resample patches of another size without a word; that is another model."""
    key = "patch_embed.proj.weight"
    own = model.state_dict().get(key)
    if own is not None and key in state and state[key].dim() == 4 and state[key].shape[2:] != own.shape[2:]:
        raise ValueError(
            f"{path} does not fit the model: it has patches of {in_words(state[key][0, 0])} pixels and the model of "
            f"{in_words(own[0, 0])}; choose the model that it was made for"
        )


def _changes(raw: dict[str, Tensor], weights: dict[str, Tensor]) -> tuple[str, ...]:
    resized = [key for key in raw if key in weights and raw[key].shape != weights[key].shape]
    notes = [f"{key} resampled from {in_words(raw[key])} to {in_words(weights[key])}" for key in resized]
    renamed = [key for key in raw if key not in weights]
    return (
        *notes,
        *([f"{counted(len(renamed), 'key')} renamed or left out by timm: {few(renamed)}"] if renamed else []),
    )
