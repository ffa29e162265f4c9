"""Look into a received data set just far enough to know that it can be kept: the UIDs and the size of its image.

Works on the bytes as they came and never builds a Dataset: unlisted elements are skipped, what lies behind PixelData is not
touched, and a header that is itself a flood ends the look. A plain header is stepped through here; in any other pydicom finds its way.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from service.conformance import CANNOT_PARSE, DOES_NOT_MATCH, MISSING_UID, TOO_LARGE, TOO_MANY_PIXELS, Status
from service.errors import Permanent

# Headers of radiographs are some ten kilobytes, with private blocks or thumbnails a few hundred.
MAXIMUM_HEADER_BYTES: Final = 8 * 1024**2
USUAL_HEADER_BYTES: Final = 64 * 1024  # looked at first: the parser copies what it is given
MAXIMUM_ELEMENTS: Final = 20_000
_DEFLATED_AT_ONCE: Final = 64 * 1024  # bytes
_INFLATED_AT_ONCE: Final = 256 * 1024
_PIXEL_GROUP: Final = 0x7FE0
_TAG: Final = struct.Struct("<HH")
_SHORT_LENGTH: Final = struct.Struct("<H")
_LONG_LENGTH: Final = struct.Struct("<I")
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
# PS3.5 7.1.2: how long the length of an element is.
_SHORT_VRS: Final = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_16)
_LONG_VRS: Final = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
_TAGS: Final = {
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x00080050: "AccessionNumber",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
    0x00280002: "SamplesPerPixel",
    0x00280008: "NumberOfFrames",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00401003: "RequestedProcedurePriority",
}
_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# PS3.5 9.1, tolerant of components with leading zeros, which devices do send.
_UID: Final = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")


class Unusable(Permanent):
    """The data set cannot be used; `status` is what the sender is told."""

    code = "unusable-data-set"

    def __init__(self, status: Status, code: str, text: str) -> None:
        """Keep the status beside code and text."""
        super().__init__(text, code=code)
        self.status = status


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a received instance."""

    SOPClassUID: str
    SOPInstanceUID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    Rows: int
    Columns: int
    AccessionNumber: str = ""
    RequestedProcedurePriority: str = ""


def inspect(
    data: memoryview,
    transfer_syntax: UID,
    *,
    sop_class: str,
    sop_instance: str,
    maximum_pixels: int,
    maximum_bytes: int,
) -> Header:
    """Return the header of an encoded data set, or say why the instance cannot be used.

    Parameters
    ----------
    data
        The data set as received, without preamble and file meta information.
    sop_class, sop_instance
        What the C-STORE request announced (PS3.7 9.1.1.1).
    maximum_pixels, maximum_bytes
        Limits of the image and of a deflated data set once inflated.

    Raises
    ------
    Unusable
        With the status of the response; the text names the attribute, its value where that is no patient's, and the limit.
    """
    length = len(data)
    if transfer_syntax.is_deflated:
        head, length = _inflate(data, maximum_bytes)
        data = memoryview(head)
    values = _scan(data, length, transfer_syntax)
    uids = {name: _uid(values, name) for name in _UIDS}
    for name, announced in (("SOPClassUID", sop_class), ("SOPInstanceUID", sop_instance)):
        if uids[name] != announced:
            raise Unusable(DOES_NOT_MATCH, "request-mismatch", f"{name} of the data set is not that of the request")
    rows, columns = _number(values, "Rows", transfer_syntax), _number(values, "Columns", transfer_syntax)
    samples = max(1, _number(values, "SamplesPerPixel", transfer_syntax))
    frames = max(1, _integer_string(values.get("NumberOfFrames", b"1")))
    if rows * columns * samples * frames > maximum_pixels:
        size = f"{rows} x {columns} x {samples} samples x {frames} frames"
        raise Unusable(TOO_MANY_PIXELS, "too-many-pixels", f"image of {size}; the limit is {maximum_pixels}")
    words = {name: _word(values, name) for name in ("AccessionNumber", "RequestedProcedurePriority")}
    return Header(**uids, Rows=rows, Columns=columns, **words)


def _scan(data: memoryview, length: int, transfer_syntax: UID) -> dict[str, bytes]:
    """Return the raw values of the listed elements that stand before the pixels.

    Parameters
    ----------
    data
        The data set, or so much of it as may hold the header.
    length
        Of the whole data set (bytes).
    """
    plain = _stepped_through(data[:USUAL_HEADER_BYTES], transfer_syntax)
    if plain:
        return plain
    for most in (USUAL_HEADER_BYTES, MAXIMUM_HEADER_BYTES):
        try:
            values, reached_pixels = _scanned(data[:most], transfer_syntax)
        except Unusable:
            if most >= min(length, MAXIMUM_HEADER_BYTES):
                raise
        else:
            if reached_pixels or most >= length:
                break
    if not reached_pixels and length > MAXIMUM_HEADER_BYTES:
        text = f"no PixelData within {MAXIMUM_HEADER_BYTES} bytes of a data set of {length}"
        raise Unusable(CANNOT_PARSE, "header-too-long", text)
    if not values:
        raise Unusable(CANNOT_PARSE, "cannot-parse", f"no known element in the data set of {length} bytes")
    return values


