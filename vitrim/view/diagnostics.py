"""What the papers measure on tokens: pure functions of features and traces, for looking, not for training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def diversity_score(tokens: Float[Tensor, "b n c"], *, relative: bool = False) -> Float[Tensor, " b"]:
    """How different the tokens of an image are: r(Z) = || Z - 1 z^T ||_1, entrywise, for the token z among them that
    makes it smallest (Long et al., "Beyond Attentive Tokens", Eq. 4). 0 where all tokens are equal.

    tokens:   such as `model.forward_features(images)`; the paper looks at them after the last place
    relative: divided by || Z ||_1, as in its Fig. 4; images whose tokens are all zero score 0

    Raises ValueError for anything but [b, n, c] with at least one token.

    Example:
        >>> alike, different = torch.ones(1, 4, 2), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> diversity_score(alike).item(), diversity_score(different).item()
        (0.0, 2.0)
    """
    if tokens.dim() != 3 or tokens.shape[1] == 0:
        raise ValueError(f"tokens {list(tokens.shape)}: give features [images, tokens, channels], one token at least")
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    score = torch.cdist(tokens, tokens, p=1).sum(dim=1).amin(dim=1)
    if not relative:
        return score
    length = tokens.abs().sum(dim=(1, 2))
    return torch.where(length > 0, score / length, 0.0)


def mean_cosine(tokens: Float[Tensor, "b n c"]) -> Float[Tensor, " b"]:
    """How alike the tokens of an image are: the mean of the cosine similarity over all pairs of two different tokens
    (Xu et al., "No Token Left Behind", Fig. 5). 1 where all point the same way: over-smoothed. NaN for fewer than two.

    tokens: patch tokens after a block

    The sum over all pairs is || sum of z_i / || z_i || ||^2, so no n x n matrix is formed.

    Example:
        >>> alike, different = torch.ones(1, 4, 2), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> round(mean_cosine(alike).item(), 4), mean_cosine(different).item()
        (1.0, 0.0)
    """
    n = tokens.shape[1]
    if n < 2:
        return tokens.new_full(tokens.shape[:1], torch.nan, dtype=torch.float32)
    unit = F.normalize(tokens.float(), dim=2)
    with_itself = unit.square().sum(dim=(1, 2))  # 0 for a token that is zero
    return (unit.sum(dim=1).square().sum(dim=1) - with_itself) / (n * (n - 1))
