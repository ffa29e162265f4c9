import datetime as dt
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from service import db
from service.errors import Permanent, Retryable
from service.intake import Intake
from service.queue.causes import POISON_AFTER
from service.queue.jobs import Jobs, ReceivedInstance, State
from service.settings import Settings
from service.storage import Stores
from tests.factories import encoded, instance


class Bench:
    """An intake over a real database and real stores; what `prepare` does is the test's."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.settings = Settings(data_directory=folder, **changes)  # type: ignore[arg-type]
        engine = db.connect(self.settings.resolved_database_url)
        db.migrate(engine)
        self.time = dt.datetime(2026, 11, 21, 9, tzinfo=dt.UTC)
        self.jobs = Jobs(engine, process="intake", clock=lambda: self.time)
        self.stores = Stores.open(folder)
        self.prepared: list[int] = []
        self.errors: dict[int, Callable[[], Exception]] = {}
        self.limits: list[float] = []
        self.intake = Intake(self.jobs, self.stores, self.settings, self, limited=self.limited)

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        self.limits.append(seconds)
        yield
        self.limits.append(0.0)

    def prepare(self, job_id: int) -> None:
        claim = self.jobs.claim(job_id, State.RECEIVED)
        assert claim is not None
        if job_id in self.errors:
            raise self.errors[job_id]()
        self.jobs.advance(claim, State.PREPARED)
        self.prepared.append(job_id)

    def receive(self, seed: int) -> None:
        ds = instance(seed=seed)
        stored = self.stores.identified.write(encoded(ds))
        self.jobs.record_instance(
            ReceivedInstance(
                SOPInstanceUID=ds.SOPInstanceUID,
                SOPClassUID=ds.SOPClassUID,
                StudyInstanceUID=ds.StudyInstanceUID,
                SeriesInstanceUID=ds.SeriesInstanceUID,
                TransferSyntaxUID=ds.file_meta.TransferSyntaxUID,
                digest=stored.sha256,
                byte_count=stored.byte_count,
                name=stored.name,
                calling_ae_title="PACS",
                called_ae_title="CARPUS",
                address="127.0.0.1",
            )
        )

    def wait(self, seconds: float) -> None:
        self.time += dt.timedelta(seconds=seconds)

    def state(self, job_id: int) -> State:
        return State(self.jobs.get(job_id).state)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, debounce_seconds=0.3)


def test_a_film_is_prepared_once_the_debounce_is_over(bench: Bench) -> None:
    bench.receive(1)
    assert bench.intake.round() == 0
    bench.wait(0.3)
    assert bench.intake.round() == 1
    assert bench.state(1) is State.PREPARED
    assert bench.intake.round() == 0


def test_a_late_film_is_prepared_like_the_first_ones(bench: Bench) -> None:
    bench.receive(1)
    bench.wait(1)
    bench.intake.round()
    bench.receive(2)
    bench.wait(3600)
    bench.intake.round()
    assert bench.prepared == [1, 2]


def test_one_film_that_fails_does_not_hold_up_the_others(bench: Bench) -> None:
    for seed in (1, 2, 3):
        bench.receive(seed)
    bench.errors[2] = lambda: ValueError("broken")
    bench.wait(1)
    bench.intake.round()
    assert bench.prepared == [1, 3]


def test_an_unforeseen_error_is_tried_k_times_then_quarantined_with_its_cause(bench: Bench) -> None:
    bench.receive(1)
    bench.errors[1] = lambda: ValueError("TEST^CHILD")
    with capture_logs() as logs:
        for _ in range(POISON_AFTER + 3):
            bench.wait(600)
            bench.intake.round()
    failures = [entry for entry in logs if entry["event"] == "preparation failed"]
    assert [entry["final"] for entry in failures] == [False] * (POISON_AFTER - 1) + [True]
    assert bench.state(1) is State.FAILED
    (row,) = bench.jobs.quarantined()
    assert row.instance_id == 1
    assert row.cause_text.startswith("ValueError at ")
    assert "TEST^CHILD" not in row.cause_text + str(logs)
    kept = bench.stores.quarantine.read(row.name)
    assert kept == bench.stores.identified.read(bench.jobs.instance(1).name)  # the original stays for a retry


def test_a_permanent_error_is_not_tried_again(bench: Bench) -> None:
    bench.receive(1)
    bench.errors[1] = lambda: Permanent("StudyInstanceUID is missing", code="missing", next_action="mend it")
    bench.wait(1)
    bench.intake.round()
    job = bench.jobs.get(1)
    assert (job.state, job.cause_code, job.next_action) == (State.FAILED, "missing", "mend it")
    assert bench.jobs.quarantined()[0].cause_code == "missing"


@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_film_holds_up_nobody(bench: Bench) -> None:
    bench.receive(1)
    bench.receive(2)
    path = bench.stores.identified.path(bench.jobs.instance(1).name)
    path.unlink()
    os.mkfifo(path)
    bench.errors[1] = lambda: Permanent("there is no file in the store under the film's name", code="cannot-parse")
    bench.wait(1)
    with capture_logs() as logs:
        bench.intake.round()
    assert (bench.state(1), bench.state(2)) == (State.FAILED, State.PREPARED)
    assert "quarantine failed: there is no file" in [entry["event"] for entry in logs]


def test_a_full_disk_does_not_use_up_the_attempts_of_a_film(bench: Bench) -> None:
    bench.receive(1)
    bench.errors[1] = lambda: Retryable("the disk is full", code="disk-full")
    for _ in range(20):
        bench.wait(3600)  # no delay is longer
        bench.intake.round()
    assert bench.state(1) is State.RECEIVED
    del bench.errors[1]
    bench.wait(3600)  # no delay is longer
    bench.intake.round()
    assert bench.state(1) is State.PREPARED


def test_the_loop_outlives_a_database_that_is_away_and_stops_when_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.intake.DATABASE_AWAY_SECONDS", 0.01)
    bench.receive(1)
    bench.wait(1)
    stop, real, calls = threading.Event(), bench.jobs.unprepared, iter(range(100))

    def flaky(received_before: dt.datetime, limit: int) -> list[int]:
        if next(calls) < 2:
            raise OperationalError("SELECT", {}, Exception("away"))
        if bench.prepared:
            stop.set()
        return real(received_before, limit)

    monkeypatch.setattr(bench.jobs, "unprepared", flaky)
    bench.intake.run(stop)
    assert bench.prepared == [1]
    assert [(row.process, row.detail) for row in bench.jobs.processes()] == [("intake", {"stopped": True})]


def test_each_film_is_prepared_within_a_limit_of_its_own(tmp_path: Path) -> None:
    bench = Bench(tmp_path, debounce_seconds=0, limits={"maximum_preparation_seconds": 7})
    bench.receive(1)
    bench.receive(2)
    assert bench.intake.round() == 2
    assert bench.limits == [7.0, 0.0, 7.0, 0.0]


HELD = """
import ctypes, time
from service.intake import or_ended
with or_ended(20):
    pass
with or_ended(1):
    {held}
"""


@pytest.mark.parametrize(
    "held", ["time.sleep(60)", "ctypes.PyDLL(None).sleep(60)"], ids=["lets others run", "holds the interpreter"]
)
def test_a_film_that_holds_the_process_ends_it_and_the_log_says_where(held: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD.format(held=held)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "Timeout (0:00:01)" in done.stderr
    assert "line 7 in <module>" in done.stderr
