import datetime as dt
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import pytest
from celery import Celery
from kombu import pools
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from service.errors import Permanent, Retryable
from service.queue.causes import Decision, backoff
from service.queue.jobs import Claim, Jobs, State
from service.queue.queues import INFERENCE
from service.queue.steps import Steps
from service.queue.sweeper import LEFT_SECONDS, Sweeper
from service.settings import RetrySettings, Settings
from service.storage import PART, Store
from service.tasks import Publisher, Worker, create_app
from tests.certificates import folder
from tests.service.test_jobs import Clock, film


class FakePipeline:
    """Advances each job as the real one does, or raises what it is told to."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.raises: Exception | None = None
        self.calls: list[str] = []
        self.before: Callable[[Claim], None] = lambda _claim: None

    def _do(self, name: str, claim: Claim, to: State) -> None:
        self.calls.append(name)
        self.before(claim)
        if self.raises is not None:
            raise self.raises
        self.jobs.advance(claim, to)

    def prepare(self, claim: Claim) -> None:
        self._do("prepare", claim, State.PREPARED)

    def infer(self, claim: Claim) -> None:
        self._do("infer", claim, State.INFERRED)

    def deliver(self, claim: Claim) -> None:
        self._do("deliver", claim, State.DELIVERED)


class House:
    """Jobs, steps and the messages that were sent."""

    def __init__(self, engine: Engine) -> None:
        self.clock = Clock()
        self.jobs = Jobs(engine, process="test", clock=self.clock)
        self.pipeline = FakePipeline(self.jobs)
        self.sent: list[tuple[int, State]] = []
        self.settings = Settings(retry=RetrySettings(first_seconds=5, longest_seconds=30, for_hours=1))
        self.steps = Steps(self.jobs, self.pipeline, lambda *message: self.sent.append(message), self.settings)

    def received(self, number: int = 1) -> int:
        self.jobs.record_instance(film(number))
        return self.jobs.find(f"2.25.{number}")[0].id

    def prepared(self, number: int = 1) -> int:
        job_id = self.received(number)
        self.steps.prepare(job_id)
        self.sent.clear()
        self.pipeline.calls.clear()
        return job_id


@pytest.fixture
def house(engine: Engine) -> House:
    return House(engine)


def test_each_step_sends_the_message_of_the_next_one(house: House) -> None:
    job_id = house.received()
    house.steps.prepare(job_id)
    house.steps.infer(job_id)
    house.steps.deliver(job_id)
    assert house.jobs.get(job_id).state == State.DELIVERED
    assert house.sent == [(job_id, State.PREPARED), (job_id, State.INFERRED)]


def test_a_message_delivered_twice_works_once(house: House) -> None:
    job_id = house.prepared()
    house.steps.infer(job_id)
    house.steps.infer(job_id)
    assert house.pipeline.calls == ["infer"]
    assert house.sent == [(job_id, State.INFERRED)]


def test_a_message_that_comes_too_early_does_nothing(house: House) -> None:
    job_id = house.received()
    house.steps.deliver(job_id)
    assert house.pipeline.calls == []
    assert house.jobs.get(job_id).state == State.RECEIVED


def test_two_workers_with_one_message_make_one_call(engine: Engine, house: House) -> None:
    job_id = house.prepared()
    other = Steps(Jobs(engine, process="other", clock=house.clock), house.pipeline, lambda *_: None, house.settings)
    house.pipeline.before = lambda _claim: other.infer(job_id)
    house.steps.infer(job_id)
    assert house.pipeline.calls == ["infer"]
    assert house.jobs.get(job_id).state == State.INFERRED


@pytest.mark.parametrize(
    ("error", "state", "code", "waits"),
    [
        (Retryable("away", code="peer-unreachable"), State.PREPARED, "peer-unreachable", True),
        (Permanent("refused", code="sop-class-refused", next_action="x"), State.FAILED, "sop-class-refused", False),
        (ZeroDivisionError("Smith^John"), State.PREPARED, "unexpected-error", True),
    ],
)
def test_an_error_is_recorded_by_what_helps(
    house: House, error: Exception, state: State, code: str, waits: bool
) -> None:
    job_id = house.prepared()
    house.pipeline.raises = error
    house.steps.infer(job_id)
    job = house.jobs.get(job_id)
    assert (job.state, job.cause_code, job.not_before > house.clock()) == (state, code, waits)
    assert "Smith" not in (job.cause_text or "") + "".join(event.text for event in house.jobs.timeline(job_id))
    assert house.sent == []


def test_an_unforeseen_error_is_a_dead_letter_at_the_third_attempt(house: House) -> None:
    job_id = house.prepared()
    house.pipeline.raises = ZeroDivisionError("x")
    states = []
    for _ in range(3):
        house.steps.infer(job_id)
        states.append(house.jobs.get(job_id).state)
        house.clock.pass_seconds(60)
    assert states == [State.PREPARED, State.PREPARED, State.FAILED]
    job = house.jobs.get(job_id)
    assert job.cause_text is not None
    assert job.cause_text.startswith("ZeroDivisionError at test_tasks.py:")
    assert job.next_action
    house.pipeline.raises = None
    assert house.jobs.retry(job_id) == State.PREPARED
    house.steps.infer(job_id)
    assert house.jobs.get(job_id).state == State.INFERRED


def test_a_transient_error_is_given_up_after_the_set_time_with_its_cause(house: House) -> None:
    job_id = house.prepared()
    house.pipeline.raises = Retryable("no answer", code="peer-unreachable")
    house.steps.infer(job_id)
    house.clock.pass_seconds(3601)
    house.steps.infer(job_id)
    job = house.jobs.get(job_id)
    assert (job.state, job.cause_code) == (State.FAILED, "peer-unreachable")
    assert "given up after 1 hours and 2 attempts" in (job.cause_text or "")


def test_preparing_leaves_its_errors_to_the_caller(house: House) -> None:
    job_id = house.received()
    house.pipeline.raises = Retryable("disk full", code="disk-full")
    with pytest.raises(Retryable):
        house.steps.prepare(job_id)
    assert not house.jobs.prepare_failed(job_id, Decision("disk-full", "disk full", "", dt.timedelta(seconds=5)))
    assert house.jobs.get(job_id).not_before > house.clock()


def test_a_long_step_keeps_its_lease(engine: Engine) -> None:
    jobs = Jobs(engine, process="slow", lease_seconds=0.4)
    pipeline = FakePipeline(jobs)
    jobs.record_instance(film(1))
    job_id = jobs.find("2.25.1")[0].id
    stolen: list[Any] = []

    def work(_claim: Claim) -> None:
        time.sleep(1.0)
        stolen.extend(jobs.sweep().released)

    pipeline.before = work
    Steps(jobs, pipeline, lambda *_: None, Settings()).prepare(job_id)
    assert stolen == []
    assert jobs.get(job_id).state == State.PREPARED


def test_a_worker_that_lost_its_lease_changes_nothing(house: House) -> None:
    job_id = house.prepared()
    house.pipeline.before = lambda _claim: house.jobs.cancel(job_id)
    house.steps.infer(job_id)
    assert house.jobs.get(job_id).state == State.CANCELLED
    assert house.sent == []


def test_waiting_doubles_with_jitter_up_to_the_longest() -> None:
    retry = RetrySettings(first_seconds=5, longest_seconds=30)
    for attempt, seconds in ((1, 5), (2, 10), (3, 20), (4, 30), (4000, 30)):  # 5 x 2, x 4, x 8 = 40 > 30
        waits = {backoff(retry, attempt).total_seconds() for _ in range(20)}
        assert all(seconds / 2 <= wait <= seconds for wait in waits)
        assert len(waits) > 10, "everybody would come back at the same moment"


class FakePublisher(Publisher):
    """A broker that holds what it was given, or loses it."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.messages: list[tuple[int, State]] = []
        self.away = False

    def publish(self, job_id: int, state: State) -> bool:
        if self.away:
            return False
        self.messages.append((job_id, state))
        self.jobs.published(job_id, state)
        return True

    def waiting(self, state: State) -> int | None:
        return None if self.away else sum(1 for _, each in self.messages if each == state)


