"""Weights from a file into a timm model, or one line that says why they do not fit."""

import inspect
import pickle
import sys
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from timm.models import load_state_dict
from timm.utils import unwrap_model
from torch import Tensor, nn

from ...common.text import few, first_line

_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")


def load_checkpoint(model: nn.Module, path: str | Path) -> tuple[str, ...]:
    """Load a timm state dict into `model`, every key of it, and say what had to be changed on the way.

    Reads .safetensors, and .pth, .pt, .bin with `weights_only`: nothing is unpickled. Weights may lie under
    `state_dict_ema`, `model_ema`, `state_dict` or `model` (the first of these that is there), with the prefixes of DDP
    and torch.compile. timm's own conversion for the model's family is applied: it renames the keys of original releases
    (DINOv2, DeiT-III, CLIP) and resamples position embeddings of another resolution. Of a reduced model's
    `model.safetensors` the backbone is taken. A model that is compiled or wrapped by DDP is unwrapped.

    Returns the changes in words; empty if the weights went in as they were. Raises ValueError, and leaves the model as
    it was, for a file that is missing, no checkpoint, or pickled code, and for missing, unexpected or misshapen keys.
    """
    model = unwrap_model(model)
    path = Path(path).expanduser()
    raw, left_out = _backbone(_read(path))
    weights = _convert(raw, model, path)
    problem = _misfit(weights, model, raw)
    if problem:
        raise ValueError(f"{path} does not fit the model: {problem}")
    model.load_state_dict(weights, strict=True)
    return (*left_out, *_changes(raw, weights))


def _backbone(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The backbone's weights, if the state is that of a reduced model, and what of it is left out in words."""
    if not all(key.startswith(("backbone.", "methods.")) for key in state):
        return state, ()
    learned = [key for key in state if key.startswith("methods.")]
    note = (f"{len(learned)} keys of the method left out: {few(learned)}",) if learned else ()
    return {key.removeprefix("backbone."): state[key] for key in state if key not in learned}, note


def _read(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the checkpoint file in it ({', '.join(_ENDINGS)})")
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}: give a file ({', '.join(_ENDINGS)})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on old pickle protocols before it refuses them
            state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch, zipfile, pickle and safetensors each raise their own
        raise ValueError(_why_unreadable(path, error)) from error
    strangers = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strangers or not state:
        found = f"it holds {few(strangers)}" if strangers else "it is empty"
        raise ValueError(f"{path} is no state dict of tensors: {found}; save model.state_dict()")
    return state


def _why_unreadable(path: Path, error: Exception) -> str:
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
        reason = _misfit(state, model, state) or f"timm cannot convert it: {first_line(error)}"
        raise ValueError(f"{path} does not fit the model: {reason}") from error


def _check_patches(state: dict[str, Tensor], model: nn.Module, path: Path) -> None:
    """timm would resample patches of another size without a word; that is another model."""
    key = "patch_embed.proj.weight"
    own = model.state_dict().get(key)
    if own is not None and key in state and state[key].dim() == 4 and state[key].shape[2:] != own.shape[2:]:
        raise ValueError(
            f"{path} does not fit the model: it has patches of {_shape(state[key][0, 0])} pixels and the model of "
            f"{_shape(own[0, 0])}; choose the model that it was made for"
        )


def _misfit(weights: dict[str, Tensor], model: nn.Module, raw: dict[str, Tensor]) -> str:
    """What is missing, unexpected or misshapen (as the file has it), and what to do; empty where all fits."""
    own = model.state_dict()
    missing = [key for key in own if key not in weights]
    unexpected = [key for key in weights if key not in own]
    bad = [key for key in own if key in weights and own[key].shape != weights[key].shape]
    misshapen = [f"{key} ({_shape(raw.get(key, weights[key]))}, not {_shape(own[key])})" for key in bad]
    named = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    found = [f"{len(keys)} {what}: {few(keys)}" for what, keys in named.items() if keys]
    return "; ".join([*found, _advice(bad, weights)]) if found else ""


def _advice(misshapen: list[str], weights: dict[str, Tensor]) -> str:
    heads = [key for key in misshapen if key.startswith("head") and weights[key].dim() == 2]
    if heads and all(key.startswith("head") for key in misshapen):
        return f"the checkpoint has {weights[heads[0]].shape[0]} classes: create the model with as many"
    return "choose the model that it was made for"


def _changes(raw: dict[str, Tensor], weights: dict[str, Tensor]) -> tuple[str, ...]:
    resized = [key for key in raw if key in weights and raw[key].shape != weights[key].shape]
    notes = [f"{key} resampled from {_shape(raw[key])} to {_shape(weights[key])}" for key in resized]
    renamed = [key for key in raw if key not in weights]
    return (*notes, *([f"{len(renamed)} keys renamed or left out by timm: {few(renamed)}"] if renamed else []))


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "scalar"
