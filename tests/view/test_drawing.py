"""What is drawn over a picture: layers, rings, heat."""

from __future__ import annotations

import numpy as np
import pytest

from vitrim.view.drawing import (
    HEAT_SCALE,
    RING_COLOUR,
    draw_groups,
    enlarged,
    group_colours,
    group_layer,
    heat_layer,
    laid_over,
)

GROUPS = np.array([[0, 1, -1, 3], [4, 4, 6, 7], [8, 8, 10, 11], [12, 13, 14, 15]])


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def patches(shown: np.ndarray) -> np.ndarray:
    side = len(shown) // 4
    return shown.reshape(4, side, 4, side, -1).swapaxes(1, 2)


def test_a_picture_is_the_photograph_below_its_layer(image):
    layer = group_layer(image, GROUPS)
    assert (draw_groups(image, GROUPS) == laid_over(enlarged(image), layer)).all()
    cover = patches(layer)[..., 3]
    assert (cover[GROUPS < 0] == 204).all() and (cover[[1, 1, 2, 2], [0, 1, 0, 1]] == 255).all()
    alone = np.isin(GROUPS, (4, 8, -1), invert=True)
    assert (cover[alone] == 0).all(), "a patch with a token of its own is as it was"


def test_groups_have_colours_of_their_own(image):
    shown = patches(draw_groups(image, GROUPS))
    colours = group_colours(16)
    assert len(np.unique(colours, axis=0)) == 16
    assert (shown[1, 0, 0] == colours[4]).all() and (shown[2, 0, -1] == colours[8]).all()


def test_rings_are_drawn_where_they_are_due_and_nowhere_else(image):
    ringed = np.zeros((4, 4), dtype=bool)
    ringed[0, 1] = ringed[3, 3] = True
    plain, shown = (patches(group_layer(image, GROUPS, rings)) for rings in (None, ringed))
    assert (plain[~ringed] == shown[~ringed]).all()
    for tile in shown[ringed]:
        is_ring = (tile == (*RING_COLOUR, 255)).all(axis=-1)
        assert is_ring.any() and (tile[32, 32] == 0).all(), "the middle of the patch is seen"
        assert (is_ring == is_ring.T).all()


def test_heat_goes_from_none_to_all_of_the_blocks(image):
    work = np.array([[0.0, 12.0], [6.0, 3.0]])
    tiles = heat_layer(image, work, 12)[::128, ::128]
    assert (tiles[0, 0, :3] == HEAT_SCALE[0]).all() and (tiles[0, 1, :3] == HEAT_SCALE[-1]).all()
    lightness = tiles[..., :3] @ np.array([0.3, 0.6, 0.1])
    assert lightness[0, 0] < lightness[1, 1] < lightness[1, 0] < lightness[0, 1], "it can be read in grey"


def test_patches_that_do_not_fit_are_refused(image):
    for draw in (
        lambda: group_layer(image, np.zeros((5, 5), dtype=int)),
        lambda: heat_layer(image, np.ones((5, 5)), 2),
    ):
        with pytest.raises(ValueError, match="5 x 5 patches do not divide an image of 64 x 64"):
            draw()
