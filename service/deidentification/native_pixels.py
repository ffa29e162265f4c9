"""Rewrite pixel data as plain samples, so that nothing but the picture travels with it.

A codestream may carry comments, application segments and thumbnails, native data may carry bytes after the last sample
and overlay planes in the unused bits (retired, PS3.5 8.1.2). None of them survives being decoded, masked and cut to size.
"""

from typing import Final

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException
from pydicom.pixels.utils import decompress, get_expected_length
from pydicom.uid import ExplicitVRBigEndian

from models.pixels.errors import DECODER_ERRORS, UnreadablePixels, panics_are_errors
from models.pixels.guards import check_code_streams
from service.errors import InvalidInstance

PIXEL_KEYWORDS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# PS3.3 C.7.6.3: the attributes that describe the samples, and those that decoding may change.
DESCRIPTION: Final = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)

# PS3.5 6.2: bulk representations whose words are stored in the byte order of the transfer syntax.
WORD_BYTES: Final = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


def has_pixels(ds: Dataset) -> bool:
    """Whether the instance carries pixel data."""
    return any(keyword in ds for keyword in PIXEL_KEYWORDS)


def little_endian(value: bytes, vr: str) -> bytes:
    """Return a bulk value of a big endian instance in little endian order."""
    width = WORD_BYTES.get(vr, 1)
    if width == 1 or len(value) % width:
        return value
    return np.frombuffer(value, f">u{width}").astype(f"<u{width}").tobytes()


def copy_pixels(source: Dataset, target: Dataset) -> None:
    """Write the samples of `source` into `target`, native little endian, with their description.

    Raises
    ------
    InvalidInstance
        When the samples or their description cannot be decoded, or the samples are fewer than the header states.
    """
    try:
        with panics_are_errors():
            _copy(source, target)
    except InvalidInstance:
        raise
    except UnreadablePixels as error:
        raise InvalidInstance(error.text, code=error.code) from error
    except (*DECODER_ERRORS, BytesLengthException) as error:
        syntax = getattr(getattr(source, "file_meta", None), "TransferSyntaxUID", None)
        name = "an unknown transfer syntax" if syntax is None else syntax.name
        raise InvalidInstance(f"the pixel data in {name} cannot be decoded", code="undecodable") from error


def _copy(source: Dataset, target: Dataset) -> None:
    syntax = getattr(getattr(source, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None:
        raise InvalidInstance("the instance states no transfer syntax", code="no-transfer-syntax")
    bare = Dataset()
    for keyword in DESCRIPTION + PIXEL_KEYWORDS + ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in source:
            bare.add(source[keyword])
    if not has_pixels(bare):
        raise InvalidInstance("the instance holds no pixel data", code="no-pixel-data")
    keyword = next(keyword for keyword in PIXEL_KEYWORDS if keyword in bare)
    # A fresh element, so that decompression does not touch the caller's.
    bare.add_new(keyword, source[keyword].VR, source[keyword].value)
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    if syntax.is_encapsulated:
        if "PixelData" in bare:
            check_code_streams(bare, syntax)
            bare["PixelData"].is_undefined_length = True
        decompress(bare, generate_instance_uid=False)
    expected = get_expected_length(bare)
    samples = bytes(bare[keyword].value)
    if len(samples) < expected:
        raise InvalidInstance(
            f"pixel data of {len(samples)} bytes; the header asks for {expected}", code="truncated-pixels"
        )
    samples = _plain_samples(bare, samples[:expected], swap=syntax == ExplicitVRBigEndian)
    for name in DESCRIPTION:
        if name in bare:
            target[name] = bare[name]
        elif name in target:
            del target[name]
    wide = bare.get("BitsAllocated", 8) > 8
    vr = {"PixelData": "OW" if wide else "OB", "FloatPixelData": "OF", "DoubleFloatPixelData": "OD"}[keyword]
    target.add_new(keyword, vr, samples + b"\0" * (len(samples) % 2))
    target[keyword].is_undefined_length = False


def _plain_samples(ds: Dataset, samples: bytes, *, swap: bool) -> bytes:
    """Return the samples little endian, with every bit outside of BitsStored cleared (or sign-extended)."""
    allocated = int(ds.get("BitsAllocated", 0))
    if "PixelData" not in ds:
        dtype = np.dtype("f4" if "FloatPixelData" in ds else "f8")
        array = np.frombuffer(samples, dtype.newbyteorder(">" if swap else "<"))
        return array.astype(dtype.newbyteorder("<")).tobytes()
    if allocated not in (8, 16, 32):
        if swap and allocated != 1:
            raise InvalidInstance(f"big endian samples of {allocated} bits", code="undecodable")
        return samples  # 1 bit: every bit is a sample
    if swap and allocated == 8 and ds["PixelData"].VR == "OW":
        # PS3.5 8.1.1: bytes in words; a big endian word holds the first sample in its high byte.
        samples = little_endian(samples, "OW")
    stored = int(ds.get("BitsStored", allocated))
    high = int(ds.get("HighBit", stored - 1))
    if not 0 < stored <= high + 1 <= allocated:
        raise InvalidInstance(f"{stored} bits stored up to bit {high} of {allocated} allocated", code="undecodable")
    signed = int(ds.get("PixelRepresentation", 0)) == 1
    kind = f"{'i' if signed else 'u'}{allocated // 8}"
    array = np.frombuffer(samples, f"{'>' if swap else '<'}{kind}").astype(kind)
    if stored < allocated:
        array = np.right_shift(np.left_shift(array, allocated - 1 - high), allocated - stored)
        array = np.left_shift(array, high + 1 - stored)
    plain: bytes = array.astype(f"<{kind}").tobytes()
    return plain
