"""Nearest neighbours: how well features without a classifier tell classes apart."""

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
    if k < 1 or (len(features) < 2 if bank is None else not len(bank[0])):
        raise ValueError(
            f"{len(features) if bank is None else len(bank[0])} rows and k = {k}: nearest neighbours need two rows "
            "(of a bank one) and k of at least 1"
        )
    known, known_labels = (features, labels) if bank is None else bank
    known, features = normalize(known.float(), dim=1), normalize(features.float(), dim=1)
    classes, targets = known_labels.unique(return_inverse=True)
    rows = torch.arange(len(features), device=features.device).split(chunk)
    votes = [_vote(features, row, known, targets, len(classes), k, temperature, bank is None) for row in rows]
    return classes[torch.cat(votes)] == labels


def _vote(
    features: Float[Tensor, "n c"],
    rows: Int[Tensor, " r"],
    known: Float[Tensor, "m c"],
    targets: Int[Tensor, " m"],
    classes: int,
    k: int,
    temperature: float,
    among_themselves: bool,
) -> Int[Tensor, " r"]:
    """The class, counted from 0, that the neighbours of some rows vote for."""
    cosines = features[rows] @ known.T
    if among_themselves:
        cosines[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
    near = cosines.topk(min(k, len(known) - among_themselves), dim=1)
    votes = torch.einsum(
        "rk,rkc->rc", (near.values / temperature).exp(), one_hot(targets[near.indices], classes).float()
    )
    return votes.argmax(dim=1)
