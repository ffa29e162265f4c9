"""A database of an earlier version, filled, is brought up to date: no row is lost, none changes, and no number is given twice."""

from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

from service import db
from service.auditing.follower import Follower
from service.auditing.messages import Event
from service.auditing.trail import Trail
from service.queue.jobs import Jobs
from service.queue.queues import Queues
from service.retention import Removals, Retention
from service.storage import Stores
from service.tables import Table
from tests.service.installation import Installation

BEFORE = "0013"


def upgraded(engine: Engine, revision: str) -> None:
    """Bring an empty database to one version, as `carpus` of that version did."""
    with as_file(files("service") / "migrations") as folder, engine.execution_options(write=True).begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def filled(folder: Path) -> Installation:
    """Return an installation that has been in use: films in every state, an amendment, a hold, priors, quarantine, a trail."""
    made = Installation(folder)
    for fill in (made.receive, made.prepare, made.infer, made.deliver, made.confirm, made.reject):
        fill()
    made.deliver(refused=True)
    made.wait_for_retry("peer-unreachable", "away", "wait")
    made.quarantine("no-study-uid", "none")
    first = made.jobs.get(5)
    made.jobs.requeue(5)
    with made.jobs.engine.begin() as connection:
        values = {"job": 5, "made": 6, "at": "2026-11-20 08:00:00", "one": 1, "film": first.instance_id}
        for statement in (
            "INSERT INTO amendments (job_id, amended_job_id, observer, organisation, verified, at, stages, rejected, original) "
            "VALUES (:made, :job, 'Li', '', :one, :at, '{}', '[]', '{}')",
            "INSERT INTO job_priors (job_id, destination, at, priors) VALUES (:job, 'archive', :at, '[]')",
            "UPDATE quarantine SET instance_id = :film",
        ):
            connection.execute(text(statement), values)
    made.clock.pass_by(10)
    made.jobs.beat("scp")
    Queues(made.jobs.engine).all()
    trail = Trail(made.jobs.engine, clock=made.clock)
    retention = Retention(made.jobs, trail, Stores.open(folder), made.settings, disk_used=lambda: 0.1)
    retention.hold("study", "1.2.3", "case 12/2026")
    Follower(trail, made.settings, b"k" * 32).round()
    return made


def rows(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        return {
            table: [tuple(row) for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2"))]
            for table in db.tables()
        }


def indexes(engine: Engine) -> set[tuple[str, str]]:
    question = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    with engine.connect() as connection:
        return {(name, sql) for name, sql in connection.execute(text(question))}


@pytest.fixture
def before(tmp_path: Path) -> Iterator[tuple[Engine, Installation]]:
    """Yield a filled database of the version before numbers were given once, and the installation that its rows are of."""
    source = filled(tmp_path)
    engine = db.connect(f"sqlite:///{tmp_path / 'before.sqlite'}")
    upgraded(engine, BEFORE)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ATTACH '{tmp_path / 'carpus.sqlite'}' AS filled")
        for table in db.tables():
            names = ", ".join(column.name for column in Table.metadata.tables[table].columns)
            connection.exec_driver_sql(f"INSERT INTO {table} ({names}) SELECT {names} FROM filled.{table}")
        connection.commit()
        connection.exec_driver_sql("DETACH filled")
    yield engine, source
    source.jobs.engine.dispose()
    engine.dispose()


def test_no_row_of_a_filled_database_is_lost_or_changed(before: tuple[Engine, Installation]) -> None:
    engine, _ = before
    kept, sorted_by = rows(engine), indexes(engine)
    empty = {table for table, found in kept.items() if not found}
    assert empty.isdisjoint(
        {"instances", "jobs", "job_events", "result_objects", "quarantine", "amendments", "job_priors"}
    )
    db.migrate(engine)
    assert db.version(engine) != BEFORE
    assert rows(engine) == kept
    assert indexes(engine) == sorted_by
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalars().all() == ["ok"]
        assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
        # The connection of the migration goes back among the others: they hold rows to each other as before.
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_what_belongs_to_a_job_still_leaves_with_it(before: tuple[Engine, Installation]) -> None:
    engine, _ = before
    db.migrate(engine)
    kept = rows(engine)
    with engine.execution_options(write=True).begin() as connection:
        film = connection.execute(text("SELECT instance_id FROM jobs WHERE id = 5")).scalar()
    Removals(engine).drop_film(int(film or 0))
    left = rows(engine)
    gone = {table: len(kept[table]) - len(found) for table, found in left.items() if table not in ("tallies",)}
    events = sum(row[1] in (5, 9) for row in kept["job_events"])
    assert {table: number for table, number in gone.items() if number} == {
        "instances": 1,
        "jobs": 2,
        "job_events": events,
        "result_objects": 4,
        "amendments": 1,
        "job_priors": 1,
    }


def test_numbers_of_what_was_removed_before_the_upgrade_are_not_given_again(
    before: tuple[Engine, Installation], tmp_path: Path
) -> None:
    """The trail names them, and its cursors have passed them."""
    engine, source = before
    trail = Trail(engine, clock=source.clock)
    jobs = Jobs(engine, clock=source.clock)
    retention = Retention(jobs, trail, Stores.open(tmp_path), source.settings, disk_used=lambda: 0.1)
    last_event = trail.position("job_events")
    assert last_event
    for film in range(1, 9):
        retention._audited(Event.DELETED, f"film {film}")  # in the words of that version
        Removals(engine).drop_film(film)
    row = jobs.quarantined()[0]
    retention._remove_file(row)
    db.migrate(engine)
    source.jobs = jobs
    new = source.receive()
    assert new == 9  # eight films came, each with its job
    assert jobs.get(new).instance_id == 9
    assert min(event.id for event in jobs.timeline(new)) > last_event
    source.quarantine("no-study-uid", "none")
    assert jobs.quarantined()[0].id == row.id + 1


def test_a_file_in_quarantine_learns_of_the_film_that_is_kept_under_its_uid(
    before: tuple[Engine, Installation],
) -> None:
    engine, source = before
    film = source.jobs.instance(3)
    with engine.begin() as connection:
        values = {"uid": film.SOPInstanceUID}
        connection.execute(text("UPDATE quarantine SET instance_id = NULL, sop_instance_uid = :uid"), values)
    db.migrate(engine)
    assert Jobs(engine).quarantined()[0].instance_id == film.id


def test_every_table_whose_numbers_are_given_once_is_so_in_the_database(engine: Engine) -> None:
    asked = {table.name for table in Table.metadata.sorted_tables if table.dialect_options["sqlite"]["autoincrement"]}
    with engine.connect() as connection:
        found = connection.execute(text("SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"))
        assert set(found.scalars()) == asked != set()
