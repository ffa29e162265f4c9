import numpy as np
import pytest
import torch

from models.detection.anatomy import Template
from models.detection.conventions import CHANNELS
from models.detection.data import Film, Views
from models.detection.evaluate import average_precision
from models.detection.learning_views import collate, losses, targets
from models.detection.network import SIZE_UNIT, HandNet, Output, decode
from models.regions import REGIONS

CELLS = 24


def output(cell: tuple[int, int], absent: float) -> Output:
    """Every channel certain of one cell (x, y), against a logit of being absent."""
    places = torch.full((1, len(CHANNELS), CELLS, CELLS), -20.0)
    places[:, :, cell[1], cell[0]] = 10.0
    sizes = torch.full((1, 2 * len(REGIONS), CELLS, CELLS), float(np.log(2.0)))
    return Output(places, torch.full((1, len(CHANNELS)), absent), sizes, torch.zeros((1, 3)))


def test_a_certain_cell_is_decoded_to_its_middle() -> None:
    # Cell 3 covers pixels 12 to 15, whose middle is 13.5; cell 7 covers 28 to 31.
    found = decode(output((3, 7), absent=-20.0))
    assert found.points[0, 0].tolist() == pytest.approx([13.5, 29.5], abs=1e-3)
    assert float(found.presence.min()) > 0.99
    assert float(found.sizes[0, 0, 0]) == pytest.approx(2 * SIZE_UNIT)


def test_a_point_between_two_cells_is_decoded_between_them() -> None:
    made = output((3, 7), absent=-20.0)
    made.places[:, :, 7, 4] = 10.0
    assert decode(made).points[0, 0].tolist() == pytest.approx([15.5, 29.5], abs=1e-3)


def test_an_absent_point_is_not_present() -> None:
    assert float(decode(output((3, 7), absent=20.0)).presence.max()) < 0.01


def test_a_point_at_the_border_stays_in_the_view() -> None:
    assert decode(output((0, CELLS - 1), absent=-20.0)).points[0, 0].tolist() == pytest.approx([1.5, 93.5], abs=1e-3)


def test_targets_sum_to_one_where_something_is_stated() -> None:
    points = torch.tensor([[[13.5, 29.5]] * len(CHANNELS)])
    present = torch.ones((1, len(CHANNELS)), dtype=torch.long)
    present[0, 0], present[0, 1] = 0, -1
    made = targets(points, present, CELLS)
    assert made.sum(dim=2)[0, :3].tolist() == pytest.approx([1.0, 0.0, 1.0])
    assert float(made[0, 0, -1]) == 1.0  # absent
    assert int(made[0, 2].argmax()) == 7 * CELLS + 3


def test_a_channel_without_a_statement_costs_nothing() -> None:
    points = torch.full((1, len(CHANNELS), 2), float("nan"))
    present = torch.full((1, len(CHANNELS)), -1)
    sizes, facts = torch.full((1, len(REGIONS), 2), float("nan")), torch.full((1, 3), -1.0)
    total, _ = losses(output((3, 7), 0.0), points, present, sizes, facts)
    assert float(total) == 0.0


def test_the_network_takes_any_view_of_whole_cells() -> None:
    network = HandNet(width=8).eval()
    for size in (64, 96):
        made = network(torch.zeros((2, 2, size, size)))
        assert made.places.shape == (2, len(CHANNELS), size // 4, size // 4)


def test_drawn_views_keep_points_on_the_hand_and_say_which_left_it() -> None:
    template = Template.load()
    pixels = np.zeros((120, 120), np.uint8)
    stored = np.floor(template.points * 120).astype(int)
    pixels[stored[:, 1], stored[:, 0]] = 255  # every point is one bright pixel
    film = Film(pixels, 1.0, ((stored + 0.5) / 120).astype(np.float32), np.full((22, 2), np.nan, np.float32))
    views = Views([film], template, 96, seed=3)
    drawn = [views.draw() for _ in range(60)]
    assert {int(v) for view in drawn for v in view.present} == {0, 1}
    hands = [view for view in drawn if view.facts[0] != 0]
    assert 40 <= len(hands) <= 59
    for view in hands:
        here = view.points[view.present == 1]
        assert ((here > 0) & (here < 95)).all()
    batch = collate(drawn[:4])
    assert [tuple(t.shape) for t in batch] == [(4, 2, 96, 96), (4, 89, 2), (4, 89), (4, 22, 2), (4, 3)]


def test_average_precision_is_arithmetic() -> None:
    # Four films; sorted by score: hit, miss, hit, and one film without a prediction.
    # Precision at the hits: 1/1 and 2/3; recall steps of 1/4: (1 + 2/3) / 4 = 0.41667.
    assert average_precision([0.9, 0.8, 0.7, 0.0], [0.8, 0.1, 0.6, 0.0], 0.5) == pytest.approx(5 / 12)
    assert average_precision([0.0, 0.0], [0.0, 0.0], 0.5) == 0.0
