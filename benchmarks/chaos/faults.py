"""What goes wrong, one line each: how a fault begins in the middle of the load, and how it ends."""

import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.chaos.house import House
from service import tasks
from service.queue.jobs import State

RELAPSE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault may touch."""

    house: House
    dice: random.Random
    stack: ExitStack  # closed at the end of the run
    machinery: Mapping[str, Any]  # what its set-up prepared

    def kill(self, name: str) -> None:
        """Kill one process of the installation with SIGKILL."""
        self.house.kill(name)


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which things go wrong.

    Parameters
    ----------
    begin
        Called once a part of the load has been acknowledged, or before it where `first` is set.
    end
        Called after `seconds`.
    needs
        The set-up it runs in: plain, postgresql, small-disk, other-clock, network.
    meets
        It lasts on until so many requests have met the PACS in its mood.
    refuses
        A run in which we refused nothing has not met it.
    """

    name: str
    begin: Callable[[Scene], object]
    end: Callable[[Scene], object] = lambda _scene: None
    seconds: float = 0.0
    first: bool = False
    needs: str = "plain"
    meets: int = 0
    refuses: bool = False


def _kill(name: str) -> Callable[[Scene], None]:
    return lambda scene: scene.kill(name)


def _mood(mood: str) -> Callable[[Scene], None]:
    return lambda scene: scene.house.pacs.feel(mood)


def _well(scene: Scene) -> None:
    scene.house.pacs.feel("")


def _wipe_redis(scene: Scene) -> None:
    """Kill Redis and take everything it had written."""
    scene.kill("redis")
    shutil.rmtree(scene.house.settings.data_directory / "redis", ignore_errors=True)
    (scene.house.settings.data_directory / "redis").mkdir(mode=0o700, exist_ok=True)


def _repeat_messages(scene: Scene) -> None:
    """Send the message of every job again and again until the run ends."""
    house, stop = scene.house, threading.Event()
    publisher = tasks.Publisher(tasks.create_app(house.settings), house.jobs)

    def repeat() -> None:
        while not stop.wait(0.2):
            for job in house.jobs.list(limit=500):
                for state in (State.PREPARED, State.INFERRED):
                    publisher.publish(job.id, state)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    scene.stack.callback(thread.join, 10)
    scene.stack.callback(stop.set)


def _more_workers(scene: Scene) -> None:
    """Start a second worker for each queue, which claims the same jobs."""
    config = str(scene.house.config)
    for words in (["tests.integration.known_reader_worker"], ["service", "worker", "delivery"]):
        command = [sys.executable, "-m", *words, "--config", config]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        scene.stack.callback(process.wait, 40)
        scene.stack.callback(process.terminate)


def _kill_postgresql(scene: Scene) -> None:
    scene.machinery["server"].kill()


def _start_postgresql(scene: Scene) -> None:
    scene.machinery["server"].start()


def _shrink_disk(scene: Scene) -> None:
    """Leave room for a few films above the reserve."""
    state = os.statvfs(scene.machinery["mount"])
    used = (state.f_blocks - state.f_bfree) * state.f_frsize
    _resize(scene, used + scene.machinery["reserve"] + scene.machinery["room"])


def _enlarge_disk(scene: Scene) -> None:
    _resize(scene, scene.machinery["large"])


def _resize(scene: Scene, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(scene.machinery["mount"])], check=True)


def _set_clock(offset: str) -> Callable[[Scene], None]:
    return lambda scene: scene.machinery["clock"].write_text(offset, encoding="ascii")


def _link(state: str) -> Callable[[Scene], object]:
    return lambda scene: subprocess.run(["ip", "link", "set", scene.machinery["link"], state], check=True)


FAULTS: Final = (
    Fault("nothing", lambda _scene: None),
    Fault("kill -9 scp", _kill("scp")),
    Fault("kill -9 intake", _kill("intake")),
    Fault("kill -9 inference worker", _kill("worker inference")),
    Fault("kill -9 delivery worker", _kill("worker delivery")),
    Fault("kill -9 web", _kill("web")),
    Fault("kill -9 Redis, its data wiped", _wipe_redis),
    Fault("kill -9 PostgreSQL, 3 s down", _kill_postgresql, _start_postgresql, 3, needs="postgresql"),
    Fault("PACS down for the whole burst", lambda s: s.house.pacs.down(), lambda s: s.house.pacs.up(), 8, first=True),
    Fault("PACS answers 0xA700 for 6 s", _mood("a700"), _well, 6, meets=3),
    Fault("PACS answers 0x0110 for 6 s", _mood("0110"), _well, 6, meets=3),
    Fault("PACS aborts every association for 6 s", _mood("aborts"), _well, 6, meets=3),
    Fault("PACS accepts and forgets for 4 s", _mood("forgets"), _well, 4, first=True, meets=6),
    Fault("PACS never reports a commitment", _mood("never-commits"), first=True, meets=1),
    Fault(
        "disk full, enlarged after 8 s", _shrink_disk, _enlarge_disk, 8, first=True, needs="small-disk", refuses=True
    ),
    Fault("clock jumps 2 h ahead, then back", _set_clock("7200"), _set_clock("0"), 4, needs="other-clock"),
    Fault("network to the PACS cut for 8 s", _link("down"), _link("up"), 8, needs="network"),
    Fault("every message delivered many times", _repeat_messages, first=True),
    Fault("two workers for each queue", _more_workers, first=True),
)
BY_NAME: Final = {fault.name: fault for fault in FAULTS}


