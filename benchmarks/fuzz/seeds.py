"""Well-formed input to begin with: phantoms in the transfer syntaxes that can be encoded here, and the files of a folder."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from shutil import which

from pydicom import Dataset, dcmread
from pydicom.filereader import data_element_generator
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from models import phantom
from service.conformance import STORAGE_CLASSES, TRANSFER_SYNTAXES
from service.wrap import Patient, wrap

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGLSLossless,
    JPEG2000Lossless,
    RLELossless,
)
LONGEST_SENT = 64 * 1024  # bytes of a data set that goes through the socket: what is found lies in the header


@dataclass(frozen=True)
class Seed:
    """One data set, encoded."""

    name: str
    transfer_syntax: UID
    sop_class: str
    sop_instance: str
    data: bytes

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Return the offsets of the elements, as far as they can be read."""
        if self.transfer_syntax.is_deflated:
            return (0,)
        syntax, offsets = self.transfer_syntax, [0]
        try:
            for element in data_element_generator(
                BytesIO(self.data), syntax.is_implicit_VR, syntax.is_little_endian, defer_size=64
            ):
                if len(offsets) > 500:
                    break
                offsets.append(max(0, int(element.value_tell) - 8))  # type: ignore[union-attr]
        except Exception:  # noqa: BLE001, S110 - a seed may be broken itself; the offsets so far will do
            pass
        return tuple(offsets)


def phantoms(*, rows: int = 120) -> Iterator[Seed]:
    """Yield a small phantom in every transfer syntax and kind."""
    drawn = phantom.draw(7, age_years=9, sex="F", rows=max(rows, 400), columns=320).image
    for number, syntax in enumerate(SYNTAXES):
        kind = ("CR", "DX", "SC")[number % 3]
        step = max(1, drawn.pixels.shape[0] // rows)
        ds = wrap(
            (drawn.pixels[::step, ::step] * 4095).astype("uint16"),
            Patient("TEST^FUZZ=测试", "FUZZ-1", "F"),
            kind=kind,  # type: ignore[arg-type]
            transfer_syntax=syntax,
            study=number,
        )
        yield _seed(f"phantom {kind} {syntax.name}", ds)


def files(folder: Path) -> Iterator[Seed]:
    """Yield every DICOM file of a folder whose transfer syntax is accepted; `.zst` ones where `zstd` is installed."""
    for path in sorted(folder.iterdir()):
        raw = path.read_bytes()
        if path.suffix == ".zst":
            program = which("zstd")
            if program is None:
                continue
            raw = subprocess.run([program, "-dc", path], capture_output=True, check=True).stdout
        try:
            ds = dcmread(BytesIO(raw), force=True)
            if UID(ds.file_meta.TransferSyntaxUID) in TRANSFER_SYNTAXES:
                yield _seed(path.name, ds)
        except Exception as error:  # noqa: BLE001 - a folder may hold anything
            print(f"{path.name} is no seed: {type(error).__name__}")


def _seed(name: str, ds: Dataset) -> Seed:
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    whole = stream.getvalue()
    # PS3.10 7.1: the preamble, then the group length of the file meta information, 12 bytes that end with its value.
    data = whole[144 + int.from_bytes(whole[140:144], "little") :]
    sop_class = str(ds.SOPClassUID)
    accepted = sop_class if sop_class in {str(uid) for uid in STORAGE_CLASSES} else str(STORAGE_CLASSES[0])
    return Seed(name, UID(ds.file_meta.TransferSyntaxUID), accepted, str(ds.SOPInstanceUID), data)
