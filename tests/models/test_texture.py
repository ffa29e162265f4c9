"""The local binary patterns: equal to scikit-image's, and small cases by hand."""

import numpy as np
import pytest
from skimage.feature import local_binary_pattern as reference

from models.regression.texture import OPERATORS, best_order, local_binary_pattern, orders, overlay


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_operator_equals_scikit_image(name, seed):
    film = np.random.default_rng(seed).integers(0, 256, (41, 37), dtype=np.uint8)
    points, radius, invariant = OPERATORS[name]
    ours = local_binary_pattern(film, points, radius, invariant=invariant)
    theirs = reference(film, points, radius, method="ror" if invariant else "default").astype(np.uint32)
    assert np.array_equal(ours, theirs)


def test_a_bright_pixel_sets_the_bit_of_its_direction():
    # Only the right neighbour (bit 0) and the one above (bit 2 of 4 x 90 degrees: bit 1) are as bright as the middle.
    film = np.array([[0, 9, 0], [0, 5, 9], [0, 0, 0]])
    assert local_binary_pattern(film, 4, 1)[1, 1] == 0b0011
    # Turned by a quarter the bits move on by one; the smallest rotation is the same.
    turned = np.rot90(film)
    assert local_binary_pattern(turned, 4, 1)[1, 1] == 0b0110
    assert local_binary_pattern(turned, 4, 1, invariant=True)[1, 1] == 0b0011


def test_the_overlay_applies_the_operators_in_the_given_order():
    film = np.random.default_rng(3).integers(0, 256, (20, 20), dtype=np.uint8)
    by_hand = film.astype(float)
    for points, radius, invariant in (OPERATORS["circular"], OPERATORS["plain"]):
        by_hand = np.floor(local_binary_pattern(by_hand, points, radius, invariant=invariant) * (255 / (2**points - 1)))
    assert np.array_equal(overlay(film, ("circular", "plain")), by_hand.astype(np.uint8))
    assert len(set(orders())) == 6
    assert len({overlay(film, order).tobytes() for order in orders()}) == 6
    with pytest.raises(ValueError, match="'wavelet'"):
        overlay(film, ("wavelet",))


def test_a_share_lays_each_texture_over_the_film():
    film = np.random.default_rng(4).integers(0, 256, (20, 20), dtype=np.uint8)
    points, radius, invariant = OPERATORS["plain"]
    codes = local_binary_pattern(film, points, radius, invariant=invariant) * (255 / (2**points - 1))
    assert np.array_equal(overlay(film, ("plain",), share=0.25), np.floor(0.25 * codes + 0.75 * film).astype(np.uint8))
    with pytest.raises(ValueError, match="share is 0; above 0 to 1"):
        overlay(film, share=0)


def test_the_best_order_has_the_lowest_error():
    errors = {order: np.array([index + 1.0, -index - 1.0]) for index, order in enumerate(reversed(orders()))}
    assert best_order(errors) == orders()[-1]
