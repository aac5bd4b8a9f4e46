"""Ways to put the inattentive tokens into groups, one new token each: density peaks and its rivals (BAT Table 4).

They decide groups and, where they learn, weights; the features are summed elsewhere.

Shapes: b images, q inattentive tokens, m groups, c channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...core.precision import without_autocast
from ...core.recording import length
from .large import ALL, by_rows, image_by_image, in_place_by_rows, numbers, too_large, with_transpose

REACH = 3  # tokens that one layer of the convolution sees


@dataclass(frozen=True)
class Groups:
    """Who belongs together: `group` [b, q] of every token; `lead` [b, m], the member that each group stands on;
    `weights` [b, q] of the members in their group, None where the method weighs by attention."""

    group: Tensor
    lead: Tensor
    weights: Tensor | None = None


def full_precision(z: Tensor) -> Tensor:
    """Float32 at least, and centred: distances keep the digits that a large common part would cost them."""
    z = z.detach().to(torch.promote_types(z.dtype, torch.float32))
    return z - z.mean(dim=1, keepdim=True)


def squared_distances(z: Float[Tensor, "b q c"]) -> Float[Tensor, "b q q"]:
    """||z_i - z_j||^2 / C, in float32 whatever the autocast."""
    with without_autocast(z.device):
        z = full_precision(z)
        square = z.square().sum(dim=2)
        # Sums of both halves: a product of matrices is symmetric but for the last bit, and would break ties by it.
        twice = with_transpose(torch.bmm(z, z.transpose(1, 2)))

    def part(rows: slice) -> Tensor:
        itself = numbers(z)[rows].unsqueeze(1) == numbers(z)
        distances = (square[:, rows].unsqueeze(2) + square.unsqueeze(1) - twice[:, rows]).clamp(min=0)
        return (distances / z.shape[2]).masked_fill(itself, 0.0)

    return in_place_by_rows(twice, part)


def comes_before(values: Float[Tensor, "b q"], rows: slice = ALL) -> Bool[Tensor, "b r q"]:
    """Entry [i, j]: whether token j comes before token i when sorted from the largest value; ties by index."""
    earlier = numbers(values) < numbers(values)[rows].unsqueeze(1)
    mine, theirs = values[:, rows].unsqueeze(2), values.unsqueeze(1)
    return (theirs > mine) | ((theirs == mine) & earlier)


def density_peaks(z: Float[Tensor, "b q c"], m: int, neighbours: int | None) -> Groups:
    """Density peak clustering without iteration (BAT Eq. 6 and 7), 1 < m < q.

    Centres are the m tokens with the largest density times distance to the nearest denser token; every other token
    joins the nearest denser centre, or the nearest one where none is denser. The density is
    exp(-mean squared distance to the nearest `neighbours`); None: to all others.
    """
    if too_large(z):
        return image_by_image(z, lambda image: density_peaks(image, m, neighbours))
    distances = squared_distances(z)
    log_density = log_densities(distances, neighbours)
    lead = peaks(log_density + distances_to_denser(distances, log_density).log(), m)
    return Groups(_join_centres(distances, log_density, lead), lead)


def log_densities(distances: Float[Tensor, "b q q"], neighbours: int | None) -> Float[Tensor, "b q"]:
    """Minus the mean squared distance to the nearest `neighbours`; None: to all others."""
    others = length(distances, 1) - 1
    k = others if neighbours is None else min(neighbours, others)
    # The token itself, at distance 0, is among the k + 1 nearest and adds nothing.
    nearest = distances if k == others else torch.topk(distances, k + 1, dim=2, largest=False).values
    return -nearest.sum(dim=2) / k


def distances_to_denser(distances: Float[Tensor, "b q q"], density: Float[Tensor, "b q"]) -> Float[Tensor, "b q"]:
    """Squared distance to the nearest denser token; of the densest one to the farthest of all."""

    def part(rows: slice) -> Tensor:
        denser, here = comes_before(density, rows), distances[:, rows]
        apart = here.masked_fill(~denser, float("inf")).amin(dim=2)
        return torch.where(denser.any(dim=2), apart, here.amax(dim=2))

    return by_rows(part, length(density, 1))


def peaks(scores: Float[Tensor, "b q"], m: int) -> Int[Tensor, "b m"]:
    """The m tokens with the largest scores, in order of their numbers; ties by index."""
    return marked(by_rows(lambda rows: comes_before(scores, rows).sum(dim=2) < m, length(scores, 1)), m)


def _join_centres(
    distances: Float[Tensor, "b q q"], density: Float[Tensor, "b q"], lead: Int[Tensor, "b m"]
) -> Int[Tensor, "b q"]:
    """For every token the number of the nearest centre that is denser, or the nearest of all where none is."""

    def part(rows: slice) -> Tensor:
        denser = comes_before(density, rows)
        allowed = columns(denser, lead) | ~denser.any(dim=2, keepdim=True)
        return columns(distances[:, rows], lead).masked_fill(~allowed, float("inf")).argmin(dim=2)

    return own_group(by_rows(part, length(density, 1)), lead)


def columns(x: Tensor, index: Int[Tensor, "b m"]) -> Tensor:
    """Columns `index` of x [b, r, q], as [b, r, m]."""
    return x.gather(2, index.unsqueeze(1).expand(-1, length(x, 1), -1))


def own_group(group: Int[Tensor, "b q"], lead: Int[Tensor, "b m"]) -> Int[Tensor, "b q"]:
    """The same groups, but every lead in its own."""
    return group.scatter(1, lead, torch.arange(lead.shape[1], device=lead.device).expand_as(lead))


def k_means(z: Float[Tensor, "b q c"], m: int, iterations: int) -> Groups:
    """k-means from the first m tokens, 1 < m < q. These stay in their groups, so that none is ever empty."""
    with without_autocast(z.device):
        z = full_precision(z)
        lead = torch.arange(m, device=z.device).expand(z.shape[0], m)
        centres = z[:, :m]
        for step in range(iterations):
            if step:
                centres = _group_means(z, group, m)
            apart = centres.square().sum(dim=2).unsqueeze(1) - 2 * torch.bmm(z, centres.transpose(1, 2))
            group = own_group(apart.argmin(dim=2), lead)
    return Groups(group, lead)


def _group_means(z: Float[Tensor, "b q c"], group: Int[Tensor, "b q"], m: int) -> Float[Tensor, "b m c"]:
    members = (group.unsqueeze(1) == torch.arange(m, device=z.device).unsqueeze(1)).to(z.dtype)
    return torch.bmm(members, z) / members.sum(dim=2, keepdim=True)


def k_means_macs(q: int, m: int, c: int, iterations: int) -> int:
    """Multiply-accumulates of `k_means`: distances in every iteration, means in all but the first."""
    return (2 * iterations - 1) * q * m * c


def one_group(importance: Float[Tensor, "b q"]) -> Groups:
    """All tokens in one group, on which the most important one leads."""
    return Groups(torch.zeros_like(importance, dtype=torch.int64), importance.argmax(dim=1, keepdim=True))


def runs(z: Float[Tensor, "b q c"], m: int) -> Groups:
    """m runs of tokens that follow one another, as equal in length as can be; their middle ones lead."""
    b, q = z.shape[0], length(z, 1)
    starts = (torch.arange(m + 1, device=z.device) * q + m - 1) // m
    lead = (starts[:-1] + starts[1:] - 1) // 2
    group = torch.arange(q, device=z.device) * m // q
    return Groups(group.expand(b, q), lead.expand(b, m))


class Weigher(nn.Module):
    """Learned weights of the tokens within their group, [b, q], positive: a perceptron over each token ("mlp"), or two
    convolutions along the sequence ("convolution"). The last layer starts at 0: all tokens weigh the same."""

    def __init__(self, channels: int, convolution: bool):
        super().__init__()
        hidden = channels // 4
        self.norm = nn.LayerNorm(channels)
        self.hidden = nn.Conv1d(channels, hidden, REACH, padding=1) if convolution else nn.Linear(channels, hidden)
        self.score: Any = nn.Conv1d(hidden, 1, REACH, padding=1) if convolution else nn.Linear(hidden, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, z: Float[Tensor, "b q c"]) -> Float[Tensor, "b q"]:
        z = self.norm(z)
        if isinstance(self.hidden, nn.Conv1d):
            scores = self.score(nn.functional.gelu(self.hidden(z.transpose(1, 2)))).squeeze(1)
        else:
            scores = self.score(nn.functional.gelu(self.hidden(z))).squeeze(2)
        return scores.float().softmax(dim=1)

    @staticmethod
    def macs(q: int, channels: int, convolution: bool) -> int:
        """Multiply-accumulates over q tokens."""
        return q * (channels + 1) * (channels // 4) * (REACH if convolution else 1)


def z_order(height: int, width: int) -> list[int]:
    """Place of every patch, row by row, on the Z-order curve (Morton 1966): patches that follow one another on it lie
    close together in both directions of the image."""
    bits = max(height - 1, width - 1, 1).bit_length()

    def interleaved(row: int, column: int) -> int:
        return sum((row >> j & 1) << 2 * j + 1 | (column >> j & 1) << 2 * j for j in range(bits))

    return [interleaved(row, column) for row in range(height) for column in range(width)]


def marked(mask: Bool[Tensor, "b n"], k: int) -> Int[Tensor, "b k"]:
    """Positions of the k entries of every row that are True, in order."""
    n = length(mask, 1)
    index = torch.where(mask, torch.arange(n, device=mask.device), n)
    return torch.topk(index, k, dim=1, largest=False).values


def others(index: Int[Tensor, "b k"], n: int) -> Int[Tensor, "b {n}-k"]:
    """The numbers from 0 to n - 1 that are not in `index`, in order."""
    number = torch.arange(n, device=index.device).expand(index.shape[0], n)
    return torch.topk(number.scatter(1, index, n), n - length(index, 1), dim=1, largest=False).values
