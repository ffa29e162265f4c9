"""A closer look lent to another detector; the boxes found are made up, so that the answer is arithmetic."""

from dataclasses import replace

import numpy as np
import pytest

from models import phantom, registry
from models.detection.borrowed import fit, learned_from, offsets
from models.detection.closer import CONTEXT
from models.detection.predict import Detection, Detector
from models.image import Image
from models.reading import Box, ImageFacts, Region, Verdict
from models.regions import REGIONS
from models.runs import RunRefused
from models.weights import FREE_TERMS, Metadata

FOLDER = registry.FOLDER / "detection"
FACTS = ImageFacts(500, 400, None, "L", None, "bone bright", "MONOCHROME2", 0.0)


def found(boxes: dict[str, Box]) -> Detection:
    return Detection(tuple(Region(name, box, 1.0) for name, box in boxes.items()), FACTS, Verdict(True))


@pytest.mark.parametrize("laterality", ["L", "R"])
def test_a_box_found_too_low_and_too_small_is_told_to_rise_and_grow(laterality: str) -> None:
    drawn = phantom.draw(5, rows=500, columns=400, rotation_degrees=0.0, laterality=laterality)
    x1, y1, x2, y2 = drawn.boxes["mp3"]
    side = x2 - x1
    # The middle lies a tenth of the side lower and to the thumb's side, the box is half as large.
    right = 0.1 * side if laterality == "L" else -0.1 * side
    x, y = (x1 + x2) / 2 + right, (y1 + y2) / 2 + 0.1 * side
    moved = found({"mp3": (x - side / 4, y - side / 4, x + side / 4, y + side / 4)})
    rows = offsets(drawn, moved)
    own = rows[REGIONS.index("mp3")]
    # The middle finger of this hand leans by 1.8 degrees, which turns the shift by as much: 0.0588 x sin 1.8 = 0.002.
    assert own[:2] == pytest.approx([-0.1 / CONTEXT, -0.1 / CONTEXT], abs=0.003)
    assert own[2:] == pytest.approx([np.log(2), np.log(2)])
    assert np.isnan(np.delete(rows, REGIONS.index("mp3"), axis=0)).all()


def test_a_region_that_no_phantom_shows_has_no_constant() -> None:
    class Blind(Detector):
        def __init__(self) -> None: ...

        def detect(self, image: Image) -> Detection:
            return found({name: (10.0, 10.0, 20.0, 20.0) for name in REGIONS if name != "ulna"})

    with pytest.raises(RunRefused, match="on none of 1 phantoms were found: ulna"):
        fit(Blind(), 1)


def test_a_closer_look_that_has_seen_films_is_not_lent() -> None:
    card = Metadata.read(FOLDER / "handnet-sets")
    assert "500 phantoms" in learned_from(card, FOLDER)
    seen = replace(card, data=("closer look: 80 films of a hospital",))
    with pytest.raises(RunRefused, match="learned from more than phantoms"):
        learned_from(seen, FOLDER)
    with pytest.raises(RunRefused, match="has no closer look"):
        learned_from(replace(card, hyperparameters={}), FOLDER)


def test_the_phantom_detector_puts_boxes_where_phantoms_are_drawn_with_them() -> None:
    detector = Detector(FOLDER / "handnet-phantoms")
    assert Metadata.read(FOLDER / "handnet-phantoms").terms == FREE_TERMS
    left = np.nanmedian([offsets(drawn, detector.detect(drawn.image))[:, 1] for drawn in _drawn(2)], axis=0)
    # Without the bias the finger joints lie 0.04 to 0.06 of a view toward the shaft.
    fingers = [REGIONS.index(name) for name in REGIONS if name[:2] in ("pp", "mp", "dp")]
    assert np.abs(np.median(left[fingers])) < 0.015


def _drawn(number: int) -> list[phantom.Phantom]:
    return [phantom.draw(31_500_000 + k, rows=640, columns=512, age_years=10.0) for k in range(number)]
