"""Real Redis, real worker processes: what dies or is lost comes back, what comes twice is done once."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from service import db, tasks
from service.jobs import Jobs, State
from service.settings import Settings
from service.supervisor import redis
from service.sweeper import Sweeper
from tests.service.test_jobs import film

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


class House:
    """One data directory with its Redis, its workers and the sweep, driven by the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.settings = Settings(data_directory=folder)
        self.stack = stack
        self.engine = db.connect(self.settings.resolved_database_url)
        db.migrate(self.engine)
        self.jobs = Jobs(self.engine, process="test", lease_seconds=4)
        self.app = tasks.create_app(self.settings)
        self.publisher = tasks.Publisher(self.app, self.jobs)
        self.sweeper = Sweeper(self.jobs, self.publisher, sweep_seconds=1)
        self.redis = self.start_redis()

    def start_redis(self) -> subprocess.Popen[bytes]:
        child = redis(self.settings)
        process = subprocess.Popen(child.command, stdout=subprocess.DEVNULL)
        self.stack.callback(stop, process)
        wait_until(lambda: child.is_ready(process.pid), 10)
        return process

    def start_worker(self, queue: str, seconds: float) -> subprocess.Popen[bytes]:
        words = ["-m", "tests.integration.steps_worker", queue, str(self.settings.data_directory), str(seconds)]
        process = subprocess.Popen([sys.executable, *words])
        self.stack.callback(stop, process)
        wait_until(lambda: any(row.pid == process.pid for row in self.jobs.processes()), 30)
        return process

    def prepared(self, number: int) -> int:
        self.jobs.record_instance(film(number))
        job_id = self.jobs.find(f"2.25.{number}")[0].id
        claim = self.jobs.claim(job_id, State.RECEIVED)
        assert claim is not None
        self.jobs.advance(claim, State.PREPARED)
        return job_id

    def state(self, job_id: int) -> State:
        return State(self.jobs.get(job_id).state)

    def marks(self) -> Counter[str]:
        path = self.settings.data_directory / "marks"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(" ".join(line.split()[:3]) for line in lines)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], bool], seconds: float, between: Callable[[], object] = lambda: None) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        between()
        time.sleep(0.05)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(tmp_path, stack)


def test_a_job_goes_from_queue_to_queue_to_its_end(house: House) -> None:
    house.start_worker("inference", 0)
    house.start_worker("delivery", 0)
    job_id = house.prepared(1)
    assert house.publisher.publish(job_id, State.PREPARED)
    wait_until(lambda: house.state(job_id) == State.DELIVERED, 10)
    assert house.marks() == Counter(
        f"{word} {step} {job_id}" for step in ("infer", "deliver") for word in ("begin", "end")
    )


def test_the_broker_carries_the_number_of_a_job_and_nothing_else(house: House) -> None:
    job_id = house.prepared(1)
    house.publisher.publish(job_id, State.PREPARED)
    client = Redis(unix_socket_path=str(house.settings.redis_socket))
    try:
        (message,) = client.lrange("inference", 0, -1)
    finally:
        client.close()
    text = message.decode()
    instance = house.jobs.instance(house.jobs.get(job_id).instance_id)
    for value in (instance.SOPInstanceUID, instance.StudyInstanceUID, instance.name, instance.sha256, "PACS"):
        assert value not in text


def test_a_worker_killed_in_the_middle_of_a_job_is_replaced_and_the_job_finishes(house: House) -> None:
    first = house.start_worker("inference", 30)
    job_id = house.prepared(1)
    house.publisher.publish(job_id, State.PREPARED)
    wait_until(lambda: house.marks()[f"begin infer {job_id}"] == 1, 10)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    house.start_worker("inference", 0)
    wait_until(lambda: house.state(job_id) == State.INFERRED, 30, between=house.sweeper.round)
    assert house.marks()[f"end infer {job_id}"] == 1
    assert house.jobs.get(job_id).losses == 0  # of the present step
    assert "lease-lost" in [event.code for event in house.jobs.timeline(job_id)]


def test_a_message_delivered_five_times_is_worked_on_once(house: House) -> None:
    house.start_worker("inference", 0.3)
    house.start_worker("inference", 0.3)
    job_id = house.prepared(1)
    for _ in range(5):
        house.publisher.publish(job_id, State.PREPARED)
    wait_until(lambda: house.state(job_id) == State.INFERRED, 10)
    wait_until(lambda: house.publisher.waiting(State.PREPARED) == 0, 10)
    time.sleep(0.5)
    assert house.marks() == {f"begin infer {job_id}": 1, f"end infer {job_id}": 1}


def test_nothing_is_lost_when_redis_dies_with_its_data(house: House) -> None:
    house.start_worker("inference", 0.05)
    house.start_worker("delivery", 0)
    ids = [house.prepared(number) for number in range(1, 21)]
    for job_id in ids:
        house.publisher.publish(job_id, State.PREPARED)
    wait_until(lambda: house.marks()[f"end infer {ids[2]}"] == 1, 10)
    house.redis.kill()
    house.redis.wait()
    for path in sorted((house.settings.data_directory / "redis").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    house.start_redis()
    wait_until(lambda: all(house.state(job_id) == State.DELIVERED for job_id in ids), 60, between=house.sweeper.round)
    marks = house.marks()
    assert {marks[f"end deliver {job_id}"] for job_id in ids} == {1}


def test_work_goes_on_while_redis_is_away(house: House) -> None:
    house.start_worker("inference", 0)
    house.start_worker("delivery", 0)
    house.redis.kill()
    house.redis.wait()
    ids = [house.prepared(number) for number in range(1, 4)]
    assert not any(house.publisher.publish(job_id, State.PREPARED) for job_id in ids)
    wait_until(lambda: all(house.state(job_id) == State.DELIVERED for job_id in ids), 60)


def test_a_worker_told_to_stop_finishes_its_step_first(house: House) -> None:
    worker = house.start_worker("inference", 1)
    job_id = house.prepared(1)
    house.publisher.publish(job_id, State.PREPARED)
    wait_until(lambda: house.marks()[f"begin infer {job_id}"] == 1, 10)
    worker.terminate()
    assert worker.wait(10) == 0
    assert house.state(job_id) == State.INFERRED
