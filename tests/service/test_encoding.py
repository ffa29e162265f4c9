"""Results are encoded as pydicom encodes them, to the byte."""

import datetime as dt
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread

from models.reading import Reason, Verdict
from service.reporting import encoding, result_set, source
from service.reporting.codes import Language
from service.reporting.results import ResultContext
from service.result_profile import BUILT_IN
from tests import factories
from tests.service import readings

AT = dt.datetime(2026, 11, 21, 5, 30, tzinfo=dt.UTC)
KINDS = BUILT_IN["everything"].objects
FILMS: dict[str, dict[str, Any]] = {
    "ASCII": {},
    "GB18030": {"patient": factories.CHINESE_CHILD, "character_set": "GB18030"},
    "ISO 2022 IR 58": {"patient": factories.CHINESE_CHILD, "character_set": ["", "ISO 2022 IR 58"]},
}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", FILMS)
def test_every_object_has_the_bytes_that_pydicom_writes(name: str, language: Language) -> None:
    film = factories.instance(kind="DX", rows=readings.ROWS, columns=readings.COLUMNS, **FILMS[name])
    context = ResultContext("2.25.42", AT, language, kinds=KINDS)
    header = source.normalise(dcmread(BytesIO(factories.encoded(film))))
    made = result_set.of_reading(header, readings.reading(), context, readings.image)
    turned_away = result_set.of_rejection(header, Verdict(False, (Reason("not-a-hand", ""),)), context, readings.image)
    assert set(made) == set(KINDS)
    for ds in (*made.values(), *turned_away.values()):
        expected = factories.encoded(ds)
        assert encoding.encoded(ds) == expected
        assert encoding.encoded(ds) == expected  # and leaves the object as it was
