"""Nearest neighbours: how well features without a classifier tell classes apart."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize, one_hot


@torch.no_grad()
def knn_hits(
    features: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
    *,
    bank: tuple[Float[Tensor, "m c"], Int[Tensor, " m"]] | None = None,
) -> Bool[Tensor, " n"]:
    """For each row, whether its k nearest others (by cosine) vote for its own label.

    The others are the rows of `bank`, features and labels; without one the other rows of `features`. Votes weigh
    exp(cosine / temperature), as in Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination" (CVPR 2018), section 3.4. At most `chunk` x m cosines are held at a time. With fewer than k others
    all of them vote. Raises ValueError for k below 1, and where there is no other.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> vitrim.evaluate.knn_hits(features, torch.tensor([0, 0, 1, 1]), k=1).tolist()
        [True, True, True, True]
        >>> bank = features[:2], torch.tensor([0, 1])
        >>> vitrim.evaluate.knn_hits(features[2:], torch.tensor([1, 0]), k=1, bank=bank).tolist()
        [True, False]
    """
    classes, known = (labels if bank is None else bank[1]).unique(return_inverse=True)
    votes = []
    for near in _nearest(features, k, chunk, None if bank is None else bank[0]):
        weights = one_hot(known[near.indices], len(classes)).float()
        votes.append(torch.einsum("rk,rkc->rc", (near.values / temperature).exp(), weights).argmax(dim=1))
    return classes[torch.cat(votes)] == labels


@torch.no_grad()
def recall_hits(
    features: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    k: int = 1,
    chunk: int = 1024,
    *,
    bank: tuple[Float[Tensor, "m c"], Int[Tensor, " m"]] | None = None,
) -> Bool[Tensor, " n"]:
    """For each row, whether one of the k nearest others (by cosine) has its own label: recall@k is their mean.

    Arguments and errors are those of `knn_hits`.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> vitrim.evaluate.recall_hits(features, torch.tensor([0, 1, 1, 1]), k=2).tolist()
        [False, True, True, True]
    """
    known = labels if bank is None else bank[1]
    near = torch.cat([near.indices for near in _nearest(features, k, chunk, None if bank is None else bank[0])])
    return known[near].eq(labels[:, None]).any(dim=1)


def _nearest(features: Float[Tensor, "n c"], k: int, chunk: int, bank: Float[Tensor, "m c"] | None) -> Iterator[Any]:
    """The cosines with, and the places of, the k nearest others of some rows at a time, [r, k] each."""
    others = len(features) - 1 if bank is None else len(bank)
    if k < 1 or others < 1:
        raise ValueError(
            f"{len(features) if bank is None else len(bank)} rows and k = {k}: nearest neighbours need two rows "
            "(of a bank one) and k of at least 1"
        )
    own = normalize(features.float(), dim=1)
    known = own if bank is None else normalize(bank.float(), dim=1)
    for rows in torch.arange(len(own), device=own.device).split(chunk):
        cosines = own[rows] @ known.T
        if bank is None:
            cosines[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
        yield cosines.topk(min(k, others), dim=1)
