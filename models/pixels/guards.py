"""Check sizes against the header and against the code stream's own header, before any decoder runs."""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from models.image import MAXIMUM_PIXELS, MINIMUM_SIDE
from models.pixels.errors import DECODER_ERRORS, UnreadablePixels, first_line

if TYPE_CHECKING:  # `import models` loads no pydicom
    from pydicom import Dataset

_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
# First column and row and the steps to the next ones of the seven passes (Adam7).
_ADAM7: Final = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
MAXIMUM_INFLATED_BYTES: Final = 4 * MAXIMUM_PIXELS
_JPEG_12_BIT: Final = "1.2.840.10008.1.2.4.51"
_RLE: Final = "1.2.840.10008.1.2.5"
_JPEG_2000_START: Final = b"\xff\x4f\xff\x51"
# Markers with a segment, start and end of image; neither those within entropy-coded data (T.81 B.1.1.2, T.87 A.1) nor fill bytes.
_SEGMENT: Final = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
MAXIMUM_SCANS: Final = 100  # a progressive film of one sample has some ten
MAXIMUM_SEGMENTS: Final = 10_000
MAXIMUM_PRECINCTS: Final = 1 << 17


def check_size(rows: int, columns: int) -> None:
    """Refuse a film beyond the limits of `Image`."""
    if rows * columns > MAXIMUM_PIXELS:
        raise UnreadablePixels("too-large", f"{rows} x {columns} pixels; the limit is {MAXIMUM_PIXELS}")
    if min(rows, columns) < MINIMUM_SIDE:
        raise UnreadablePixels(
            "too-small", f"{rows} x {columns} pixels; the shorter side must be at least {MINIMUM_SIDE}"
        )


