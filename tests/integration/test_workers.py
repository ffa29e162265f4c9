"""Real Redis, real worker processes: what dies or is lost comes back, what comes twice is done once."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service import db, tasks
from service.ledger import Life, life_of, utc_now
from service.queue.jobs import Jobs, State
from service.queue.messages import Transport, is_ours
from service.queue.sweeper import Sweeper
from service.queue.watchdog import STALLED
from service.settings import Settings
from service.supervisor import redis
from service.tables import Priority
from tests.integration.serving import free_ports
from tests.service.test_jobs import film

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


class House:
    """One data directory with its Redis, its workers and the sweep, driven by the test."""

    def __init__(self, folder: Path, stack: ExitStack, broker_url: str = "") -> None:
        self.settings = Settings(data_directory=folder, broker_url=broker_url)
        self.stack = stack
        self.engine = db.connect(self.settings.resolved_database_url)
        db.migrate(self.engine)
        self.jobs = Jobs(self.engine, process="test", lease_seconds=4)
        self.app = tasks.create_app(self.settings)
        self.publisher = tasks.Publisher(self.app, self.jobs)
        self.sweeper = Sweeper(self.jobs, self.publisher, sweep_seconds=1)
        if not broker_url:
            self.redis = self.start_redis()

    def start_redis(self) -> subprocess.Popen[bytes]:
        child = redis(self.settings)
        process = subprocess.Popen(child.command, stdout=subprocess.DEVNULL)
        self.stack.callback(stop, process)
        wait_until(lambda: child.is_ready(process.pid), 10)
        return process

    def start_worker(self, queue: str, seconds: float) -> subprocess.Popen[bytes]:
        words = ["-m", "tests.integration.steps_worker", queue, str(self.settings.data_directory), str(seconds)]
        words += [self.settings.broker_url] if self.settings.broker_url else []
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
def rabbitmq(tmp_path: Path) -> Iterator[str]:
    """Start a RabbitMQ of the test's own; yield its URL."""
    program = shutil.which("rabbitmq-server") or "/usr/lib/rabbitmq/bin/rabbitmq-server"
    if not Path(program).exists():
        pytest.skip("no rabbitmq-server is installed")
    port, distribution = free_ports(2)
    folder = tmp_path / "rabbitmq"
    folder.mkdir()
    environment = {
        **os.environ,
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"carpus{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
    }
    process = subprocess.Popen(
        ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: answers(port), 90)
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
    for value in (instance.SOPInstanceUID, instance.StudyInstanceUID, instance.name, instance.digest, "PACS"):
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


def test_a_process_that_met_a_dead_redis_sends_messages_again_when_it_is_back(house: House) -> None:
    job_id = house.prepared(1)
    assert house.publisher.publish(job_id, State.PREPARED)
    house.redis.kill()
    house.redis.wait()
    for _ in range(2):  # the second time by what the first has left behind
        house.publisher._away_until = 0
        assert not house.publisher.publish(job_id, State.PREPARED)
    house.start_redis()
    house.publisher._away_until = 0
    assert house.publisher.publish(job_id, State.PREPARED)


def test_a_worker_told_to_stop_finishes_its_step_first(house: House) -> None:
    worker = house.start_worker("inference", 1)
    job_id = house.prepared(1)
    house.publisher.publish(job_id, State.PREPARED)
    wait_until(lambda: house.marks()[f"begin infer {job_id}"] == 1, 10)
    worker.terminate()
    assert worker.wait(10) == 0
    assert house.state(job_id) == State.INFERRED


