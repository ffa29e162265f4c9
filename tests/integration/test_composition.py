"""The processes of the composition, each with the directories that its container would have, take a film from end to end.

A container's root is read-only and its directories are those of the composition: a process that writes anywhere else would die there.
No container engine is needed to see it; the mounts are links to shared folders.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from models.phantom import draw
from service import db, supervisor
from service.demo.stand_in_pacs import StandInPacs
from service.metrics import signs_of_life
from service.queue.jobs import Jobs, State
from service.sending.requestor import Address
from service.sending.scu import store
from service.wrap import Patient, wrap
from tests.integration.serving import ROOT, free_ports
from tests.integration.test_serve import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

COMPOSE: Final = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
HOME: Final = Path("/var/lib/carpus")
MADE: Final = {"keys", "identified", "deidentified", "results", "quarantine"}  # by the Dockerfile, empty
PROCESSES: Final = {
    "scp": "scp",
    "intake": "intake",
    "inference": "worker inference",
    "delivery": "worker delivery",
    "web": "web",
}


@dataclass
class Composition:
    """The running processes, and the place of each one's own directories."""

    folder: Path
    jobs: Jobs
    pacs: StandInPacs
    scp_port: int


@pytest.fixture(scope="module")
def composition(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composition]:
    folder = tmp_path_factory.mktemp("composition")
    scp_port, web_port, redis_port = free_ports(3)
    with ExitStack() as stack:
        pacs = stack.enter_context(StandInPacs(folder / "pacs", ae_title="PACS"))
        values: dict[str, Any] = {
            "peers": [{"ae_title": "PACS"}],
            "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}],
            "limits": {"minimum_free_disk_bytes": 0},
            "debounce_seconds": 0,
        }
        (folder / "carpus.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        database = f"sqlite:///{folder / 'carpus.sqlite'}"
        instead = {
            "CARPUS_CONFIG": str(folder / "carpus.yaml"),
            "CARPUS_DATABASE_URL": database,
            "CARPUS_BROKER_URL": f"redis://127.0.0.1:{redis_port}/0",
            "CARPUS_SCP_HOST": "127.0.0.1",
            "CARPUS_SCP_PORT": str(scp_port),
            "CARPUS_WEB__HOST": "127.0.0.1",
            "CARPUS_WEB__PORT": str(web_port),
            "CARPUS_WEB__SECRET_KEY": "5e" * 32,
            "CARPUS_WEB__PASSWORD_HASH": "$argon2id$v=19$m=65536,t=3,p=4$" + "A" * 22 + "$" + "A" * 43,
        }
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_stopped, processes)
        broker = [supervisor.redis_server(), "--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""]
        processes.append(_started(broker, folder, folder / "redis.log", dict(os.environ)))
        for name in PROCESSES:
            container = COMPOSE["services"][name]
            environment = {**os.environ, **container["environment"], **instead}
            environment["CARPUS_DATA_DIRECTORY"] = str(_home(folder, name, container.get("volumes", [])))
            command = [sys.executable, "-m", "service", *container["command"][1:]]
            processes.append(_started(command, ROOT, folder / f"{name}.log", environment))
        engine = db.connect(database)
        stack.callback(engine.dispose)
        db.migrate(engine)
        jobs = Jobs(engine, process="test")
        _wait_for_signs_of_life(jobs, folder)
        yield Composition(folder, jobs, pacs, scp_port)


def _home(folder: Path, name: str, volumes: list[str]) -> Path:
    """Make what a container finds under its data directory: the image's own empty folders, and the volumes over them."""
    home = folder / "homes" / name
    for made in MADE:
        (home / made).mkdir(parents=True)
    for volume in volumes:
        source, target = volume.split(":")[:2]
        if Path(target).is_relative_to(HOME):
            (folder / "volumes" / source).mkdir(parents=True, exist_ok=True)
            mounted = home / Path(target).relative_to(HOME)
            mounted.rmdir()
            mounted.symlink_to(folder / "volumes" / source)
    return home


def _started(command: list[str], place: Path, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        return subprocess.Popen(command, cwd=place, stdout=stream, stderr=stream, env=environment)


def _stopped(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def _wait_for_signs_of_life(jobs: Jobs, folder: Path) -> None:
    end = time.monotonic() + 180
    while missing := set(PROCESSES.values()) - signs_of_life(jobs).keys():
        logs = {path.name: path.read_text()[-1500:] for path in folder.glob("*.log")}
        assert time.monotonic() < end, (missing, logs)
        time.sleep(0.2)


def test_a_film_goes_through_and_nobody_writes_beside_the_volumes(composition: Composition) -> None:
    patient = Patient("TEST^CHILD", "TEST-8", "F", date(2016, 5, 4))
    film = wrap(draw(3, age_years=10, sex="F", rows=600, columns=450).image, patient, study="composed")
    sent = store(Address("CARPUS", "127.0.0.1", composition.scp_port), [film], calling_ae_title="PACS")
    assert all(one.accepted for one in sent), [one.error for one in sent]
    wait_for(composition.jobs, [film], State.CONFIRMED, 150)
    for name in PROCESSES:
        home = composition.folder / "homes" / name
        assert {path.name for path in home.iterdir()} == MADE, name
        own = [path for path in home.iterdir() if not path.is_symlink()]
        assert [path for folder in own for path in folder.rglob("*")] == [], name
