"""The look into a data set: any bytes give a Header or Unusable, and nothing else."""

import time
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache

import pydicom.uid as uids
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom.dsutils import encode

from service.conformance import CANNOT_PARSE, DOES_NOT_MATCH, MISSING_UID, TOO_LARGE, TOO_MANY_PIXELS
from service.receiving.header import (
    MAXIMUM_HEADER_BYTES,
    USUAL_HEADER_BYTES,
    Header,
    Unusable,
    _scanned,
    _stepped_through,
    inspect,
)
from tests.factories import instance

NATIVE = (uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian)


def data_set(ds: Dataset) -> bytes:
    """Encode without preamble and file meta information."""
    syntax = uids.UID(ds.file_meta.TransferSyntaxUID)
    data = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian)
    assert data is not None
    return data


@cache
def beginning(syntax: uids.UID) -> bytes:
    """Return the header and the first pixels."""
    return data_set(instance(transfer_syntax=syntax))[:2000]


def look(data: bytes, syntax: str, **changes: object) -> Header:
    ds = instance()
    options = {
        "sop_class": ds.SOPClassUID,
        "sop_instance": ds.SOPInstanceUID,
        "maximum_pixels": 10**6,
        "maximum_bytes": 10**7,
    }
    return inspect(memoryview(data), uids.UID(syntax), **{**options, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
def test_the_header_is_found_in_every_native_encoding(syntax: uids.UID) -> None:
    ds = instance(transfer_syntax=syntax)
    header = look(data_set(ds), syntax)
    assert (header.Rows, header.Columns) == (240, 180)
    assert header.StudyInstanceUID == ds.StudyInstanceUID


def test_private_blocks_and_sequences_before_the_identifiers_are_stepped_over() -> None:
    ds = instance(transfer_syntax=uids.ExplicitVRLittleEndian)
    nested = Dataset()
    nested.StudyInstanceUID = "9.9.9"
    nested.Rows = 60_000
    ds.ReferencedImageSequence = Sequence([nested])
    ds["ReferencedImageSequence"].is_undefined_length = True
    ds.private_block(0x0019, "TEST", create=True).add_new(1, "OB", bytes(3 * 1024**2))
    header = look(data_set(ds), uids.ExplicitVRLittleEndian)
    assert header.StudyInstanceUID == ds.StudyInstanceUID
    assert header.Rows == 240


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
def test_the_order_and_its_priority_are_found(syntax: uids.UID) -> None:
    ds = instance(transfer_syntax=syntax)
    ds.AccessionNumber, ds.RequestedProcedurePriority = "ACC-1 ", "STAT"
    header = look(data_set(ds), syntax)
    assert (header.AccessionNumber, header.RequestedProcedurePriority) == ("ACC-1", "STAT")
    del ds.AccessionNumber
    ds.RequestedProcedurePriority = ""
    header = look(data_set(ds), syntax)
    assert (header.AccessionNumber, header.RequestedProcedurePriority) == ("", "")


def test_the_pixel_limit_counts_samples_and_frames() -> None:
    ds = instance()
    ds.NumberOfFrames = "24"
    assert look(data_set(ds), uids.ExplicitVRLittleEndian, maximum_pixels=240 * 180 * 24).Rows == 240
    with pytest.raises(Unusable, match="24 frames; the limit is 1036799") as caught:
        look(data_set(ds), uids.ExplicitVRLittleEndian, maximum_pixels=240 * 180 * 24 - 1)
    assert caught.value.status is TOO_MANY_PIXELS


def test_a_header_without_end_is_refused() -> None:
    ds = instance(without=("PixelData",))
    ds.private_block(0x0029, "TEST", create=True).add_new(1, "OB", bytes(MAXIMUM_HEADER_BYTES))
    with pytest.raises(Unusable, match=f"no PixelData within {MAXIMUM_HEADER_BYTES} bytes") as caught:
        look(data_set(ds), uids.ExplicitVRLittleEndian)
    assert caught.value.status is CANNOT_PARSE


@pytest.mark.parametrize("syntax", [*NATIVE, uids.DeflatedExplicitVRLittleEndian], ids=lambda uid: uid.name)
@settings(max_examples=40, deadline=None)
@given(choice=st.data())
def test_damaged_bytes_give_a_header_or_unusable_and_nothing_else(syntax: uids.UID, choice: st.DataObject) -> None:
    data = bytearray(beginning(NATIVE[1] if syntax.is_deflated else syntax))
    for _ in range(choice.draw(st.integers(1, 20))):
        data[choice.draw(st.integers(0, len(data) - 1))] = choice.draw(st.integers(0, 255))
    del data[choice.draw(st.integers(0, len(data))) :]
    status = None
    try:
        look(bytes(data), syntax)
    except Unusable as error:
        status = error.status
    assert status in (None, CANNOT_PARSE, MISSING_UID, DOES_NOT_MATCH, TOO_MANY_PIXELS, TOO_LARGE)


@pytest.mark.parametrize("syntax", NATIVE[:2], ids=lambda uid: uid.name)
@settings(max_examples=100, deadline=None)
@given(choice=st.data())
def test_a_header_that_is_stepped_through_says_what_the_parser_says(syntax: uids.UID, choice: st.DataObject) -> None:
    data = bytearray(beginning(syntax))
    assert _stepped_through(memoryview(data), syntax)
    for _ in range(choice.draw(st.integers(0, 2))):
        data[choice.draw(st.integers(0, len(data) - 1))] = choice.draw(st.integers(0, 255))
    found = _stepped_through(memoryview(data), syntax)
    if not found:  # not plain, or without pixels
        return
    try:
        parsed, reached_pixels = _scanned(memoryview(data), syntax)
    except Unusable:  # for a character set that there is not: whoever reads the text says so
        return
    assert reached_pixels
    assert {name: value for name, value in found.items() if value} == {n: value for n, value in parsed.items() if value}


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: setattr(ds["ReferencedImageSequence"], "is_undefined_length", True),
        lambda ds: ds.private_block(0x0019, "TEST", create=True).add_new(1, "OB", bytes(70_000)),
        lambda ds: delattr(ds, "PixelData"),
    ],
    ids=["undefined length", "long header", "no pixels"],
)
def test_a_header_that_is_not_plain_is_left_to_the_parser(change: Callable[[Dataset], None]) -> None:
    ds = instance(transfer_syntax=uids.ExplicitVRLittleEndian)
    nested = Dataset()
    nested.Rows = 60_000
    ds.ReferencedImageSequence = Sequence([nested])
    assert _stepped_through(memoryview(data_set(ds))[:USUAL_HEADER_BYTES], uids.ExplicitVRLittleEndian)
    change(ds)
    data = data_set(ds)
    assert not _stepped_through(memoryview(data)[:USUAL_HEADER_BYTES], uids.ExplicitVRLittleEndian)
    assert look(data, uids.ExplicitVRLittleEndian).Rows == 240


