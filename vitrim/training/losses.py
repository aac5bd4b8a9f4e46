"""The papers' training losses, as pure functions of tensors. Every one is a scalar, a mean over the batch.

Shapes: b images, n patch tokens, p prefix tokens, c channels, k classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Cut = Literal["both", "inter", "intra", "none"]


def classification(
    logits: Float[Tensor, "b k"], target: Int[Tensor, " b"] | Float[Tensor, "b k"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Cross entropy against class numbers, or against the soft targets that mixup and cutmix make.

    smoothing: label smoothing, for class numbers only (timm's mixup smooths its own targets)
    """
    if target.is_floating_point():
        return F.cross_entropy(logits.float(), target.float())
    return F.cross_entropy(logits.float(), target, label_smoothing=smoothing)


def logit_kl(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """KL(teacher || student) of the class distributions, times temperature squared (IdleViT Eq. 13, T = 1)."""
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def feature_mse(
    student: Float[Tensor, "b m c"], teacher: Float[Tensor, "b m c"], normalise: bool = True
) -> Float[Tensor, ""]:
    """Mean squared difference of features after the final norm (IdleViT Eq. 14; DynamicViT without `normalise`).

    normalise: l2-normalise each token over its channels first
    """
    if normalise:
        student, teacher = F.normalize(student.float(), dim=-1), F.normalize(teacher.float(), dim=-1)
    return F.mse_loss(student.float(), teacher.float())


def token_cut(
    attention: Float[Tensor, "b pn pn"],
    selected: Bool[Tensor, "b n"],
    part: Cut = "both",
    row_mean: bool = False,
) -> Float[Tensor, ""]:
    """IdleViT's token cut loss of one block (Eq. 9, 10): attention should not cross between selected and idle tokens.

    attention: the softmaxed map over all tokens, heads averaged, prefix tokens in front
    selected:  True for the K selected patch tokens; the others are idle (I). S is these and the prefix tokens
    part:      "inter" (Eq. 9), "intra" (Eq. 10), "both", or "none" (Table 4)
    row_mean:  divide the rows of S by their number instead of by K, the paper's letter

    Eq. 9's second term leaves out the columns of the prefix tokens (the paper's j in S without {0}): idle tokens may
    attend to [CLS].
    """
    if part not in ("both", "inter", "intra", "none"):
        raise ValueError(f"part {part!r} is not one of both, inter, intra, none")
    prefix = attention.shape[1] - selected.shape[1]
    patches = selected.float()
    chosen, idle = F.pad(patches, (prefix, 0), value=1.0), F.pad(1 - patches, (prefix, 0))
    rows_chosen = (chosen if row_mean else patches).sum(dim=1).clamp(min=1)
    mass = attention.float() @ torch.stack([chosen, idle, F.pad(patches, (prefix, 0))], dim=2)
    to_chosen, to_idle, to_chosen_patches = mass.unbind(2)
    loss = attention.new_zeros(attention.shape[0], dtype=torch.float32)
    if part in ("both", "inter"):
        loss = loss + (chosen * to_idle**2).sum(dim=1) / rows_chosen
        loss = loss + (idle * to_chosen_patches**2).sum(dim=1) / idle.sum(dim=1).clamp(min=1)
    if part in ("both", "intra"):
        loss = loss + (chosen * (1 - to_chosen) ** 2).sum(dim=1) / rows_chosen
    return loss.mean()


def approximation(
    student: Float[Tensor, "b n c"], teacher: Float[Tensor, "b n c"], frozen: Bool[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """ToFe's L_apr after one stage: squared difference to the teacher's tokens, over the frozen tokens only, mean over
    channels; each image divides by its number of frozen tokens, at least 1 (the paper's N_b^s counts the kept ones by
    a slip)."""
    error = (student.float() - teacher.float()).square().mean(dim=-1)
    frozen = frozen.float()
    return ((error * frozen).sum(dim=1) / frozen.sum(dim=1).clamp(min=1)).mean()


def macs_budget(macs: Float[Tensor, " b"], target: float, dense: float, of_mean: bool = False) -> Float[Tensor, ""]:
    """ToFe's L_FLOPs (Eq. 14): squared distance of each image's MACs from the target, both as shares of the dense cost.

    macs:    MACs of each image at its own token counts, with gradient to the masks
    of_mean: the square of the batch's mean distance instead of the mean of squares
    """
    distance = (macs - target) / dense
    return distance.mean().square() if of_mean else distance.square().mean()


def keep_ratio(
    masks: Sequence[Float[Tensor, "b n"]],
    keep: Sequence[float],
    of: Sequence[float | Float[Tensor, " b"]] | None = None,
) -> Float[Tensor, ""]:
    """DynamicViT's ratio loss: squared distance of the kept share from its target, mean over stages and images.

    of: for each stage the number of tokens that its share is of; default the n of its mask
    Raises ValueError for another number of masks than of rates.
    """
    if len(masks) != len(keep):
        raise ValueError(f"{len(masks)} masks for {len(keep)} keep rates: give one rate for each stage")
    whole = [mask.shape[1] for mask in masks] if of is None else of
    stages = [(m.float().sum(dim=1) / n - k).square().mean() for m, k, n in zip(masks, keep, whole, strict=True)]
    return torch.stack(stages).mean()


def patch_labels(
    token_logits: Float[Tensor, "b n k"],
    token_target: Float[Tensor, "b n k"],
    mask: Float[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """The patch tokens' part of LV-ViT's token labelling: cross entropy of every token with its own soft label, mean
    over the tokens of an image.

    mask: how much each token counts in its image's mean (masked training); None: all alike
    """
    each = F.cross_entropy(token_logits.flatten(0, 1).float(), token_target.flatten(0, 1).float(), reduction="none")
    each = each.view(token_logits.shape[:2])
    if mask is None:
        return each.mean()
    mask = mask.float()
    return ((each * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def token_labels(
    logits: Float[Tensor, "b k"],
    token_logits: Float[Tensor, "b n k"],
    target: Float[Tensor, "b k"],
    token_target: Float[Tensor, "b n k"],
    dense_weight: float = 1.0,
    mask: Float[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """LV-ViT's token labelling: the class token's cross entropy, and every patch token's against its own label.

    dense_weight: weight of the patch tokens' part, `patch_labels`
    mask:         how much each patch token counts in it
    """
    return classification(logits, target) + dense_weight * patch_labels(token_logits, token_target, mask)
