"""BAT's clusters and pairs, by themselves."""

from __future__ import annotations

import pytest
import torch
from references.bat import density_groups

from vitrim.methods.bat import match
from vitrim.methods.parts.clustering import density_peaks, k_means, runs, squared_distances, z_order


def members(groups):
    return [{frozenset((row == g).nonzero().flatten().tolist()) for g in row.unique()} for row in groups.group]


def test_density_peaks_find_clusters_that_are_there():
    centres = torch.tensor([[0.0, 0.0], [40.0, 0.0], [0.0, 40.0]])
    label = torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 2, 0, 1, 2])
    z = (centres[label] + torch.randn(4, 12, 2)).float()
    expected = {frozenset((label == g).nonzero().flatten().tolist()) for g in range(3)}
    assert members(density_peaks(z, 3, 2)) == [expected] * 4


def test_equal_tokens_are_settled_by_number():
    groups = density_peaks(torch.ones(2, 7, 4), 3, 5)
    assert groups.lead.tolist() == [[0, 1, 2]] * 2
    assert groups.group.tolist() == [[0, 1, 2, 0, 0, 0, 0]] * 2


SIZES = [(1, 12, 48), (2, 17, 48), (8, 24, 384), (1, 59, 384), (3, 30, 192)]  # images, tokens, channels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_distance_is_the_same_both_ways(sizes, dtype):
    distances = squared_distances(torch.randn(sizes, dtype=dtype))
    assert torch.equal(distances, distances.transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # which one rounds unevenly depends on the machine
@pytest.mark.parametrize("sizes", SIZES)
def test_mutual_nearest_neighbours_are_equally_dense_and_settled_by_number(sizes, dtype):
    """Of two tokens that are each other's nearest, with neighbours=1, neither is denser: the one with the lower number
    comes first, in whatever batch and order they stand."""
    z = torch.randn(sizes, dtype=dtype)
    z = torch.cat([z, z.flip(1)])
    m = sizes[1] // 5
    groups = density_peaks(z, m, 1)
    for image, lead, group in zip(z, groups.lead, groups.group, strict=True):
        expected = density_groups(image.double(), m, 1)
        assert lead.tolist() == [centre for centre, _ in expected]
        assert all(int(group[i]) == j for j, (_, members) in enumerate(expected) for i in members)
        alone = density_peaks(image[None], m, 1)
        assert torch.equal(alone.lead[0], lead) and torch.equal(alone.group[0], group)


def test_neighbours_beyond_the_others_are_all_others():
    z = torch.randn(2, 6, 4)
    assert torch.equal(density_peaks(z, 2, 50).group, density_peaks(z, 2, None).group)


def test_a_large_common_part_does_not_blur_distances():
    z = torch.randn(2, 40, 16)
    assert torch.equal(density_peaks(z, 5, 5).group, density_peaks(z + 512.0, 5, 5).group)


def test_no_group_of_k_means_is_empty():
    z = torch.ones(2, 9, 4)
    assert k_means(z, 4, 3).group.tolist() == [[0, 1, 2, 3, 0, 0, 0, 0, 0]] * 2


def test_runs_are_even_and_lead_themselves():
    for q in range(1, 40):
        for m in range(1, q + 1):
            groups = runs(torch.zeros(1, q, 1), m)
            lengths = groups.group[0].bincount()
            assert len(lengths) == m and lengths.max() - lengths.min() <= 1
            assert torch.equal(groups.group[0][groups.lead[0]], torch.arange(m))


def test_the_curve_stays_close_in_both_directions():
    order = sorted(range(64), key=z_order(8, 8).__getitem__)
    for j in range(0, 64, 16):
        rows, columns = {i // 8 for i in order[j : j + 16]}, {i % 8 for i in order[j : j + 16]}
        assert len(rows) == len(columns) == 4  # a quarter of the grid, not two of its rows
    assert len(set(z_order(3, 5))) == 15


# -- pairs


def test_alike_tokens_are_matched():
    z = torch.eye(8)[None].clone()
    z[0, 4], z[0, 2] = z[0, 7] + 0.1 * z[0, 0], z[0, 1] + 0.3 * z[0, 0]
    source, target = match(z, 2)
    assert source.tolist() == [[4, 2]] and target.tolist() == [[7, 1]]


def test_where_all_propose_the_same_one_the_rest_join_it():
    z = torch.eye(7)[None].clone()
    z[0, 0::2] += 9 * z[0, 3]
    source, target = match(z, 3)
    assert len(set(source[0].tolist())) == 3 and target.tolist() == [[3, 3, 3]]