def test_a_deflated_data_set_costs_the_memory_of_its_header_alone() -> None:
    data = data_set(instance(rows=900, columns=700))
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = squeezer.compress(data) + squeezer.compress(bytes(60 * 1024**2)) + squeezer.flush()
    options = {"sop_class": "1.2", "sop_instance": "1.3", "maximum_pixels": 10**9}
    tracemalloc.start()
    with pytest.raises(Unusable) as refused:
        inspect(memoryview(bomb), uids.DeflatedExplicitVRLittleEndian, maximum_bytes=50 * 1024**2, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.code == "too-large"
    assert peak < 20 * 1024**2


def test_an_incompressible_deflated_data_set_takes_linear_time() -> None:
    squeezer = zlib.compressobj(0, zlib.DEFLATED, -zlib.MAX_WBITS)
    stored = squeezer.compress(bytes(40 * 1024**2)) + squeezer.flush()
    started = time.process_time()
    with pytest.raises(Unusable):
        inspect(
            memoryview(stored),
            uids.DeflatedExplicitVRLittleEndian,
            sop_class="1.2",
            sop_instance="1.3",
            maximum_pixels=1,
            maximum_bytes=10**9,
        )
    assert time.process_time() - started < 5  # some tenths of a second; minutes if each piece copied the rest
