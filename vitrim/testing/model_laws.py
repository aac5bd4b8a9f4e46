"""The laws of a reduced model beside its dense self, one function each, for models of timm and of transformers."""

from __future__ import annotations

import copy
import functools
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..common.extras import require
from ..common.quiet import quiet
from ..common.tensor_files import digest
from ..common.text import few
from ..deploy.export import export, has_fixed_counts
from ..deploy.optimize import sharing
from ..methods import Method
from ..runtime.build import reduce
from ..runtime.loading import load
from ..runtime.model import ReducedViT, unwrap
from ..runtime.profile import profile
from ..runtime.saving import save
from .findings import Broken, NotAsked
from .laws import NEAR, check_registered
from .outputs import Outputs, answers_of, outputs_of


@dataclass(frozen=True)
class Pair:
    """A reduced model, its dense self, and images [b, channels, height, width], at least two; both in eval mode.

    fast:    what `vitrim.reduce` gives: of a model of transformers one of its class
    wanted:  what the dense model gives
    before:  names every bit of the dense model's weights, before anything was done with it
    """

    dense: nn.Module
    fast: nn.Module
    images: Tensor
    wanted: Outputs
    before: str

    @property
    def reduced(self) -> ReducedViT:
        """The reduced model for images alone."""
        model: Any = unwrap(self.fast)
        return model

    @functools.cached_property
    def found(self) -> Outputs:
        """What the reduced model gives."""
        return outputs_of(self.fast, self.images)

    @property
    def methods(self) -> list[Method]:
        return list(self.reduced.methods)

    @property
    def own_counts(self) -> bool:
        """Whether images keep numbers of tokens of their own."""
        return not all(map(has_fixed_counts, self.methods))


def identity(pair: Pair) -> None:
    """With nothing to remove, every output is the dense model's, bit for bit."""
    whole = reduce(pair.dense, _removing_nothing(pair)).eval()
    cost = profile(whole)
    if any(count != cost.patches for count in cost.tokens):
        raise NotAsked(f"with its dial at its end it still leaves {min(cost.tokens)} of {cost.patches} patches")
    _check_same(outputs_of(whole, pair.images), pair.wanted, "the model with nothing reduced")


def outputs(pair: Pair) -> None:
    """Every output has the dense model's shape, one token for every patch, and no NaN or infinity that it has not."""
    found = pair.found
    for name, wanted in pair.wanted.items():
        if name not in found:
            raise Broken(f"{name} is missing")
        if found[name].shape != wanted.shape:
            raise Broken(f"{name} is {list(found[name].shape)}, the dense model's {list(wanted.shape)}")
        if wanted.isfinite().all() and not found[name].isfinite().all():
            raise Broken(f"{name} holds NaN or infinity")


def macs(pair: Pair) -> None:
    """`vitrim.profile` counts the multiply-adds that torch's counter does."""
    if any(method.ragged for method in pair.methods):
        raise NotAsked("each image keeps a number of tokens of its own")
    counted = count_macs(pair.reduced, pair.images) / len(pair.images)
    planned = profile(pair.fast, tuple(pair.images.shape[-2:])).macs  # ty: ignore[invalid-argument-type]
    if counted != planned:
        raise Broken(f"vitrim.profile counts {planned:,} MACs for an image, and torch {counted:,.0f}")


def batch(pair: Pair) -> None:
    """An image alone gets what it gets in a batch."""
    image, off = _farthest_alone(pair.reduced, pair.images)
    if off <= NEAR:
        return
    # Scores that are equal up to rounding may be decided either way; what is wrong is wrong in float64 too.
    exact: Any = unwrap(copy.deepcopy(pair.fast).double())
    image, off = _farthest_alone(exact, pair.images.double())
    if off > NEAR:
        raise Broken(f"image {image} gets another result alone than in the batch, by {off:.2g} of its largest value")


