"""One installation under test: started, killed in parts, and judged by what must hold after every fault."""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from sqlalchemy import Row, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from benchmarks.chaos.load import Film
from benchmarks.chaos.pacs import Pacs
from service import db
from service.demo.run import free_ports
from service.queue.jobs import Jobs, State
from service.settings import Settings, load
from service.storage import PART, Store, Stores
from service.tables import Instance, Job, ResultObject

KINDS: Final = ("GSPS", "KOS")  # a result set of two objects that are cheap to build: an SR takes 0.2 s of a core
READY_SECONDS: Final = 600
ORPHAN_SECONDS: Final = 90.0
LOOK_SECONDS: Final = 0.5

# SOPInstanceUID as `uid`, then id, state, cause_code and confirmed_at of the job.
JobRow = Row[str, int, str, str | None, dt.datetime | None]


@dataclass
class House:
    """A running `carpus serve` whose inference is a stub process."""

    folder: Path
    config: Path
    settings: Settings
    jobs: Jobs
    pacs: Pacs
    process: subprocess.Popen[bytes]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    kinds: Sequence[str] = KINDS

    def events(self) -> list[dict[str, Any]]:
        """Return the log so far, as its events."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def kill(self, name: str) -> None:
        """Kill one process at once, as a crash would."""
        started = [e for e in self.events() if e["event"] == "process started" and e["process"] == name]
        os.kill(int(started[-1]["pid"]), signal.SIGKILL)

    def confirmed(self) -> int:
        """Count what every destination has proved to keep."""
        with self.jobs.engine.connect() as connection:
            return connection.scalar(select(func.count()).where(Job.confirmed_at.is_not(None))) or 0

    def wait_confirmed(self, films: list[Film], seconds: float, *, beside: int = 0) -> bool:
        """Wait until every one of these films is confirmed, `beside` so many earlier ones; False when the time is over."""
        end = time.monotonic() + seconds
        missing = {film.SOPInstanceUID for film in films}
        while missing and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
            try:
                if self.confirmed() >= beside + len(films):
                    missing -= {row.uid for row in self._job_rows() if row.confirmed_at is not None}
            except SQLAlchemyError:  # the database may be what is down; it is asked again
                continue
        return not missing

    def _job_rows(self) -> Sequence[JobRow]:
        """Return every job there is, each with the SOP Instance UID of its film."""
        columns = (Instance.SOPInstanceUID.label("uid"), Job.id, Job.state, Job.cause_code, Job.confirmed_at)
        with self.jobs.engine.connect() as connection:
            return connection.execute(select(*columns).join(Job, Job.instance_id == Instance.id)).all()

    def judge(self, films: list[Film], acknowledged: set[str]) -> list[str]:
        """Return every way in which a film was lost, doubled or left unproved, and every file that belongs to nothing."""
        wrong = []
        kept: dict[str, list[str]] = {}  # by StudyInstanceUID: SOPInstanceUIDs; the PACS names its files by them
        for path in self.pacs.files():
            kept.setdefault(path.parent.name, []).append(path.stem)
        by_film: dict[str, list[JobRow]] = {}
        for row in self._job_rows():
            by_film.setdefault(row.uid, []).append(row)
        made: dict[int, list[str]] = {}
        with self.jobs.engine.connect() as connection:
            for job, uid in connection.execute(select(ResultObject.job_id, ResultObject.SOPInstanceUID)):
                made.setdefault(job, []).append(uid)
        for film in films:
            name, jobs = film.path.name, by_film.get(film.SOPInstanceUID, [])
            if name not in acknowledged:
                wrong.append(f"{name}: never acknowledged (the sender knows)")
                continue
            if len(jobs) != 1 or jobs[0].state != State.CONFIRMED:
                states = ", ".join(f"{job.state} {job.cause_code or ''}".strip() for job in jobs)
                wrong.append(f"{name}: acknowledged, jobs: {states or 'none'}")
                continue
            results, there = sorted(made.get(jobs[0].id, ())), sorted(kept.get(film.StudyInstanceUID, ()))
            if results != there or len(there) != len(self.kinds):
                wrong.append(f"{name}: {len(results)} results made, {len(there)} in the PACS, {len(self.kinds)} wanted")
        end = time.monotonic() + ORPHAN_SECONDS
        while (orphans := self._orphans()) and time.monotonic() < end:
            time.sleep(2)  # the receiver judges a file in doubt after a minute
        return wrong + orphans

    def _orphans(self) -> list[str]:
        stores = Stores.open(self.settings.data_directory)
        with Session(self.jobs.engine) as session:
            results = set(session.scalars(select(ResultObject.name)))
            copies = set(session.scalars(select(Job.deidentified_name)))
        received = set(stores.identified.names())
        known = self.jobs.known_names(sorted(received))
        orphans = [f"identified/{name}" for name in received - known]
        orphans += [f"results/{name}" for name in set(stores.results.names()) - results]
        orphans += [f"deidentified/{name}" for name in set(stores.deidentified.names()) - copies]
        orphans += [f"missing: identified/{name}" for name in known - received]
        for store in (stores.identified, stores.deidentified, stores.results, stores.quarantine):
            orphans += [f"{store.root.name}: {path.name}" for path in _parts(store)]
        return [f"orphan {name}" for name in sorted(orphans)]


def _parts(store: Store) -> list[Path]:
    return list(store.root.glob(f"??/*{PART}"))


@contextmanager
def opened(
    folder: Path,
    pacs: Pacs,
    *,
    kinds: Sequence[str] = KINDS,
    clean: bool = False,
    short: bool = False,
    environment: Mapping[str, str] | None = None,
    data: Path | None = None,
    **changes: Any,
) -> Iterator[House]:
    """Yield an installation that is ready, whose one destination and only peer is the PACS.

    Parameters
    ----------
    kinds
        The objects of its result sets.
    clean
        Whether its intake looks for text in the pixels (most of a second of a core for each film).
    short
        Whether the known Reading has two regions and no outlines, so that the results are small.
    environment
        Added to that of its processes.
    data
        Its data directory, where that is not to lie in `folder`.
    changes
        Other settings.
    """
    scp_port, web_port = free_ports(2)
    folder.mkdir(parents=True, exist_ok=True)
    log, config = folder / "serve.log", folder / "carpus.yaml"
    place = {"name": "pacs", "ae_title": "PACS", "host": pacs.host, "port": pacs.port, "timeout_seconds": 5}
    values: dict[str, Any] = {
        "data_directory": str(data or folder / "data"),
        "scp_port": scp_port,
        "web": {"port": web_port},
        "peers": [{"ae_title": "PACS"}],
        "destinations": [{**place, "profile": {"objects": list(kinds)}}],
        "limits": {"minimum_free_disk_bytes": 0},
        "retry": {"first_seconds": 0.5, "longest_seconds": 3},
        "breaker": {"probe_seconds": 1, "longest_probe_seconds": 3},
        "confirmation": {
            "hold_seconds": 1,
            "report_timeout_seconds": 4,
            "check_delays_seconds": [0.5, 1, 2],
            "away_seconds": 2,
        },
        "inference_threads": 1,
        "debounce_seconds": 0,
        **changes,
    }
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, "-m", "tests.integration.serve_with_known_reader", str(config)]
    command += [] if clean else ["--text-kept"]
    command += ["--short"] if short else []
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=stream, env={**os.environ, **(environment or {})}
        )
    settings = load(config)
    engine = db.connect(settings.resolved_database_url)
    house = House(
        folder, config, settings, Jobs(engine, process="chaos"), pacs, process, log, environment or {}, tuple(kinds)
    )
    try:
        _wait_until_ready(house)
        yield house
    finally:
        engine.dispose()
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(house: House) -> None:
    end = time.monotonic() + READY_SECONDS
    while True:
        events = house.events()
        started = {e["process"] for e in events if e["event"] == "process started"}
        ready = {e["process"] for e in events if e["event"] == "process ready"}
        if started and started <= ready and "worker delivery" in ready:
            return
        if house.process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"carpus serve is not ready: {house.log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)
