"""Send broken input to a real `carpus scp`, plain and over TLS, while a known peer wants to be answered."""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import yaml

from benchmarks.fuzz.finding import Finding, Late
from benchmarks.fuzz.mutations import Program, mutated
from benchmarks.fuzz.seeds import LONGEST_SENT, Seed
from service.demo.run import free_ports
from service.trust import certificates
from tests import raw_peer
from tests.certificates import client_hello
from tests.raw_peer import IMPLICIT, VERIFICATION, RawPeer, associate_rq, c_store_rq, command_set, p_data

ANSWER_SECONDS = 20.0  # then it hangs
ECHO_SECONDS = 1.0  # a known peer is answered within
FRAGMENT = 16_000
KINDS = ("association", "command", "data set", "fragments", "TLS")


@dataclass
class Scp(AbstractContextManager["Scp"]):
    """A `carpus scp` of its own, with a port for TLS, and what it does to memory."""

    folder: Path
    limits: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)  # settings
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    tls_port: int = 0

    def __enter__(self) -> Self:
        """Start it and wait until it answers."""
        tls = self.folder / "tls"
        made = certificates.make(tls, ["CARPUS", "PACS"], hosts=["127.0.0.1"])["CARPUS"]
        self.port, self.tls_port = free_ports(2)
        limits = {"association_timeout_seconds": 5, "network_timeout_seconds": 5, "minimum_free_disk_bytes": 0}
        settings = {
            "data_directory": str(self.folder / "data"),
            "scp_port": self.port,
            "peers": [{"ae_title": "PACS"}],
            "limits": limits | {"maximum_backlog": 10_000_000} | self.limits,
            "dicom_tls": {
                "certificate": str(made.certificate),
                "key": str(made.key),
                "authorities": str(tls / "authority.pem"),
                "port": self.tls_port,
            },
            **self.more,
        }
        config = self.folder / "carpus.yaml"
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", "scp", "--config", str(config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        deadline = time.monotonic() + 90
        while True:
            with suppress(OSError, AssertionError):
                raw_peer.echo(self.port)
                return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"carpus scp did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def log(self) -> Path:
        """Where it logs to."""
        return self.folder / "scp.log"

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Return it and the processes it has forked."""
        assert self.process is not None  # noqa: S101 - started
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def resident_bytes(self) -> int:
        """Return the memory of all its processes."""
        return sum(int(process.memory_info().rss) for process in self.processes())

    def descriptors_and_threads(self) -> tuple[int, int]:
        """Return how many files and threads they have open."""
        found = self.processes()
        return sum(process.num_fds() for process in found), sum(process.num_threads() for process in found)

    def empty_quarantine(self) -> None:
        """Remove the files that broken data sets became: an hour of them would fill the disk."""
        for store in ("quarantine", "identified"):
            for path in (self.folder / "data" / store).rglob("*.dcm"):
                path.unlink(missing_ok=True)

    def unexpected(self) -> Counter[str]:
        """Return the errors that it logs as unexpected, by where they arose; and tracebacks of threads that died."""
        found: Counter[str] = Counter()
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("Traceback"):
                found["a traceback"] += 1
            elif line.startswith("{"):
                entry = json.loads(line)
                if "at" in entry and entry.get("level") == "error":
                    found[f"{entry['event']}: {entry['error']} at {entry['at']}"] += 1
        return found


def run(scp: Scp, kind: str, seed: Seed, program: Program) -> str:
    """Send one case; return what the service made of it.

    Raises
    ------
    Finding
        When there was no answer in time.
    """
    case = f"{kind}, {seed.name}, {program!r}"
    try:
        return _SENDERS[kind](scp, seed, program)
    except TimeoutError:
        raise (Late("hang", case) if scp.alive() else Finding("crash", case)) from None
    except OSError as error:
        if not scp.alive():
            raise Finding("crash", case) from None
        return f"connection ended ({type(error).__name__})"


def check(scp: Scp) -> float:
    """Return how long a known peer waits for its C-ECHO (s).

    Raises
    ------
    Finding
        When it is not answered.
    """
    try:
        return raw_peer.echo(scp.port)
    except (OSError, AssertionError) as error:
        raise Finding(f"echo not answered ({type(error).__name__})", f"alive: {scp.alive()}") from None


def _association(scp: Scp, _seed: Seed, program: Program) -> str:
    whole = associate_rq(contexts=[(VERIFICATION, IMPLICIT), ("1.2.840.10008.5.1.4.1.1.1", IMPLICIT)])
    with RawPeer(scp.port, timeout_s=ANSWER_SECONDS) as peer:
        peer.send_until_closed(mutated(whole, program))
        return _said(peer)


def _command(scp: Scp, seed: Seed, program: Program) -> str:
    request = c_store_rq(seed.sop_class, seed.sop_instance)
    with _associated(scp, seed) as peer:
        peer.send_until_closed(p_data(1, mutated(request, program, (0, 12, 20, 30)), command=True, last=True))
        return _said(peer)


def _fragments(scp: Scp, seed: Seed, program: Program) -> str:
    """Break the PDUs themselves, headers included."""
    stream = p_data(1, c_store_rq(seed.sop_class, seed.sop_instance), command=True, last=True)
    stream += p_data(1, seed.data[:2000], command=False, last=True)
    stream += p_data(1, command_set(CommandField=0x0FFF, MessageIDBeingRespondedTo=1), command=True, last=True)
    with _associated(scp, seed) as peer:
        peer.send_until_closed(mutated(stream, program, (0, 6, 12)))
        return _said(peer)


def _data_set(scp: Scp, seed: Seed, program: Program) -> str:
    data = mutated(seed.data[:LONGEST_SENT], program, seed.starts)
    with _associated(scp, seed) as peer:
        peer.send_until_closed(p_data(1, c_store_rq(seed.sop_class, seed.sop_instance), command=True, last=True))
        for begin in range(0, max(len(data), 1), FRAGMENT):
            last = begin + FRAGMENT >= len(data)
            peer.send_until_closed(p_data(1, data[begin : begin + FRAGMENT], command=False, last=last))
        kind, body = peer.read()
        return f"status 0x{raw_peer.status(body):04X}" if kind == 0x04 else f"PDU {kind}"


def _tls(scp: Scp, _seed: Seed, program: Program) -> str:
    """Break a ClientHello, or what follows a good handshake with nothing to show."""
    if program[0][2] % 4:
        with RawPeer(scp.tls_port, timeout_s=ANSWER_SECONDS) as peer:
            peer.send_until_closed(mutated(client_hello(0x0303), program))
            with suppress(OSError):
                peer.socket.shutdown(socket.SHUT_WR)
            return "closed" if peer.closed() else "open"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if program[0][2] % 8:
        context.load_cert_chain(scp.folder / "tls" / "PACS.pem", scp.folder / "tls" / "PACS.key")
    with (
        socket.create_connection(("127.0.0.1", scp.tls_port), timeout=ANSWER_SECONDS) as raw,
        context.wrap_socket(raw) as secure,
    ):
        secure.sendall(mutated(associate_rq(), program))
        return f"PDU {(secure.recv(1) or b'-')[0]}"


def _associated(scp: Scp, seed: Seed) -> RawPeer:
    peer = RawPeer(scp.port, timeout_s=ANSWER_SECONDS)
    kind, _ = peer.associate((seed.sop_class, str(seed.transfer_syntax)))
    if kind != 0x02:
        peer.socket.close()
        raise ConnectionRefusedError(f"PDU {kind}")
    return peer


def _said(peer: RawPeer) -> str:
    with suppress(OSError):
        peer.socket.shutdown(socket.SHUT_WR)
    kind, _ = peer.read()
    return f"PDU {kind}" if kind else "closed"


_SENDERS = {
    "association": _association,
    "command": _command,
    "data set": _data_set,
    "fragments": _fragments,
    "TLS": _tls,
}
