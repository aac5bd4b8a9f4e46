"""The model that the options name: built, filled with weights, or refused in one line."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...backbones import find_family, library_of, library_with
from ...backbones.strangers import named
from ...backbones.weights import check_tensors
from ...common.on_meta import on_meta
from ...common.text import cut, first_line, first_sentence, shortened
from ...runtime.loading import CONFIG, holds_file, load
from ...runtime.model import ReducedViT, for_images
from ...runtime.pretrained_files import holds_pretrained, is_pretrained, open_pretrained
from .flags import in_flags
from .model_names import refuse_exported
from .options import ModelOptions
from .reaching import over_network, unreached
from .table import say

STEPS = "steps.csv"


@dataclass(frozen=True)
class Subject:
    """The dense model under test, the name to print, and what it was saved with, if it comes from a saved folder.

    label: what to call the dense model: the backbone of a folder may have been fine-tuned with its method
    """

    name: str
    dense: nn.Module
    saved: ReducedViT | None = None
    label: str = "dense"

    @property
    def for_images(self) -> nn.Module:
        """The dense model as a function from images to logits or features."""
        return for_images(self.dense)


def open_model(options: ModelOptions) -> Subject:
    """The dense model with its weights, in evaluation mode, on the CPU.

    Raises ValueError for names, sizes and checkpoints that do not fit, and weights that cannot be downloaded.
    """
    if options.checkpoint is not None and options.checkpoint.expanduser().is_dir():
        return _saved(options.checkpoint.expanduser(), options)
    name, arguments = _name(options), _arguments(options)
    _check_buildable(name, arguments)
    if options.checkpoint is None:
        return Subject(name, _normalised(_pretrained(name, arguments), options).eval())
    model = _create(name, **arguments)
    for change in library_with(name).load_checkpoint(model, options.checkpoint):
        say(f"{options.checkpoint}: {change}")
    return Subject(name, _normalised(model, options).eval())


def open_untrained(options: ModelOptions, seed: int) -> Subject:
    """The model with random weights, the same for the same seed, to be trained from scratch.

    Raises ValueError for names and sizes that do not fit, and for a checkpoint beside it.
    """
    if options.checkpoint is not None:
        raise ValueError("--scratch starts from random weights: leave out --checkpoint")
    name, arguments = _name(options), _arguments(options)
    _check_buildable(name, arguments)
    torch.manual_seed(seed)
    return Subject(name, _normalised(_create(name, **arguments), options).eval())


def open_model_without_weights(options: ModelOptions) -> Subject:
    """The model on the meta device, for what depends on shapes alone. A checkpoint, where given, is read and must fit.

    Raises ValueError as `open_model` does.
    """
    if options.checkpoint is not None:
        return open_model(options)
    name = _name(options)
    return Subject(name, _normalised(_check_buildable(name, _arguments(options)), options).eval())


def open_guide(subject: Subject, name: str, checkpoint: Path | None) -> nn.Module:
    """The model that guides another one, at that one's image size; without weights if that one has none.

    Raises ValueError as `open_model` does.
    """
    size = library_of(subject.dense).image_size(subject.dense)
    options = ModelOptions(model=name, checkpoint=checkpoint, image_size=tuple(size or ()))
    if checkpoint is not None and checkpoint.expanduser().is_dir():
        raise ValueError(f"--guide-checkpoint {checkpoint} is a folder: give a file with the weights of {name}")
    shapes_alone = next(subject.dense.parameters()).is_meta
    return (open_model_without_weights if shapes_alone else open_model)(options).dense


def _name(options: ModelOptions) -> str:
    if options.model is None:
        raise ValueError(
            "no model: give --model NAME, such as deit_small_patch16_224, or --checkpoint FOLDER from save()"
        )
    refuse_exported(options.model)
    library_with(options.model)  # raises for a name that none has
    return options.model


def _arguments(options: ModelOptions) -> dict[str, Any]:
    size, arguments = options.image_size, {}
    if size and (len(size) > 2 or min(size) < 1):
        raise ValueError(f"--image-size {' '.join(map(str, size))}: give one side in pixels, or height and width")
    if options.model and not library_with(options.model).argument_names:
        typed = [key for key in ("num_classes", "in_chans") if getattr(options, key) is not None]
        if typed:
            flag = f"--{typed[0].replace('_', '-')}"
            raise ValueError(f"{shortened(options.model)} is built as its config.json says: leave out {flag}")
        return {}
    if size:
        arguments["img_size"] = size[0] if len(size) == 1 else size
    if options.num_classes is not None:
        if options.num_classes < 0:
            raise ValueError(f"--num-classes {options.num_classes}: give the number of classes, 0 for no classifier")
        arguments["num_classes"] = options.num_classes
    if options.in_chans is not None:
        if options.in_chans < 1:
            raise ValueError(f"--in-chans {options.in_chans}: give the number of channels, from 1")
        arguments["in_chans"] = options.in_chans
    return arguments


def _normalised(model: nn.Module, options: ModelOptions) -> nn.Module:
    """The model with the mean and standard deviation that were typed in its configuration; of a library whose models
    are built without arguments, with the image size too."""
    library, size = library_of(model), options.image_size
    if size and not library.argument_names and (size[0], size[-1]) != library.image_size(model):
        library.set_size(model, (size[0], size[-1]), library.patch_size(model) or (1, 1))
    typed = {key: tuple(value) for key in ("mean", "std") if (value := getattr(options, key))}
    if not typed and (guess := library.guessed(model)):
        say(f"{guess}: --mean and --std say otherwise")
    if typed:
        library.record_data(model, typed)
    return model


def _check_buildable(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The model on the meta device: before anything is downloaded or filled, can it be built, and is it supported?"""
    with on_meta():
        model = _created(name, {})
        try:
            find_family(model)
        except ValueError as error:
            raise ValueError(_by_name(in_flags(error), model, name)) from error
        return _created(name, arguments) if arguments else model