def test_messages_a_broker_lost_are_sent_again(house: House) -> None:
    job_id = house.prepared()
    broker = FakePublisher(house.jobs)
    sweeper = Sweeper(house.jobs, broker)
    assert sweeper.round() == 0  # whoever prepared it is about to send the message
    house.clock.pass_seconds(2)
    assert sweeper.round() == 1
    house.clock.pass_seconds(6)
    assert sweeper.round() == 0
    broker.messages.clear()  # the broker's data was wiped
    assert sweeper.round() == 1
    assert broker.messages == [(job_id, State.PREPARED)]


def test_while_the_broker_is_away_jobs_wait_and_then_go_on(house: House) -> None:
    house.prepared()
    house.clock.pass_seconds(2)
    broker = FakePublisher(house.jobs)
    broker.away = True
    sweeper = Sweeper(house.jobs, broker)
    assert sweeper.round() == 0
    broker.away = False
    assert sweeper.round() == 1


def test_what_a_dead_worker_was_writing_is_cleared_away_and_what_is_being_written_stays(
    house: House, tmp_path: Path
) -> None:
    stores = [Store(tmp_path / name) for name in ("deidentified", "results")]
    kept = [store.write(b"whole").name for store in stores]
    for store in stores:
        folder = store.path(store.write(b"another").name).parent
        old, young = folder / f"old{PART}", folder / f"young{PART}"
        old.write_bytes(b"of a patient")
        young.write_bytes(b"of a pat")
        long_ago = time.time() - LEFT_SECONDS - 1
        os.utime(old, (long_ago, long_ago))
        os.utime(store.path(kept[stores.index(store)]), (long_ago, long_ago))
    Sweeper(house.jobs, FakePublisher(house.jobs), stores=stores).round()
    for store, name in zip(stores, kept, strict=True):
        assert [path.name for path in store.root.glob(f"??/*{PART}")] == [f"young{PART}"]
        assert store.read(name) == b"whole"


