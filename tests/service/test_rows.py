"""Rows written by statements kept ready: numbers, usual values, what was changed, and the errors that callers know."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import db
from service.rows import appended, changed, inserted
from service.tables import Account, QueueControl, QueueMode


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = db.connect(f"sqlite:///{tmp_path / 'rows.sqlite'}")
    db.migrate(engine)
    yield engine.execution_options(write=True)
    engine.dispose()


def test_a_row_is_changed_only_where_it_still_has_the_values_it_is_chosen_by(engine: Engine) -> None:
    now = dt.datetime.now(dt.UTC)
    with Session(engine) as session, session.begin():
        common = {"since": now, "changed_by": "a test", "reason": ""}
        appended(session, QueueControl, [])
        two = [("intake", QueueMode.PAUSED), ("delivery", QueueMode.PAUSED)]
        appended(session, QueueControl, [{"queue": name, "mode": mode, **common} for name, mode in two])
        paused = {"queue": "intake", "mode": QueueMode.PAUSED}
        assert changed(session, QueueControl, paused, {"mode": QueueMode.RUNNING}) == 1
        assert changed(session, QueueControl, paused, {"mode": QueueMode.RUNNING}) == 0
        assert changed(session, QueueControl, {"changed_by": "a test"}, {"reason": "both"}) == 2
        modes = {row.queue: (row.mode, row.reason) for row in session.scalars(select(QueueControl))}
    assert modes == {"intake": (QueueMode.RUNNING, "both"), "delivery": (QueueMode.PAUSED, "both")}


def test_an_inserted_row_has_its_number_and_the_usual_values_of_what_was_not_named(engine: Engine) -> None:
    now = dt.datetime(2026, 11, 22, 5, 30, tzinfo=dt.timezone(dt.timedelta(hours=8)))
    user = {"role": "viewer", "created_at": now, "changed_at": now}
    with engine.begin() as connection:
        numbers = [inserted(connection, Account, {"name": name, **user}) for name in ("one", "two")]
    with Session(engine) as session:
        found = {row.name: row for row in session.scalars(select(Account))}
    assert [found[name].id for name in ("one", "two")] == numbers
    assert (found["one"].source, found["one"].disabled, found["one"].password_hash) == ("local", False, None)
    assert found["one"].created_at == now
    assert found["one"].created_at.tzinfo == dt.UTC


def test_a_row_that_breaks_a_constraint_is_the_error_callers_know_and_does_not_repeat_the_row(engine: Engine) -> None:
    now = dt.datetime.now(dt.UTC)
    user = {"name": "SMITH^JOHN", "role": "viewer", "created_at": now, "changed_at": now}
    with engine.begin() as connection:
        inserted(connection, Account, user)
    with pytest.raises(IntegrityError) as raised, engine.begin() as connection:
        inserted(connection, Account, user)
    assert "SMITH" not in str(raised.value)


def test_a_time_without_a_zone_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="naive time"), engine.begin() as connection:
        inserted(connection, Account, {"name": "one", "role": "viewer", "created_at": dt.datetime(2026, 1, 1)})  # noqa: DTZ001
