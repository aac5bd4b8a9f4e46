"""A model's graph, as `torch.export` records it, for the files that it is written to."""

from __future__ import annotations

import warnings
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

Program = torch.export.ExportedProgram
RESAMPLED = "aten._upsample_bi"  # bilinear or bicubic, with antialiasing


def record(model: nn.Module, example: Tensor, any_batch: bool) -> Program:
    """The model's graph for batches of any size, or of the example's.

    Example:
        >>> program = record(model, images, any_batch=True)
        >>> program.module()(images[:1]).shape
        torch.Size([1, 2])
    """
    program = _export(model, example, any_batch)
    if not any(_is_resampled(node) for node in program.graph.nodes):
        return program
    return _export(_with_positions(program.module()), example, any_batch)


def _export(model: nn.Module, example: Tensor, any_batch: bool) -> Program:
    shapes = ({0: torch.export.Dim.DYNAMIC},) if any_batch else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch takes for a constant
        return torch.export.export(model, (example,), dynamic_shapes=shapes)


def _is_resampled(node: fx.Node) -> bool:
    return str(node.target).startswith(RESAMPLED)


def _with_positions(module: Any) -> nn.Module:
    """The graph with its position embeddings at the size that they are needed at.

    A timm model that takes images of any size resamples them in each forward, when it is exported even from a size to
    the same. A file has one size of images, and OpenVINO and AOTInductor have no such operator.
    """
    for number, node in enumerate([node for node in module.graph.nodes if _is_resampled(node)]):
        with torch.no_grad():
            module.register_buffer(f"positions_{number}", _value(module, node).detach().contiguous())
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(f"positions_{number}"))
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _value(module: nn.Module, node: fx.Node) -> Any:
    """What a node gives that depends on weights alone."""
    if node.op == "get_attr":
        return attrgetter(str(node.target))(module)
    function: Any = node.target
    return function(*map_arg(node.args, lambda each: _value(module, each)), **node.kwargs)
