import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import DataElement, dcmread
from pydicom.uid import (
    ComprehensiveSRStorage,
    JPEGExtended12Bit,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
)

from service.routing import RULES, Outcome, route
from service.wrap import Kind
from tests.factories import encoded, instance


def described(**values: Any) -> Any:
    ds = instance(without=("BodyPartExamined", "StudyDescription"))
    ds.update(values)
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize("keyword", ["Modality", "PhotometricInterpretation", "NumberOfFrames", "SamplesPerPixel"])
def test_no_cause_carries_what_a_terminal_acts_on(keyword: str) -> None:
    """`carpus jobs` printed a Modality that renamed and cleared the administrator's terminal."""
    film = instance()
    film[keyword] = DataElement(film.data_element(keyword).tag if keyword in film else keyword, "LO", "x")
    film[keyword]._value = "\x1b]0;owned\x07\x1b[2J\u202e" + "y" * 90  # as it is read: nothing checks it
    cause = route(film).text
    assert cause.isprintable()
    assert "]0;OWNED[2JYYYYY" in cause
    assert len(cause) < 100


@pytest.mark.parametrize("kind", ["CR", "DX", "DX-PROCESSING", "SC"])
def test_a_hand_film_of_every_kind_is_read(kind: Kind) -> None:
    assert route(dcmread(BytesIO(encoded(instance(kind=kind))))).outcome is Outcome.READ


@pytest.mark.parametrize(
    ("keyword", "text", "part"),
    [
        ("BodyPartExamined", "CHEST", "chest"),
        ("BodyPartExamined", "FOOT", "foot"),
        ("StudyDescription", "X-ray, left FOOT 3 views", "foot"),
        ("ProtocolName", "T-spine_AP", "spine"),
        ("SeriesDescription", "胸部正位", "chest"),
        ("StudyDescription", "左足", "foot"),
        ("StudyDescription", "膝关节", "leg"),
        ("BodyPartExamined", "SKULL", "head"),
    ],
)
def test_another_body_part_is_rejected_with_the_attribute_that_says_so(keyword: str, text: str, part: str) -> None:
    found = route(described(**{keyword: text}))
    assert (found.outcome, found.code) == (Outcome.REJECT, "wrong-body-part")
    assert found.text == f"{keyword} says {part}, not hand"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"BodyPartExamined": ""},
        {"BodyPartExamined": "EXTREMITY"},
        {"BodyPartExamined": "LHAND_PA"},
        {"BodyPartExamined": "CHEST", "StudyDescription": "Bone age, left hand"},  # a console's default value
        {"StudyDescription": "左手正位片"},
        {"StudyDescription": "骨龄"},
        {"StudyDescription": "Wrist and knee"},
    ],
    ids=str,
)
def test_where_the_header_names_no_part_or_several_the_pixels_decide(values: dict[str, str]) -> None:
    assert route(described(**values)).outcome is Outcome.READ


def test_our_own_result_on_its_way_back_is_filtered_not_rejected() -> None:
    ds = instance(kind="SC")
    ds.Manufacturer = "Carpus"
    assert (route(ds).outcome, route(ds).code) == (Outcome.FILTER, "own-result")


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"SOPClassUID": ComprehensiveSRStorage}, "sop-class"),
        ({"SOPClassUID": MultiFrameGrayscaleWordSecondaryCaptureImageStorage}, "sop-class"),
        ({"Modality": "MR"}, "wrong-modality"),
    ],
)
def test_what_is_no_radiograph_is_filtered(values: dict[str, str], code: str) -> None:
    found = route(described(**values))
    assert (found.outcome, found.code) == (Outcome.FILTER, code)


def test_an_image_without_pixel_data_is_rejected() -> None:
    found = route(instance(without=("PixelData",)))
    assert (found.outcome, found.code) == (Outcome.REJECT, "no-pixel-data")
    assert "PixelData is missing" in found.text


def test_a_colour_page_is_rejected() -> None:
    found = route(instance(kind="SC", picture=np.zeros((64, 48, 3), np.uint8)))
    assert (found.outcome, found.code) == (Outcome.REJECT, "colour")


def test_several_frames_are_rejected() -> None:
    assert route(described(NumberOfFrames="4")).code == "multi-frame"
    assert route(described(NumberOfFrames="1")).outcome is Outcome.READ


def test_an_image_of_no_size_is_rejected() -> None:
    assert route(described(Rows=0)).code == "too-small"


def test_an_undecodable_transfer_syntax_is_rejected_with_its_name_and_why() -> None:
    ds = instance()
    ds.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    found = route(ds)
    assert found.code == "undecodable"
    assert "JPEG Extended" in found.text
    assert "permissive licence" in found.text


@pytest.mark.parametrize(("value", "sex"), [("F", "F"), ("M", "M"), ("O", None), ("", None), ("W", None)])
def test_sex_is_never_guessed(value: str, sex: str | None) -> None:
    ds = instance()
    ds["PatientSex"].value = value
    assert route(ds).sex == sex


def test_a_missing_sex_is_unknown() -> None:
    assert route(instance(without=("PatientSex",))).sex is None


def test_the_side_of_the_image_comes_before_that_of_the_series() -> None:
    assert route(described(Laterality="L", ImageLaterality="R")).laterality == "R"
    assert route(described(Laterality="L")).laterality == "L"
    assert route(instance(laterality="")).laterality is None


def test_every_rule_has_its_own_code_and_no_text_names_the_patient() -> None:
    codes = [rule.code for rule in RULES]
    assert len(set(codes)) == len(codes)
    assert "TEST" not in json.dumps([str(route(described(Modality="MR"))), str(route(described(Rows=0)))])
