"""A splint of one finger: drawn over a phantom, and what the rule and the verdict make of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import models
from models import phantom
from models.detection import casting, splint
from models.detection.phantoms import region_boxes
from models.detection.predict import Detector

FOLDER = Path(models.__file__).parent / "bundles" / "detection" / "handnet-sets"
DRAWN = phantom.draw(78_000_010, age_years=9.0, rows=700, columns=560, furnished=False, rotation_degrees=8.0)
PIXELS, BOXES = DRAWN.image.pixels, region_boxes(DRAWN)


def splinted(ray: int, seed: int = 0) -> np.ndarray:
    return casting.splint(np.random.default_rng(seed), PIXELS, BOXES, splint.FINGERS[ray])


@pytest.mark.parametrize("ray", splint.FINGERS)
@pytest.mark.parametrize("dark", [False, True])
def test_the_bones_under_a_splint_are_those_of_its_finger(ray: int, dark: bool) -> None:
    film = splinted(ray)
    found = splint.under(1 - film if dark else film, BOXES, dark=dark)
    assert found
    assert found <= set(splint.FINGERS[ray])


@pytest.mark.parametrize("dark", [False, True])
def test_a_bare_hand_has_none_and_one_finger_alone_is_not_judged(dark: bool) -> None:
    assert splint.under(1 - PIXELS if dark else PIXELS, BOXES, dark=dark) == frozenset()
    alone = {name: BOXES[name] for name in (*splint.FINGERS[3], *splint.FINGERS[2])}
    assert splint.under(splinted(3), alone, dark=False) == frozenset()


def test_a_bright_edge_along_one_side_of_a_finger_is_not_a_splint() -> None:
    film = splinted(3)
    x = round((BOXES["mp3"][0] + BOXES["mp3"][2]) / 2)
    assert not splint.under(np.concatenate((film[:, :x], PIXELS[:, x:]), axis=1), BOXES, dark=False)


def test_the_verdict_names_the_bones_and_no_age_is_made_of_them() -> None:
    detector = Detector(FOLDER)
    found = detector.detect(replace(DRAWN.image, pixels=splinted(3)))
    said = {reason.code: reason.text for reason in found.verdict.reasons}
    assert found.verdict.accepted
    assert "cast" in said
    assert said["missing-regions"].startswith("under a cast or splint: ")
    named = set(said["missing-regions"].removeprefix("under a cast or splint: ").split(", "))
    assert named
    assert named <= set(splint.FINGERS[3])
    assert not named & {region.name for region in found.regions}