def test_the_sweeper_outlives_an_error(house: House) -> None:
    calls = []

    class Broken(Sweeper):
        def round(self) -> int:
            calls.append(1)
            if len(calls) == 3:
                stop.set()
            raise OSError("the database is away")

    stop = threading.Event()
    Broken(house.jobs, FakePublisher(house.jobs)).run(stop, interval_seconds=0.001)
    assert len(calls) == 3


def test_a_broker_that_is_away_is_an_outcome_not_an_error(house: House, tmp_path: Path) -> None:
    job_id = house.prepared()
    settings = Settings(broker_url=f"redis+socket://{tmp_path / 'nobody.sock'}")
    publisher = Publisher(create_app(settings), house.jobs)
    assert not publisher.publish(job_id, State.PREPARED)
    started = time.monotonic()
    assert not any(publisher.publish(job_id, State.PREPARED) for _ in range(100))
    assert time.monotonic() - started < 1  # a backlog does not wait for the broker job by job
    assert publisher.waiting(State.PREPARED) is None
    assert house.jobs.unpublished() == [(job_id, State.PREPARED)]


def test_a_broker_that_takes_connections_and_never_answers_costs_seconds(house: House) -> None:
    job_id = house.prepared()
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as silent:  # the kernel takes them; a Redis that hangs, a network that is cut
        settings = Settings(broker_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        publisher = Publisher(create_app(settings), house.jobs)
        told: list[bool] = []
        asking = threading.Thread(target=lambda: told.append(publisher.publish(job_id, State.PREPARED)), daemon=True)
        asking.start()
        asking.join(25)
        assert told == [False]
        started = time.monotonic()
        assert not any(publisher.publish(job_id, State.PREPARED) for _ in range(100))
        assert time.monotonic() - started < 1


@pytest.mark.parametrize("known", [False, True])
def test_the_password_of_a_redis_goes_to_no_server_without_its_certificate(house: House, known: bool) -> None:
    authority = folder() / "authority.pem"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder() / "CARPUS.pem", folder() / "CARPUS.key")
    came: list[bytes] = []

    class Listens(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True) as stream:
                came.append(stream.recv(65_536))

    with ThreadingTCPServer(("127.0.0.1", 0), Listens) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        query = f"?ssl_ca_certs={authority}" if known else ""
        url = f"rediss://:one%20of%20ours@127.0.0.1:{server.server_address[1]}/0{query}"
        assert Publisher(create_app(Settings(broker_url=url)), house.jobs).waiting(State.PREPARED) is None
        server.shutdown()
    assert any(b"one of ours" in each for each in came) is known


