"""Diagnostics against their formulas written out in loops."""

from __future__ import annotations

import pytest
import torch

from vitrim.view.diagnostics import diversity_score


def written_out(z):
    """Eq. 4 of BAT for one image, one entry at a time."""
    return min(sum(abs(float(v - w)) for row in z for v, w in zip(row, one, strict=True)) for one in z)


def test_diversity_is_the_smallest_distance_to_a_rank_1_matrix():
    z = torch.randn(3, 6, 5)
    expected = torch.tensor([written_out(image) for image in z])
    torch.testing.assert_close(diversity_score(z), expected)
    torch.testing.assert_close(diversity_score(z, relative=True), expected / z.abs().sum(dim=(1, 2)))


def test_equal_tokens_have_no_diversity():
    z = torch.randn(2, 1, 5).expand(2, 7, 5)
    assert diversity_score(z).tolist() == [0.0, 0.0]
    assert diversity_score(torch.zeros(2, 7, 5), relative=True).tolist() == [0.0, 0.0]


def test_low_precision_is_summed_in_float32():
    z = torch.randn(2, 6, 5).bfloat16()
    assert diversity_score(z).dtype == torch.float32
    torch.testing.assert_close(diversity_score(z), diversity_score(z.float()))


@pytest.mark.parametrize("shape", [(6, 5), (2, 0, 5)])
def test_refusals(shape):
    with pytest.raises(ValueError, match="one token at least"):
        diversity_score(torch.zeros(shape))
