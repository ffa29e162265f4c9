"""`carpus scp` with several processes: they share the port, stop together, and die together."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydicom import Dataset
from pynetdicom import AE

from service import db
from service.ledger import Life, life_of, utc_now
from service.queue.jobs import Jobs
from tests.factories import instance
from tests.integration.serving import ROOT, free_ports

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


class Scp:
    """A running `carpus scp` and what it keeps."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        config = folder / "carpus.yaml"
        settings = {
            "data_directory": str(folder),
            "scp_port": self.port,
            "scp_processes": 2,
            "peers": [{"ae_title": "PACS"}],
            "limits": {"minimum_free_disk_bytes": 0},
        }
        config.write_text(json.dumps(settings), encoding="utf-8")
        self.engine = db.connect(f"sqlite:///{folder / 'carpus.sqlite'}")
        db.migrate(self.engine)
        self.jobs = Jobs(self.engine)
        self.log = folder / "scp.log"
        self.command = [sys.executable, "-m", "service", "scp", "--config", str(config)]
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        before = {row.pid for row in self.jobs.processes()}
        with self.log.open("ab") as stream:
            process = subprocess.Popen(self.command, cwd=ROOT, stderr=stream, stdout=stream)
        end = time.monotonic() + 60
        while len({row.pid for row in self.jobs.processes()} - before) < 2:
            assert time.monotonic() < end, self.log.read_text()[-2000:]
            assert process.poll() is None, self.log.read_text()[-2000:]
            time.sleep(0.05)
        return process

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def associate(self, ds: Dataset) -> AE:
        ae = AE("PACS")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
        ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
        return ae.associate("127.0.0.1", self.port, ae_title="CARPUS")


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[Scp]:
    made = Scp(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()
    made.engine.dispose()


def test_two_processes_share_the_associations_of_one_port_and_stop_together(scp: Scp) -> None:
    films = [instance(seed=seed) for seed in range(6)]
    associations = [scp.associate(films[0]) for _ in films]
    assert all(each.is_established for each in associations)
    statuses: list[int] = []

    def send(association: AE, ds: Dataset) -> None:
        statuses.append(association.send_c_store(ds).Status)

    threads = [threading.Thread(target=send, args=each) for each in zip(associations, films, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = [len([c for c in child.net_connections() if c.status == "ESTABLISHED"]) for child in scp.children()]
    for association in associations:
        association.release()
    assert statuses == [0x0000] * 6
    assert len(scp.jobs.list()) == 6
    assert sorted(used) == [3, 3], "connections go to the process that has fewer"
    children = scp.children()
    scp.process.terminate()
    assert scp.process.wait(30) == 0
    assert {row.process: life_of(row, utc_now()) for row in scp.jobs.processes()} == {
        "scp 1": Life.STOPPED,
        "scp 2": Life.STOPPED,
    }
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_the_same_film_to_both_processes_at_once_is_one_job(scp: Scp) -> None:
    film = instance()
    associations = [scp.associate(film) for _ in range(4)]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda a=each: statuses.append(a.send_c_store(film).Status)) for each in associations
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for association in associations:
        association.release()
    assert statuses == [0x0000] * 4
    assert len(scp.jobs.list()) == 1


def test_when_one_process_dies_all_end_and_the_next_start_clears_up_and_receives(scp: Scp) -> None:
    association = scp.associate(instance())
    assert association.send_c_store(instance()).Status == 0x0000
    first, second = scp.children()
    os.kill(first.pid, signal.SIGKILL)
    assert scp.process.wait(30) == 1
    assert not second.is_running() or second.status() == psutil.STATUS_ZOMBIE
    association.abort()
    orphan = next((scp.log.parent / "identified").glob("??")) / "0123456789abcdef0123456789abcdef.part"
    orphan.write_bytes(b"unfinished")
    scp.process = scp.start()
    assert not orphan.exists()
    association = scp.associate(instance(seed=2))
    assert association.send_c_store(instance(seed=2)).Status == 0x0000
    association.release()
    assert len(scp.jobs.list()) == 2


def test_the_children_die_with_a_parent_that_is_killed(scp: Scp) -> None:
    children = scp.children()
    scp.process.kill()
    scp.process.wait()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone), alive) == (2, [])
    scp.process = scp.start()  # the port is free at once
