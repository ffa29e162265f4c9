"""Make DICOM films for the tests: synthetic pictures, wrapped, of synthetic patients.

Thin over `service.wrap`, which makes what devices make; here is what they should not make: missing attributes, other codecs.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEGLossless, JPEGLosslessSV1

from service.wrap import Patient, wrap

FIXED_TIME = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)
CHILD = Patient("TEST^CHILD", "TEST-1", "F", date(2016, 5, 4))
CHINESE_CHILD = Patient("Test^Zhang=测试^张", "TEST-2", "M", date(2015, 1, 31))

_GDCM = {
    JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
}


def film(rows: int = 240, columns: int = 180, *, bits_stored: int = 12, seed: int = 0) -> NDArray[Any]:
    """Draw bright bars (five rays on a palm) on a dark ground with a little noise: (rows, columns) uint8 or uint16."""
    y, x = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    picture = np.full((rows, columns), 0.12)
    for ray in range(5):
        centre = 0.5 + (ray - 2) * 0.14 * (1.2 - y)
        top = (0.35, 0.12, 0.06, 0.10, 0.22)[ray]
        picture += 0.5 * np.exp(-(((x - centre) / 0.022) ** 2)) * (y > top) * (y < 0.8)
    picture += 0.35 * np.exp(-(((x - 0.5) / 0.16) ** 2)) * (y > 0.6)
    picture += np.random.default_rng(seed).normal(0, 0.01, picture.shape)
    levels = np.rint(np.clip(picture, 0, 1) * (2**bits_stored - 1))
    depth: type[np.unsignedinteger[Any]] = np.uint8 if bits_stored <= 8 else np.uint16
    stored: NDArray[Any] = levels.astype(depth)
    return stored


def instance(
    *, without: Iterable[str] = (), seed: int = 0, rows: int = 240, columns: int = 180, **options: Any
) -> Dataset:
    """Return a wrapped film; `options` go to `service.wrap.wrap`, keywords in `without` are deleted afterwards."""
    options.setdefault("at", FIXED_TIME)
    options.setdefault("study", seed)
    transfer_syntax = UID(options.pop("transfer_syntax", "1.2.840.10008.1.2.1"))
    by_gdcm = transfer_syntax in _GDCM
    picture = options.pop("picture", None)
    if picture is None:
        picture = film(rows, columns, bits_stored=options.get("bits_stored", 12), seed=seed)
    if not by_gdcm:
        options["transfer_syntax"] = transfer_syntax
    ds = wrap(picture, options.pop("patient", CHILD), **options)
    if by_gdcm:
        ds = _transcode(ds, transfer_syntax)
    for keyword in without:
        del ds[keyword]
    return ds


def encoded(ds: Dataset) -> bytes:
    """Return the instance as a DICOM file in memory."""
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _transcode(ds: Dataset, transfer_syntax: UID) -> Dataset:
    """Encode as lossless JPEG with GDCM: pydicom has no encoder for it."""
    with TemporaryDirectory() as folder:
        source, target = f"{folder}/source", f"{folder}/target"
        Path(source).write_bytes(encoded(ds))
        reader = gdcm.ImageReader()
        reader.SetFileName(source)
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(_GDCM[transfer_syntax]))
        writer = gdcm.ImageWriter()
        writer.SetFileName(target)
        if not reader.Read():
            raise RuntimeError("GDCM cannot read the film")
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise RuntimeError(f"GDCM cannot encode as {transfer_syntax.name}")
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        if not writer.Write():
            raise RuntimeError("GDCM cannot write the film")
        return dcmread(BytesIO(Path(target).read_bytes()))
