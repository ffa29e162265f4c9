"""What follows a failure, from its cause."""

import datetime as dt
import re
import sqlite3
from pathlib import Path

import pytest
from pydicom.uid import ComprehensiveSRStorage
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from service.errors import CarpusError, Permanent, Postponed, Retryable
from service.queue.causes import POISON_AFTER, POLICIES, Kind, decide, policy_of
from service.sending import requestor, scu
from service.settings import RetrySettings

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
RETRY = RetrySettings(first_seconds=10, longest_seconds=3600, for_hours=72)
SOURCES = Path(scu.__file__).parent


def decided(error: Exception, attempts: int = 1, hours: float | None = None) -> object:
    since = None if hours is None else NOW - dt.timedelta(hours=hours)
    return decide(error, attempts=attempts, failing_since=since, now=NOW, retry=RETRY)


def test_every_cause_that_needs_a_person_says_what_to_do() -> None:
    assert [code for code, policy in POLICIES.items() if not policy.next_action] == []


def test_the_table_and_the_statuses_of_the_sender_agree() -> None:
    for status in [*range(0x0100, 0x0220), *range(0xA000, 0xD000, 0x55)]:
        refusal = scu._refusal(status, ComprehensiveSRStorage, requestor.Address("PACS", "h", 104))
        if refusal is not None:
            kind = Kind.PERMANENT if isinstance(refusal, Permanent) else Kind.TRANSIENT
            assert policy_of(refusal).kind is kind, f"0x{status:04X}"
            if kind is Kind.PERMANENT:
                assert decided(refusal).next_action, f"0x{status:04X}"


def test_every_code_of_an_association_that_failed_has_its_row() -> None:
    text = "".join((SOURCES / name).read_text(encoding="utf-8") for name in ("requestor.py", "scu.py"))
    codes = set(re.findall(r'code="([a-z-]+)"', text)) | {code for code, _ in requestor.REJECTIONS.values()}
    assert {code for code in codes if code not in POLICIES and not code.startswith("tls-")} == set()


def test_a_permanent_cause_stops_at_the_first_time_and_names_what_to_change() -> None:
    found = decided(Permanent("PACS rejected", code="calling-ae-refused", next_action="register CARPUS"))
    assert (found.delay, found.code, found.next_action) == (None, "calling-ae-refused", "register CARPUS")
    assert (
        decided(Permanent("PACS rejected", code="called-ae-refused")).next_action
        == "correct the destination's ae_title"
    )


@pytest.mark.parametrize("attempt", [1, 5, 50, 500])
def test_a_passing_cause_is_tried_again_however_often_it_failed(attempt: int) -> None:
    found = decided(Retryable("away", code="peer-unreachable"), attempt, hours=71.9)
    assert dt.timedelta(seconds=10) <= found.delay <= dt.timedelta(hours=1)


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "INSERT INTO t VALUES (2)"])
def test_a_database_that_is_away_in_the_middle_of_a_step_makes_no_dead_letter(tmp_path: Path, statement: str) -> None:
    with sqlite3.connect(tmp_path / "a") as other:
        other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN IMMEDIATE")
    engine = create_engine(f"sqlite:///{tmp_path / 'a'}", connect_args={"timeout": 0})
    with pytest.raises(OperationalError) as locked, engine.connect() as connection:
        connection.exec_driver_sql(statement)
    other.close()
    found = decided(locked.value, attempts=50, hours=1)
    assert (found.code, found.last) == ("database-unavailable", False)
    with pytest.raises(OperationalError) as faulty, engine.connect() as connection:
        connection.exec_driver_sql("SELECT nothing FROM t")
    engine.dispose()
    assert decided(faulty.value, attempts=3).code == "unexpected-error"
    assert decided(faulty.value, attempts=3).last


def test_after_days_a_passing_cause_is_a_dead_letter_that_says_how_long_it_was_tried() -> None:
    found = decided(Retryable("away", code="peer-unreachable"), 90, hours=72.1)
    assert found.last
    assert "given up after 72 hours and 90 attempts" in found.text
    assert found.next_action.startswith("mend the cause, then retry the job (check that the PACS runs")


def test_what_nobody_foresaw_is_tried_a_few_times_and_never_quoted() -> None:
    def failure() -> Exception:
        try:
            raise ValueError("Smith^John")
        except ValueError as error:
            return error

    outcomes = [decided(failure(), attempt) for attempt in range(1, POISON_AFTER + 1)]
    assert [found.last for found in outcomes] == [False, False, True]
    assert {found.code for found in outcomes} == {"unexpected-error"}
    assert all(re.fullmatch(r"ValueError at test_causes\.py:\d+", found.text) for found in outcomes)


def test_a_full_disk_and_a_full_pacs_are_given_time() -> None:
    for code in ("disk-full", "status-a700"):
        assert decided(Retryable("full", code=code)).delay >= dt.timedelta(seconds=30)  # 10 s x 6 x 0.5


def test_a_postponed_step_waits_exactly_as_long_as_it_was_told() -> None:
    found = decided(Postponed("pacs is not sent to", seconds=42, code="destination-unavailable"))
    assert found.delay == dt.timedelta(seconds=42)


def test_the_class_of_an_error_wins_over_its_row() -> None:
    """A delivery that one PACS refused for good goes on while another one is only away."""
    error: CarpusError = Retryable("not known there", code="calling-ae-refused", next_action="register CARPUS")
    assert not decided(error).last
