"""The profile against the standard's table: every row, every action, every hiding place."""

import os
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c import ALL_TAGS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import config
from pydicom.datadict import DicomDictionary, dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from service.deidentification.actions import DUMMIES, ENUMERATED, HANDLERS
from service.deidentification.burned_in.cleaning import clean_instance
from service.deidentification.confidentiality import ADDED_2026C, EDITION_2024E, listed, load, table
from service.deidentification.deidentify import deidentify, for_inference
from service.trust.pseudonyms import Pseudonyms
from tests.factories import instance
from tests.service.seeded import UNSEARCHABLE, Seeds, elements, from_bytes, seed, to_bytes

PSEUDONYMS = Pseudonyms(b"k" * 32)
PROFILE = load()
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
# What makes the file a film at all, and therefore is not seeded.
FRAME = frozenset({0x00080016, 0x00080018, 0x7FE00010})
IN_FILES = [tag for tag in table() if tag >> 16 not in (0x0000, 0x0002, 0x0004)]
RETAINED = frozenset(tag for tag in table() if PROFILE.rule(tag, image=True).letter == "K")


def seeded_film(kind: str = "DX", **options: Any) -> tuple[Dataset, Seeds]:
    film = instance(kind=kind, **options)
    seeds = Seeds()
    seed(film, IN_FILES, seeds, without=FRAME)
    return film, seeds


def test_the_table_is_the_whole_one() -> None:
    # 621 rows less curve data, overlay data, overlay comments and private attributes, and 10 of edition 2026c
    assert len(table()) == 617 + 10
    basic = Counter(row.basic for row in table().values())
    assert basic == {
        **{"X": 387, "D": 93, "U": 55, "Z": 42, "X/D": 23, "X/Z": 11},
        **{"X/Z/D": 8, "Z/D": 6, "X/Z/U*": 2},
    }


@pytest.mark.parametrize("image", [True, False], ids=["image", "other"])
def test_every_attribute_of_the_table_receives_its_action(image: bool) -> None:
    film, _ = seeded_film()
    if not image:
        film.SOPClassUID = COMPREHENSIVE_SR
        del film.PixelData
    source = elements(from_bytes(to_bytes(film)))
    copy = elements(from_bytes(to_bytes(deidentify(from_bytes(to_bytes(film)), PSEUDONYMS)[0])))
    seen = Counter()
    for tag, row in table().items():
        if tag >> 16 in (0x0000, 0x0002, 0x0004):
            assert PROFILE.rule(tag, image=image).letter == "X"
            continue
        if tag in FRAME or row.keyword in ("PatientAge", "DeidentificationMethod"):
            continue
        letter = PROFILE.rule(tag, image=image).letter
        vr = dictionary_VR(tag).split(" or ")[0]
        seen[letter] += 1
        match letter:
            case "X":
                assert tag not in copy, row.name
            case "Z" if tag in PROFILE.pseudonyms:
                assert copy[tag].value not in (None, "", source[tag].value), row.name
            case "Z":
                assert not copy[tag].value, row.name
            case "D" if vr == "SQ":
                assert len(copy[tag].value) == 1, row.name
            case "D" if vr != "UI":
                assert str(copy[tag].value) == str(DUMMIES[vr]), row.name
            case "U" if vr != "SQ":
                assert copy[tag].value == PSEUDONYMS.uid(source[tag].value), row.name
            case "C" if vr in ("DA", "DT", "TM"):
                assert len(str(copy[tag].value)) == len(str(source[tag].value)), row.name
                assert copy[tag].value != source[tag].value, row.name
            case "K":
                if row.keyword in ENUMERATED:  # seeded with a word that is no sex and no smoking status
                    assert tag not in copy or not copy[tag].value, row.name
                else:
                    assert copy[tag].value == source[tag].value, row.name
    assert set(seen) == set(HANDLERS)


@pytest.mark.parametrize("kind", ["CR", "DX", "SC"])
@pytest.mark.parametrize(
    "syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=["explicit", "implicit", "big"]
)
def test_no_byte_of_a_seeded_film_is_left(kind: str, syntax: str | None) -> None:
    film, seeds = seeded_film(kind, **({} if syntax is None else {"transfer_syntax": syntax}))
    data = to_bytes(film)
    assert len(seeds.left_in(data)) > 550  # the seeds are there to be found
    copy, _ = deidentify(from_bytes(data), PSEUDONYMS)
    assert seeds.left_in(to_bytes(copy), besides=RETAINED) == {}
    assert seeds.left_in(to_bytes(for_inference(from_bytes(data), PSEUDONYMS))) == {}


