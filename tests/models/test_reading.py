import dataclasses

import numpy as np
import pytest

from models.reading import Bundle, ImageFacts, Mask, MethodResult, Reading, Region, Verdict

FACTS = ImageFacts(100, 80, None, "L", None, "bone bright", "MONOCHROME2", 0.0)


def test_a_reading_survives_json_unchanged() -> None:
    mask = np.zeros((100, 80), dtype=np.bool_)
    mask[10:20, 5:9] = True
    reading = Reading(
        image=FACTS,
        verdict=Verdict(accepted=True),
        bundle=Bundle("test", "1", "0" * 64),
        regions=(Region("radius", (1.0, 2.0, 3.0, 4.0), 0.9),),
        masks={"radius": Mask.from_array(mask)},
        methods=(MethodResult("RUS-CHN", "F", 10.5, (9.8, 11.2), 512.4),),
    )
    assert Reading.from_json(reading.to_json()) == reading


@pytest.mark.parametrize("corner", [False, True])
def test_a_mask_decodes_to_the_pixels_it_was_made_from(corner: bool) -> None:
    mask = np.zeros((7, 9), dtype=np.bool_)
    mask[2, 3:6] = mask[4, 3] = True
    mask[0, 0] = corner
    assert np.array_equal(Mask.from_array(mask).to_array(7, 9), mask)
    whole = np.zeros((20, 30), dtype=np.bool_)
    whole[10:17, 5:14] = mask
    assert Mask.from_array(mask, (5, 10)) == Mask.from_array(whole)


@pytest.mark.parametrize(("rotation", "share"), [(0.0, 0.5), (-170.0, 0.5), (95.0, 0.6), (-88.0, 0.6)])
def test_the_hand_spans_its_share_of_the_film_across_the_fingers(rotation: float, share: float) -> None:
    boxes = ((10.0, 20.0, 30.0, 40.0), (30.0, 60.0, 50.0, 80.0))  # 40 of 80 columns, 60 of 100 rows
    found = tuple(Region(name, box, 0.9) for name, box in zip(("radius", "dp3"), boxes, strict=True))
    facts = dataclasses.replace(FACTS, rotation_degrees=rotation)
    bare = Reading(facts, Verdict(accepted=True), Bundle("test", "1", "0" * 64))
    assert bare.hand_share is None
    assert dataclasses.replace(bare, regions=found).hand_share == pytest.approx(share)


def test_an_unknown_region_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'mp1' is not one of"):
        Region("mp1", (0, 0, 1, 1), 1.0)


def test_an_empty_mask_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        Mask.from_array(np.zeros((4, 4), dtype=np.bool_))


@pytest.mark.parametrize(
    ("seen", "declared", "marker", "said"),
    [
        ("L", "L", "L", None),
        ("L", None, "L", None),
        ("L", "L", None, None),
        (
            "R",
            "R",
            "L",
            "the side marker on the film says left, the thumb lies as on a right hand, the header says right",
        ),
        ("L", "R", "L", "the side marker on the film says left, the header says right"),
        ("R", None, "L", "the side marker on the film says left, the thumb lies as on a right hand"),
    ],
)
def test_a_side_marker_is_kept_and_a_contradiction_said(
    seen: str, declared: str | None, marker: str | None, said: str | None
) -> None:
    facts = dataclasses.replace(FACTS, laterality=seen, laterality_declared=declared)
    reading = Reading(image=facts, verdict=Verdict(accepted=True), bundle=Bundle("test", "1", "0" * 64)).marked(marker)
    assert reading.image.laterality_marked == marker
    assert [reason.text for reason in reading.verdict.reasons if reason.code == "side-marker"] == (
        [said] if said else []
    )
    assert reading.verdict.accepted
    assert Reading.from_json(reading.to_json()) == reading