def _by_name(message: str, model: nn.Module, name: str) -> str:
    """A message about a model with the name that was typed, beside its class."""
    cls, name = named(model), shortened(name)
    return f"{name} ({cls}){message.removeprefix(cls)}" if message.startswith(cls) else f"{name}: {message}"


def _created(name: str, arguments: dict[str, Any]) -> nn.Module:
    mistakes: Any = (RuntimeError, TypeError, ValueError, AssertionError, OSError)
    if library_with(name).looks_up(name):
        mistakes = Exception  # every hub raises its own
    try:
        return _create(name, **arguments)
    except mistakes as error:
        raise ValueError(_why_not_built(name, arguments, error)) from error


def _why_not_built(name: str, arguments: dict[str, Any], error: Exception) -> str:
    library = library_with(name)
    if server := unreached(error):
        way = f"give the name of its architecture in {library.name} and a local file: --model NAME --checkpoint FILE"
        way = way if library.has_list else "give a folder with config.json and weights"
        return f"{shortened(name)} cannot be looked up: no connection to {server}; {way}"
    if not library.has_list:  # its messages name the place
        return str(error)
    given = "".join(f" with {key}={value}" for key, value in arguments.items())
    return f"{library.name} cannot build {name}{given}: {first_line(error)}"


def _create(name: str, **arguments: Any) -> nn.Module:
    """The library's model of that name."""
    library = library_with(name)
    remote = library.looks_up(name) or arguments.get("pretrained", False)
    with over_network(name, *library.loggers) if remote else nullcontext():
        return library.create(name, **arguments)


def _pretrained(name: str, arguments: dict[str, Any]) -> nn.Module:
    library = library_with(name)
    if not library.looks_up(name) and not library.has_weights(name):
        raise ValueError(f"{library.name} has no pretrained weights for {name}: give --checkpoint FILE")
    whose = "the" if library.looks_up(name) else f"{library.name}'s pretrained"
    is_here = library.looks_up(name) and Path(name.partition(":")[2]).is_dir()
    fetched = "" if is_here else " (downloaded at first use)"
    say(f"reading {whose} weights of {name}{fetched}")
    if is_here and is_pretrained(folder := name.partition(":")[2]):
        say(f"{folder} holds a reduced model, and this is the dense one of it: --checkpoint {folder} takes the reduced")
    try:
        return _create(name, pretrained=True, **arguments)
    except Exception as error:  # every transport, cache and hub raises its own
        what = f"the pretrained weights of {shortened(name, 60)} cannot be"
        way = "give a local file with --checkpoint FILE"
        if server := unreached(error):
            raise ValueError(f"{what} downloaded: no connection to {server}; {way}") from error
        if isinstance(error, ValueError) and not library.has_list:  # its messages name the place, and the way out
            raise
        raise ValueError(f"{what} read or downloaded ({cut(first_sentence(error), 120)}): {way}") from error


def _saved(folder: Path, options: ModelOptions) -> Subject:
    fixed = ("image_size", "num_classes", "in_chans", "mean", "std")
    typed = [f"--{key.replace('_', '-')}" for key in fixed if getattr(options, key) not in (None, ())]
    if typed:
        raise ValueError(
            f"{folder} was saved with its image size, classes, channels and normalisation: leave out "
            f"{' and '.join(typed)}"
        )
    dense, saved = _opened(folder)
    check_tensors(saved.state_dict(), folder)
    name = library_of(saved.backbone).architecture(saved.backbone) or ""
    if options.model not in (None, name):
        raise ValueError(f"{folder} holds a {name}, not a {options.model}: leave out --model")
    trained = (folder / STEPS).exists()  # a run of `vitrim finetune` has written it
    label = "dense (fine-tuned backbone)" if trained else "dense (saved backbone)"
    return Subject(name, dense.eval(), saved, label)


def _opened(folder: Path) -> tuple[nn.Module, ReducedViT]:
    """The dense model and the reduced one of a saved folder, over the same weights."""
    if is_pretrained(folder):
        return open_pretrained(folder)
    if not holds_file(folder, CONFIG):
        raise ValueError(
            f"{folder} is a folder without {CONFIG}: give a checkpoint file, or a folder written by save()"
        )
    if holds_pretrained(folder):
        raise ValueError(f"{folder} holds a model of transformers that is not reduced: give --model hf:{folder}")
    saved = load(folder)
    return saved.backbone, saved
