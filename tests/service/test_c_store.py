"""C-STORE as bytes, against what pydicom and pynetdicom make of the same."""

from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ComputedRadiographyImageStorage as CR
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dsutils import create_file_meta, decode, encode_file_meta

from service.conformance import OUT_OF_RESOURCES, STORED
from service.receiving.c_store import SHORTEST_PDU_BYTES, StoreRequest, file_head, response
from tests.raw_peer import c_store_rq, command_set

LONGEST = "1." + "9" * 62


def plain(**changes: object) -> bytes:
    elements = {
        "AffectedSOPClassUID": str(CR),
        "CommandField": 0x0001,
        "MessageID": 7,
        "Priority": 2,
        "CommandDataSetType": 0x0000,
        "AffectedSOPInstanceUID": "1.2.3",
        "MoveOriginatorApplicationEntityTitle": "ARCHIVE",
        "MoveOriginatorMessageID": 3,
    }
    return command_set(**{name: value for name, value in {**elements, **changes}.items() if value is not None})


def test_a_plain_request_is_read() -> None:
    assert StoreRequest.of(plain()) == StoreRequest(7, str(CR), "1.2.3")
    assert StoreRequest.of(c_store_rq(CR, LONGEST, 65_535)) == StoreRequest(65_535, str(CR), LONGEST)


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"\xff" * 40,
        plain()[:-1],
        plain() + b"\0",
        plain(CommandField=0x0030),
        plain(CommandDataSetType=0x0101),
        plain(MessageID=None),
        plain(AffectedSOPClassUID=None),
        plain(AffectedSOPInstanceUID=None),
        plain(PatientName="A"),  # an element of another group
        c_store_rq(CR, "1.2.3").replace(b"1.2.3", b"../.."),
    ],
    ids=["empty", "garbage", "cut", "too long", "echo", "no data set", "no id", "no class", "no uid", "group", "path"],
)
def test_whatever_is_unusual_is_left_to_pynetdicom(command: bytes) -> None:
    assert StoreRequest.of(command) is None


@pytest.mark.parametrize(("status", "comment"), [(STORED, ""), (OUT_OF_RESOURCES, "\u00e4\\" * 50)])
def test_a_response_reads_as_it_was_meant(status: Any, comment: str) -> None:
    sent = response(StoreRequest(7, str(CR), LONGEST), 5, status, comment)
    assert len(sent) <= SHORTEST_PDU_BYTES
    assert (sent[0], int.from_bytes(sent[2:6], "big")) == (4, len(sent) - 6)
    assert (int.from_bytes(sent[6:10], "big"), sent[10], sent[11]) == (len(sent) - 10, 5, 3)
    said = decode(BytesIO(sent[12:]), True, True)
    assert said.CommandGroupLength == len(sent) - 12 - 12
    assert (said.CommandField, said.MessageIDBeingRespondedTo, said.CommandDataSetType) == (0x8001, 7, 0x0101)
    assert (said.Status, said.AffectedSOPClassUID, said.AffectedSOPInstanceUID) == (status.code, CR, LONGEST)
    assert said.get("ErrorComment", "") == ("?/" * 32 if comment else "")


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34", LONGEST])
@pytest.mark.parametrize("title", ["PACS", "ODD"])
def test_the_head_of_a_file_is_what_pydicom_would_write(uid: str, title: str) -> None:
    meta = create_file_meta(sop_class_uid=CR, sop_instance_uid=uid, transfer_syntax=ExplicitVRLittleEndian)
    meta.SourceApplicationEntityTitle = title
    head = file_head(str(CR), uid, str(ExplicitVRLittleEndian), title)
    assert head == bytes(128) + b"DICM" + encode_file_meta(meta)
    assert dcmread(BytesIO(head)).file_meta == meta


def test_the_head_of_a_file_is_read_back(tmp_path: Any) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(file_head(str(CR), "1.2.3", str(ExplicitVRLittleEndian), "PACS"))
    assert read_file_meta_info(path).MediaStorageSOPInstanceUID == "1.2.3"
