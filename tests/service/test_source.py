"""Headers as they come, carried into results as they came."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from models.reading import Reason, Verdict
from service.errors import InvalidInstance
from service.reporting import presentation, result_set, seg, source, sr
from service.reporting.results import ResultContext, character_set_for
from tests.factories import CHINESE_CHILD, encoded, instance
from tests.service import readings
from tests.service.headers import NAMES, SIZE, received, with_raw
from tests.service.test_sr import AT, CONTEXT


def raw_value(ds: Dataset, keyword: str) -> bytes:
    element = ds.get_item(Tag(keyword))
    assert element is not None
    value = element.value
    assert isinstance(value, bytes), "the element was decoded; its bytes are not those of the file any more"
    return value


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_what_is_sealed_is_the_header_byte_for_byte_without_the_pixels(tmp_path: Path, syntax: UID) -> None:
    file = tmp_path / "film.dcm"
    instance(transfer_syntax=syntax).save_as(file, enforce_file_format=True)
    sealed = source.sealed_part(file)
    film, header = dcmread(file), dcmread(BytesIO(sealed))
    assert "PixelData" in film
    assert header == film[:0x7FE0_0000]
    assert header.file_meta.TransferSyntaxUID == syntax
    assert file.read_bytes().startswith(sealed) == (syntax != DeflatedExplicitVRLittleEndian)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(("character_set", "name"), NAMES)
def test_the_name_leaves_byte_for_byte_as_it_came(character_set: str | None, name: bytes, language: Any) -> None:
    name = name + b" " * (len(name) % 2)
    film = source.normalise(received(with_raw("PatientName", name, character_set=character_set)))
    report = received(encoded(sr.build(film, readings.reading(), ResultContext("2.25.42", AT, language))))
    assert raw_value(report, "PatientName") == name
    if language == "en":
        expected = "" if character_set is None else character_set
        found = report.get("SpecificCharacterSet") or ""
        assert (found if isinstance(found, str) else "\\".join(found)) == expected


@pytest.mark.parametrize(("character_set", "name"), NAMES[:6])
def test_chinese_text_can_be_read_beside_any_such_name(character_set: str | None, name: bytes) -> None:
    film = source.normalise(
        received(with_raw("PatientName", name + b" " * (len(name) % 2), character_set=character_set))
    )
    report = received(encoded(sr.build(film, readings.reading(), ResultContext("2.25.42", AT, "zh"))))
    assert report.SeriesDescription == "骨龄报告 - 仅供科研，不用于临床"
    assert report.ContentSequence[-1].ContentSequence[0].ContentSequence[2].ConceptCodeSequence[0].CodeMeaning == "骨龄"


@pytest.mark.filterwarnings("ignore:Unknown encoding 'KOI8':UserWarning")
def test_an_unknown_character_set_is_kept_and_the_report_is_written_in_english() -> None:
    film = source.normalise(received(with_raw("PatientName", b"\xc4\xe3^\xba\xc3 ", character_set="KOI8")))
    assert character_set_for(film, "zh") is None
    report = sr.build(film, readings.reading(), ResultContext("2.25.42", AT, "zh"))
    assert report.SpecificCharacterSet == "KOI8"
    assert report.SeriesDescription.startswith("Bone age report")
    assert "SpecificCharacterSet: unknown" in film.remarks


@pytest.mark.filterwarnings(
    "ignore:.*(Specific Character Set|Unknown encoding):UserWarning"
)  # pydicom reading the film
@pytest.mark.parametrize(
    ("stated", "meant"),
    [
        ("ISO-IR 100", ("ISO_IR 100",)),
        ("UTF8", ("ISO_IR 192",)),
        ("iso_ir 6\\iso-2022-ir-58", ("ISO_IR 6", "ISO 2022 IR 58")),
    ],
)
def test_a_misspelt_character_set_is_understood(stated: str, meant: tuple[str, ...]) -> None:
    padded = stated + " " * (len(stated) % 2)
    whole = encoded(instance(character_set="ISO_IR 192"))
    old = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 192"
    assert whole.count(old) == 1
    film = source.normalise(
        received(whole.replace(old, b"\x08\x00\x05\x00CS" + bytes([len(padded), 0]) + padded.encode()))
    )
    assert film.character_set == meant


def test_all_of_patient_and_study_reaches_the_report() -> None:
    ds = instance(**SIZE, patient=CHINESE_CHILD)
    issuer = Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3", "ISO"
    issuer.add_new(0x00091001, "LO", "private")
    extra = {
        **{"IssuerOfPatientID": "HOSPITAL", "PatientAge": "011Y", "PatientSize": "1.4", "PatientWeight": "35"},
        **{"StudyDescription": "左手正位", "AccessionNumber": "ACC1", "StudyID": "7", "OtherPatientIDs": "A\\B"},
        **{"IssuerOfPatientIDQualifiersSequence": [issuer], "TimezoneOffsetFromUTC": "+0800"},
    }
    for keyword, content in extra.items():
        setattr(ds, keyword, content)
    report = received(encoded(sr.build(source.normalise(received(encoded(ds))), readings.reading(), CONTEXT)))
    for keyword in (*source.TYPE_2, *(k for k in extra if not k.endswith("Sequence")), "StudyInstanceUID"):
        assert report[keyword].value == received(encoded(ds))[keyword].value, keyword
    (item,) = report.IssuerOfPatientIDQualifiersSequence
    assert item.UniversalEntityID == "1.2.3"
    assert (0x0009, 0x1001) not in item
    assert report.ContentTime.startswith("1330")  # 05:30 UTC on the film's clock, eight hours ahead


@pytest.mark.parametrize("keyword", source.TYPE_2)
def test_a_missing_type_2_attribute_is_written_empty_and_remarked(keyword: str) -> None:
    film = source.normalise(received(encoded(instance(**SIZE, without=(keyword,)))))
    report = received(encoded(sr.build(film, readings.reading(), CONTEXT)))
    assert keyword in report
    assert not report[keyword].value
    assert f"{keyword}: absent, written empty" in film.remarks


@pytest.mark.parametrize("keyword", source.REQUIRED)
def test_an_instance_without_an_identifier_is_refused_by_the_name_of_the_attribute(keyword: str) -> None:
    ds = received(encoded(instance()))
    del ds[keyword]
    with pytest.raises(InvalidInstance, match=f"{keyword} is missing") as refusal:
        source.normalise(ds)
    assert refusal.value.code == f"missing-{keyword}"
    assert keyword in refusal.value.next_action


def test_a_malformed_study_uid_is_refused_without_printing_it() -> None:
    with pytest.raises(InvalidInstance, match="StudyInstanceUID is not a UID") as refusal:
        source.normalise(received(with_raw("StudyInstanceUID", b"1.2.SMITH^JOHN ", character_set="ISO_IR 100")))
    assert "SMITH" not in str(refusal.value)


@pytest.mark.parametrize(
    ("keyword", "value"), [("StudyDate", b"2026.11.02"), ("StudyTime", b"09:30:00"), ("PatientBirthDate", b"unknown ")]
)
def test_a_date_that_is_none_is_left_out_and_remarked(keyword: str, value: bytes) -> None:
    film = source.normalise(received(with_raw(keyword, value, character_set="ISO_IR 100")))
    report = received(encoded(sr.build(film, readings.reading(), CONTEXT)))
    assert not report[keyword].value
    assert any(keyword in remark for remark in film.remarks)
    assert not any(value.decode().strip() in remark for remark in film.remarks)


def test_private_elements_and_odd_image_attributes_do_not_reach_the_header() -> None:
    ds = instance(**SIZE)
    ds.add_new(0x00091001, "LO", "private")
    ds.add_new(0x00091002, "UN", b"\xff\xfe\x00\x01")
    film = source.normalise(received(encoded(ds).replace(b"MONOCHROME2", b"mono chrom\xe9")))
    assert "PhotometricInterpretation" not in film.header
    assert not any(tag.is_private for tag in film.header.keys())  # noqa: SIM118
    assert "PhotometricInterpretation: not a value it may have, left out" in film.remarks


def test_rows_written_as_text_are_understood() -> None:
    ds = received(encoded(instance(**SIZE)))
    ds.pop("Rows")
    ds.add_new("Rows", "IS", "600")
    assert source.normalise(received(encoded(ds))).rows == readings.ROWS


def test_a_header_somebody_has_already_decoded_gives_the_same_name() -> None:
    ds = received(encoded(instance(**SIZE, patient=CHINESE_CHILD, character_set="GB18030")))
    untouched = raw_value(source.normalise(ds).identity, "PatientName")
    assert str(ds.PatientName)  # decodes the element in place
    assert raw_value(source.normalise(ds).identity, "PatientName") == untouched


def test_the_received_data_set_is_left_as_it_was() -> None:
    raw = encoded(instance(**SIZE, without=("StudyTime", "AccessionNumber")))
    ds = received(raw)
    source.normalise(ds)
    assert encoded(ds) == raw


def test_a_rejection_needs_nothing_but_identifiers() -> None:
    bare = Dataset()
    bare.SOPClassUID, bare.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    bare.StudyInstanceUID, bare.SeriesInstanceUID = "1.2.4", "1.2.5"
    verdict = Verdict(False, (Reason("no-pixel-data", "no pixel data"),))
    report = received(encoded(sr.build_rejection(source.normalise(bare), verdict, CONTEXT)))
    assert report.StudyInstanceUID == "1.2.4"


def elements_of_a_film() -> list[str]:
    kept = {*source.REQUIRED, "PixelData", "SpecificCharacterSet"}
    film = instance(kind="DX")
    film.IssuerOfPatientIDQualifiersSequence, film.LossyImageCompressionMethod = [Dataset()], "ISO_10918_1"
    film.WindowCenter, film.WindowWidth, film.PatientAge, film.TimezoneOffsetFromUTC = "1", "2", "011Y", "+0100"
    film.PixelSpacing, film.VOILUTFunction, film.LossyImageCompressionRatio = [1, 1], "LINEAR", "2"
    return [element.keyword for element in film if element.keyword not in kept]


def spoil(ds: Dataset, keyword: str, garbage: bytes) -> None:
    ds[keyword] = RawDataElement(Tag(keyword), dictionary_VR(keyword), len(garbage), garbage, 0, False, True, True)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom remarks on the values it is given
@pytest.mark.parametrize(
    "garbage", [b"\xff\xfe\x00\x5c", b"", b"\\\\\\ ", b"1e999\\-1 ", b"\x1b$)A\xb0\xa1^="], ids=repr
)
def test_garbage_in_the_header_stops_neither_a_rejection_nor_a_result(garbage: bytes) -> None:
    raw = encoded(instance(kind="DX", **SIZE))
    keywords = elements_of_a_film()
    for keyword in keywords:
        ds = received(raw)
        spoil(ds, keyword, garbage)
        source.normalise(ds)
    ds = received(raw)
    for keyword in keywords:
        spoil(ds, keyword, garbage)
    verdict = Verdict(False, (Reason("undecodable", "the decoder raised"),))
    assert encoded(sr.build_rejection(source.normalise(ds), verdict, CONTEXT))
    spoil(ds, "Rows", readings.ROWS.to_bytes(2, "little"))
    spoil(ds, "Columns", readings.COLUMNS.to_bytes(2, "little"))
    film, reading = source.normalise(ds), readings.reading()
    for built in (
        sr.build(film, reading, CONTEXT),
        seg.build(film, reading, CONTEXT),
        presentation.build(film, reading, CONTEXT),
    ):
        assert built is not None
        assert encoded(built)


@pytest.mark.parametrize(
    ("character_set", "expected"),
    [("ISO_IR 192", "测试医院"), ("\\ISO 2022 IR 58", "测试医院"), ("ISO_IR 100", None)],
)
def test_an_institution_the_character_set_cannot_hold_is_left_out(character_set: str, expected: str | None) -> None:
    film = source.normalise(received(with_raw("PatientName", b"TEST^A", character_set=character_set)))
    context = ResultContext("2.25.42", AT, institution_name="测试医院")
    report = received(encoded(sr.build(film, readings.reading(), context)))
    assert report.get("InstitutionName") == expected


FEW = readings.reading(
    methods=readings.reading().methods[:1],
    regions=tuple(region for region in readings.reading().regions if region.name in ("radius", "mc3")),
)


@pytest.mark.parametrize("kind", ["CR", "DX", "SC"])
def test_every_object_can_be_made_whatever_attribute_is_missing(kind: str) -> None:
    raw = encoded(instance(kind=kind, **SIZE))
    kept = {*source.REQUIRED, "Rows", "Columns", "PixelData"}
    keywords = [element.keyword for element in received(raw) if element.keyword not in kept]
    assert len(keywords) > 25
    context = ResultContext("2.25.42", AT, kinds=("SR", "SEG", "GSPS", "KOS"))
    for keyword in keywords:
        ds = received(raw)
        del ds[keyword]
        made = result_set.of_reading(source.normalise(ds), FEW, context, readings.image)
        assert set(made) == set(context.kinds), keyword
        for built in made.values():
            assert encoded(built), keyword
    # The pictures and the page show the identity, and nothing else of the header.
    shown = ResultContext("2.25.42", AT, "zh", kinds=("SC", "PDF"))
    bare = received(raw)
    for keyword in keywords:
        del bare[keyword]
    assert set(result_set.of_reading(source.normalise(bare), FEW, shown, readings.image)) == {"SC", "PDF"}


@pytest.mark.parametrize("vr", ["UN", "LT", "OB", "CS"])
@pytest.mark.parametrize("keyword", ["PatientName", "PatientID", "AccessionNumber", "StudyDate", "PatientSex"])
def test_a_value_under_a_wrong_representation_leaves_under_the_right_one(keyword: str, vr: str) -> None:
    ds = received(encoded(instance(**SIZE)))
    value = raw_value(ds, keyword)
    ds[keyword] = RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True, True)
    report = received(encoded(sr.build(source.normalise(ds), FEW, CONTEXT)))
    assert raw_value(report, keyword) == value
    assert dictionary_VR(keyword) == report[keyword].VR


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"])
def test_a_header_in_another_encoding_gives_the_same_identity(syntax: str) -> None:
    plain = source.normalise(received(encoded(instance(**SIZE, patient=CHINESE_CHILD, character_set="GB18030"))))
    other = source.normalise(
        received(encoded(instance(**SIZE, patient=CHINESE_CHILD, character_set="GB18030", transfer_syntax=syntax)))
    )
    for keyword in source.TYPE_2:
        assert raw_value(other.identity, keyword) == raw_value(plain.identity, keyword), keyword
    assert (other.rows, other.columns) == (plain.rows, plain.columns)


def test_private_elements_of_every_kind_stay_behind() -> None:
    ds = instance(**SIZE)
    block = ds.private_block(0x0011, "VENDOR", create=True)
    nested = Dataset()
    nested.PatientName = "SMITH^JOHN"
    for offset, (vr, value) in enumerate(
        [("LO", "x" * 64), ("UN", b"\xff" * 40), ("SQ", [nested]), ("OB", b"\x00\x01"), ("FD", 1.5)]
    ):
        block.add_new(offset, vr, value)
    context = ResultContext("2.25.42", AT, kinds=("SR", "SEG", "GSPS", "SC", "PDF", "KOS"))
    made = result_set.of_reading(source.normalise(received(encoded(ds))), FEW, context, readings.image)
    for kind, built in made.items():
        assert not any(tag.is_private for tag in received(encoded(built)).keys()), kind  # noqa: SIM118
        assert b"SMITH" not in encoded(built)