def test_nothing_is_lost_when_redis_forgets_everything_and_lives_on(house: House) -> None:
    house.start_worker("inference", 0.05)
    house.start_worker("delivery", 0)
    client = Redis(unix_socket_path=str(house.settings.redis_socket))
    try:
        ids = [house.prepared(number) for number in range(1, 13)]
        for position, job_id in enumerate(ids):
            house.publisher.publish(job_id, State.PREPARED)
            if position % 4 == 3:
                client.flushall()
    finally:
        client.close()
    wait_until(lambda: all(house.state(job_id) == State.DELIVERED for job_id in ids), 60, between=house.sweeper.round)
    marks = house.marks()
    assert {marks[f"end {step} {job_id}"] for step in ("infer", "deliver") for job_id in ids} == {1}


def test_a_worker_that_no_longer_hears_the_broker_ends_itself_and_its_successor_works(house: House) -> None:
    worker = house.start_worker("inference", 0)
    first = house.prepared(1)
    house.publisher.publish(first, State.PREPARED)
    wait_until(lambda: house.state(first) == State.INFERRED, 10)
    worker.send_signal(signal.SIGRTMIN)
    assert worker.wait(60) == STALLED
    house.start_worker("inference", 0)
    second = house.prepared(2)
    house.publisher.publish(second, State.PREPARED)
    wait_until(lambda: house.state(second) == State.INFERRED, 10)


def test_a_worker_says_when_a_message_to_itself_came_back(house: House) -> None:
    house.start_worker("inference", 0)
    wait_until(lambda: any((row.detail or {}).get("canary_seconds") is not None for row in house.jobs.processes()), 30)


@pytest.mark.parametrize("queue", ["inference", "delivery"])
def test_a_worker_that_ends_in_order_takes_its_sign_of_life_back_and_one_that_is_killed_does_not(
    house: House, queue: str
) -> None:
    def life() -> Life:
        (row,) = house.jobs.processes()
        return life_of(row, utc_now())

    worker = house.start_worker(queue, 0)
    assert life() == Life.ALIVE
    worker.terminate()
    assert worker.wait(20) == 0
    assert life() == Life.STOPPED
    worker = house.start_worker(queue, 0)
    assert life() == Life.ALIVE
    worker.kill()
    worker.wait()
    assert life() == Life.ALIVE


def test_urgent_jobs_overtake_messages_that_were_sent_before_theirs(house: House) -> None:
    ids = [house.prepared(number) for number in range(1, 5)]
    for job_id in ids:
        house.publisher.publish(job_id, State.PREPARED)
    house.jobs.prioritise(ids[3], Priority.STAT)
    house.start_worker("inference", 0.05)
    wait_until(lambda: all(house.state(job_id) == State.INFERRED for job_id in ids), 20)
    order = [
        int(line.split()[2])
        for line in (house.settings.data_directory / "marks").read_text().splitlines()
        if "end" in line
    ]
    assert order == [ids[3], *ids[:3]]


def test_rabbitmq_is_a_broker_by_url(tmp_path: Path, rabbitmq: str) -> None:
    with ExitStack() as stack:
        house = House(tmp_path, stack, rabbitmq)
        house.start_worker("inference", 0)
        worker = house.start_worker("delivery", 0)
        ids = [house.prepared(number) for number in range(1, 6)]
        assert all(house.publisher.publish(job_id, State.PREPARED) for job_id in ids)
        wait_until(lambda: all(house.state(job_id) == State.DELIVERED for job_id in ids), 30)
        wait_until(
            lambda: any((row.detail or {}).get("canary_seconds") is not None for row in house.jobs.processes()), 30
        )
        worker.terminate()
        assert worker.wait(20) == 0
        assert house.publisher.waiting(State.INFERRED) == 0
        house.publisher.publish(house.prepared(6), State.PREPARED)
        wait_until(lambda: house.publisher.waiting(State.INFERRED) == 1, 20)  # it waits for a worker


