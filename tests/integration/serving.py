"""Start an installation of its own for one test, with a stand-in PACS beside it."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from service import db
from service.demo.stand_in_pacs import StandInPacs
from service.queue.jobs import Jobs
from service.settings import Settings, load

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 120


@dataclass
class Installation:
    """A running `carpus serve`."""

    config: Path
    settings: Settings
    jobs: Jobs
    pacs: StandInPacs
    process: subprocess.Popen[bytes]
    log: Path
    entry: Sequence[str] = field(default_factory=tuple)

    def events(self) -> list[dict[str, Any]]:
        """Return the log so far, as its events."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def pid_of(self, name: str) -> int:
        """Return the process id of a child as last started."""
        started = [e for e in self.events() if e["event"] == "process started" and e["process"] == name]
        return int(started[-1]["pid"])

    def wait_until_ready(self, name: str, pid: int) -> None:
        """Wait until a child that had this process id before has been replaced and works again."""
        end = time.monotonic() + READY_SECONDS
        while not any(
            e["event"] == "process ready" and e["process"] == name and e["pid"] != pid
            for e in self.events()[self._index_of(pid) :]
        ):
            assert time.monotonic() < end, f"{name} did not come back"
            time.sleep(0.1)

    def _index_of(self, pid: int) -> int:
        return next(i for i, e in enumerate(self.events()) if e.get("pid") == pid)


@contextmanager
def serving(
    folder: Path, *, command: Sequence[str] = ("tests.integration.serve_with_known_reader",), **changes: Any
) -> Iterator[Installation]:
    """Yield an installation that is ready, whose one destination and only peer is the stand-in PACS."""
    scp_port, web_port = free_ports(2)
    data, log, config = folder / "data", folder / "serve.log", folder / "carpus.yaml"
    with StandInPacs(folder / "pacs", ae_title="PACS") as pacs:
        values: dict[str, Any] = {
            "data_directory": str(data),
            "scp_port": scp_port,
            "web": {"port": web_port},
            "peers": [{"ae_title": "PACS"}],
            "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}],
            "limits": {"minimum_free_disk_bytes": 0},
            "inference_threads": 1,
            "debounce_seconds": 0,
            # A report that crosses our release, as on a machine with too much to do, is replaced by a look within the test.
            "confirmation": {"report_timeout_seconds": 10},
            **changes,
        }
        config.write_text(yaml.safe_dump(values), encoding="utf-8")
        entry = [sys.executable, "-m", *command, str(config)]
        with log.open("wb") as stream:
            process = subprocess.Popen(entry, cwd=ROOT, stdout=subprocess.PIPE, stderr=stream)
        settings = load(config)
        engine = db.connect(settings.resolved_database_url)
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            assert "carpus is ready" in line, log.read_text()[-4000:]
            db.migrate(engine)
            yield Installation(config, settings, Jobs(engine, process="test"), pacs, process, log, entry)
        finally:
            engine.dispose()
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
        assert process.returncode == 0, log.read_text()[-2000:]


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
