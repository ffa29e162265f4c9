"""Kill the receiving process in the middle of its work: what was acknowledged is there, what was not leaves nothing."""

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from service import db
from service.errors import CarpusError
from service.queue.jobs import Jobs
from service.sending import requestor, scu
from service.storage import Stores
from tests import raw_peer
from tests.factories import instance

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """`carpus scp` as the supervisor starts it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.config = folder / "carpus.yaml"
        self.config.write_text(
            f"data_directory: {folder / 'data'}\nscp_port: {self.port}\npeers: [{{ae_title: PACS}}]\n"
            "limits: {minimum_free_disk_bytes: 0}\n"
        )
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "service", "scp", "--config", str(self.config)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                raw_peer.echo(self.port)
            except (OSError, AssertionError):
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                return

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def test_kill_9_under_load_loses_nothing_acknowledged_and_leaves_no_orphan(tmp_path: Path) -> None:
    scp = Process(tmp_path)
    acknowledged: dict[str, bytes] = {}
    stop = threading.Event()

    def send(sender: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            ds = instance(seed=sender, number=number)
            with suppress(CarpusError, OSError):  # the other side is dead now and then
                (sent,) = scu.store(
                    requestor.Address("CARPUS", "127.0.0.1", scp.port), [ds], calling_ae_title="PACS", timeout_seconds=5
                )
                if sent.status == 0x0000:
                    acknowledged[ds.SOPInstanceUID] = ds.PixelData

    senders = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for sender in senders:
        sender.start()
    try:
        for _ in range(2):
            before, deadline = len(acknowledged), time.monotonic() + 20
            while len(acknowledged) < before + 5 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert scp.end(signal.SIGKILL) == -signal.SIGKILL
            scp.start()
    finally:
        stop.set()
        for sender in senders:
            sender.join()
    assert scp.end(signal.SIGTERM) == 0  # the start after the last crash has swept

    stores = Stores.open(tmp_path / "data")
    jobs = Jobs(db.connect(f"sqlite:///{tmp_path / 'data' / 'carpus.sqlite'}"))
    assert len(acknowledged) >= 5
    for uid, pixels in acknowledged.items():
        found = jobs.find_instance(uid)
        assert found is not None, "an acknowledged film has no row"
        assert dcmread(BytesIO(stores.identified.read(jobs.instance(found[0]).name))).PixelData == pixels
    names = list(stores.identified.names())
    assert jobs.known_names(names) == set(names)
    assert len(names) == jobs.backlog()
    assert not list(stores.identified.root.rglob("*.part"))
    jobs.engine.dispose()
