from pathlib import Path

from service.conformance import REJECTIONS, RESULT_CLASSES, STATUSES, STORAGE_CLASSES
from service.conformance_statement import statement
from service.demo.stand_in_pacs import RESULT_CLASSES as KEPT_BY_THE_STAND_IN

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance_statement.md"


def test_the_page_is_the_one_the_tables_give() -> None:
    renew = "renew it: python -m service.conformance_statement > docs/conformance_statement.md"
    assert PAGE.read_text(encoding="utf-8") == statement(), renew


def test_every_status_and_rejection_is_given_once() -> None:
    assert len({status.code for status in STATUSES}) == len(STATUSES)
    assert len({r.code for r in REJECTIONS}) == len(REJECTIONS)  # PS3.8 has fewer reasons than there are causes


def test_statuses_lie_in_the_ranges_of_the_standard() -> None:
    # PS3.4 B.2.3: A7xx out of resources, A9xx does not match, Cxxx cannot understand, B00x warnings; PS3.7: 0110 processing failure
    ranges = (
        (0x0000, 0x0000),
        (0x0110, 0x0110),
        (0xA700, 0xA7FF),
        (0xA900, 0xA9FF),
        (0xB000, 0xB00F),
        (0xC000, 0xCFFF),
    )
    assert all(any(first <= status.code <= last for first, last in ranges) for status in STATUSES)


def test_the_stand_in_takes_every_object_we_send() -> None:
    assert {uid for classes in RESULT_CLASSES.values() for uid in classes} <= {*KEPT_BY_THE_STAND_IN, *STORAGE_CLASSES}