def hostile(genuine: dict[str, Any]) -> Iterator[bytes]:
    """Yield what somebody may push to a list of Redis that is no message, and messages with one thing wrong."""
    yield from (b"", b"\xff\xfe", b"x", b"[" * 100_000, b"1", b"null", b"[]", b"{}", b'{"properties": null}')
    yield b'{"__type__": "datetime", "__value__": 5}'
    yield b'{"__type__": [], "__value__": 5}'
    yield b'{"__type__": "uuid", "__value__": 5}'
    yield b'{"__type__": "decimal", "__value__": "x"}'
    for holder in ([], ["properties"], ["properties", "delivery_info"], ["headers"]):
        for name in reduce(lambda found, key: found[key], holder, genuine):
            values: tuple[object, ...] = (None, [], {}, "\u00e9\ud800", -1)
            for value in values:
                changed = deepcopy(genuine)
                reduce(lambda found, key: found[key], holder, changed)[name] = value
                yield json.dumps(changed).encode()
            changed = deepcopy(genuine)
            del reduce(lambda found, key: found[key], holder, changed)[name]
            yield json.dumps(changed).encode()


@pytest.mark.parametrize("queue", ["inference", "delivery"])
def test_what_is_no_message_is_dropped_and_its_worker_lives_on(house: House, queue: str) -> None:
    job_id = house.prepared(1)
    house.publisher.publish(job_id, State.PREPARED)
    with Redis(unix_socket_path=str(house.settings.redis_socket)) as client:
        genuine = json.loads(client.rpop("inference"))
        worker = house.start_worker(queue, 0)
        for each in hostile(genuine):
            client.lpush(queue, each)
            wait_until(lambda: client.llen(queue) == 0, 10)
            assert worker.poll() is None, each
    if queue == "inference":  # and takes what is one
        second = house.prepared(2)
        assert house.publisher.publish(second, State.PREPARED)
        wait_until(lambda: house.state(second) == State.INFERRED, 3)


def test_what_is_no_entry_among_the_unacknowledged_is_dropped_and_its_worker_lives_on(house: House) -> None:
    job_id = house.prepared(1)
    house.publisher.publish(job_id, State.PREPARED)
    with Redis(unix_socket_path=str(house.settings.redis_socket)) as client:
        genuine = json.loads(client.rpop("inference"))
        routed = [json.dumps([message, "", "inference"]).encode() for message in (None, [], "x", {"headers": None})]
        entries = [*hostile(genuine), *routed, b"[1, 2]", b"[[], {}, []]", json.dumps([genuine, {}, []]).encode()]
        for number, entry in enumerate(entries):
            client.hset("unacked", f"tag{number}", entry)
            client.zadd("unacked_index", {f"tag{number}": number})  # taken long ago: whoever starts gives it back
        client.zadd("unacked_index", {b"\xff\xfe": 1, b"of nothing": 1})
        client.hset("unacked", "genuine", json.dumps([genuine, "", "inference"]))
        client.zadd("unacked_index", {"genuine": 1})
        worker = house.start_worker("inference", 0)
        wait_until(lambda: client.zcard("unacked_index") == client.hlen("unacked") == 0, 20)
        assert worker.poll() is None
        wait_until(lambda: house.state(job_id) == State.INFERRED, 3)  # by its own message


def test_what_a_task_sends_and_what_a_worker_gave_back_are_messages_of_ours(house: House) -> None:
    house.start_worker("inference", 0)
    assert house.publisher.publish(house.prepared(1), State.PREPARED)
    with Redis(unix_socket_path=str(house.settings.redis_socket)) as client:
        wait_until(lambda: client.llen("delivery") == 1, 10)
        sent = json.loads(client.lindex("delivery", 0))
        assert sent["headers"]["parent_id"]  # from within the task that inferred
        assert is_ours(sent, Transport.headers, Transport.embedded)
        with house.app.connection() as connection:
            channel = connection.default_channel
            channel.basic_reject(channel.basic_get("delivery").delivery_tag, requeue=True)
        given_back = json.loads(client.lindex("delivery", 0))
        assert given_back["headers"]["redelivered"]
        assert is_ours(given_back, Transport.headers, Transport.embedded)
