import numpy as np
import pytest

from models import transforms
from models.detection import anatomy
from models.detection.conventions import CHANNEL, CHANNELS
from models.transforms import Similarity

TEMPLATE = anatomy.Template.load()
ALL = np.ones(len(CHANNELS), np.bool_)


@pytest.mark.parametrize(("mirrored", "side"), [(False, "L"), (True, "R")])
@pytest.mark.parametrize("degrees", [0, 90, 180, -135])
def test_the_pose_of_a_placed_template_is_found_with_its_side(mirrored: bool, side: str, degrees: float) -> None:
    placed = Similarity(800.0, float(np.deg2rad(degrees)), (300.0, 200.0), mirrored)
    pose = anatomy.pose(TEMPLATE, transforms.apply(placed.matrix, TEMPLATE.points), ALL)
    assert pose is not None
    assert pose.laterality == side
    assert pose.fitting == 1
    assert np.allclose(pose.upright.matrix, placed.matrix, atol=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("squash", [0.75, 1.35])
def test_a_film_that_lost_its_aspect_is_fitted_as_it_was_before(squash: float, mirrored: bool) -> None:
    placed = Similarity(800.0, 0.3, (300.0, 200.0), mirrored)
    points = transforms.apply(placed.matrix, TEMPLATE.points) + np.random.default_rng(2).normal(
        0, 4, TEMPLATE.points.shape
    )
    pose = anatomy.pose(TEMPLATE, points / np.array([squash, 1.0]), ALL)
    assert pose is not None
    assert pose.squash == pytest.approx(squash, rel=0.04)  # ratios are tried in steps of 5 %
    assert pose.laterality == ("R" if mirrored else "L")
    assert pose.fitting == 1


def test_wrong_points_do_not_turn_the_hand() -> None:
    points = TEMPLATE.points * 1000
    points[:12] += 400  # 12 of 89 points far off
    pose = anatomy.pose(TEMPLATE, points, ALL)
    assert pose is not None
    assert np.allclose(pose.upright.matrix, [[1000, 0, 0], [0, 1000, 0]], atol=1e-3)
    assert pose.fitting == pytest.approx(77 / 89)


def test_scattered_points_do_not_fit_a_hand() -> None:
    pose = anatomy.pose(TEMPLATE, np.random.default_rng(5).uniform(0, 1000, (len(CHANNELS), 2)), ALL)
    assert pose is None or pose.fitting < 0.6


def test_five_points_are_too_few_for_a_pose() -> None:
    few = np.zeros(len(CHANNELS), np.bool_)
    few[:5] = True
    assert anatomy.pose(TEMPLATE, TEMPLATE.points, few) is None


def test_rotation_is_counted_counter_clockwise_from_up() -> None:
    # Turned clockwise by 90 degrees on the film (x towards y) the middle finger points right: -90 counter-clockwise.
    turned = transforms.apply(Similarity(100.0, np.pi / 2, (0.0, 0.0)).matrix, TEMPLATE.points)
    upright = anatomy.rotation_degrees(TEMPLATE.points)
    assert abs(upright) < 5
    assert anatomy.rotation_degrees(turned) == pytest.approx(upright - 90)


def test_the_template_itself_is_in_order() -> None:
    assert anatomy.out_of_order(TEMPLATE.points, ALL) == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [("pp2", "pp3"), ("dp4", "dp5"), ("mp3", "dp3"), ("radius", "ulna"), ("carpus", "radius"), ("mc1", "pp1")],
)
def test_exchanged_regions_are_named(one: str, other: str) -> None:
    points = TEMPLATE.points.copy()
    a, b = CHANNEL[one], CHANNEL[other]
    points[[a, b]] = points[[b, a]]
    assert {one, other} <= set(anatomy.out_of_order(points, ALL))


def test_a_missing_region_contradicts_nothing() -> None:
    points = TEMPLATE.points.copy()
    points[CHANNEL["dp3"]] = -9
    found = ALL.copy()
    found[CHANNEL["dp3"]] = False
    assert anatomy.out_of_order(points, found) == ()
