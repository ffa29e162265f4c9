"""Reports, outlines and presentation states as input: identifiers everywhere in them, none of them in the copy."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydicom import config
from pydicom.dataset import Dataset

from service.deidentification.burned_in.cleaning import clean_instance
from service.deidentification.deidentify import deidentify
from service.reporting import result_set, source
from service.reporting.results import ResultContext
from service.trust.pseudonyms import Pseudonyms
from tests.factories import CHINESE_CHILD, instance
from tests.service import readings
from tests.service.seeded import Seeds, from_bytes, seed, to_bytes
from tests.service.test_confidentiality import FRAME, IN_FILES, PROFILE

PSEUDONYMS = Pseudonyms(b"k" * 32)
AT = dt.datetime(2026, 5, 4, 10, 30, tzinfo=dt.UTC)
KINDS = ("SR", "SEG", "GSPS")


@pytest.fixture(scope="module")
def made() -> dict[str, Dataset]:
    """Return one object of each kind as Carpus makes them of a film."""
    film = instance(kind="DX", patient=CHINESE_CHILD, rows=readings.ROWS, columns=readings.COLUMNS)
    context = ResultContext("2.25.42", AT, kinds=KINDS)
    objects = result_set.of_reading(
        source.normalise(from_bytes(to_bytes(film))), readings.reading(), context, readings.image
    )
    return {str(kind): from_bytes(to_bytes(ds)) for kind, ds in objects.items()}


def levels(ds: Dataset, depth: int = 0) -> Iterator[tuple[int, Dataset]]:
    """Yield a data set and every item below it with its depth."""
    yield depth, ds
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from levels(item, depth + 1)


def seeded(ds: Dataset) -> Seeds:
    """Put markers where there is room: absent attributes of the table, every free text, a nested sequence, private ones."""
    seeds = Seeds()
    with config.disable_value_validation():
        for _, level in list(levels(ds)):
            for element in list(level):
                if element.VR in ("LO", "LT", "PN", "SH", "ST", "UT", "UC") and element.tag.group != 0x0008:
                    level[element.tag].value = seeds.value(int(element.tag), element.VR)
        deepest = max(levels(ds), key=lambda found: found[0])[1]
        absent = [tag for tag in IN_FILES if tag not in ds]
        seed(ds, absent, seeds, without=FRAME)
        seed(deepest, [tag for tag in IN_FILES if tag not in deepest], seeds, without=FRAME)
        deepest.private_block(0x0009, "ACME", create=True).add_new(0x01, "LO", seeds.value(0x00090001, "LO"))
        ds.private_block(0x0029, "ACME", create=True).add_new(0x01, "UN", seeds.value(0x00290001, "UN"))
        ds.add_new(0x60000022, "LO", seeds.value(0x60000022, "LO"))
        ds.preamble = seeds.value(0x00000001, "LO").encode().ljust(128, b"\0")
    return seeds


@pytest.mark.parametrize("kind", KINDS)
def test_no_identifier_is_left_in_a_result_that_comes_back_as_input(made: dict[str, Dataset], kind: str) -> None:
    ds = from_bytes(to_bytes(made[kind]))
    seeds = seeded(ds)
    data = to_bytes(ds)
    assert len(seeds.left_in(data)) > 500, "the seeds are there to be found"
    copy, actions = deidentify(from_bytes(data), PSEUDONYMS, clean=clean_instance)
    out = to_bytes(copy)
    # What the profile keeps on purpose: sex, the version of software, coded meanings that hold no word of the patient.
    kept = {tag for tag in seeds.markers if PROFILE.rule(tag, image=kind == "SEG").letter == "K"}
    assert len(kept) < 20
    assert seeds.left_in(out, besides=kept) == {}
    assert not [name for name in ("欧阳", "Ouyang", CHINESE_CHILD.PatientID) if name.encode() in out]
    assert [action for action in actions if "[" in action.path], "nothing below the top level was looked at"
    _keeps_its_shape(kind, from_bytes(data), from_bytes(out))


def _keeps_its_shape(kind: str, before: Any, after: Any) -> None:
    assert after.SOPClassUID == before.SOPClassUID
    if kind == "SR":
        types = [[item.get("ValueType") for item in ds.ContentSequence] for ds in (before, after)]
        assert types[0] == types[1]
    elif kind == "SEG":
        assert np.array_equal(after.pixel_array, before.pixel_array)
        assert len(after.SegmentSequence) == len(before.SegmentSequence)
    else:
        assert len(after.GraphicAnnotationSequence) == len(before.GraphicAnnotationSequence)
