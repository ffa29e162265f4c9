"""Rows written by statements kept ready: a column may choose and be changed at once, and the count is of what was changed."""

import datetime as dt
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import db
from service.rows import appended, changed
from service.tables import QueueControl, QueueMode


def test_a_row_is_changed_only_where_it_still_has_the_values_it_is_chosen_by(tmp_path: Path) -> None:
    engine = db.connect(f"sqlite:///{tmp_path / 'rows.sqlite'}")
    db.migrate(engine)
    now = dt.datetime.now(dt.UTC)
    with Session(engine.execution_options(write=True)) as session, session.begin():
        common = {"since": now, "changed_by": "a test", "reason": ""}
        appended(session, QueueControl, [])
        two = [("intake", QueueMode.PAUSED), ("delivery", QueueMode.PAUSED)]
        appended(session, QueueControl, [{"queue": name, "mode": mode, **common} for name, mode in two])
        paused = {"queue": "intake", "mode": QueueMode.PAUSED}
        assert changed(session, QueueControl, paused, {"mode": QueueMode.RUNNING}) == 1
        assert changed(session, QueueControl, paused, {"mode": QueueMode.RUNNING}) == 0
        assert changed(session, QueueControl, {"changed_by": "a test"}, {"reason": "both"}) == 2
        modes = {row.queue: (row.mode, row.reason) for row in session.scalars(select(QueueControl))}
    engine.dispose()
    assert modes == {"intake": (QueueMode.RUNNING, "both"), "delivery": (QueueMode.PAUSED, "both")}
