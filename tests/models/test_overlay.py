import dataclasses

import numpy as np
import pytest

from models import overlay
from models.image import Image
from models.reading import CONTRADICTED, Bundle, ImageFacts, Mask, Reading, Region, Stage, Verdict

ROWS, COLUMNS = 300, 200
FACTS = ImageFacts(ROWS, COLUMNS, None, "L", None, "bone bright", "MONOCHROME2", 0.0)
STAGE = Stage("RUS-CHN", "6", "G", 0.91, "5", 0.06)


def _film() -> Image:
    pixels = np.zeros((ROWS, COLUMNS), np.float32)
    pixels[100:200, 50:150] = 1.0
    return Image(pixels)


def _reading() -> Reading:
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[220:300, 60:120] = True
    return Reading(
        image=FACTS,
        verdict=Verdict(accepted=True),
        bundle=Bundle("test", "1", "0" * 64),
        regions=(Region("radius", (60, 210, 120, 280), 0.9, STAGE), Region("mc2", (20, 60, 40, 80), 0.8)),
        masks={"radius": Mask.from_array(mask)},
    )


def test_the_overlay_keeps_the_aspect_of_the_film() -> None:
    assert overlay.draw(_film(), _reading(), height=600).shape == (600, 400, 3)


def test_a_graded_region_is_framed_in_the_colour_of_its_stage() -> None:
    drawn = overlay.draw(_film(), _reading(), height=ROWS)
    assert tuple(drawn[245, 60]) == overlay.STAGE_COLOURS["G"]
    assert tuple(drawn[70, 20]) == overlay.UNGRADED


def test_the_outline_follows_the_border_of_the_mask_and_leaves_its_inside() -> None:
    drawn = overlay.draw(_film(), dataclasses.replace(_reading(), regions=()), height=ROWS)
    assert tuple(drawn[250, 61]) == overlay.OUTLINES["radius"]
    assert tuple(drawn[250, 90]) == (0, 0, 0)


@pytest.mark.parametrize(("polarity", "expected"), [("bone bright", 255), ("bone dark", 0)])
def test_bone_is_shown_bright_whatever_the_polarity(polarity: str, expected: int) -> None:
    facts = dataclasses.replace(FACTS, polarity=polarity)
    reading = dataclasses.replace(_reading(), image=facts, regions=(), masks={})
    assert overlay.draw(_film(), reading, height=ROWS)[150, 100, 0] == expected


def test_a_label_names_bone_stage_letter_and_certainty() -> None:
    assert overlay.describe(_reading().regions[0]) == "radius 6 G 91%"
    assert overlay.describe(_reading().regions[1]) == "mc2"


def test_a_stage_that_the_other_bones_contradict_is_marked() -> None:
    region = dataclasses.replace(_reading().regions[0], flags=("order", CONTRADICTED))
    assert overlay.describe(region) == "radius 6 G 91% !"


def test_a_stage_that_a_person_gave_carries_no_probability() -> None:
    region = next(region for region in _reading().regions if region.stage is not None)
    assert region.stage is not None
    read = dataclasses.replace(region.stage, probability=0.71, runner_up="5", runner_up_probability=0.2)
    given = dataclasses.replace(region.stage, probability=1.0, runner_up=None, runner_up_probability=None)
    assert overlay.describe(dataclasses.replace(region, stage=read)).endswith(" 71%")
    assert "%" not in overlay.describe(dataclasses.replace(region, stage=given))
