"""Instances are refused early, with the cause, while they could not be kept or would wait too long."""

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from service.errors import Retryable
from service.queue.jobs import Jobs
from service.queue.queues import Queues
from service.receiving import pressure
from service.receiving.pressure import Pressure
from service.settings import Limits, Peer
from service.storage import Store
from service.tables import Priority, QueueMode
from tests.factories import instance
from tests.listening import LIMITS, Running, start
from tests.service.test_jobs import Clock, received


class House:
    """A pressure gauge over a real database and disk, with clocks of the test."""

    def __init__(self, folder: Path, engine: Engine, **limits: Any) -> None:
        self.wall, self.time = Clock(), 1000.0
        self.jobs = Jobs(engine, process="test", clock=self.wall)
        self.limits = Limits(minimum_free_disk_bytes=0).model_copy(update=limits)
        self.store = Store(folder / "identified", minimum_free_bytes=self.limits.minimum_free_disk_bytes)
        self.gauge = Pressure(self.limits, self.store, self.jobs, clock=lambda: self.time)

    def pass_seconds(self, seconds: float) -> None:
        self.time += seconds
        self.wall.pass_seconds(seconds)

    def cause(self) -> str | None:
        try:
            self.gauge.check()
        except Retryable as error:
            self.gauge.refused(error)
            return error.code if error.next_action else f"{error.code} does not say what to do"
        return None


@pytest.fixture
def make(tmp_path: Path, engine: Engine) -> Callable[..., House]:
    return lambda **limits: House(tmp_path, engine, **limits)


def test_a_disk_without_its_reserve_refuses(make: Callable[..., House]) -> None:
    assert make(minimum_free_disk_bytes=1 << 60).cause() == "disk-full"


def test_too_many_that_wait_refuse_until_they_are_fewer(make: Callable[..., House]) -> None:
    house = make(maximum_backlog=1)
    assert house.cause() is None
    job_id = received(house.jobs)
    assert house.cause() is None  # what was counted is believed for a second
    house.pass_seconds(1)
    assert house.cause() == "backlog"
    house.jobs.cancel(job_id)
    house.pass_seconds(1)
    assert house.cause() is None


def test_one_that_waits_too_long_refuses(make: Callable[..., House]) -> None:
    house = make(maximum_backlog_seconds=100)
    received(house.jobs)
    house.pass_seconds(99)
    assert house.cause() is None
    house.pass_seconds(2)
    assert house.cause() == "backlog-age"


def test_a_slow_commit_refuses_for_a_moment_and_then_the_next_one_is_let_in(make: Callable[..., House]) -> None:
    house = make(maximum_database_seconds=2)
    house.gauge.committed(1.9)
    assert house.cause() is None
    house.gauge.committed(2.1)
    assert house.cause() == "database-slow"
    house.pass_seconds(pressure.SLOW_COMMIT_SECONDS)
    assert house.cause() is None


def test_a_database_that_takes_its_time_to_answer_refuses(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make(maximum_database_seconds=2)
    real = house.jobs.unprepared_since

    def slow() -> tuple[int, dt.timedelta]:
        house.time += 3
        return real()

    monkeypatch.setattr(house.jobs, "unprepared_since", slow)
    assert house.cause() == "database-slow"


def test_a_drained_service_refuses_until_it_is_resumed(make: Callable[..., House]) -> None:
    house = make()
    queues = Queues(house.jobs.engine, clock=house.wall)
    queues.set("intake", QueueMode.DRAINING, by="admin")
    assert house.cause() == "draining"
    queues.set("intake", QueueMode.PAUSED, by="admin")
    house.pass_seconds(1)
    assert house.cause() is None, "a paused intake still receives"


def test_refusals_are_counted_by_cause_and_shown_while_they_hold(make: Callable[..., House]) -> None:
    house = make(maximum_backlog=1)
    received(house.jobs)
    assert [house.cause() for _ in range(3)] == ["backlog"] * 3
    (shown,) = house.gauge.flush()["refusing"]
    assert shown["text"] == "1 instances wait to be prepared; the limit is 1"
    assert [(row.code, row.count) for row in house.jobs.refusals()] == [("backlog", 3)]
    house.pass_seconds(1)
    house.cause()
    house.gauge.flush()
    assert house.jobs.refusals()[0].count == 4
    house.pass_seconds(pressure.SHOWN_SECONDS)
    said = house.gauge.flush()
    assert said["refusing"] == []
    name = house.gauge._store.root.name
    assert said["disk_free_bytes"].keys() == said["disk_size_bytes"].keys() == {name}
    assert 0 < said["disk_free_bytes"][name] < said["disk_size_bytes"][name]


def test_refusals_without_a_database_are_kept_until_it_is_back(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make()
    house.gauge.refused(OperationalError("INSERT", {}, Exception("away")))
    with monkeypatch.context() as patch:
        patch.setattr(
            house.jobs, "count_refusals", lambda *_: (_ for _ in ()).throw(OperationalError("", {}, Exception()))
        )
        with pytest.raises(OperationalError):
            house.gauge.flush()
    assert house.gauge.flush()["refusing"][0]["code"] == "database-unavailable"
    assert [(row.code, row.count) for row in house.jobs.refusals()] == [("database-unavailable", 1)]


def test_one_thread_measures_while_the_others_go_on(make: Callable[..., House]) -> None:
    house = make()
    house.gauge.check()
    house.pass_seconds(2)
    with house.gauge._measuring:  # somebody asks the database at this moment, and it does not answer
        started = time.monotonic()
        house.gauge.check()
        assert time.monotonic() - started < 1


def test_a_refused_film_gets_a700_with_the_cause_and_comes_later(tmp_path: Path) -> None:
    running: Running = start(tmp_path, limits=LIMITS)
    queues = Queues(running.jobs.engine)
    with running.server:
        queues.set("intake", QueueMode.DRAINING, by="admin")
        association = running.associate(instance())
        answer = association.send_c_store(instance())
        assert (answer.Status, answer.ErrorComment) == (0xA700, "the service is being drained")
        assert list(running.stores.identified.names()) == []
        queues.set("intake", QueueMode.RUNNING, by="admin")
        time.sleep(pressure.BELIEVED_SECONDS + 0.1)
        assert association.send_c_store(instance()).Status == 0x0000
        association.release()
    running.jobs.engine.dispose()


@pytest.mark.parametrize(
    ("of_peer", "said", "becomes"),
    [
        (None, "STAT", Priority.STAT),
        (None, "LOW", Priority.BACKFILL),
        (None, "", Priority.ROUTINE),
        (None, "SOON", Priority.ROUTINE),
        ("backfill", "STAT", Priority.BACKFILL),  # what is set for the archive wins over its old headers
        ("stat", "", Priority.STAT),
    ],
)
def test_a_film_is_served_as_its_peer_or_its_header_says(
    tmp_path: Path, of_peer: Any, said: str, becomes: Priority
) -> None:
    running = start(tmp_path, peers=(Peer(ae_title="PACS", priority=of_peer),))
    film = instance()
    film.RequestedProcedurePriority, film.AccessionNumber = said, "ACC-9"
    with running.server:
        assert running.send(film) == [0x0000]
    (job,) = running.jobs.list(accession_number="ACC-9")
    assert (job.priority, job.peer) == (becomes, "PACS")
    running.jobs.engine.dispose()
