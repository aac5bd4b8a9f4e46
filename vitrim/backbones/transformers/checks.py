"""What of transformers is supported: versions, classes of parts by name, settings that change the arithmetic."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from types import FunctionType
from typing import Any

from torch import nn

from ..admission import Kinds
from ..layers import kind, part_kind, wrapper_advice
from .dialects import VERSIONS, Dialect
from .towers import locate

# What loads weights into torch's own linear layers, which are called with whatever they hold.
QUANTISED = "TorchAo"


@functools.cache
def installed_version() -> str:
    """The version of transformers that is installed."""
    return importlib.metadata.version("transformers")


def check_version() -> None:
    """Raise ValueError for a version of transformers outside the range whose code has been read and tested."""
    version = installed_version()
    low, high = (".".join(map(str, end)) for end in VERSIONS)
    if not VERSIONS[0] <= tuple(int(part) for part in version.split(".")[:2]) < VERSIONS[1]:
        raise ValueError(
            f"transformers {version} is installed, and vitrim runs the models of {low} to before {high}: "
            f'pip install "transformers>={low},<{high}"'
        )


def check_parts(model: nn.Module) -> nn.Module:
    """The model. Raises ValueError where its tower or its layers are not where the table of names has them."""
    located = locate(model)
    path = ".".join(filter(None, (located.path, located.entry.dialect.layers)))
    part: Any = model
    for name in path.split("."):
        part = getattr(part, name, None)
    if not isinstance(part, nn.ModuleList):
        raise ValueError(
            f"{type(model).__name__} has no list of layers at {path}, where transformers {installed_version()} should "
            "have put it: give the model as transformers builds it"
        )
    return model


def check_config(config: Any, whole: Any, name: str) -> None:
    """Raise ValueError for attention other than torch's fused one, whose order of operations the loop follows, and for
    weights that a library of its own has quantised.

    config, whole: of the tower, and of the model that it is in
    """
    way = config._attn_implementation
    if way != "sdpa":
        raise ValueError(
            f'{name} runs attention by "{way}", and only "sdpa" is supported: call '
            'model.set_attn_implementation("sdpa") first'
        )
    said = (getattr(each, "quantization_config", None) for each in (config, whole))
    quantised = next((each for each in said if each is not None), None)
    if quantised is not None and not type(quantised).__name__.startswith(QUANTISED):
        raise ValueError(
            f"{name} was loaded with quantised weights ({type(quantised).__name__}), and only torchao's are supported: "
            "load it without, and reduce it; then quantise the result by torchao.quantization.quantize_"
        )


def check_layers(dialect: Dialect, layers: Iterable[nn.Module]) -> None:
    """Raise ValueError for a layer, or a part of one, of another class than transformers builds there."""
    template, home = dialect.template, f"transformers.models.{dialect.module}"
    for i, layer in enumerate(layers):
        _check_class(f"layer {i}", layer, home, (dialect.layer,))
        _check_class(f"attention of layer {i}", layer._modules.get(template.attention), home, (dialect.attention,))
        _check_class(f"mlp of layer {i}", layer._modules.get("mlp"), home, dialect.mlps, wrapped=True)


def _check_class(what: str, module: Any, home: str, names: tuple[str, ...], wrapped: bool = False) -> None:
    cls = part_kind(module) if wrapped else kind(module)
    if cls.__name__ not in names or cls.__module__ != home:
        advice = wrapper_advice(module) if isinstance(module, nn.Module) else "give the model as transformers builds it"
        allowed = " or ".join(names)
        raise ValueError(
            f"{what} is a {type(module).__name__}, and only transformers' {allowed} is supported: {advice}"
        )


@functools.cache
def kinds_of(cls: Any) -> Kinds:
    """A class of transformers as a part that the loop goes around, with its forward as transformers wrote it."""
    return {cls: {"forward": cls.forward if _is_theirs(cls.forward) else None}}


def _is_theirs(function: FunctionType) -> bool:
    """Whether the code of a function is transformers' own; it wraps some of its functions itself."""
    return "transformers" in Path(function.__code__.co_filename).parts