def check_header(ds: "Dataset") -> None:
    """Refuse by the header what no decoder should be asked for."""
    if not any(keyword in ds for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadablePixels("no-pixel-data", "the instance holds no pixel data")
    interpretation = str(ds.get("PhotometricInterpretation", "") or "missing")
    samples = integer(ds, "SamplesPerPixel", 1)
    if samples != 1 or interpretation not in (*_GREY, "missing"):
        raise UnreadablePixels(
            "colour",
            f"PhotometricInterpretation {interpretation} with {samples} samples a pixel; only MONOCHROME1 and 2 with one are read",
        )
    if interpretation == "missing":
        raise UnreadablePixels(
            "undecodable", "PhotometricInterpretation is missing; MONOCHROME1 or MONOCHROME2 is needed"
        )
    frames = integer(ds, "NumberOfFrames", 1)
    if frames > 1:
        raise UnreadablePixels("multi-frame", f"the instance holds {frames} frames; one film an instance is read")
    rows, columns = integer(ds, "Rows", 0), integer(ds, "Columns", 0)
    check_size(rows, columns)
    allocated, stored = integer(ds, "BitsAllocated", 0), integer(ds, "BitsStored", 0)
    if "PixelData" in ds and not 1 <= stored <= allocated <= 32:
        raise UnreadablePixels(
            "undecodable", f"BitsStored {stored} in BitsAllocated {allocated}; 1 to 32 bits are read"
        )


def check_inflated_size(path: Path) -> None:
    """Refuse a deflated file that would inflate past the limit, before anything inflates it whole."""
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    stream, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        # Preamble, prefix, the 12 bytes of the group length element itself, then the group (PS3.10 7.1).
        file.seek(144 + int(meta.get("FileMetaInformationGroupLength", 0)))
        pending = file.read(65_536)
        while pending and not stream.eof:
            size += len(stream.decompress(pending, 1 << 20))
            if size > MAXIMUM_INFLATED_BYTES:
                raise UnreadablePixels(
                    "too-large", f"the deflated data set inflates to more than {MAXIMUM_INFLATED_BYTES} bytes"
                )
            pending = stream.unconsumed_tail or file.read(65_536)


def check_png_stream(path: Path) -> None:
    """Refuse a PNG whose stream ends before its last row: Pillow draws what is missing in black.

    ISO/IEC 15948: chunks 5.3, image header 11.2.2, passes of an interlaced picture 8.2, data of the filtered rows 10.2.
    """
    content = path.read_bytes()
    columns, rows, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    bits = depth * {2: 3, 4: 2, 6: 4}.get(colour, 1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(columns - x) // across), -(-(rows - y) // down)) for x, y, across, down in passes]
    needed = sum(high * (1 + -(-wide * bits // 8)) for wide, high in sizes if wide > 0 and high > 0)
    stream, found, place = zlib.decompressobj(), 0, 8
    while place + 8 <= len(content) and found < needed and not stream.eof:
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        pending = content[place + 8 : place + 8 + length] if kind == b"IDAT" else b""
        while pending and found < needed and not stream.eof:
            found += len(stream.decompress(pending, 1 << 20))
            pending = stream.unconsumed_tail
        place += 12 + length
    if found < needed:
        raise UnreadablePixels("truncated", f"{path.name} ends after {found} of {needed} bytes of its rows")


def check_code_streams(ds: "Dataset", syntax: Any) -> None:
    """Look into each frame of encapsulated pixel data as the decoder will find it, before it allocates what the stream asks for.

    Raises
    ------
    UnreadablePixels
        ``truncated``, ``multi-frame`` when there are more frames than the header says, or a code of `check_code_stream`.
    """
    from pydicom.encaps import generate_frames

    stated = max(1, integer(ds, "NumberOfFrames", 1))
    tables = [ds.get(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    offsets = (tables[0], tables[1]) if tables[0] and tables[1] and len(tables[0]) == len(tables[1]) else None
    found = 0
    try:
        for frame in generate_frames(ds.PixelData, number_of_frames=stated, extended_offsets=offsets):
            found += 1
            if found > stated:  # pydicom would decode them all
                raise UnreadablePixels("multi-frame", f"more frames are encapsulated than the {stated} of the header")
            check_code_stream(frame, ds, syntax)
    except UnreadablePixels:
        raise
    except DECODER_ERRORS as error:
        raise UnreadablePixels(
            "truncated", f"the encapsulated pixel data hold no complete frame: {first_line(error)}"
        ) from error
    if not found:
        raise UnreadablePixels("truncated", "the encapsulated pixel data hold no complete frame")


def check_code_stream(frame: bytes, ds: "Dataset", syntax: Any) -> None:
    """Compare the code stream's own size with the header; one that states none is not decoded."""
    if syntax == _RLE:  # no size of its own
        return
    rows, columns, samples = integer(ds, "Rows", 0), integer(ds, "Columns", 0), integer(ds, "SamplesPerPixel", 1)
    stream_rows, stream_columns, stream_samples, precision = (
        _jpeg_size(frame) if frame.startswith(b"\xff\xd8") else _jpeg_2000_size(frame)
    )
    if (stream_rows, stream_columns) != (rows, columns):
        raise UnreadablePixels(
            "undecodable",
            f"the code stream says {stream_rows} x {stream_columns} pixels, the header {rows} x {columns}",
        )
    if stream_samples != samples:
        raise UnreadablePixels(
            "undecodable", f"the code stream says {stream_samples} samples a pixel, the header {samples}"
        )
    if syntax == _JPEG_12_BIT and precision > 8:
        raise UnreadablePixels(
            "unsupported-transfer-syntax",
            f"{syntax.name} ({syntax}) with {precision} bit samples; the installed codecs decode it up to 8 bit",
        )


def _jpeg_2000_size(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, samples and precision of the code stream that a decoder takes: the first, or the first in its file's boxes.

    Image and tile size: ITU-T T.800 A.5.1. Boxes, which PS3.5 A.4.4 forbids and devices write: T.800 I.4.
    """
    place = 0
    while frame[place + 4 : place + 8] != b"jp2c" and not frame.startswith(_JPEG_2000_START, place):
        length, first = int.from_bytes(frame[place : place + 4], "big"), 8
        if length == 1:
            length, first = int.from_bytes(frame[place + 8 : place + 16], "big"), 16
        if length < first or place + length >= len(frame):
            raise UnreadablePixels("undecodable", "the frame holds no code stream that states its size")
        place += length
    if frame[place + 4 : place + 8] == b"jp2c":
        place += 16 if frame.startswith(b"\0\0\0\1", place) else 8
    if not frame.startswith(_JPEG_2000_START, place) or len(frame) <= place + 42:
        raise UnreadablePixels("undecodable", "the frame holds no code stream that states its size")
    x1, y1, x0, y0 = struct.unpack_from(">4I", frame, place + 8)
    (samples,) = struct.unpack_from(">H", frame, place + 40)
    rows, columns = y1 - y0, x1 - x0
    for width, height in _precincts(frame, place + 2):
        if -(-rows // height) * -(-columns // width) > MAXIMUM_PRECINCTS:
            raise UnreadablePixels("undecodable", f"the code stream is cut into precincts of {width} x {height} pixels")
    return rows, columns, samples, (frame[place + 42] & 0x7F) + 1


def _precincts(frame: bytes, place: int) -> Iterator[tuple[int, int]]:
    """Yield width and height of each precinct size that the headers of the image and of its tile-parts state (T.800 A.4.2, A.6.1, A.6.2).

    A decoder keeps more than a kilobyte for each precinct, and a stream without a byte of data may ask for one per pixel.
    """
    tile_part = 0
    while place + 4 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, place)
        if marker == 0xFF93:  # start of data: the next tile-part follows behind it, if it says where it ends
            (until,) = struct.unpack_from(">I", frame.ljust(tile_part + 10, b"\0"), tile_part + 6)
            if until <= place - tile_part:
                return
            place = tile_part + until
            continue
        if marker == 0xFF90:
            tile_part = place
        segment = frame[place + 4 : place + 2 + length]
        if marker == 0xFF52:
            stated = segment[10:] if segment[:1] and segment[0] & 1 else b""
        elif marker == 0xFF53:  # of one component; its number is one byte, as there are fewer than 257
            stated = segment[7:] if len(segment) > 1 and segment[1] & 1 else b""
        else:
            stated = b""
        yield from {(1 << (size & 15), 1 << (size >> 4)) for size in stated}
        place += 2 + length


def _jpeg_size(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, samples and precision of a JPEG or JPEG-LS stream: start of frame (ITU-T T.81 B.2.2).

    The whole of it is walked: each scan costs a pass over the film, and ten bytes are enough for one.
    """
    found: list[tuple[int, int, int, int]] = []
    scans, segments, place = 0, 0, 2
    while (marker := _SEGMENT.search(frame, place)) is not None and marker[1] != b"\xd9":  # end of image
        segments += 1
        if scans > MAXIMUM_SCANS or segments > MAXIMUM_SEGMENTS:
            raise UnreadablePixels("undecodable", f"the code stream has {scans} scans and {segments} segments or more")
        code, place = marker[1][0], marker.end()
        if code == 0xF7 or (0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC)):
            precision, rows, columns, samples = struct.unpack(">BHHB", frame[place + 2 : place + 8].ljust(6, b"\0"))
            found.append((rows, columns, samples, precision))
        scans += code == 0xDA
        if code != 0xD8:
            place += int.from_bytes(frame[place : place + 2], "big")
    if len(found) != 1:
        raise UnreadablePixels("undecodable", f"the code stream has {len(found)} frame headers; one is needed")
    return found[0]


def integer(ds: "Dataset", keyword: str, default: int) -> int:
    """Read an element that must be one whole number; absent or empty gives the default."""
    value = ds.get(keyword)
    if value is None or value == "":
        return default
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise UnreadablePixels("undecodable", f"{keyword} is not one whole number") from error