class Unavailable(Exception):
    """The set-up of a fault cannot be made on this machine; the text says why."""


class PostgreSql:
    """A private server on a Unix socket, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        if not binaries:
            raise Unavailable("no PostgreSQL server is installed")
        self._binaries, self.folder = binaries[0], folder
        self._options: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            account = pwd.getpwnam("postgres")
            for parent in [*folder.parents, folder]:
                if parent != Path("/") and parent.owner() == "root":
                    parent.chmod(parent.stat().st_mode | 0o011)
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        make = [str(self._binaries / "initdb"), "-D", str(folder / "data"), "-U", "carpus", "-A", "trust", "-E", "UTF8"]
        subprocess.run(make, check=True, capture_output=True, **self._options)
        self.url = f"postgresql://carpus@/postgres?host={folder}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [str(self._binaries / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **self._options}
        self._process = subprocess.Popen([*command, "-c", "listen_addresses="], **options)
        asked = [str(self._binaries / "pg_isready"), "-h", str(self.folder), "-U", "carpus", "-d", "postgres"]
        for _ in range(300):
            if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise Unavailable("PostgreSQL does not start")

    def kill(self) -> None:
        """Kill the server process; its children see that and end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            time.sleep(RELAPSE_SECONDS)

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)


@contextmanager
def prepared(needs: str, folder: Path, film_count: int) -> Iterator[dict[str, Any]]:
    """Yield what a set-up gives: `settings` for the installation, `environment`, `data`, `host` and `namespace` of the PACS.

    Raises
    ------
    Unavailable
        When this machine cannot do it.
    """
    with ExitStack() as stack:
        yield _SETUPS[needs](folder, film_count, stack)


def _plain(_folder: Path, _films: int, _stack: ExitStack) -> dict[str, Any]:
    return {}


def _postgresql(folder: Path, _films: int, stack: ExitStack) -> dict[str, Any]:
    server = PostgreSql(folder / "pg")
    stack.callback(server.stop)
    return {"server": server, "settings": {"database_url": server.url}}


def _small_disk(folder: Path, films: int, stack: ExitStack) -> dict[str, Any]:
    """Mount a tmpfs that can be made to hold a quarter of the films, 25 at most, and set the reserve that makes us refuse early."""
    mount = folder / "small"
    mount.mkdir(parents=True)
    film, reserve = 300_000, 8_000_000  # a small film, its copy and its results; room to finish what was acknowledged
    large = 4 * film * (films + 50)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={large}", "tmpfs", str(mount)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Unavailable(f"no tmpfs can be mounted: {done.stderr.strip()}")
    stack.callback(subprocess.run, ["umount", "--lazy", str(mount)], check=False)
    limits = {"limits": {"minimum_free_disk_bytes": reserve}}
    sizes = {"large": large, "reserve": reserve, "room": film * min(max(films // 4, 1), 25)}
    return {"mount": mount, "data": mount / "data", "settings": limits, **sizes}


def _other_clock(folder: Path, _films: int, _stack: ExitStack) -> dict[str, Any]:
    """Build a library that shifts the wall clock of whatever loads it (`clock.c`)."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("there is no C compiler (Debian: gcc)")
    folder.mkdir(parents=True, exist_ok=True)
    clock, library = folder / "clock", folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    clock.write_text("0", encoding="ascii")
    return {"clock": clock, "environment": {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(clock)}}


def _network(_folder: Path, _films: int, stack: ExitStack) -> dict[str, Any]:
    """Put the PACS into a network namespace of its own, behind a pair of virtual cards."""
    name = f"carpus{os.getpid() % 100_000}"
    third = os.getpid() % 200 + 20
    ours, theirs = f"10.231.{third}.1", f"10.231.{third}.2"
    card, other = f"cc{os.getpid() % 100_000}", f"cp{os.getpid() % 100_000}"
    steps = (
        f"ip netns add {name}",
        f"ip link add {card} type veth peer name {other} netns {name}",
        f"ip addr add {ours}/24 dev {card}",
        f"ip link set {card} up",
        f"ip -n {name} addr add {theirs}/24 dev {other}",
        f"ip -n {name} link set {other} up",
        f"ip -n {name} link set lo up",
    )
    stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)
    for step in steps:
        done = subprocess.run(step.split(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable(f"no network namespace: {step}: {done.stderr.strip()}")
    return {"link": card, "host": theirs, "namespace": name}


_SETUPS: Final[Mapping[str, Callable[[Path, int, ExitStack], dict[str, Any]]]] = {
    "plain": _plain,
    "postgresql": _postgresql,
    "small-disk": _small_disk,
    "other-clock": _other_clock,
    "network": _network,
}
