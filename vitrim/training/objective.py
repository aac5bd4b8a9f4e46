"""From what a student and its teacher say about a batch to the parts of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import LVViT, TokenLogits, find_family
from ..common.errors import OptionError
from ..runtime.cost import whole_macs
from ..runtime.model import ReducedViT
from ..runtime.profile import image_macs
from ..runtime.records import LossInputs
from . import losses
from .recipes import Recipe
from .shares import approximates, at_origin, frozen_tokens, held_by_ratio, held_places, learns_counts, own_counts


@dataclass(frozen=True)
class TeacherOutputs:
    """What the teacher says of a batch: logits, final tokens [b, p+n0, c] after the norm, the tokens after chosen
    blocks, before the norm, and each patch's own logits [b, n0, k] (LV-ViT, where they are asked for)."""

    logits: Tensor
    tokens: Tensor
    stages: dict[int, Tensor] = field(default_factory=dict)
    patch_logits: Tensor | None = None


class Teacher(nn.Module):
    """The dense model, always in eval mode, never trained.

    after:          blocks whose tokens the losses ask for
    labels_patches: whether they ask for logits of every patch, which LV-ViT's auxiliary head gives
    """

    def __init__(self, model: nn.Module, after: Sequence[int] = (), labels_patches: bool = False):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.after, self.labels_patches = tuple(after), labels_patches

    def train(self, mode: bool = True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> TeacherOutputs:
        body = find_family(self.model)(self.model)
        tokens, stages = body.begin(body.embed(body.receive(images))), {}
        for i in range(body.depth):
            tokens = body.run_block(i, tokens)
            if i in self.after:
                stages[i] = tokens.x
        tokens = body.finish(tokens)
        tokens = tokens.with_x(body.norm(tokens.x))
        if not self.labels_patches:
            return TeacherOutputs(body.deliver(body.head(tokens)), tokens.x, stages)
        said = body.model.token_logits(tokens.x)
        return TeacherOutputs(said.prediction(), tokens.x, stages, said.token_logits)


def check_labels_patches(model: nn.Module) -> None:
    """Raise ValueError for a dense model that cannot teach token labels: it needs a classifier on every patch."""
    if not isinstance(model, LVViT):
        raise OptionError(
            f"token labels are what LV-ViT's auxiliary head says of every patch, and {type(model).__name__} has none: "
            "use a model such as lvvit_s, or ",
            {"token_labels": 0},
        )
    classes = getattr(model.aux_head, "out_features", 0)
    if not classes or classes != model.num_classes:
        raise ValueError(
            f"token labels: the auxiliary head tells {classes} classes apart and the model {model.num_classes}: give "
            "both heads the same classes (reset_classifier), or set the weight token_labels to 0"
        )


@dataclass(frozen=True)
class Objective:
    """The parts of a recipe's loss for one student.

    budget, dense: the MACs to learn towards (ToFe), and the dense model's
    student:       the model whose methods left the records, for the losses that look at them
    """

    recipe: Recipe
    budget: float
    dense: float
    student: Any = None

    def parts(self, said: Any, loss_inputs: LossInputs, target: Tensor, teacher: Any) -> dict[str, Tensor]:
        """Unweighted parts, scalars, by the names in `Weights`; only those whose weight is not 0.

        said: the student's logits [b, k], or of both heads (LV-ViT with token labels): then its class token alone
              learns from the labels, as LV-ViT's does, and the whole prediction from the teacher's
        """
        weights = self.recipe.weights
        both, smoothing = isinstance(said, TokenLogits), self.recipe.augmentation.smoothing
        ways = {
            "classification": lambda: losses.classification(said.logits if both else said, target, smoothing),
            "token_labels": lambda: token_label_loss(said, teacher),
            "logit_kl": lambda: losses.logit_kl(said.prediction() if both else said, teacher.logits),
            "features": lambda: feature_loss(loss_inputs, teacher),
            "token_mse": lambda: kept_token_loss(loss_inputs, teacher),
            "cut": lambda: cut_loss(loss_inputs, self.recipe.cut_part, self.recipe.cut_row_mean),
            "approximation": lambda: approximation_loss(self.student, loss_inputs, teacher),
            "budget": lambda: self._over_budget(loss_inputs),
            "ratio": lambda: self._off_ratio(loss_inputs),
        }
        return {name: way() for name, way in ways.items() if getattr(weights, name)}

    def _over_budget(self, loss_inputs: LossInputs) -> Tensor:
        counts = [own_counts(method, loss_inputs)[0] for method in self.student.methods if learns_counts(method)]
        macs = image_macs(self.student, torch.cat(counts, dim=1))
        return losses.macs_budget(macs, self.budget, self.dense, self.recipe.budget_of_mean)

    def _off_ratio(self, loss_inputs: LossInputs) -> Tensor:
        held = held_by_ratio(self.student.methods, self.recipe.weights)
        places = held_places(self.student, loss_inputs, held)
        return losses.keep_ratio([p.mask for p in places], [p.keep for p in places], [p.whole for p in places])

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        return sum(getattr(self.recipe.weights, name) * part for name, part in parts.items())


def token_label_loss(said: TokenLogits, teacher: Any) -> Tensor:
    """LV-ViT's token labels, which the teacher's auxiliary head gives: each token left learns the mean label of the
    patches that it stands for; tokens that are masked out do not count."""
    targets = said.token_targets(teacher.patch_logits.float().softmax(dim=-1))
    return losses.patch_labels(said.token_logits, targets, None if said.mask is None else said.mask.detach())


def feature_loss(loss_inputs: LossInputs, teacher: TeacherOutputs) -> Tensor:
    """MSE of the l2-normalised final prefix tokens ([CLS]); of the patch tokens' means where there is no prefix."""
    tokens, p = loss_inputs.tokens, loss_inputs.tokens.prefix
    if p:
        own = tokens.x[:, :p] if tokens.layout is None else tokens.layout.prefix_rows(tokens.x)
        return losses.feature_mse(own, teacher.tokens[:, :p])
    weight = tokens.weight
    mean = (tokens.x * weight.unsqueeze(-1)).sum(1, keepdim=True) / weight.sum(1)[:, None, None]
    return losses.feature_mse(mean, teacher.tokens.mean(1, keepdim=True))


def kept_token_loss(loss_inputs: LossInputs, teacher: TeacherOutputs) -> Tensor:
    """DynamicViT's: squared difference to the teacher's final patch tokens, mean over the tokens that are kept."""
    tokens, layout = loss_inputs.tokens, loss_inputs.tokens.layout
    own = tokens.patches if layout is None else layout.patches.pad(tokens.patches)
    error = (own.float() - at_origin(teacher.tokens[:, tokens.prefix :], tokens).float()).square().mean(dim=-1)
    kept = torch.ones_like(error) if tokens.mask is None else tokens.mask.detach()
    kept = kept if layout is None else (tokens.origin() >= 0).to(error.dtype)
    return (error * kept).sum() / kept.sum().clamp(min=1)


def cut_loss(loss_inputs: LossInputs, part: losses.Cut, row_mean: bool = False) -> Tensor:
    """IdleViT's token cut, averaged over the blocks that idle; 0 where none does (a schedule that starts at 1)."""
    cuts = [
        losses.token_cut(record.attention, record.selected > 0.5, part, row_mean)
        for record in loss_inputs.place_records
        if record.attention is not None
    ]
    return torch.stack(cuts).mean() if cuts else _zero(loss_inputs)


def approximation_loss(student: ReducedViT, loss_inputs: LossInputs, teacher: TeacherOutputs) -> Tensor:
    """ToFe's L_apr, mean over the stages that put their frozen tokens back; 0 where none does (`reuse=False`)."""
    stages, prefix = [], loss_inputs.tokens.prefix
    for place_record, frozen in frozen_tokens(student, loss_inputs.place_records):
        end, restored = place_record.restore_before, place_record.restored
        if end is not None and restored is not None:
            rows = at_origin(teacher.stages[end - 1][:, prefix:], loss_inputs.tokens)
            stages.append(losses.approximation(restored[:, prefix:], rows, frozen))
    return torch.stack(stages).mean() if stages else _zero(loss_inputs)


def _zero(loss_inputs: LossInputs) -> Tensor:
    return loss_inputs.tokens.x.new_zeros((), dtype=torch.float32)


def restore_blocks(student: ReducedViT) -> list[int]:
    """The blocks after which a method puts back tokens that something has stood in for meanwhile."""
    ends = [
        method.restore_before(place) for method in student.methods if approximates(method) for place in method.places
    ]
    return sorted({end - 1 for end in ends if end is not None})


def dense_macs(student: ReducedViT) -> int:
    """MACs of the dense model for one image."""
    return whole_macs(student.body, student.body.grid())