def _stepped_through(head: memoryview, transfer_syntax: UID) -> dict[str, bytes]:
    """Return the raw values of the listed elements of a plain header; nothing for any other, of which pydicom knows more.

    Plain is what is little endian, names no value representation but known ones, gives each element its length, and reaches the
    pixels within these bytes: what most senders write.
    """
    if not transfer_syntax.is_little_endian:
        return {}
    values: dict[str, bytes] = {}
    explicit, at, end = not transfer_syntax.is_implicit_VR, 0, len(head)
    while at + 12 <= end:
        group, element = _TAG.unpack_from(head, at)
        if group >= _PIXEL_GROUP:
            return values
        vr = bytes(head[at + 4 : at + 6]) if explicit else b""
        if vr in _SHORT_VRS:
            (length,) = _SHORT_LENGTH.unpack_from(head, at + 6)
            at += 8
        elif vr in _LONG_VRS:
            (length,) = _LONG_LENGTH.unpack_from(head, at + 8)
            at += 12
        elif not explicit:
            (length,) = _LONG_LENGTH.unpack_from(head, at + 4)
            at += 8
        else:
            return {}
        if length == _UNDEFINED_LENGTH:
            return {}
        name = _TAGS.get(group << 16 | element)
        if name is not None:
            values[name] = bytes(head[at : at + length])
        at += length
    return {}


def _scanned(head: memoryview, transfer_syntax: UID) -> tuple[dict[str, bytes], bool]:
    """Return the raw values of the listed elements, and whether the pixels were reached."""
    seen, reached_pixels = 0, False

    def stop(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal seen, reached_pixels
        seen += 1
        if seen > MAXIMUM_ELEMENTS:
            raise Unusable(CANNOT_PARSE, "header-too-long", f"more than {MAXIMUM_ELEMENTS} elements before PixelData")
        reached_pixels = tag >> 16 >= _PIXEL_GROUP
        return reached_pixels

    values: dict[str, bytes] = {}
    stream = BytesIO(head)
    elements = data_element_generator(
        stream,
        transfer_syntax.is_implicit_VR,
        transfer_syntax.is_little_endian,
        stop_when=stop,
        specific_tags=[BaseTag(tag) for tag in _TAGS],
    )
    try:
        for element in elements:
            name = _TAGS.get(int(element.tag))
            if name is not None and isinstance(element.value, bytes):
                values[name] = element.value
    except Unusable:
        raise
    except Exception as error:  # whatever a parser makes of hostile bytes, it is the same outcome
        raise Unusable(
            CANNOT_PARSE, "cannot-parse", f"the data set cannot be parsed: {type(error).__name__}"
        ) from error
    return values, reached_pixels


def _uid(values: dict[str, bytes], name: str) -> str:
    text = values.get(name, b"").decode("ascii", "replace").strip("\0 ")
    if not text:
        raise Unusable(MISSING_UID, "missing-uid", f"{name} is missing or empty")
    if not _UID.fullmatch(text):
        raise Unusable(MISSING_UID, "invalid-uid", f"{name} is not a UID of at most 64 digits and dots")
    return text


def _word(values: dict[str, bytes], name: str) -> str:
    """Decode an SH or CS element of at most 16 characters; empty where it is absent."""
    text = values.get(name, b"")[:64].decode("utf-8", "replace")
    return "".join(character for character in text if character.isprintable()).strip()[:16]


def _number(values: dict[str, bytes], name: str, transfer_syntax: UID) -> int:
    """Decode a US element; 0 where it is absent."""
    raw = values.get(name, b"")
    return int.from_bytes(raw[:2], "little" if transfer_syntax.is_little_endian else "big") if len(raw) >= 2 else 0


def _integer_string(raw: bytes) -> int:
    """Decode an IS element; 1 where it is no number (routing says more about such an image)."""
    try:
        return int(raw.decode("ascii", "replace").strip("\0 ") or 1)
    except ValueError:
        return 1


def _inflate(data: memoryview, maximum_bytes: int) -> tuple[bytes, int]:
    """Inflate a deflated data set (PS3.5 A.5) piece by piece; return what may hold the header, and the length of the whole.

    A megabyte can inflate to a gigabyte: what lies behind the header is counted and dropped.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    head, length = bytearray(), 0
    for begin in range(0, len(data), _DEFLATED_AT_ONCE):
        pending: bytes | memoryview = data[begin : begin + _DEFLATED_AT_ONCE]
        while True:
            try:
                piece = inflater.decompress(pending, _INFLATED_AT_ONCE)
            except zlib.error as error:
                raise Unusable(CANNOT_PARSE, "cannot-inflate", f"the deflated data set is damaged: {error}") from error
            length += len(piece)
            head += piece[: MAXIMUM_HEADER_BYTES - len(head)]
            if length > maximum_bytes:
                text = f"{len(data)} deflated bytes inflate beyond the limit of {maximum_bytes} bytes"
                raise Unusable(TOO_LARGE, "too-large", text)
            pending = inflater.unconsumed_tail
            if not pending and len(piece) < _INFLATED_AT_ONCE:
                break
        if inflater.eof:
            break
    return bytes(head), length