def weights(pair: Pair) -> None:
    """The reduced model computes with the dense model's own tensors, and leaves every bit of them as it was."""
    ours = {id(tensor) for tensor in (*pair.fast.parameters(), *pair.fast.buffers())}
    copied = [name for name, tensor in pair.dense.named_parameters() if id(tensor) not in ours]
    if copied:
        raise Broken(f"{few(copied)} of the dense model are not shared")
    if weights_digest(pair.dense) != pair.before:
        raise Broken("the dense model's weights have changed")


def saved(pair: Pair) -> None:
    """Saved and loaded, the model gives the same outputs, bit for bit."""
    for method in pair.methods:
        check_registered(method)
    with tempfile.TemporaryDirectory() as folder:
        try:
            save(pair.fast, folder)
        except ValueError as refusal:  # what would come back as another model is not written
            raise NotAsked(str(refusal)) from None
        again = load(folder).to(pair.images.device)
    answers = answers_of(again, pair.images)
    _check_same(answers, {name: pair.found[name] for name in answers}, "the loaded model")


def onnx(pair: Pair) -> None:
    """Exported to ONNX, it gives what it gives here."""
    try:
        require("export", "export to ONNX")
    except ValueError as missing:
        raise NotAsked(f"not installed: {missing}") from None
    if pair.own_counts:
        raise NotAsked("each image keeps a number of tokens of its own")
    with tempfile.TemporaryDirectory() as folder, quiet(logging.ERROR):
        export(pair.fast, Path(folder) / "model.onnx", images=pair.images)  # it compares the two itself


def count_macs(model: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of one forward as torch counts them, attention run as its two products: before 2.15 torch
    counts the fused kernel on the CPU as nothing."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        sharing(model)(images)  # the counter's hooks trip over parameters that ask for gradients (SigLIP's)
    return counter.get_total_flops() // 2


def weights_digest(model: nn.Module) -> str:
    """Names every bit of a model's parameters and buffers."""
    return digest(dict(part for item in (*model.named_parameters(), *model.named_buffers()) for part in _plain(*item)))


def _plain(name: str, tensor: Any) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors that a tensor is made of: quantised weights are numbers and scales."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:
        yield from _plain(f"{name}.{part}", getattr(tensor, part))


def _check_same(found: Outputs, wanted: Outputs, whose: str) -> None:
    """Raise Broken, naming them, for outputs that are not the same bit for bit."""
    if found.keys() != wanted.keys():
        raise Broken(f"{whose} gives {', '.join(found)}: {', '.join(wanted)} are wanted")
    names = [name for name in wanted if not torch.equal(found[name], wanted[name])]
    alike = [name for name in names if found[name].shape == wanted[name].shape]
    off = max((float((found[name] - wanted[name]).abs().max()) for name in alike), default=float("nan"))
    if names:
        raise Broken(f"{few(names)} of {whose} differ, by up to {off:.2g}")


def _removing_nothing(pair: Pair) -> list[Method]:
    """The methods with their dials at the end where nothing is left out. Raises NotAsked where there is no such end."""
    if any(method.ragged for method in pair.methods):
        raise NotAsked("each image keeps a number of tokens of its own")
    whole = []
    for method in pair.methods:
        values = method.dial_values(pair.reduced.body)
        try:
            whole.append(method.with_dial(1.0 if values is None else values[-1]))
        except (TypeError, AttributeError) as error:
            raise NotAsked(f"{method.name} has no {method.dial} to turn ({error})") from None
    return whole


def _farthest_alone(model: nn.Module, images: Tensor) -> tuple[int, float]:
    """The image whose result alone is farthest from its row in the batch, and how far, as a share of its largest
    value."""
    together, worst = model(images), (0, 0.0)
    for j in range(len(images)):
        alone = model(images[j : j + 1])[0].double()
        off = float((together[j].double() - alone).abs().max() / alone.abs().max().clamp(min=1e-6))
        worst = max(worst, (j, off if off == off else float("inf")), key=lambda found: found[1])
    return worst


LAWS = (identity, outputs, macs, batch, weights, saved, onnx)
