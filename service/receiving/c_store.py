"""C-STORE as bytes: read the command of a request, write that of the response, and the head of the file made of it.

What pynetdicom does with Datasets costs more of the processor than the network of a film. Only what every sender's request looks
like is read here; whatever is unusual is nobody's request here, and pynetdicom judges it.
"""

import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from service.conformance import Status

MAXIMUM_COMMAND_BYTES: Final = 4096
SHORTEST_PDU_BYTES: Final = 512  # a response has at most some 340
# PS3.7 E.1: tags of command elements, all of group 0000.
_AFFECTED_SOP_CLASS_UID: Final = 0x0002
_COMMAND_FIELD: Final = 0x0100
_MESSAGE_ID: Final = 0x0110
_RESPONDED_TO: Final = 0x0120
_PRIORITY: Final = 0x0700
_DATA_SET_TYPE: Final = 0x0800
_STATUS: Final = 0x0900
_ERROR_COMMENT: Final = 0x0902
_AFFECTED_SOP_INSTANCE_UID: Final = 0x1000
_C_STORE_RQ: Final = 0x0001
_C_STORE_RSP: Final = 0x8001
_NO_DATA_SET: Final = 0x0101
_NUMBERS: Final = (_COMMAND_FIELD, _MESSAGE_ID, _PRIORITY, _DATA_SET_TYPE)
_UIDS: Final = (_AFFECTED_SOP_CLASS_UID, _AFFECTED_SOP_INSTANCE_UID)
_UID: Final = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")  # PS3.5 9.1, and leading zeros
_PREAMBLE: Final = b"\0" * 128 + b"DICM"


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What the command of a C-STORE request says (PS3.7 9.3.1.1)."""

    MessageID: int
    AffectedSOPClassUID: str
    AffectedSOPInstanceUID: str

    @classmethod
    def of(cls, command: bytes) -> "StoreRequest | None":
        """Read a command set (implicit VR little endian, PS3.7 6.3.1); None for anything but a plain C-STORE request."""
        found: dict[int, bytes] = {}
        at = 0
        while at + 8 <= len(command):
            group, element, length = struct.unpack_from("<HHI", command, at)
            if group != 0 or at + 8 + length > len(command):
                return None
            found[element] = command[at + 8 : at + 8 + length]
            at += 8 + length
        if at != len(command) or any(len(found.get(number, b"")) != 2 for number in _NUMBERS):
            return None
        field, message, _, kind = (int.from_bytes(found[number], "little") for number in _NUMBERS)
        sop_class, instance = (found.get(uid, b"").decode("ascii", "replace").rstrip("\0 ") for uid in _UIDS)
        if field != _C_STORE_RQ or kind == _NO_DATA_SET or not (_UID.fullmatch(sop_class) and _UID.fullmatch(instance)):
            return None
        return cls(message, sop_class, instance)


def response(request: StoreRequest, context_id: int, status: Status, comment: str) -> bytes:
    """Write the response (PS3.7 9.3.1.2) as one P-DATA-TF of one fragment (PS3.8 9.3.5, E.2)."""
    said = {
        _AFFECTED_SOP_CLASS_UID: _even(request.AffectedSOPClassUID, b"\0"),
        _COMMAND_FIELD: struct.pack("<H", _C_STORE_RSP),
        _RESPONDED_TO: struct.pack("<H", request.MessageID),
        _DATA_SET_TYPE: struct.pack("<H", _NO_DATA_SET),
        _STATUS: struct.pack("<H", status.code),
        _AFFECTED_SOP_INSTANCE_UID: _even(request.AffectedSOPInstanceUID, b"\0"),
    }
    if comment:
        said[_ERROR_COMMENT] = _even(written_comment(comment), b" ")
    body = b"".join(struct.pack("<HHI", 0, tag, len(said[tag])) + said[tag] for tag in sorted(said))
    command = struct.pack("<HHII", 0, 0, 4, len(body)) + body
    return struct.pack(">BxIIBB", 4, len(command) + 6, len(command) + 2, context_id, 3) + command


def written_comment(comment: str) -> str:
    """Write a comment as an ErrorComment can hold it (LO: PS3.5 6.2, 64 characters, of which a backslash is none)."""
    return comment.encode("ascii", "replace").decode("ascii").replace("\\", "/")[:64]


def file_head(sop_class: str, sop_instance: str, transfer_syntax: str, calling_ae_title: str) -> bytes:
    """Write preamble and file meta information (PS3.10 7.1) of a received instance."""
    before, behind = _around_instance(sop_class, transfer_syntax, calling_ae_title)
    meta = before + _explicit(0x0003, b"UI", _even(sop_instance, b"\0")) + behind
    return _PREAMBLE + _explicit(0x0000, b"UL", struct.pack("<I", len(meta))) + meta


@lru_cache(maxsize=256)
def _around_instance(sop_class: str, transfer_syntax: str, calling_ae_title: str) -> tuple[bytes, bytes]:
    before = struct.pack("<HH2sxxI", 2, 0x0001, b"OB", 2) + b"\0\1" + _explicit(0x0002, b"UI", _even(sop_class, b"\0"))
    behind = (
        (0x0010, b"UI", _even(transfer_syntax, b"\0")),
        (0x0012, b"UI", _even(PYNETDICOM_IMPLEMENTATION_UID, b"\0")),
        (0x0013, b"SH", _even(PYNETDICOM_IMPLEMENTATION_VERSION, b" ")),
        (0x0016, b"AE", _even(calling_ae_title, b" ")),
    )
    return before, b"".join(_explicit(*element) for element in behind)


def _explicit(element: int, representation: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", 2, element, representation, len(value)) + value


def _even(text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + padding[: len(value) % 2]
