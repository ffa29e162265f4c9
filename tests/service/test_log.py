"""What processes say: one JSON object a line, whatever a library or a peer would like to write."""

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from service import log

FORGED = '{"event": "logged in", "user": "admin", "level": "info"}'


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    before = logging.getLogger().handlers[:]
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a process of the service
        log.configure("INFO", stream=stream)
        yield stream
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = before


def test_a_line_of_a_library_is_one_json_object_like_ours(written: io.StringIO) -> None:
    with log.about(job=7):
        logging.getLogger("celery.worker").error("lost\n%s\n", FORGED)
        warnings.warn(f"careful\n{FORGED}\n", stacklevel=1)
        log.get_logger().info("ours")
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["job"] for line in lines] == [7, 7, 7]
    assert [line["level"] for line in lines] == ["error", "warning", "info"]
    assert lines[0]["event"] == f"lost\n{FORGED}\n"
    assert lines[0]["logger"] == "celery.worker"
    assert "careful" in lines[1]["event"]
    assert all("timestamp" in line for line in lines)


def test_an_error_of_a_library_brings_its_traceback_in_the_same_line(written: io.StringIO) -> None:
    try:
        raise ValueError("here")
    except ValueError:
        logging.getLogger("kombu").exception("failed")
    (line,) = [json.loads(line) for line in written.getvalue().splitlines()]
    assert "ValueError: here" in line["exception"]


def test_a_header_writes_no_line_of_the_log(written: io.StringIO) -> None:
    """pydicom warns with the text of a character set that it does not know, which a peer chose."""
    ds = Dataset()
    for tag, vr, value in ((0x00080005, "CS", f"X\n{FORGED}\n".encode()), (0x00100010, "PN", b"\xff^A")):
        ds[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    ds.decode()
    assert str(ds.PatientName)
    assert FORGED not in written.getvalue()
    assert [line for line in written.getvalue().splitlines() if "logged in" in line] == []
