"""Writers of SQLite take turns: who waits goes on when the other one ends, or is told that it did not."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from service import db
from service.errors import InvalidConfiguration, Permanent


@pytest.fixture
def writer(tmp_path: Path) -> Engine:
    engine = db.connect(f"sqlite:///{tmp_path / 'x.sqlite'}").execution_options(write=True)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    return engine


def test_a_writer_that_waits_goes_on_when_the_other_ends(writer: Engine) -> None:
    waiting = threading.Event()

    def write() -> None:
        waiting.set()
        with writer.begin() as connection:
            connection.execute(text("INSERT INTO t SELECT count(*) FROM t"))

    with writer.begin() as first:
        thread = threading.Thread(target=write)
        thread.start()
        waiting.wait()
        thread.join(0.05)
        assert thread.is_alive()  # it waits
        first.execute(text("INSERT INTO t VALUES (7)"))
    thread.join(20)
    with writer.connect() as connection:
        assert connection.execute(text("SELECT x FROM t ORDER BY rowid")).scalars().all() == [7, 1]
    writer.dispose()


def test_a_writer_that_waits_too_long_gets_the_error_of_the_database(
    writer: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writer.begin() as first:
        first.execute(text("INSERT INTO t VALUES (7)"))
        with monkeypatch.context() as hurried:
            hurried.setattr(db, "BUSY_TIMEOUT_MS", 30)
            with pytest.raises(OperationalError, match="locked"), writer.begin():
                pass
    with writer.begin() as later:
        assert later.execute(text("SELECT count(*) FROM t")).scalar() == 1
        assert later.execute(text("PRAGMA busy_timeout")).scalar() == db.BUSY_TIMEOUT_MS
    writer.dispose()


def test_tables_of_a_later_version_are_left_alone(engine: Engine) -> None:
    """Who goes back to an older version is told so, and not by a stack of somebody else's functions."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Permanent, match="stand at 9999; this version of Carpus knows them up to 00") as refused:
        db.migrate(engine)
    assert "backup" in refused.value.next_action
    assert db.version(engine) == "9999"


def test_who_only_looks_leaves_the_tables_of_an_earlier_version_as_they_are(engine: Engine) -> None:
    db.require_present(engine)
    head = db.version(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0011'"))
    with pytest.raises(Permanent, match=f"stand at 0011; this version of Carpus needs them at {head}") as refused:
        db.require_present(engine)
    assert "carpus serve" in refused.value.next_action
    assert db.version(engine) == "0011"


def test_who_only_looks_makes_the_tables_of_an_empty_database(tmp_path: Path) -> None:
    empty = db.connect(f"sqlite:///{tmp_path / 'empty.sqlite'}")
    db.require_present(empty)
    assert db.version(empty) is not None
    empty.dispose()


def test_the_folder_made_for_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    db.connect(f"sqlite:///{folder / 'carpus.sqlite'}")
    assert folder.stat().st_mode & 0o777 == 0o700  # rows name studies, accession numbers, peers
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o750)
    db.connect(f"sqlite:///{shared / 'carpus.sqlite'}")
    assert shared.stat().st_mode & 0o777 == 0o750  # what somebody made with other rights stays as he wants it


def test_a_folder_that_cannot_be_made_is_named_with_its_cause(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, cause in (("file", "File exists"), ("file/below", "Not a directory")):
        with pytest.raises(InvalidConfiguration) as refused:
            db.connect(f"sqlite:///{tmp_path / place / 'carpus.sqlite'}")
        assert str(refused.value) == f"the folder {tmp_path / place} cannot be made: {cause}"
        assert "data_directory" in refused.value.next_action
