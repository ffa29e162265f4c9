"""Two readers of one film: how far they are apart, and on whose side the second stands where the detector misses the first."""

import numpy as np
import pytest

from models.detection.anatomy import Template
from models.detection.conventions import CHANNEL, CHANNELS, REGION_OF_JOINT, Annotated
from models.detection.readers import between_readers, height_of_knuckles, judged_by_the_second, row_told

TEMPLATE = Template.load()
JOINT = "pip3"
LOOSE = f"loose {REGION_OF_JOINT[JOINT]}"


def record(film: int, origin: str, names: list[str], moved: dict[str, tuple[float, float]]) -> Annotated:
    """Return a reader's points where the template has them; `moved` by per cent of the hand's length."""
    points = np.full((len(CHANNELS), 2), np.nan, np.float32)
    for name in names:
        shift = np.array(moved.get(name, (0.0, 0.0))) * TEMPLATE.hand_length / 100
        points[CHANNEL[name]] = TEMPLATE.points[CHANNEL[name]] + shift
    return Annotated(film, origin, 1.0, points, np.full((22, 2), np.nan, np.float32))


@pytest.fixture
def films() -> dict[int, dict[str, Annotated]]:
    joints = [name for name in CHANNELS if name in REGION_OF_JOINT]
    loose = [f"loose {REGION_OF_JOINT[name]}" for name in joints]
    made = {}
    for film in range(5):
        moved = {LOOSE: (0.0, 6.0)} if film == 0 else {}
        made[film] = {
            "epiphyses21": record(film, "epiphyses21", loose, moved),
            "handpose": record(film, "handpose", joints, {}),
        }
    return made


def test_two_readers_are_compared_after_the_constant_distance_of_their_conventions(
    films: dict[int, dict[str, Annotated]],
) -> None:
    (pair, found), *others = between_readers(TEMPLATE, films).items()
    assert pair == "epiphyses21 and handpose"
    assert not others
    # Of five films with as many joints each, one joint of one film is off.
    assert found["within 2.5 percent of each other"]["value"] == pytest.approx(
        1 - 1 / (5 * len(REGION_OF_JOINT)), abs=1e-3
    )


def test_a_miss_that_the_second_reader_does_not_share_is_told_from_one_that_he_does(
    films: dict[int, dict[str, Annotated]],
) -> None:
    # The detector stands where the template does: the first reader is off by (0, 6) on film 0, the detector on film 1.
    errors = {"epiphyses21": {film: {LOOSE: np.zeros(2)} for film in films}}
    errors["epiphyses21"][0][LOOSE] = np.array([0.0, -6.0])
    errors["epiphyses21"][1][LOOSE] = np.array([4.0, 0.0])
    (name, found), *others = judged_by_the_second(TEMPLATE, films, errors).items()
    assert name == "epiphyses21, second reader handpose"
    assert not others
    assert (found["films"], found["joints"], found["missed"]) == (5, 5, 2)
    assert found["missed, and the second reader within 2.5 percent of the detector"] == 1
    assert found["within_2.5_percent of one of the two"]["value"] == pytest.approx(4 / 5)


def test_a_readers_height_of_the_knuckles_is_taken_from_the_other_knuckles_and_from_nothing_else() -> None:
    low, here = np.array([0.5, 4.0]), np.zeros(2)
    row = {f"spot mcp{finger}": low for finger in (2, 3, 4, 5)}
    told = row_told({**row, "spot pip3": low, "spot mcp1": low})
    assert [told[name] for name in row] == pytest.approx([0.5] * 4)
    assert told["spot pip3"] == told["spot mcp1"] == pytest.approx(np.hypot(*low))
    # One knuckle alone is wrong: the others do not explain it.
    assert row_told({**dict.fromkeys(row, here), "spot mcp2": low})["spot mcp2"] == pytest.approx(np.hypot(*low))
    assert row_told({"mcp2": low, "mcp3": low}) == pytest.approx({"mcp2": np.hypot(*low), "mcp3": np.hypot(*low)})


def test_the_height_of_the_knuckles_is_that_of_the_four_and_none_where_none_was_seen() -> None:
    unseen = np.full(2, np.inf)
    errors = {"spot mcp2": np.array([9.0, -1.0]), "spot mcp3": np.array([0.0, -2.0]), "spot pip3": np.array([0.0, 7.0])}
    assert height_of_knuckles({**errors, "spot mcp4": unseen}) == -1.5
    assert height_of_knuckles({"spot mcp1": np.zeros(2), "spot mcp4": unseen}) is None
