"""Fixtures of the service's tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service import db
from tests.listening import Running, start


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[Running]:
    """Yield a storage SCP that listens on a free port."""
    running = start(tmp_path)
    with running.server:
        yield running
    running.jobs.engine.dispose()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated, empty database to be copied: migrating takes longer than most tests."""
    path = Path(str(tmp_path_factory.mktemp("empty"))) / "carpus.sqlite"
    engine = db.connect(f"sqlite:///{path}")
    db.migrate(engine)
    engine.dispose()
    return path


@pytest.fixture
def engine(tmp_path: Path, empty_database: Path) -> Iterator[Engine]:
    """Yield a migrated, empty database of the test's own."""
    shutil.copy(empty_database, tmp_path / "carpus.sqlite")
    engine = db.connect(f"sqlite:///{tmp_path / 'carpus.sqlite'}")
    yield engine
    engine.dispose()
