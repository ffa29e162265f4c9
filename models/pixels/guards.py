"""Check sizes against the header and against the code stream's own header, before any decoder runs."""

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from models.image import MAXIMUM_PIXELS, MINIMUM_SIDE
from models.pixels.errors import UnreadablePixels

if TYPE_CHECKING:  # `import models` loads no pydicom
    from pydicom import Dataset

_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
# First column and row and the steps to the next ones of the seven passes (Adam7).
_ADAM7: Final = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
MAXIMUM_INFLATED_BYTES: Final = 4 * MAXIMUM_PIXELS
_JPEG_12_BIT: Final = "1.2.840.10008.1.2.4.51"


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


def check_code_stream(frame: bytes, rows: int, columns: int, syntax: Any) -> None:
    """Compare the code stream's own size with the header: a decoder allocates what the stream asks for."""
    found = _stream_size(frame)
    if found is None:
        return
    stream_rows, stream_columns, precision = found
    if (stream_rows, stream_columns) != (rows, columns):
        raise UnreadablePixels(
            "undecodable",
            f"the code stream says {stream_rows} x {stream_columns} pixels, the header {rows} x {columns}",
        )
    if str(syntax) == _JPEG_12_BIT and precision > 8:
        raise UnreadablePixels(
            "unsupported-transfer-syntax",
            f"{syntax.name} ({syntax}) with {precision} bit samples; the installed codecs decode it up to 8 bit",
        )


def _stream_size(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and precision as the code stream's own header states them.

    JPEG and JPEG-LS: start of frame (ITU-T T.81 B.2.2); JPEG 2000: image and tile size (T.800 A.5.1).
    """
    size = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if size >= 0 and len(frame) > size + 42:
        x1, y1, x0, y0 = struct.unpack(">4I", frame[size + 8 : size + 24])
        return y1 - y0, x1 - x0, (frame[size + 42] & 0x7F) + 1
    if not frame.startswith(b"\xff\xd8"):
        return None
    place = 2
    while place + 9 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            precision, rows, columns = struct.unpack(">BHH", frame[place + 4 : place + 9])
            return rows, columns, precision
        place += 2 + int(struct.unpack(">H", frame[place + 2 : place + 4])[0])
    return None


def integer(ds: "Dataset", keyword: str, default: int) -> int:
    """Read an element that must be one whole number; absent or empty gives the default."""
    value = ds.get(keyword)
    if value is None or value == "":
        return default
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise UnreadablePixels("undecodable", f"{keyword} is not one whole number") from error