def test_no_byte_is_left_at_any_depth_of_a_kept_sequence() -> None:
    film = instance(kind="DX")
    seeds = Seeds()
    deep = Dataset()
    seed(deep, IN_FILES, seeds, without=FRAME)
    middle = Dataset()
    middle.AnatomicRegionModifierSequence = Sequence([deep])
    seed(middle, IN_FILES, seeds, without=FRAME)
    film.AnatomicRegionSequence = Sequence([middle])
    copy, actions = deidentify(from_bytes(to_bytes(film)), PSEUDONYMS)
    assert seeds.left_in(to_bytes(copy), besides=RETAINED) == {}
    assert "AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].PatientBirthDate" in {a.path for a in actions}


def test_a_seeded_report_keeps_its_structure_and_no_identity() -> None:
    report = instance(kind="CR")
    del report.PixelData
    report.SOPClassUID = COMPREHENSIVE_SR
    report.file_meta.MediaStorageSOPClassUID = COMPREHENSIVE_SR
    seeds = Seeds()
    items = []
    for value_type, keyword in [("PNAME", "PersonName"), ("TEXT", "TextValue"), ("UIDREF", "UID"), ("DATE", "Date")]:
        item = Dataset()
        item.RelationshipType, item.ValueType = "HAS OBS CONTEXT", value_type
        tag = item.data_element("RelationshipType").tag  # any tag: the marker alone counts
        setattr(item, keyword, seeds.value(int(tag), dictionary_VR(keyword_tag(keyword))))
        items.append(item)
    report.ContentSequence = Sequence(items)
    copy = from_bytes(to_bytes(deidentify(from_bytes(to_bytes(report)), PSEUDONYMS)[0]))
    assert [item.ValueType for item in copy.ContentSequence] == ["PNAME", "TEXT", "UIDREF", "DATE"]
    assert copy.ContentSequence[1].TextValue == "removed"
    assert seeds.left_in(to_bytes(copy)) == {}


def keyword_tag(keyword: str) -> int:
    return next(tag for tag, entry in DicomDictionary.items() if entry[4] == keyword)


def test_what_hides_outside_of_the_attributes_is_left_behind() -> None:
    film = instance(kind="CR")
    mark = b"SEED-HIDDEN"
    film.private_block(0x0009, "ACME", create=True).add_new(0x01, "LO", mark.decode())
    film.private_block(0x0029, "ACME", create=True).add_new(0x10, "UN", mark)
    film.add_new(0x60000010, "US", 8)
    film.add_new(0x60000022, "LO", mark.decode())
    film.add_new(0x60003000, "OW", mark + b"\0")
    film.add_new(0x60FE4000, "LT", mark.decode())
    film.add_new(0x50003000, "OW", mark + b"\0")
    film.add_new(0x00184001, "LO", mark.decode())  # even, and in no dictionary
    film.add_new(0xFFFCFFFC, "OB", mark + b"\0")
    film.PixelData += mark + b"\0"  # after the last sample
    film.file_meta.SourceApplicationEntityTitle = mark.decode()
    film.file_meta.PrivateInformationCreatorUID = "1.2.3"
    film.file_meta.PrivateInformation = mark + b"\0"
    film.preamble = mark.ljust(128, b"\0")
    data = to_bytes(film)
    assert data.count(mark) == 12
    for copy in (deidentify(from_bytes(data), PSEUDONYMS)[0], for_inference(from_bytes(data), PSEUDONYMS)):
        assert mark not in to_bytes(copy)
        assert not [e for e in copy if e.tag.is_private or e.tag.group >> 8 in (0x50, 0x60)]


def test_an_overlay_in_the_unused_bits_of_the_pixels_is_cleared() -> None:
    film = instance(kind="CR", bits_stored=12)
    samples = np.frombuffer(film.PixelData, "<u2").copy()
    samples[::3] |= 0x8000  # a plane of text in bit 15, as the retired overlays had it
    film.PixelData = samples.tobytes()
    copy, _ = deidentify(from_bytes(to_bytes(film)), PSEUDONYMS)
    assert np.array_equal(np.frombuffer(copy.PixelData, "<u2"), samples & 0x0FFF)


