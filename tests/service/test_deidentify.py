"""De-identification through its public door: films written to files, read back, de-identified, searched byte by byte."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)

from service.deidentification.confidentiality import load
from service.deidentification.deidentify import (
    INFERENCE,
    INFERENCE_TABLE_ITEMS,
    deidentify,
    for_inference,
    patient_of,
)
from service.errors import InvalidInstance
from service.trust.pseudonyms import Pseudonyms
from tests.factories import CHILD, CHINESE_CHILD, instance

PSEUDONYMS = Pseudonyms(b"k" * 32)


def reread(ds: Dataset) -> Dataset:
    """Write to bytes and read back, as every instance reaches us."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("kind", ["CR", "DX", "DX-PROCESSING", "SC"])
def test_the_picture_survives_and_the_patient_does_not(kind: str) -> None:
    film = reread(instance(kind=kind, patient=CHINESE_CHILD))
    copy, actions = deidentify(film, PSEUDONYMS)
    copy = reread(copy)
    assert np.array_equal(copy.pixel_array, film.pixel_array)
    assert copy.PatientID == str(copy.PatientName) == PSEUDONYMS.patient(f"PatientID\0\0{CHINESE_CHILD.PatientID}")
    assert (copy.PatientBirthDate or "") == ""
    assert copy.PatientSex == "M"
    assert {action.path for action in actions} >= {"PatientName", "PatientID", "StudyInstanceUID", "StudyDate"}


def test_the_inference_copy_holds_nothing_but_listed_attributes(tmp_path: Path) -> None:
    film = reread(instance(kind="DX", patient=CHINESE_CHILD))
    copy = for_inference(film, PSEUDONYMS)
    pixels = {element.keyword for element in film.group_dataset(0x0028)} | {"PixelData"}
    flags = {
        "SOPClassUID",
        "SOPInstanceUID",
        "SpecificCharacterSet",
        "PatientIdentityRemoved",
        "DeidentificationMethod",
    }
    assert {element.keyword for element in copy} <= set(INFERENCE) | pixels | flags
    assert np.array_equal(reread(copy).pixel_array, film.pixel_array)


def test_inference_sees_no_attribute_that_an_export_would_lose() -> None:
    listed = {keyword: load().rule(Tag(keyword), image=True).letter for keyword in (*INFERENCE, *INFERENCE_TABLE_ITEMS)}
    assert set(listed.values()) == {"K"}, listed


def test_an_unknown_sop_class_is_refused_by_name() -> None:
    film = instance()
    film.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    for take in (deidentify, for_inference):
        with pytest.raises(InvalidInstance, match="CT Image Storage"):
            take(film, PSEUDONYMS)
    film.SOPClassUID = "1.2.4711"
    with pytest.raises(InvalidInstance, match=r"\(unknown\)"):
        deidentify(film, PSEUDONYMS)


def test_a_comment_in_the_codestream_does_not_travel() -> None:
    film = instance(bits_stored=8, transfer_syntax="1.2.840.10008.1.2.4.50")
    frame = generate_frames(film.PixelData, number_of_frames=1)
    stream = next(frame)
    note = b"ZHANG WEI 20160504"
    stream = stream[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + stream[2:]  # COM after SOI
    film.PixelData = encapsulate([stream])
    film["PixelData"].is_undefined_length = True
    film = reread(film)
    for copy in (deidentify(film, PSEUDONYMS)[0], for_inference(film, PSEUDONYMS)):
        buffer = BytesIO()
        copy.save_as(buffer, enforce_file_format=True)
        assert note not in buffer.getvalue()
        assert np.array_equal(reread(copy).pixel_array, film.pixel_array)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless, ExplicitVRBigEndian, JPEGLossless])
def test_every_codec_gives_the_same_picture_in_the_copy(syntax: str) -> None:
    film = reread(instance(transfer_syntax=syntax))
    assert np.array_equal(reread(for_inference(film, PSEUDONYMS)).pixel_array, film.pixel_array)


def test_a_film_whose_header_promises_more_pixels_than_it_has_is_refused_with_both_numbers() -> None:
    film = instance(rows=240, columns=180)
    film.PixelData = film.PixelData[:1000]
    with pytest.raises(InvalidInstance, match="1000 bytes; the header asks for 86400"):
        for_inference(reread(film), PSEUDONYMS)


