"""The laws, one function each: it returns where the law holds, and says in a sentence what is wrong where not."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import TIMM
from ..methods import METHODS, Method
from ..runtime.loading import load
from ..runtime.model import ReducedViT
from ..runtime.profile import profile
from ..runtime.records import BlockTrace
from ..runtime.saving import save
from .findings import Broken, NotAsked

NEAR = 1e-4  # a batch is computed in another order than one image


@dataclass(frozen=True)
class Subject:
    """A method on a model, in eval mode, and images [b, 3, height, width] that it runs on."""

    method: Method
    reduced: ReducedViT
    images: Tensor

    @property
    def dense(self) -> Any:
        """The model without the method."""
        return self.reduced.backbone

    @property
    def own_counts(self) -> bool:
        """Whether images keep numbers of tokens of their own."""
        return any(method.ragged for method in self.reduced.methods)


def small_model() -> nn.Module:
    """A Vision Transformer of 12 blocks for images of 40 x 40 pixels (25 patches), with random weights, in eval mode.

    All its parameters are random: attention that is almost uniform, as of a fresh model, would hide mistakes.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        size: dict[str, Any] = dict(
            img_size=40, patch_size=8, embed_dim=48, depth=12, num_heads=3, mlp_ratio=2.0, num_classes=7
        )
        model = TIMM.create("vit_tiny_patch16_224", **size)
        for p in model.parameters():
            spread = 0.3 if p.dim() < 2 else 1.3 / p[0].numel() ** 0.5
            p.add_(torch.randn_like(p) * spread)
    return model.eval()


def keeps_all(subject: Subject) -> None:
    """With nothing to remove, the result is the dense model's, bit for bit."""
    whole = _with_nothing_removed(subject)
    if not torch.equal(whole(subject.images), subject.dense(subject.images)):
        raise Broken(
            f"with {whole.methods[0].extra_repr() or 'nothing removed'} the logits differ from the dense model's"
        )


def same_again(subject: Subject) -> None:
    """The same images give the same result, whatever ran in between."""
    first = subject.reduced(subject.images)
    subject.reduced(subject.images.flip(-1) + 1)
    if not torch.equal(subject.reduced(subject.images), first):
        raise Broken("the same images gave other logits the second time: does it draw at random, or keep something?")


def images_are_alone(subject: Subject) -> None:
    """Every image of a batch gets what it would get alone."""
    together, trace = subject.reduced(subject.images, trace=True)
    for j in range(len(subject.images)):
        alone, own = subject.reduced(subject.images[j : j + 1], trace=True)
        block = _first_difference(trace, own, j)
        if block is not None:
            raise Broken(f"image {j} keeps other tokens in block {block} of the batch than alone")
        off = (together[j] - alone[0]).abs().max().item()
        if not off <= NEAR * max(1.0, alone.abs().max().item()):
            raise Broken(f"image {j} gets other logits in the batch than alone, by {off:.2g}")


def plan_is_what_runs(subject: Subject) -> None:
    """`vitrim.profile` counts the tokens that are there when the model runs."""
    if subject.own_counts:
        raise NotAsked("each image keeps a number of tokens of its own")
    planned = profile(subject.reduced).tokens
    _, trace = subject.reduced(subject.images, trace=True)
    for block, (count, record) in enumerate(zip(planned, trace, strict=True)):
        if record.kept.shape[1] != count:
            raise Broken(f"`count` plans {count} patch tokens in block {block}, and {record.kept.shape[1]} are there")


def every_token_is_kept_once(subject: Subject) -> None:
    """No token is kept twice."""
    _, trace = subject.reduced(subject.images, trace=True)
    for record in trace:
        for j, kept in enumerate(record.kept):
            there, times = kept[kept >= 0].unique(return_counts=True)
            if (times > 1).any():
                raise Broken(f"image {j} has patch {there[times > 1][0]} {times.max()} times in block {record.block}")


def every_patch_has_a_feature(subject: Subject) -> None:
    """With restore=True there is one finite feature for every patch."""
    dense = subject.dense.forward_features(subject.images)
    restored = subject.reduced.forward_features(subject.images, restore=True)
    if restored.shape != dense.shape:
        raise Broken(f"restored features are {list(restored.shape)}, the dense model's {list(dense.shape)}")
    if not restored.isfinite().all():
        raise Broken("restored features have NaN or infinity")


def comes_back_from_disk(subject: Subject) -> None:
    """Saved and loaded, the model gives the same result, bit for bit."""
    check_registered(subject.method)
    with tempfile.TemporaryDirectory() as folder:
        save(subject.reduced, folder)
        again = load(folder)
    if not torch.equal(again(subject.images), subject.reduced(subject.images)):
        raise Broken("the loaded model gives other logits: is every option of `__init__` an attribute of that name?")


def check_registered(method: Method) -> None:
    """Raise NotAsked for a method that `load` would not know by its name."""
    if METHODS.get(method.name) is not type(method):
        raise NotAsked(f"{method.name} is not registered: put @vitrim.register_method above its class")


def _with_nothing_removed(subject: Subject) -> ReducedViT:
    """The method with its dial at the end where nothing is left out. Raises NotAsked where there is no such end."""
    method = subject.method
    if subject.own_counts:
        raise NotAsked("each image keeps a number of tokens of its own")
    try:
        values = method.dial_values(subject.reduced.body)
        whole = ReducedViT(subject.dense, [method.with_dial(1.0 if values is None else values[-1])]).eval()
    except (TypeError, AttributeError) as error:
        raise NotAsked(f"it has no {method.dial} to turn ({error})") from None
    cost = profile(whole)
    if any(count != cost.patches for count in cost.tokens):
        raise NotAsked(f"with {method.dial} at its largest it still plans {min(cost.tokens)} of {cost.patches} patches")
    return whole


def _first_difference(batch: list[BlockTrace], alone: list[BlockTrace], j: int) -> int | None:
    """The first block in which image j of a batch has other tokens than alone."""
    for a, b in zip(batch, alone, strict=True):
        m = b.kept.shape[1]  # another image may have more
        same = torch.equal(a.kept[j, :m], b.kept[0]) and torch.equal(a.owners[j], b.owners[0])
        if not same or (a.kept[j, m:] >= 0).any():
            return a.block
    return None


LAWS = (
    *(keeps_all, same_again, images_are_alone, plan_is_what_runs),
    *(every_token_is_kept_once, every_patch_has_a_feature, comes_back_from_disk),
)
