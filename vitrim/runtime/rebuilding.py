"""A model made again from what a config says: first its shapes alone, then its memory, then its values."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import library_of, library_with
from ..common.on_meta import Undrawn
from ..methods import LastClassAttention, Method
from .build import attach, make_method
from .model import ReducedViT
from .saved_config import DTYPES, Architecture, SavedConfig, SavedMethod

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]  # of the tensors in a file, by name

_ALONE = threading.RLock()  # torch keeps the device of a `with` for all threads
SPARE = 1 << 28  # bytes of tables that a model works out for itself (positions, window masks), beside 4 x its weights


@contextmanager
def on(device: str) -> Generator[None]:
    """What is made, is made there, whatever the caller's default is; one thread at a time."""
    with _ALONE, torch.device(device):
        yield


def build_shapes(config: SavedConfig, tensors: int | None = None) -> ReducedViT:
    """The model without memory, on the meta device, in its dtype.

    tensors: number of tensors that are there to fill it; no model has more blocks than that
    Raises ValueError for what the library cannot build, and for methods that the model cannot carry.
    """
    with on("meta"), Undrawn():
        backbone = _backbone(config.architecture, tensors)
        methods = [build_method(method, tensors) for method in config.methods]
        model = attach(backbone, methods, prediction_only=config.prediction_only)
    library_of(backbone).record_data(backbone, config.data)
    return model.to(DTYPES[config.dtype or "float32"])


def _backbone(architecture: Architecture, tensors: int | None) -> nn.Module:
    arguments: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in architecture.arguments.items()
    }
    for key in ("depth", "depths"):
        blocks = arguments.get(key, 0)
        if tensors is not None and sum(blocks if isinstance(blocks, tuple) else (blocks,)) > tensors:
            raise ValueError(f"arguments: {key}={blocks}, and the file of weights has {tensors} tensors")
    return library_with(architecture.name).create(architecture.name, **arguments)


def build_method(saved: SavedMethod, tensors: int | None = None) -> Method:
    """The method that a config names."""
    guide = {} if saved.guide is None else {"score": LastClassAttention(_backbone(saved.guide, tensors))}
    return make_method(saved.name, **{**saved.options, **guide})


def give_memory(model: ReducedViT) -> ReducedViT:
    """The model on the CPU: tables that no file holds have their values, weights have none yet."""
    tables = list(live_tables(model))
    needed = sum(table.numel() * table.element_size() for *_, table in tables)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    if needed > SPARE + 4 * weights:
        raise ValueError(f"it asks for {needed / 1e9:.1f} GB of tables beside {weights / 1e9:.3f} GB of weights")
    owners: dict[Any, None] = dict.fromkeys(owner for owner, *_ in tables)
    with on("cpu"), torch.no_grad():
        model.to_empty(device="cpu")
        for owner in owners:
            owner.init_non_persistent_buffers()
    return model


def live_tables(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Buffers that no state dict holds: (their module, their full name, themselves)."""
    for path, module in model.named_modules():
        for name in sorted(module._non_persistent_buffers_set):
            if module._buffers.get(name) is not None:
                yield module, f"{path}.{name}" if path else name, module._buffers[name]


def check_tensors(model: ReducedViT, stored: Shapes, config: SavedConfig) -> None:
    """Raise ValueError where the tensors of a file are not exactly the model's, by name, shape and dtype."""
    wanted = model.state_dict()
    tables = {name: table for _, name, table in live_tables(model)}
    missing, strange = (
        [n for n in wanted if n not in stored],
        [n for n in stored if n not in wanted and n not in tables],
    )
    if missing or strange:
        message = f"{missing[0]} is missing" if missing else f"{strange[0]} belongs to nothing in the model"
        raise ValueError(
            f"the weights are of another model: {message} ({len(missing)} missing, {len(strange)} too many)"
        )
    for name, (shape, dtype) in stored.items():
        tensor = wanted[name] if name in wanted else tables[name]
        if shape != tuple(tensor.shape):
            raise ValueError(f"the weights are of another model: {name} is {list(shape)}, not {list(tensor.shape)}")
        expected = DTYPES[config.dtypes[name]] if name in config.dtypes else tensor.dtype
        if dtype != expected:
            raise ValueError(f"the weights are of another model: {name} is {dtype}, not {expected}")


def fill(model: ReducedViT, tensors: Mapping[str, Tensor]) -> ReducedViT:
    """Let these tensors be the model's own, as they are; names and shapes have been checked."""
    tables = {name: (owner, name.rpartition(".")[2]) for owner, name, _ in live_tables(model)}
    for name, (owner, key) in tables.items():
        if name in tensors:
            owner._buffers[key] = tensors[name]
    state = {name: tensor for name, tensor in tensors.items() if name not in tables}
    model.load_state_dict(state, strict=True, assign=True)
    return model
