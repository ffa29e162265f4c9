"""The shipped detector on phantoms it has not seen: seeds far from those it was trained on."""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import models
from models import phantom, transforms
from models.detection import nearer
from models.detection.hidden import hidden, one_level, unevenness
from models.detection.phantoms import region_boxes
from models.detection.predict import Detection, Detector
from models.image import Image
from models.metrics.overlap import box_iou
from models.phantom.two_hands import Arrangement, match
from models.regions import REGIONS, RUS

FIRST_SEED = 77_000_000
FOLDER = Path(models.__file__).parent / "bundles" / "detection" / "handnet-sets"
OLD = FOLDER.parent / "handnet-closer"


@cache
def detector() -> Detector:
    return Detector(FOLDER)


@cache
def film(seed: int = 0, laterality: str = "L") -> phantom.Phantom:
    return phantom.draw(
        FIRST_SEED + seed,
        rows=600,
        columns=600,
        zoom=0.75,
        laterality=laterality,
        age_years=4.0 + 3 * (seed % 4),
        rotation_degrees=0.0,
    )


def centres(found: Detection) -> dict[str, np.ndarray]:
    return {r.name: np.array([r.box[0] + r.box[2], r.box[1] + r.box[3]]) / 2 for r in found.regions}


def true_centres(drawn: phantom.Phantom) -> dict[str, np.ndarray]:
    return {name: np.array([b[0] + b[2], b[1] + b[3]]) / 2 for name, b in drawn.boxes.items()}


def errors(found: dict[str, np.ndarray], true: dict[str, np.ndarray]) -> np.ndarray:
    """Distances in per cent of the way from the radius to the last joint of the middle finger; a missing region is 100."""
    length = np.hypot(*(true["dp3"] - true["radius"]))
    return np.array([100 * np.hypot(*(found[n] - true[n])) / length if n in found else 100.0 for n in REGIONS])


def codes(found: Detection) -> set[str]:
    return {reason.code for reason in found.verdict.reasons}


@pytest.mark.parametrize("seed", range(4))
def test_every_region_of_an_unseen_phantom_is_found_in_its_place(seed: int) -> None:
    found = detector().detect(film(seed).image)
    assert found.verdict.accepted
    assert not any(region.flags for region in found.regions)
    away = errors(centres(found), true_centres(film(seed)))
    assert np.median(away) < 2.5
    assert away.max() < 7


@pytest.mark.parametrize("side", ["L", "R"])
def test_the_thumb_tells_the_side(side: str) -> None:
    assert detector().detect(film(1, side).image).facts.laterality == side


def test_a_mirrored_film_is_the_other_hand_with_its_regions_mirrored() -> None:
    drawn = film(2)
    found = detector().detect(Image(np.ascontiguousarray(np.fliplr(drawn.image.pixels))))
    assert found.facts.laterality == "R"
    mirrored = {name: np.array([599.0 - xy[0], xy[1]]) for name, xy in true_centres(drawn).items()}
    assert np.median(errors(centres(found), mirrored)) < 2.5


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_film_is_read_and_its_rotation_told(quarters: int) -> None:
    drawn = film(3)
    # np.rot90 turns counter-clockwise as seen on the film; a quarter brings (x, y) to (y, 599 - x).
    found = detector().detect(Image(np.ascontiguousarray(np.rot90(drawn.image.pixels, quarters))))
    true = true_centres(drawn)
    for _ in range(quarters):
        true = {name: np.array([xy[1], 599.0 - xy[0]]) for name, xy in true.items()}
    assert np.median(errors(centres(found), true)) < 2.5
    upright = detector().detect(drawn.image).facts.rotation_degrees
    turned = (found.facts.rotation_degrees - upright - 90 * quarters + 180) % 360 - 180
    assert abs(turned) < 5
    assert "rotated" in codes(found)


