"""Run what is attacked, and watch it: memory of both processes, and how long a known peer waits meanwhile."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from argon2 import PasswordHasher

from benchmarks.fuzz.receiver import Scp
from service import db
from service.demo.run import free_ports
from service.sending import requestor, scu
from service.settings import load
from service.trust.accounts import Accounts, Role
from service.trust.tls import ClientTls
from tests import raw_peer

PASSWORD = "correct horse battery staple"  # noqa: S105 - of an installation that lives for a minute
LIMITS = {"association_timeout_seconds": 3, "network_timeout_seconds": 3}
PAUSE_SECONDS = 0.1  # between two echoes


@dataclass
class Seen:
    """What was seen while an attack ran."""

    growth_bytes: int = 0
    echo_seconds: list[float] = field(default_factory=list)
    tls_echo_seconds: list[float] = field(default_factory=list)
    unanswered: int = 0


@dataclass
class House:
    """A `carpus scp` and a `carpus web` on one data directory."""

    scp: Scp
    web_port: int
    web: subprocess.Popen[bytes]

    @property
    def folder(self) -> Path:
        """Where everything lies."""
        return self.scp.folder

    def way(self, name: str = "PACS", where: Path | None = None) -> ClientTls:
        """Return how a caller shows the certificate of a name."""
        at = where or self.folder / "tls"
        return ClientTls(self.folder / "tls" / "authority.pem", at / f"{name}.pem", at / f"{name}.key")

    def tls_echo(self, way: ClientTls, *, calling: str = "PACS") -> float:
        """Return how long a C-ECHO over TLS takes (s)."""
        address = requestor.Address("CARPUS", "127.0.0.1", self.scp.tls_port, way)
        return scu.echo(address, calling_ae_title=calling, timeout_seconds=10) / 1000

    @contextmanager
    def watched(self) -> Iterator[Seen]:
        """Watch from now to the end of the block."""
        seen, over = Seen(), threading.Event()
        processes = [*self.scp.processes(), psutil.Process(self.web.pid)]
        before = [process.memory_info().rss for process in processes]

        def memory() -> None:
            while not over.is_set():
                with suppress(psutil.NoSuchProcess):
                    grown = [p.memory_info().rss - b for p, b in zip(processes, before, strict=True)]
                    seen.growth_bytes = max(seen.growth_bytes, *grown)
                over.wait(0.02)

        def echoes() -> None:
            while not over.is_set():
                try:
                    seen.echo_seconds.append(raw_peer.echo(self.scp.port))
                    seen.tls_echo_seconds.append(self.tls_echo(self.way()))
                except Exception:  # noqa: BLE001 - whatever kept it from an answer, there was none
                    seen.unanswered += 1
                over.wait(PAUSE_SECONDS)

        threads = [threading.Thread(target=each, daemon=True) for each in (memory, echoes)]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            time.sleep(0.3)
            over.set()
            for thread in threads:
                thread.join(20)


@contextmanager
def house(folder: Path) -> Iterator[House]:
    """Run both processes; the users are one of each role, with `PASSWORD`."""
    (web_port,) = free_ports(1)
    hashed = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    more = {"web": {"port": web_port, "password_hash": hashed, "secret_key": "s" * 40}}
    more["peers"] = [{"ae_title": "PACS"}, {"ae_title": "ELSEWHERE", "addresses": ["192.0.2.0/24"]}]  # type: ignore[assignment]
    with Scp(folder, limits=LIMITS, more=more) as scp:
        config = folder / "carpus.yaml"
        settings = load(config)
        engine = db.connect(settings.resolved_database_url)
        accounts = Accounts(engine)
        for role in (Role.VIEWER, Role.RADIOLOGIST):
            accounts.add(role.value, role, password=PASSWORD)
        engine.dispose()
        with (folder / "web.log").open("wb") as log:
            command = [sys.executable, "-m", "service", "web", "--config", str(config)]
            web = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            _wait(web_port, web, folder / "web.log")
            made = House(scp, web_port, web)
            made.tls_echo(made.way())  # what is loaded at the first use belongs to the baseline
            yield made
        finally:
            web.terminate()
            web.wait(20)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"carpus web did not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)