@pytest.mark.parametrize("scheme", ["redis", "rediss", "amqp", "amqps", "pyamqp"])
def test_every_kind_of_broker_has_the_options_of_its_driver(scheme: str) -> None:
    app = create_app(Settings(broker_url=f"{scheme}://broker.example/0"))
    queues = {str(queue.queue_arguments) for queue in app.conf.task_queues}
    if scheme.startswith("redis"):
        assert app.conf.broker_transport_options["socket_timeout"] == 10
        assert queues == {"None"}
    else:
        assert app.conf.broker_transport_options == {"confirm_publish": True}
        assert queues == {"{'x-queue-type': 'quorum'}"}


def test_a_backlog_that_is_overdue_makes_one_short_line_of_the_log(house: House) -> None:
    for number in range(1, 31):
        house.received(number)
    house.clock.pass_seconds(3600)
    with capture_logs() as logs:
        Sweeper(house.jobs, FakePublisher(house.jobs)).round()
    (line,) = [entry for entry in logs if entry["event"] == "swept"]
    assert (line["overdue"], line["released"], len(line["some_overdue"])) == (30, 0, 10)


def test_a_worker_leaves_what_waits_to_its_messages_once_they_come_again(house: House) -> None:
    for number in (1, 2, 3):
        house.prepared(number)
    house.clock.pass_seconds(60)
    app = create_app(house.settings)
    worker = Worker(app, house.jobs, house.steps, INFERENCE, house.settings)
    house.pipeline.before = lambda _claim: setattr(worker, "_message_at", worker._message_at + 1)
    worker.take_waiting()
    assert house.pipeline.calls.count("infer") == 1
    house.pipeline.before = lambda _claim: None
    worker.take_waiting()  # and none comes
    assert house.pipeline.calls.count("infer") == 3


def test_a_long_backlog_does_not_fill_the_broker_with_messages(house: House) -> None:
    for number in range(1, 6):
        house.prepared(number)
    house.clock.pass_seconds(2)
    broker = FakePublisher(house.jobs)
    sweeper = Sweeper(house.jobs, broker)
    assert sweeper.round() == 5
    for _ in range(6):  # an hour in which the only worker reads one long film
        house.clock.pass_seconds(605)
        assert sweeper.round() == 0
    assert len(broker.messages) == 5


def test_a_failure_that_cannot_be_written_is_written_as_soon_as_the_database_is_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = house.prepared()
    house.pipeline.raises = Retryable("away", code="peer-unreachable")
    written, away = house.jobs.retry_later, [OperationalError("UPDATE", {}, Exception("gone"))] * 2

    def retry_later(*arguments: Any) -> None:
        if away:
            raise away.pop()
        written(*arguments)

    monkeypatch.setattr(house.jobs, "retry_later", retry_later)
    monkeypatch.setattr("service.queue.steps.RECORD_AGAIN_SECONDS", 0.01)
    house.steps.infer(job_id)
    job = house.jobs.get(job_id)
    assert (job.cause_code, job.lease_token) == ("peer-unreachable", None)
    assert not away


def test_forgetting_a_dead_broker_closes_its_connections_and_no_others(house: House) -> None:
    dead, other = (Celery(name, broker=f"memory://{name}", set_as_current=False) for name in ("dead", "other"))
    before, kept = dead.pool, other.pool
    try:
        with dead.amqp.producer_pool.acquire(block=True):
            pass
        Publisher(dead, house.jobs)._forget_connections()
        assert before not in pools.connections.values()
        assert any(pool is kept for pool in pools.connections.values())
        with pytest.raises(RuntimeError, match="closed pool"):
            before.acquire()
        with dead.amqp.producer_pool.acquire(block=True) as producer:  # a new one
            assert producer.connection is not None
    finally:
        dead.pool.force_close_all()
        kept.force_close_all()
        dead.close()
        other.close()
