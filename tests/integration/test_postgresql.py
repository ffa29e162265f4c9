"""The system of record on PostgreSQL: the same behaviour as on SQLite, and claims that really run at the same time."""

import os
import pwd
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from service import db, metrics
from service.errors import InvalidConfiguration
from service.queue.jobs import DuplicateInstance, Jobs, LeaseLost, State
from service.retention import Removals
from service.rows import changed
from service.tables import Job, Table
from tests.service import test_jobs as sqlite
from tests.service import test_turns as turns
from tests.service.test_jobs import HEAD, Clock, advanced, film, received

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _program(name: str) -> str | None:
    found = next((str(folder / name) for folder in BINARIES if (folder / name).exists()), None)
    return found or shutil.which(name)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a private cluster on a Unix socket; yield its URL."""
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("no PostgreSQL server is installed")
    folder = Path(str(tmp_path_factory.mktemp("pg")))
    options: dict[str, object] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        for parent in [*folder.parents, folder]:
            if parent.owner() == "root" and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        os.chown(folder, account.pw_uid, account.pw_gid)
        options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = folder / "data"
    made = subprocess.run(
        [initdb, "-D", data, "-U", "carpus", "-A", "trust", "-E", "UTF8", "--no-sync"],
        capture_output=True,
        check=False,
        **options,
    )  # type: ignore[call-overload]
    assert made.returncode == 0, made.stderr.decode()
    process = subprocess.Popen(
        [postgres, "-D", data, "-k", folder, "-c", "listen_addresses="], stderr=subprocess.DEVNULL, **options
    )  # type: ignore[call-overload]
    url = f"postgresql://carpus@/postgres?host={folder}"
    try:
        engine = db.connect(url)
        for _ in range(200):
            try:
                with engine.connect():
                    break
            except Exception:  # noqa: BLE001 - not up yet
                threading.Event().wait(0.1)
        engine.dispose()
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_is_not_of_utf8_is_refused_by_its_encoding(server: str, encoding: str) -> None:
    name = f"carpus_{encoding.lower()}"
    owner = db.connect(server)
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"))
    owner.dispose()
    engine = db.connect(server.replace("/postgres?", f"/{name}?"))
    for bring in (db.migrate, db.require_present):
        with pytest.raises(InvalidConfiguration, match=f"'{name}' is {encoding}; UTF8 is needed") as refused:
            bring(engine)
        assert "CREATE DATABASE carpus ENCODING 'UTF8'" in refused.value.next_action
    engine.dispose()


@pytest.fixture
def engine(server: str) -> Iterator[Engine]:
    """Yield a migrated, empty database."""
    engine = db.connect(server)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    db.migrate(engine)
    yield engine
    engine.dispose()


def _cases() -> list[Callable[..., None]]:
    """Return the tests of the repository that take `jobs` and `clock` and no more."""
    wanted = {"jobs", "clock"}
    modules = (sqlite, turns)
    tests = [value for module in modules for name, value in vars(module).items() if name.startswith("test_")]
    return [
        test for test in tests if not hasattr(test, "pytestmark") and set(test.__annotations__) - {"return"} <= wanted
    ]


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case.__name__.removeprefix("test_"))
def test_it_behaves_as_on_sqlite(engine: Engine, case: Callable[..., None]) -> None:
    clock = Clock()
    given = {"clock": clock, "jobs": Jobs(engine, process="test", clock=clock, lease_seconds=60)}
    case(**{name: given[name] for name in case.__annotations__ if name != "return"})


def test_the_migration_makes_exactly_the_tables_the_code_uses(engine: Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_processes_that_start_together_migrate_once(server: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    errors: list[Exception] = []

    def start() -> None:
        own = db.connect(server)
        try:
            db.migrate(own)
        except Exception as error:  # noqa: BLE001 - looked at below
            errors.append(error)
        finally:
            own.dispose()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert db.version(engine) == HEAD


def test_counters_keep_what_they_counted_of_rows_that_were_removed(engine: Engine) -> None:
    jobs, rows = Jobs(engine, process="test"), Removals(engine)
    jobs.record_instance(film(1))
    instance = jobs.record_instance(film(2))
    jobs.note(jobs.find("2.25.2")[0].id, "grade", "", 40)
    named = {"code": "no-study-uid", "text": "none", "name": "cd/cd00.dcm", "sha256": "f" * 64, "SOPInstanceUID": None}
    jobs.record_quarantine(**named, calling_ae_title="PACS", address="10.20.1.7")
    before = _counters(jobs)
    assert before["carpus_instances_received_total"] == 2
    assert (before["carpus_step_seconds_count"], before["carpus_quarantined_total"]) == (1, 1)
    rows.drop_film(instance)
    (quarantined,) = rows.quarantine()
    rows.drop_quarantined(quarantined)
    assert not jobs.find("2.25.2")
    assert _counters(jobs) == before


def _counters(jobs: Jobs) -> dict[str, float]:
    page = metrics.text(metrics.registry(jobs, ())).decode()
    families = text_string_to_metric_families(page)
    wanted = ("_total", "_count", "_sum")
    return {each.name: each.value for family in families for each in family.samples if each.name.endswith(wanted)}


def test_of_many_claimers_at_once_each_job_has_one(engine: Engine) -> None:
    jobs = Jobs(engine)
    ids = {advanced(jobs, received(jobs, number), State.PREPARED) for number in range(1, 21)}
    taken: list[int] = []
    start = threading.Barrier(4)

    def work(name: str) -> None:
        mine = Jobs(engine, process=name)
        start.wait()
        while (claim := mine.claim_next(State.PREPARED)) is not None:
            taken.append(claim.job.id)
            mine.advance(claim, State.INFERRED)

    threads = [threading.Thread(target=work, args=(f"worker {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ids)


def test_the_same_instance_from_two_associations_at_once_is_one_row(engine: Engine) -> None:
    start = threading.Barrier(2)
    outcomes: list[str] = []

    def receive() -> None:
        mine = Jobs(engine)
        start.wait()
        try:
            mine.record_instance(film(1))
            outcomes.append("kept")
        except DuplicateInstance:
            outcomes.append("duplicate")

    threads = [threading.Thread(target=receive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["duplicate", "kept"]
    assert len(Jobs(engine).list()) == 1


def test_a_cancel_during_a_step_wins_over_the_step(engine: Engine) -> None:
    jobs = Jobs(engine)
    claim = jobs.claim(received(jobs), State.RECEIVED)
    assert claim is not None
    jobs.cancel(claim.job.id)
    with pytest.raises(LeaseLost):
        jobs.advance(claim, State.PREPARED)


def test_a_prepared_statement_on_a_lost_connection_is_sqlalchemys_error_and_the_next_one_works(engine: Engine) -> None:
    jobs = Jobs(engine, process="test")
    job_id = received(jobs)
    with jobs._write() as session:
        connection = session.connection()
        assert changed(session, Job, {"id": job_id}, {"cause_code": "half"}) == 1
        with engine.connect() as other:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            assert other.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
        with pytest.raises(OperationalError) as caught:
            changed(session, Job, {"id": job_id}, {"cause_text": "a secret"})
        assert caught.value.connection_invalidated
        assert connection.invalidated
        assert "a secret" not in str(caught.value)
        session.rollback()
    assert jobs.state_of(job_id) == State.RECEIVED  # on another connection
    assert jobs.get(job_id).cause_code is None  # what the lost transaction wrote is gone
    assert engine.pool.checkedout() == 0
