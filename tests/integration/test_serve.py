"""`carpus serve` as one command: real processes, real sockets, a stand-in PACS that keeps what it gets."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest
from pydicom import Dataset, dcmread

from service.queue.jobs import Jobs, State
from service.queue.sweeper import LEFT_SECONDS
from service.sending.requestor import Address
from service.sending.scu import store
from service.storage import PART
from tests.integration.serving import Installation, serving
from tests.service.test_pipeline import hand

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def send(installation: Installation, *films: Dataset) -> None:
    address = Address("CARPUS", "127.0.0.1", installation.settings.scp_port)
    sent = store(address, films, calling_ae_title="PACS")
    assert all(one.accepted for one in sent), [one.error for one in sent]


def wait_for(jobs: Jobs, films: list[Dataset], state: State, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        states = [job.state for film in films for job in jobs.find(film.SOPInstanceUID)[:1]]
        if len(states) == len(films) and set(states) == {state}:
            return
        assert time.monotonic() < end, states
        time.sleep(0.05)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Yield one installation for the tests that leave it whole; its path is too long for a Unix socket."""
    folder = tmp_path_factory.mktemp("serve") / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    with serving(folder) as installation:
        yield installation


def test_a_film_comes_back_as_four_objects_in_its_study(running: Installation) -> None:
    film = hand()
    send(running, film)
    wait_for(running.jobs, [film], State.CONFIRMED)
    objects = [dcmread(path) for path in running.pacs.files(film.StudyInstanceUID)]
    assert sorted(ds.Modality for ds in objects) == ["OT", "PR", "SEG", "SR"]
    assert {ds.PatientID for ds in objects} == {film.PatientID}


@pytest.mark.parametrize("name", ["scp", "intake", "worker inference", "worker delivery", "redis"])
def test_whatever_process_is_killed_comes_back_and_every_film_is_answered_once(
    running: Installation, name: str
) -> None:
    seed = 10 + 4 * ["scp", "intake", "worker inference", "worker delivery", "redis"].index(name)
    films = [hand(seed=seed + index) for index in range(4)]
    send(running, *films[:2])
    pid = running.pid_of(name)
    os.kill(pid, signal.SIGKILL)
    running.wait_until_ready(name, pid)
    send(running, *films[2:])
    wait_for(running.jobs, films, State.CONFIRMED, 120)
    for film in films:
        uids = [dcmread(path).SOPInstanceUID for path in running.pacs.files(film.StudyInstanceUID)]
        assert len(uids) == len(set(uids)) == 4
    died = [event for event in running.events() if event["event"] == "process died" and event["pid"] == pid]
    assert [(event["process"], event["why"]) for event in died] == [(name, "killed by SIGKILL")]


def test_the_intake_clears_away_what_dead_processes_were_writing(running: Installation) -> None:
    long_ago = time.time() - LEFT_SECONDS - 1
    stores = ("deidentified", "results", "quarantine")
    left = [running.settings.data_directory / store / "ab" / f"of_a_dead_worker{PART}" for store in stores]
    for path in left:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(b"of a patient")
        os.utime(path, (long_ago, long_ago))
    pid = running.pid_of("intake")
    os.kill(pid, signal.SIGKILL)
    running.wait_until_ready("intake", pid)
    end = time.monotonic() + 60
    while any(path.exists() for path in left):
        assert time.monotonic() < end, left
        time.sleep(0.1)


def test_a_second_server_on_the_same_data_is_refused(running: Installation) -> None:
    second = subprocess.run(list(running.entry), capture_output=True, timeout=60, check=False)
    assert second.returncode != 0
    assert b"another server" in second.stderr


def test_redis_has_a_short_socket_no_port_and_writes_every_message_to_disk(running: Installation) -> None:
    path = running.settings.redis_socket
    assert len(os.fsencode(path)) <= 100
    assert path.is_socket()
    process = psutil.Process(running.pid_of("redis"))
    assert [c for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN] == []
    assert any((running.settings.data_directory / "redis").rglob("*aof*"))