def test_signed_samples_keep_their_sign() -> None:
    film = instance(kind="CR", bits_stored=12)
    samples = np.array([-2048, -1, 0, 1, 2047] * (film.Rows * film.Columns // 5), "<i2")
    film.PixelRepresentation = 1
    film.PixelData = (samples & 0x0FFF).astype("<u2").tobytes()  # two's complement in 12 bits, high bits clear
    copy, _ = deidentify(from_bytes(to_bytes(film)), PSEUDONYMS)
    assert np.array_equal(np.frombuffer(copy.PixelData, "<i2"), samples)


def test_the_method_is_declared_by_its_codes() -> None:
    copy, _ = deidentify(from_bytes(to_bytes(instance())), PSEUDONYMS)
    assert copy.PatientIdentityRemoved == "YES"
    assert copy.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = [item.CodeValue for item in copy.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113103", "113104", "113105", "113107", "113108"]
    cleaned, _ = deidentify(from_bytes(to_bytes(instance())), PSEUDONYMS, clean=clean_instance)
    assert cleaned.DeidentificationMethodCodeSequence[-1].CodeValue == "113101"
    assert cleaned.BurnedInAnnotation == "NO"


def test_cleaned_pixels_are_claimed_only_when_they_were_cleaned() -> None:
    film = instance(kind="CR")
    film.BurnedInAnnotation = "YES"
    copy, _ = deidentify(from_bytes(to_bytes(film)), PSEUDONYMS)
    assert copy.BurnedInAnnotation == "YES"


def test_the_device_stays_known_only_by_choice() -> None:
    film = instance(kind="CR")
    film.StationName, film.DeviceSerialNumber = "CRROOM1", "SN0815"
    without, _ = deidentify(from_bytes(to_bytes(film)), PSEUDONYMS)
    assert "StationName" not in without
    chosen = PROFILE.with_options("retain-device-identity")
    copy, _ = deidentify(from_bytes(to_bytes(film)), PSEUDONYMS, chosen)
    assert (copy.StationName, copy.DeviceSerialNumber) == ("CRROOM1", "SN0815")
    assert "113109" in [item.CodeValue for item in copy.DeidentificationMethodCodeSequence]


def test_two_films_of_one_patient_stay_together_with_their_intervals() -> None:
    first, second = instance(seed=1), instance(seed=2)
    first.StudyDate, second.StudyDate = "20240229", "20260228"
    first.StudyTime = second.StudyTime = "120000"
    second.SourceImageSequence = Sequence([Dataset()])
    second.SourceImageSequence[0].ReferencedSOPClassUID = first.SOPClassUID
    second.SourceImageSequence[0].ReferencedSOPInstanceUID = first.SOPInstanceUID
    a, b = (from_bytes(to_bytes(deidentify(from_bytes(to_bytes(f)), PSEUDONYMS)[0])) for f in (first, second))
    assert a.PatientID == b.PatientID
    assert a.StudyInstanceUID != b.StudyInstanceUID
    assert b.SourceImageSequence[0].ReferencedSOPInstanceUID == a.SOPInstanceUID
    days = np.datetime64(f"{b.StudyDate[:4]}-{b.StudyDate[4:6]}-{b.StudyDate[6:]}") - np.datetime64(
        f"{a.StudyDate[:4]}-{a.StudyDate[4:6]}-{a.StudyDate[6:]}"
    )
    assert days == np.timedelta64(730, "D")  # 29 February 2024 to 28 February 2026


def test_a_name_that_hides_in_kept_text_is_found() -> None:
    film = instance(kind="DX")
    film.PatientName = "Ouyang^Xiaoming=欧阳^小明"
    film.Manufacturer = "Owned by OUYANG"
    film.EthnicGroup = "小明"
    film.SeriesNumber = "4711471"
    film.PatientID = "4711471"
    film.BodyPartExamined = "XIAOMING"
    film.AnatomicRegionSequence[0].CodeMeaning = "Hand of xiaoming"
    copy, _ = deidentify(from_bytes(to_bytes(film)), PSEUDONYMS)
    data = to_bytes(copy).lower()
    assert not [word for word in ("ouyang", "xiaoming", "欧阳", "小明", "4711471") if word.encode() in data]


def test_a_patient_called_hand_does_not_cost_the_film_its_body_part() -> None:
    film = instance(kind="DX")
    film.PatientName = "Hand^Primary"
    copy, _ = deidentify(from_bytes(to_bytes(film)), PSEUDONYMS)
    assert copy.BodyPartExamined == "HAND"
    assert copy.ImageType[:2] == ["ORIGINAL", "PRIMARY"]


def test_a_text_disguised_as_another_representation_is_not_kept() -> None:
    film = instance(kind="CR", transfer_syntax="1.2.840.10008.1.2.1")
    data = to_bytes(film)
    rows = b"\x28\x00\x34\x00" + b"LT" + (12).to_bytes(2, "little") + b"SEED-ASPECT "  # PixelAspectRatio is IS
    at = data.index(b"\x28\x00\x00\x01")
    disguised = from_bytes(data[:at] + rows + data[at:])
    assert b"SEED-ASPECT" in to_bytes(disguised)
    assert b"SEED-ASPECT" not in to_bytes(deidentify(disguised, PSEUDONYMS)[0])


IDENTITY = {"PatientName": "Wiesengrund^Theodora", "PatientID": "MRN8842017", "AccessionNumber": "ACC99173"}
WORDS = ["Wiesengrund", "Theodora", "MRN8842017", "ACC99173"]
ANY_TAG = sorted(
    tag
    for tag, entry in DicomDictionary.items()
    if tag not in FRAME and tag >> 16 not in (0, 2, 4) and entry[0] not in ("NONE", "") and tag >> 16 != 0x0028
)


@st.composite
def headers(draw: st.DrawFn) -> list[tuple[int, str, int]]:
    """Draw attributes of the whole dictionary, the word each one hides and the level it stands at."""
    entry = st.tuples(st.sampled_from(ANY_TAG), st.sampled_from(WORDS), st.integers(0, 2))
    return draw(st.lists(entry, min_size=1, max_size=60))


@settings(
    max_examples=int(os.environ.get("CARPUS_HEADERS", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(headers())
def test_no_word_of_the_patient_survives_in_a_random_header(header: list[tuple[int, str, int]]) -> None:
    film = instance(kind="CR", rows=32, columns=32)
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        levels = [film, Dataset(), Dataset()]
        for tag, word, depth in header:
            vr = dictionary_VR(tag).split(" or ")[0]
            if vr in UNSEARCHABLE or vr in ("SQ", "DS", "IS", "DA", "TM", "DT"):
                continue
            value: Any = {"PN": f"{word}^X", "CS": word.upper()[:16], "UI": f"1.2.{abs(hash(word)) % 10**9}"}.get(
                vr, word
            )
            levels[depth].add_new(tag, vr, word.encode().ljust(16, b"\0") if vr[0] == "O" or vr == "UN" else value)
        for keyword, value in IDENTITY.items():
            setattr(film, keyword, value)
        levels[1].AnatomicRegionModifierSequence = Sequence([levels[2]])
        film.AnatomicRegionSequence = Sequence([levels[1]])
        copy, _ = deidentify(from_bytes(to_bytes(film)), PSEUDONYMS)
        data = to_bytes(copy).lower()
    assert [word for word in WORDS if word.lower().encode() in data] == []


@pytest.mark.parametrize(("sex", "kept"), [("F", "F"), ("M", "M"), ("O", "O"), ("female", ""), ("ZHANG", ""), ("", "")])
def test_a_sex_is_kept_only_if_it_is_one(sex: str, kept: str) -> None:
    film = instance(kind="CR")
    with config.disable_value_validation():
        film[0x00100040] = DataElement(0x00100040, "CS", sex)
        source = from_bytes(to_bytes(film))
    assert (deidentify(source, PSEUDONYMS)[0].PatientSex or "") == kept
    assert (for_inference(source, PSEUDONYMS).get("PatientSex") or "") == kept


def test_edition_2026c_adds_35_attributes_and_none_of_them_survives() -> None:
    newer = {row["id"]: row["basicProfile"] for row in listed(ADDED_2026C)}
    assert len(newer) == 35
    assert newer.keys().isdisjoint(row["id"].upper() for row in listed(EDITION_2024E))
    for name, action in newer.items():
        letters = {PROFILE.rule(int(name, 16), image=image).letter for image in (True, False)}
        known = dictionary_has_tag(int(name, 16))
        assert letters <= ({*action.split("/"), "C"} if known else {"X"}), name


def test_the_added_rows_are_what_another_tool_lists_beyond_ours() -> None:
    """dicom-anonymizer ships edition 2026c of the Basic Profile."""
    theirs = {f"{tag[0]:04X}{tag[1]:04X}" for tag in ALL_TAGS if len(tag) == 2}
    ours = {row["id"].upper() for row in (*listed(EDITION_2024E), *listed(ADDED_2026C))}
    assert theirs <= ours
    assert {row["id"] for row in listed(ADDED_2026C)} == theirs - {row["id"].upper() for row in listed(EDITION_2024E)}
