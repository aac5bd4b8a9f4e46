"""Exported files as the models of `evaluate` and `compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...backbones import library_of
from ...deploy.opened import OpenedFile, is_exported, open_exported
from .model import Subject, open_model, open_model_without_weights
from .options import DataOptions, ModelOptions, OutputOptions, RunOptions
from .spec import options_of

DATA = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True)
class FilePlan:
    """A row that is an exported file; named as the plans of reduced models are."""

    label: str
    model: OpenedFile
    budget: float | None = None

    @property
    def name(self) -> str:
        """The methods of the model that it was made from."""
        return "+".join(method["method"] for method in self.model.about["methods"]) or "dense"

    @property
    def options(self) -> dict[str, Any]:
        """Their options, and which file this is."""
        about = self.model.about
        found = {method["method"]: method["options"] for method in about["methods"]}
        options = next(iter(found.values())) if len(found) == 1 else found
        return {**options, "file": str(self.model.path), "format": about["format"], "int8": about.get("int8")}


def file_plans(files: Sequence[Path]) -> list[FilePlan]:
    """The files, opened. Raises ValueError as `open_exported` does, and for two rows of one name."""
    if len(set(files)) < len(files):
        raise ValueError("--file names a file twice: give each once")
    names = [path.name for path in files]
    labels = names if len(set(names)) == len(names) else list(map(str, files))
    return [FilePlan(label, open_exported(path)) for label, path in zip(labels, files, strict=True)]


def any_method(method: Any) -> bool:
    """Whether reduced models are asked for beside files, which stand alone otherwise."""
    return method.asks


def on_cpu(run: RunOptions, path: Path) -> None:
    """Set the device of exported files. Raises ValueError for another one, and for numbers that are not theirs."""
    if run.device not in (None, "cpu"):
        raise ValueError(f"--device {run.device}: {path} runs on the CPU, leave it out")
    if run.precision != "float32":
        raise ValueError(f"--precision {run.precision}: {path} computes in the numbers it was written in, leave it out")
    run.device = "cpu"


def check_fits(opened: OpenedFile, dense: nn.Module) -> None:
    """Raise ValueError where a file takes other images than the dense model, or gives other classes."""
    about, path, config = opened.about, opened.path, _config_of(dense)
    if about["classes"] != config["classes"]:
        raise ValueError(
            f"{path} tells {about['classes']} classes apart, and the dense model {config['classes']}: give another"
        )
    for key, way in (("input_size", "--image-size"), ("mean", "--mean"), ("std", "--std")):
        own, wanted = (list(each[key][1:] if key == "input_size" else each[key]) for each in (about, config))
        if own != wanted:
            said, told = (" ".join(f"{value:g}" for value in values) for values in (wanted, own))
            raise ValueError(f"{path} was made for images of {way} {told}, and the dense model has {said}: give {way}")


def check_same_model(opened: OpenedFile, name: str) -> None:
    """Raise ValueError where a file is of another model: what it saves would be taken for the method's doing."""
    said = opened.about["model"]
    if said != name:
        raise ValueError(f"{opened.path} is of {said}, and the dense model is {name}: give --model {said}")


def named_file(config: Any) -> Path | None:
    """The exported file that `--model` of `evaluate` names, if it names one.

    Raises ValueError for options beside it that a file has settled.
    """
    name = config.model.model
    if name is None or not is_exported(name):
        return None
    groups = (("data", DataOptions), ("run", RunOptions), ("output", OutputOptions))
    free = {option.name for group, cls in groups for option in options_of(group, cls)} | {"model", "baseline"}
    settled = [f"--{key}" for key in config.given if key not in free]
    if settled:
        raise ValueError(f"{name} is a whole model, with its weights and its method: leave out {' and '.join(settled)}")
    return Path(name)


def as_config(opened: OpenedFile) -> dict[str, Any]:
    """How the file wants its images, and what it knows of its classes, as timm's models say it."""
    about = opened.about
    found = {key: tuple(value) if isinstance(value := about[key], list) else value for key in DATA}
    return {**found, "num_classes": about["classes"], "label_names": about.get("label_names") or None}


def open_dense_of(opened: OpenedFile, given: str) -> Subject:
    """The dense model that `--baseline` names, beside a file: weights of its architecture, a saved folder, or a name.

    Raises ValueError for what is none of these, and for a model that takes other images or gives other classes.
    """
    path, about = Path(given).expanduser(), opened.about
    options = ModelOptions(model=given)
    if path.is_dir():
        options = ModelOptions(checkpoint=path)
    elif path.is_file():
        options = ModelOptions(model=about["model"], checkpoint=path, num_classes=about["classes"])
        options.image_size = _other_size(about)
    subject = open_model(options)
    check_fits(opened, subject.dense)
    return subject


def _other_size(about: dict[str, Any]) -> tuple[int, ...]:
    """The file's image size, empty where it is the one that the model's name stands for."""
    dense = open_model_without_weights(ModelOptions(model=about["model"])).dense
    size = library_of(dense).image_size(dense)
    wanted = tuple(about["input_size"][1:])
    return () if size in (None, wanted) else wanted


def _config_of(dense: nn.Module) -> dict[str, Any]:
    library = library_of(dense)
    data = library.data_config(dense)
    size = library.image_size(dense) or data["input_size"][1:]
    return {**data, "input_size": (data["input_size"][0], *size), "classes": library.classes(dense)}