@pytest.mark.parametrize("declared", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("dark", [False, True])
def test_polarity_is_read_from_the_pixels_and_a_lie_is_remarked(declared: str, dark: bool) -> None:
    drawn = film(1)
    pixels = 1 - drawn.image.pixels if dark else drawn.image.pixels
    found = detector().detect(Image(pixels, photometric_interpretation=declared))
    assert found.facts.polarity == ("bone dark" if dark else "bone bright")
    assert ("polarity" in codes(found)) == dark
    assert found.verdict.accepted
    assert np.median(errors(centres(found), true_centres(drawn))) < 2.5


def test_a_side_that_the_header_denies_is_remarked() -> None:
    image = film(1, "L").image
    assert "laterality" in codes(detector().detect(dataclasses.replace(image, laterality="R")))
    assert "laterality" not in codes(detector().detect(dataclasses.replace(image, laterality="L")))


@pytest.mark.parametrize("kind", ["chest", "foot", "blank"])
def test_what_is_no_hand_is_refused(kind: phantom.others.Kind) -> None:
    found = detector().detect(phantom.draw_other(kind, FIRST_SEED, rows=500, columns=400))
    assert not found.verdict.accepted
    assert codes(found) == {"not-a-hand"}


def test_a_blank_and_a_noisy_film_are_refused() -> None:
    for pixels in (np.zeros((300, 200)), np.random.default_rng(0).random((300, 200))):
        assert not detector().detect(Image(pixels.astype(np.float32))).verdict.accepted


def test_two_hands_are_noticed_and_the_left_is_read() -> None:
    found = detector().detect(phantom.draw_other("two hands", FIRST_SEED + 2, rows=500, columns=800))
    assert "two-hands" in codes(found)
    assert found.facts.laterality == "L"


@pytest.mark.parametrize(
    ("arrangement", "seed", "said"),
    [
        ("above", 0, "the left one was read; the other one lies above it"),
        ("diagonal", 0, "the left one was read; the other one lies below it"),
        ("upside down", 3, "the left one was read"),
        ("above", 93000006, "the left one was read; the other one lies above it"),  # the view of the whole mixes them
        ("upside down", 93000007, "the left one was read"),
        ("same side", 2, "both lie as left hands, one of them was read; the other one lies beside it"),
    ],
)
def test_a_second_hand_is_found_wherever_it_lies(arrangement: Arrangement, seed: int, said: str) -> None:
    found = detector().detect(phantom.two_hands(arrangement, seed))
    (reason,) = [reason for reason in found.verdict.reasons if reason.code == "two-hands"]
    assert said in reason.text
    assert found.verdict.accepted
    assert found.facts.laterality == "L"
    assert len(found.regions) == len(REGIONS)


def test_of_a_right_hand_above_a_left_one_the_left_is_read_at_its_own_place() -> None:
    right, left = film(2, "R"), film(1, "L")
    pair = Image(np.concatenate([right.image.pixels, match(left.image.pixels, right.image.pixels)]))
    found = detector().detect(pair)
    true = {name: xy + np.array([0, 600]) for name, xy in true_centres(left).items()}
    assert np.median(errors(centres(found), true)) < 2.5
    assert "the other one lies above it" in " ".join(reason.text for reason in found.verdict.reasons)


def test_one_hand_alone_is_not_two() -> None:
    for seed, side in ((0, "L"), (1, "R")):
        assert "two-hands" not in codes(detector().detect(film(seed, side).image))


def test_a_hand_without_its_forearm_is_refused_and_the_missing_bones_named() -> None:
    drawn = film(2)
    row = int(min(drawn.boxes["radius"][1], drawn.boxes["ulna"][1]))  # cut just above both
    found = detector().detect(Image(np.ascontiguousarray(drawn.image.pixels[:row])))
    assert not found.verdict.accepted
    (reason,) = [reason for reason in found.verdict.reasons if reason.code == "missing-regions"]
    assert "radius" in reason.text
    assert "ulna" in reason.text
    assert not {"radius", "ulna"} & {region.name for region in found.regions}


def test_a_film_at_thumbnail_size_is_read() -> None:
    pixels = film(3).image.pixels.reshape(100, 6, 100, 6).mean(axis=(1, 3)).astype(np.float32)
    true = {name: (xy - 2.5) / 6 for name, xy in true_centres(film(3)).items()}
    assert np.median(errors(centres(detector().detect(Image(pixels))), true)) < 3


def test_all_rus_bones_of_a_toddler_are_found_before_their_centres_appear() -> None:
    found = detector().detect(
        phantom.draw(FIRST_SEED + 9, age_years=1.0, rows=600, columns=500, rotation_degrees=0.0).image
    )
    assert set(RUS) <= {region.name for region in found.regions}


def test_the_closer_look_brings_the_boxes_of_unseen_phantoms_to_fit() -> None:
    closer = detector()
    overlaps = []
    for seed in range(2):
        drawn = film(seed)
        true = region_boxes(drawn)
        found = {region.name: region.box for region in closer.detect(drawn.image).regions}
        overlaps += [box_iou(found[name], true[name]) for name in REGIONS]
    assert np.mean(overlaps) > 0.85


def test_a_thumbnail_has_too_few_pixels_for_a_closer_look() -> None:
    pixels = film(3).image.pixels.reshape(100, 6, 100, 6).mean(axis=(1, 3)).astype(np.float32)
    boxes = [Detector(FOLDER.parent / name).detect(Image(pixels)).regions for name in ("handnet", "handnet-closer")]
    assert [r.box for r in boxes[0]] == [r.box for r in boxes[1]]


def test_weights_of_an_earlier_day_know_fewer_points_and_are_read() -> None:
    points = {name: d.detect(film(1).image).points or {} for name, d in (("new", detector()), ("old", Detector(OLD)))}
    assert "spot mcp3" in points["new"]
    assert "spot mcp3" not in points["old"]
    assert {"mcp3", "loose mc3"} <= points["old"].keys()


@pytest.mark.parametrize("covered", [0.0, 1.0])
def test_fingers_under_a_shield_or_on_unexposed_film_are_named_as_missing(covered: float) -> None:
    drawn = film(2)
    pixels = drawn.image.pixels.copy()
    column = int(drawn.boxes["mp5"][2]) + 4  # the little finger's side of a left hand lies on the left
    pixels[:, :column] = covered
    found = detector().detect(Image(pixels))
    (reason,) = [reason for reason in found.verdict.reasons if reason.code == "missing-regions"]
    assert "dp5" in reason.text
    assert "mp5" in reason.text


@pytest.mark.parametrize(("bone", "level"), [("radius", 1.0), ("dp5", 0.5), ("dp5", 0.0)])
def test_a_bone_that_is_painted_over_is_not_found(bone: str, level: float) -> None:
    drawn = phantom.draw(
        FIRST_SEED + 123, age_years=10.0, rows=900, columns=750, laterality="L", rotation_degrees=0.0, zoom=0.8,
        furnished=False, collimated=False, low_contrast=False,
    )  # fmt: skip
    pixels = drawn.image.pixels.copy()
    x1, y1, x2, y2 = drawn.boxes[bone]
    more = 0.1 * (x2 - x1)
    pixels[int(y1 - more) : int(y2 + more), int(x1 - more) : int(x2 + more)] = level
    found = detector().detect(Image(pixels))
    assert bone not in {region.name for region in found.regions}
    (reason,) = [reason for reason in found.verdict.reasons if reason.code == "missing-regions"]
    assert bone in reason.text
    assert found.verdict.accepted == (bone != "radius")


def test_a_bone_painted_over_with_grain_is_not_found_and_one_in_a_noisy_film_is() -> None:
    drawn = phantom.draw(
        FIRST_SEED + 123, age_years=10.0, rows=900, columns=750, laterality="L", rotation_degrees=0.0, zoom=0.8,
        furnished=False, collimated=False, low_contrast=False, noise=0.02,
    )  # fmt: skip
    pixels = drawn.image.pixels.copy()
    x1, y1, x2, y2 = (round(side) for side in drawn.boxes["mp3"])
    patch = pixels[y1:y2, x1:x2]
    patch[:] = patch.mean() + np.random.default_rng(0).normal(0, 0.02, patch.shape)
    found = detector().detect(Image(pixels))
    (reason,) = [reason for reason in found.verdict.reasons if reason.code == "missing-regions"]
    assert reason.text == "covered, nothing but grain there: mp3"
    assert {region.name for region in found.regions} == set(REGIONS) - {"mp3"}


def test_unevenness_leaves_out_a_slope_and_averages_grain_away() -> None:
    rng = np.random.default_rng(0)
    slope = np.add.outer(np.linspace(0, 0.5, 161), np.linspace(0, 0.3, 161)).astype(np.float32)
    box = (0.0, 0.0, 160.0, 160.0)  # inner half: 81 pixels a side, cells of 10
    assert unevenness(slope, box) == pytest.approx(0, abs=1e-6)
    grain = rng.normal(0, 0.05, slope.shape).astype(np.float32)
    assert unevenness(slope + grain, box) == pytest.approx(0.05 / 10, rel=0.3)
    bars = np.kron(np.tile([0.0, 1.0], (8, 4)), np.ones((10, 10))).astype(
        np.float32
    )  # half of all cells: deviation 0.5
    film = np.pad(bars, ((40, 41), (40, 41)), mode="edge")
    assert unevenness(film, box) == pytest.approx(0.5, abs=0.03)  # less its plane: -3 / 21 of a step
    assert unevenness(slope, (0.0, 0.0, 24.0, 24.0)) is None  # inner half: 13 pixels, cells of one


def test_why_a_place_shows_no_bone_is_told() -> None:
    film = np.random.default_rng(0).random((200, 200)).astype(np.float32)
    film[140:180, 20:60] = 0.4
    boxes = {"mp5": (20.0, 20.0, 60.0, 60.0), "dp5": (24.0, 24.0, 64.0, 64.0), "dp4": (100.0, 20.0, 140.0, 60.0)}
    boxes |= {
        "mc5": (20.0, 140.0, 60.0, 180.0),
        "mc4": (100.0, 100.0, 140.0, 140.0),
        "pp4": (104.0, 100.0, 144.0, 140.0),
    }
    scores = dict.fromkeys(boxes, 0.9) | {"dp4": 0.4}
    astray = dict.fromkeys(boxes, 0.01) | {"dp5": 0.1}
    # Knuckles may share their place; of mp5 and dp5 in one place dp5 is the one that lies elsewhere in a hand.
    assert hidden(film, boxes, scores, astray) == {"dp5": "coincides", "dp4": "unsure", "mc5": "covered"}


def test_a_small_hand_on_a_large_plate_is_looked_at_from_nearer() -> None:
    drawn = phantom.draw(
        FIRST_SEED + 4, rows=400, columns=320, age_years=6.0, rotation_degrees=0.0, zoom=0.9, furnished=False,
        collimated=False,
    )  # fmt: skip
    plate = np.full((1400, 1200), np.percentile(drawn.image.pixels, 2), np.float32)
    plate[60:460, 800:1120] = drawn.image.pixels
    found = detector().detect(Image(plate))
    true = {name: xy + np.array([800, 60]) for name, xy in true_centres(drawn).items()}
    assert found.verdict.accepted
    assert np.median(errors(centres(found), true)) < 2.5


def test_what_fills_the_film_or_is_only_a_marker_is_not_looked_at_from_nearer() -> None:
    plate = np.zeros((300, 240), np.float32)
    plate[20:280, 20:220] = 0.8
    assert nearer.around(plate, 96) is None
    plate[:] = 0
    assert nearer.around(plate, 96) is None
    plate[30:36, 200:206] = 1.0
    assert nearer.around(plate, 96) is None
    plate[100:160, 60:90] = 0.6
    matrix = nearer.around(plate, 96)
    assert matrix is not None
    assert transforms.apply(matrix, np.array([[47.5, 47.5]]))[0] == pytest.approx((74.5, 129.5), abs=1.5)
    assert matrix[0, 0] == pytest.approx(nearer.ROOM * 60 / 96, rel=0.1)


def test_both_ends_of_a_long_film_are_looked_at_and_of_no_other() -> None:
    assert nearer.ends((300, 260), 96) == ()
    for shape, first, last in (((300, 100), (49.5, 82), (49.5, 217)), ((150, 300), (82, 74.5), (217, 74.5))):
        middles = [transforms.apply(matrix, np.array([[47.5, 47.5]]))[0] for matrix in nearer.ends(shape, 96)]
        assert np.allclose(middles, (first, last))
        corner = transforms.apply(nearer.ends(shape, 96)[0], np.array([[-0.5, -0.5]]))[0]
        assert corner.min() == pytest.approx(
            -8.0 if shape == (150, 300) else -33.0
        )  # the view reaches past a narrow film


def test_one_level_is_told_from_grain_and_from_a_slope() -> None:
    rng = np.random.default_rng(0)
    film = rng.normal(0.5, 0.02, (200, 200)).astype(np.float32)
    film[:, 100:] = np.linspace(0.3, 0.7, 200)[:, None]
    box = (20.0, 20.0, 80.0, 80.0)
    assert one_level(film, box, 0.002) < 0.2
    assert one_level(film, (120.0, 20.0, 180.0, 80.0), 0.002) < 0.2
    film[35:80, 20:80] = 0.4  # all of the inner half
    assert one_level(film, box, 0.002) == 1.0
    assert one_level(film, (-300.0, 20.0, -240.0, 80.0), 0.002) == 0.0