def test_lookup_tables_reach_inference_without_their_explanation() -> None:
    film = instance(kind="CR")
    table = Dataset()
    table.LUTDescriptor = [4, 0, 16]
    table.LUTExplanation = "for Zhang"
    table.add_new("LUTData", "OW", b"\0\0\1\0\2\0\3\0")
    film.VOILUTSequence = [table]
    copy = reread(for_inference(reread(film), PSEUDONYMS))
    assert {element.keyword for element in copy.VOILUTSequence[0]} == {"LUTDescriptor", "LUTData"}
    assert copy.VOILUTSequence[0].LUTData == b"\0\0\1\0\2\0\3\0"


def test_patients_without_an_identifier_are_not_merged() -> None:
    films = [instance(seed=n, without=("PatientID", "PatientName", "PatientBirthDate")) for n in (1, 2)]
    assert len({patient_of(film) for film in films}) == 2


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("GB18030", "gb18030"),
        ("GBK", "gbk"),
        (["", "ISO 2022 IR 58"], "iso 58"),
        ("ISO_IR 192", "utf-8"),
        ("ISO_IR 100", "gbk"),  # labelled Latin-1, written by a device that speaks GBK
        (None, "gbk"),  # labelled nothing at all
    ],
)
def test_a_chinese_name_leaves_no_byte_in_any_encoding(declared: str | list[str] | None, encoding: str) -> None:
    film = instance(patient=CHILD, character_set="ISO_IR 100")
    name = "欧阳小明"
    encoded = b"\x1b$)A" + name.encode("gb2312") if encoding == "iso 58" else name.encode(encoding)
    if declared is None:
        del film.SpecificCharacterSet
    else:
        film.SpecificCharacterSet = declared
    for keyword, value in [("PatientName", b"OuYang^XiaoMing=" + encoded), ("EthnicGroup", encoded[:16])]:
        tag = Tag(keyword)
        padded = value + b" " * (len(value) % 2)
        film._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)
    film = reread(film)
    buffer = BytesIO()
    copy, _ = deidentify(film, PSEUDONYMS)
    copy.save_as(buffer, enforce_file_format=True)
    parts = [part for code in ("utf-8", "gb18030", "utf-16-le") for part in (name.encode(code), name[2:].encode(code))]
    parts += [encoded, encoded.decode("latin-1").encode(), b"XiaoMing"]
    assert [part for part in parts if part in buffer.getvalue()] == []
    assert copy.PatientName == PSEUDONYMS.patient(f"PatientID\0\0{CHILD.PatientID}")


LYING = {
    JPEGBaseline8Bit: (b"\xff\xc0", 5),  # start of frame: where rows and columns stand behind the marker
    JPEGLSLossless: (b"\xff\xf7", 5),
    JPEG2000Lossless: (b"\xff\x51", 6),
}


def _lying(syntax: UID, side: int) -> Dataset:
    """A film of 64 x 64 whose code stream says that it has `side` rows and columns."""
    film = instance(rows=64, columns=64, bits_stored=8, transfer_syntax=syntax)
    stream = bytearray(next(generate_frames(film.PixelData, number_of_frames=1)))
    marker, behind = LYING[syntax]
    place = stream.find(marker) + behind
    stream[place : place + 8 if syntax == JPEG2000Lossless else place + 4] = struct.pack(
        ">II" if syntax == JPEG2000Lossless else ">HH", side, side
    )
    film.PixelData = encapsulate([bytes(stream)])
    return film


@pytest.mark.parametrize("syntax", LYING)
def test_no_codec_of_the_identified_side_is_asked_for_more_pixels_than_the_header_says(syntax: UID) -> None:
    """145 bytes took five bytes of memory for each pixel of 10,000 x 10,000."""
    with pytest.raises(InvalidInstance, match="the code stream says 3000 x 3000 pixels, the header 64 x 64") as caught:
        for_inference(reread(_lying(syntax, 3000)), PSEUDONYMS)
    assert caught.value.code == "undecodable"


def test_frames_beyond_those_of_the_header_are_not_decoded() -> None:
    film = instance(rows=64, columns=64, bits_stored=8, transfer_syntax=JPEGLSLossless)
    frame = next(generate_frames(film.PixelData, number_of_frames=1))
    film.PixelData = encapsulate([frame] * 3)
    with pytest.raises(InvalidInstance, match="more frames are encapsulated than the 1 of the header") as caught:
        for_inference(reread(film), PSEUDONYMS)
    assert caught.value.code == "multi-frame"
