import numpy as np
import pytest

from models import transforms
from models.transforms import Similarity


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 37, 90, 180, -120])
def test_a_similarity_is_found_again_from_its_points(mirrored: bool, degrees: float) -> None:
    made = Similarity(3.0, float(np.deg2rad(degrees)), (5.0, -2.0), mirrored)
    points = np.array([[0.0, 0.0], [1.0, 0.2], [0.3, 2.0], [-1.0, 0.5]])
    found = Similarity.fit(points, transforms.apply(made.matrix, points))
    assert found.mirrored == mirrored
    assert found.scale == pytest.approx(3.0)
    assert np.allclose(found.matrix, made.matrix)


def test_a_quarter_turn_brings_x_onto_y() -> None:
    # y points down on a film: a turn of 90 degrees from x towards y sends (1, 0) to (0, 1), scaled by 2 and shifted by (10, 0).
    turned = Similarity(2.0, np.pi / 2, (10.0, 0.0))
    assert np.allclose(transforms.apply(turned.matrix, np.array([[1.0, 0.0]])), [[10.0, 2.0]])


def test_a_similarity_of_one_place_is_refused() -> None:
    with pytest.raises(ValueError, match="1 points"):
        Similarity.fit(np.zeros((1, 2)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="coincide"):
        Similarity.fit(np.zeros((3, 2)), np.ones((3, 2)))


def test_a_map_and_its_opposite_cancel() -> None:
    matrix = Similarity(0.7, 1.1, (4.0, 9.0), mirrored=True).matrix
    both = transforms.compose(transforms.invert(matrix), matrix)
    assert np.allclose(both, [[1, 0, 0], [0, 1, 0]])
    with pytest.raises(ValueError, match="flattens"):
        transforms.invert(np.zeros((2, 3)))


def test_a_letterboxed_film_lies_in_the_middle_of_the_view() -> None:
    view = transforms.sample(np.ones((40, 20), np.float32), transforms.letterbox((40, 20), 40), 40)
    assert view[1].sum() == 40 * 20  # 20 columns of 40 show the film
    assert view[1, :, 10:30].all()


def test_a_view_shows_the_pixels_where_the_matrix_says() -> None:
    film = np.arange(12, dtype=np.float32).reshape(3, 4)
    view = transforms.sample(film, np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]), 4)
    # Half-way between columns 0 and 1, 1 and 2, 2 and 3; the fourth lies half a pixel past the last column, still inside it.
    assert view[0, 0].tolist() == [0.5, 1.5, 2.5, 3.0]
    assert view[1, 3].tolist() == [0, 0, 0, 0]  # the film has three rows


def test_many_views_at_once_are_each_what_one_look_gives() -> None:
    film = np.random.default_rng(3).random((30, 40), np.float32)
    looks = [
        Similarity(scale, turn, (12.0, 9.0), mirrored=scale > 1).matrix for scale, turn in ((0.5, 0.1), (1.7, -2.0))
    ]
    together = transforms.samples(film, np.stack(looks), 16)
    assert together.shape == (2, 2, 16, 16)
    for view, matrix in zip(together, looks, strict=True):
        assert np.array_equal(view, transforms.sample(film, matrix, 16))
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize("block", [2, 3, 5])
def test_each_shrunk_pixel_is_the_mean_of_its_block(block: int) -> None:
    film = np.random.default_rng(block).random((40 * block + 1, 30 * block + 1), np.float32)
    small, found = transforms.shrink(film, 40)
    assert found == block
    blocks = film[: 40 * block, : 30 * block].reshape(40, block, 30, block)
    assert np.allclose(small, blocks.mean(axis=(1, 3)), rtol=1e-6)


def test_shrinking_averages_whole_blocks_and_points_come_back() -> None:
    film = np.zeros((1300, 1000), np.float32)
    film[6:9, 3:6] = 9.0  # block (2, 1) of 3 x 3... at block side 4 it is spread
    small, block = transforms.shrink(film, 320)
    assert block == 4
    assert small.shape == (325, 250)
    assert small.sum() * 16 == pytest.approx(film.sum())
    # Pixel 0 of the small film covers pixels 0 to 3, whose middle is 1.5.
    back = transforms.unshrink(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), block)
    assert np.allclose(transforms.apply(back, np.array([[0.0, 0.0], [1.0, 2.0]])), [[1.5, 1.5], [5.5, 9.5]])


def test_stretching_ignores_a_few_extreme_pixels_and_leaves_a_flat_film_black() -> None:
    film = np.linspace(0.2, 0.4, 10_000, dtype=np.float32).reshape(100, 100)
    film[0, :5] = 100.0
    stretched = transforms.stretch(film)
    assert stretched[99, 99] == pytest.approx(1.0, abs=0.02)
    assert stretched.max() == 1.0
    assert transforms.stretch(np.full((9, 9), 0.3, np.float32)).max() == 0
