"""Cost of the queue: CPU per job of everything but inference, and how long its questions take with 100,000 jobs in the table.

    python -m benchmarks.queue [--jobs 300] [--rows 100000] [--postgresql URL] [--output benchmarks/queue.json]

*Overhead*: jobs go the whole way from the record of a received instance to DELIVERED, over a real Redis and two real worker
processes whose steps do nothing but advance the job; the CPU time of all processes is divided by the jobs.
*Table*: three tables of the same size: `mixed` as after a month of work with a busy morning, `waiting` with every job to be read,
`parked` with every result waiting for a PACS that is away. `--postgresql` names an empty database whose tables may be dropped;
without it a cluster is started for the measurement where PostgreSQL is installed.

It says on standard error what it is at, and writes the file after every part: about four minutes on two idle cores with 100,000 rows,
most of them for filling the tables. `--part` measures one part again and keeps the others.
"""

import argparse
import datetime as dt
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil
from sqlalchemy import Engine, insert, literal, select, text, update
from sqlalchemy.orm import Session

from models import refusal
from models.engine import git_commit
from service import db, log, tasks
from service.queue.jobs import Claim, Jobs, ReceivedInstance, State
from service.queue.queues import DELIVERY, INFERENCE, Queues
from service.queue.steps import Steps
from service.settings import Settings
from service.supervisor import redis
from service.tables import Instance, Job, JobEvent
from service.web.overview import Overview

PEERS: Final = ("CT", "RIS", "PACS", "MIGRATE")
REPEATS: Final = 60
PARTS: Final = ("overhead", "SQLite", "PostgreSQL")
MEASURED_SECONDS: Final = 10.0  # of claims by one process after another, for the rate
# What share of the table is in which state, and whether it waits for a later time.
TABLES: Final[dict[str, list[tuple[State, bool, float]]]] = {
    "mixed": [
        (State.CONFIRMED, False, 0.86),
        (State.FILTERED, False, 0.05),
        (State.REJECTED, False, 0.02),
        (State.FAILED, False, 0.005),
        (State.DELIVERED, False, 0.01),
        (State.INFERRED, True, 0.02),
        (State.PREPARED, False, 0.02),
        (State.RECEIVED, False, 0.015),
    ],
    "waiting": [(State.PREPARED, False, 1.0)],
    "parked": [(State.INFERRED, True, 1.0)],
}


class EmptySteps:
    """A pipeline whose steps only advance the job."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def prepare(self, claim: Claim) -> None:
        """Go to PREPARED."""
        self.jobs.advance(claim, State.PREPARED, subject=f"P{claim.job.id % 500}", timings_ms={"header read": 1.0})

    def infer(self, claim: Claim) -> None:
        """Go to INFERRED."""
        self.jobs.advance(claim, State.INFERRED, outcome="reading", reading="{}", timings_ms={"decoded": 1.0})

    def deliver(self, claim: Claim) -> None:
        """Go to DELIVERED."""
        self.jobs.advance(claim, State.DELIVERED, timings_ms={"results built": 1.0})


def main() -> None:
    """Run the measurement and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300, help="that go the whole way")
    parser.add_argument("--rows", type=int, default=100_000, help="of the table")
    parser.add_argument("--postgresql", metavar="URL", help="an empty database; its tables are dropped")
    parser.add_argument(
        "--folder", type=Path, help="on the disk to be measured; without it the folder for temporary files"
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; several times for several")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    parser.add_argument("--worker", nargs=2, metavar=("QUEUE", "DATA_DIRECTORY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    log.configure("ERROR", as_json=False)
    if arguments.worker:
        work(arguments.worker[0], Path(arguments.worker[1]))
        return
    result = _known(arguments.output) if arguments.part else {}
    result |= {
        "bench": "queue",
        "command": f"python -m benchmarks.queue --jobs {arguments.jobs} --rows {arguments.rows}",
        "commit": git_commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f} at the start",
        "rows": arguments.rows,
    }
    result.setdefault("table_ms", {})
    with tempfile.TemporaryDirectory(dir=refusal.folder(arguments.folder)) as folder:
        for part in arguments.part or PARTS:
            _say(f"{part} ...")
            if part == "overhead":
                result["overhead"] = overhead(Path(folder) / "overhead", arguments.jobs)
            elif part == "SQLite":
                result["table_ms"][part] = tables(f"sqlite:///{folder}/table.sqlite", arguments.rows)
            else:
                with postgresql(arguments.postgresql, Path(folder)) as url:
                    if url:
                        result["table_ms"][part] = tables(url, arguments.rows)
            if arguments.output:
                arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _say("done")
    print(json.dumps(result))


def _known(path: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}
    return found


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


# -- overhead -------------------------------------------------------------------------------------------------------------


def overhead(folder: Path, count: int) -> dict[str, Any]:
    """Return the CPU milliseconds a job costs in each process."""
    folder.mkdir()
    settings = Settings(data_directory=folder)
    engine = db.connect(settings.resolved_database_url)
    db.migrate(engine)
    jobs = Jobs(engine, process="bench")
    server = subprocess.Popen(redis(settings).command, stdout=subprocess.DEVNULL)
    workers = {
        queue: subprocess.Popen([sys.executable, "-m", "benchmarks.queue", "--worker", queue, str(folder)])
        for queue in (INFERENCE, DELIVERY)
    }
    try:
        _wait(lambda: len(jobs.processes()) == len(workers), 60)
        publisher = tasks.Publisher(tasks.create_app(settings), jobs)
        steps = Steps(jobs, EmptySteps(jobs), publisher.publish, settings)
        _through(jobs, steps, 0, 10)  # what the first jobs load is loaded
        idle = _idle(workers)
        before = {name: _cpu(process.pid) for name, process in workers.items()}
        started, own = time.monotonic(), time.process_time()
        _through(jobs, steps, 10, 10 + count)
        seconds, own = time.monotonic() - started, time.process_time() - own
        spent = {name: _cpu(process.pid) - before[name] - idle[name] * seconds for name, process in workers.items()}
    finally:
        for process in [*workers.values(), server]:
            process.terminate()
            process.wait(30)
        engine.dispose()
    each = {"reception and preparation": own, **{f"worker {name}": value for name, value in spent.items()}}
    milliseconds = {name: round(1000 * value / count, 2) for name, value in each.items()}
    return {
        "n": count,
        "cpu_ms_per_job": milliseconds,
        "cpu_ms_per_job_total": round(sum(milliseconds.values()), 2),
        "jobs_per_second": round(count / seconds, 1),
    }


def _through(jobs: Jobs, steps: Steps, first: int, last: int) -> None:
    """Receive and prepare films, and wait until the workers have done the rest."""
    for number in range(first, last):
        jobs.record_instance(_instance(number))
        (job,) = jobs.find(f"2.25.{number + 1}")
        steps.prepare(job.id)
    _wait(lambda: jobs.counts()[State.DELIVERED] == last, 600)


def work(queue: str, folder: Path) -> None:
    """Be one of the worker processes."""
    settings = Settings(data_directory=folder)
    jobs = Jobs(db.connect(settings.resolved_database_url), process=f"worker {queue} {os.getpid()}")
    app = tasks.create_app(settings)
    steps = Steps(jobs, EmptySteps(jobs), tasks.Publisher(app, jobs).publish, settings)
    hands = 1 if queue == INFERENCE else 4
    worker = tasks.Worker(app, jobs, steps, queue, settings, concurrency=hands)
    worker.run(lambda: tasks.keep_beating(jobs, f"worker {queue}", detail=worker.watchdog.detail))


def _idle(workers: dict[str, subprocess.Popen[bytes]]) -> dict[str, float]:
    """Return the CPU seconds a second that each worker takes without work."""
    before = {name: _cpu(process.pid) for name, process in workers.items()}
    time.sleep(5)
    return {name: (_cpu(process.pid) - before[name]) / 5 for name, process in workers.items()}


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


# -- a large table ----------------------------------------------------------------------------------------------------------


def tables(url: str, rows: int) -> dict[str, Any]:
    """Return the milliseconds of each question on each table: median and 95th percentile; and the rate of claims."""
    engine = db.connect(url)
    db.migrate(engine)
    _say(f"  {rows} rows")
    _fill(engine, rows)
    found: dict[str, Any] = {}
    for name, shares in TABLES.items():
        _say(f"  {name}")
        _shape(engine, rows, shares)
        found[name] = {question: _timed(ask) for question, ask in _questions(engine).items()}
        if name == "waiting":
            found["claims_per_second"] = _claim_rate(engine)
    _drop(engine)
    engine.dispose()
    return found


def _questions(engine: Engine) -> dict[str, Callable[[], object]]:
    jobs = Jobs(engine, process="bench")
    overview = Overview(jobs)
    queues = Queues(engine)
    return {
        "claim inference": lambda: jobs.claim_next(State.PREPARED),
        "claim delivery": lambda: jobs.claim_next(State.INFERRED),
        "list": lambda: jobs.list(limit=50),
        "list FAILED": lambda: jobs.list(state=State.FAILED, limit=50),
        "page of films": lambda: overview.rows(None, ""),
        "causes on the page": overview.attention,
        "counts by state": jobs.counts,
        "oldest by state": jobs.oldest,
        "queues": queues.all,
        "to be prepared": lambda: jobs.unprepared(jobs.now(), 10),
        "messages to send": lambda: jobs.unpublished(limit=500),
        "sweep": jobs.sweep,
        "receive": _receiver(jobs),
    }


def _receiver(jobs: Jobs) -> Callable[[], object]:
    numbers = itertools.count(time.time_ns())  # the tables are shaped one after another from the same films
    return lambda: jobs.record_instance(_instance(next(numbers)))


def _timed(ask: Callable[[], object]) -> dict[str, float]:
    ask()
    took = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        ask()
        took.append(1000 * (time.perf_counter() - started))
    took.sort()
    return {"median": round(median(took), 2), "p95": round(took[int(0.95 * len(took))], 2)}


def _claim_rate(engine: Engine) -> float:
    """Return how many steps one process claims and finishes a second."""
    jobs = Jobs(engine, process="bench")
    done, end = 0, time.monotonic() + MEASURED_SECONDS
    while time.monotonic() < end:
        claim = jobs.claim_next(State.PREPARED)
        if claim is None:
            break
        jobs.advance(claim, State.INFERRED, outcome="reading")
        done += 1
    return round(done / MEASURED_SECONDS, 1)


def _fill(engine: Engine, rows: int) -> None:
    """Add films, a job of each and three lines of its timeline."""
    now = dt.datetime.now(dt.UTC)
    with Session(engine.execution_options(write=True)) as connection, connection.begin():
        for start in range(0, rows, 5_000):
            numbers = range(start, min(start + 5_000, rows))
            connection.execute(insert(Instance), [_instance_row(number, now) for number in numbers])
            connection.execute(insert(Job), [_job_row(number, now) for number in numbers])
        for code in ("received", "prepared", "inferred"):
            line = select(Job.id, literal(now), literal(code), literal(""), literal(12.5), literal("bench"))
            columns = ["job_id", "at", "code", "text", "milliseconds", "process"]
            connection.execute(insert(JobEvent).from_select(columns, line))
        if engine.dialect.name == "postgresql":
            for table in ("instances", "jobs", "job_events"):
                connection.execute(text(f"SELECT setval('{table}_id_seq', (SELECT max(id) FROM {table}))"))  # noqa: S608


def _shape(engine: Engine, rows: int, shares: Sequence[tuple[State, bool, float]]) -> None:
    """Put the jobs into their states, those of one state side by side as they would be, and tell the planner."""
    now = dt.datetime.now(dt.UTC)
    with Session(engine.execution_options(write=True)) as connection, connection.begin():
        first = 0
        for state, parked, share in shares:
            last = first + round(share * rows)
            failed = state == State.FAILED or parked
            unfinished = state in (State.RECEIVED, State.PREPARED, State.INFERRED)
            values = {
                "state": state,
                "parked": parked,
                "not_before": now + dt.timedelta(hours=1) if parked else now,
                "deadline": now + dt.timedelta(days=1) if unfinished else None,
                "cause_code": "peer-unreachable" if failed else None,
                "cause_text": "PACS at 10.0.0.2:104 does not answer" if failed else None,
                "lease_token": None,
                "lease_expires_at": None,
            }
            connection.execute(update(Job).where(Job.id > first, Job.id <= last).values(**values))
            first = last
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as tending:
        tending.execute(text("VACUUM ANALYZE" if engine.dialect.name == "postgresql" else "ANALYZE"))


def _instance(number: int) -> ReceivedInstance:
    row = _instance_row(number, dt.datetime.now(dt.UTC))
    return ReceivedInstance(**{name: row[name] for name in ReceivedInstance.__dataclass_fields__})


def _instance_row(number: int, now: dt.datetime) -> dict[str, Any]:
    return {
        "SOPInstanceUID": f"2.25.{number + 1}",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
        "TransferSyntaxUID": "1.2.840.10008.1.2.1",
        "StudyInstanceUID": f"2.25.9{number // 2}",
        "SeriesInstanceUID": f"2.25.8{number // 2}",
        "calling_ae_title": PEERS[number % len(PEERS)],
        "called_ae_title": "CARPUS",
        "address": "10.0.0.1",
        "digest": f"blake3:{number:064x}",
        "byte_count": 6_151_424,
        "name": f"{number % 256:02x}/{number:032x}.dcm",
        "received_at": now,
        "accession_number": f"A{number}",
    }


def _job_row(number: int, now: dt.datetime) -> dict[str, Any]:
    return {
        "instance_id": number + 1,
        "revision": 1,
        "priority": (1, 5, 5, 5, 9)[number % 5],
        "peer": PEERS[number % len(PEERS)],
        "turn": number // len(PEERS),
        "subject": f"P{number // 2}",
        "state": State.CONFIRMED,
        "attempts": 0,
        "losses": 0,
        "not_before": now,
        "parked": False,
        "published_at": now,
        "overdue": False,
        "reading": json.dumps({"bench": "x" * 6_000}) if number % 10 == 0 else None,
        "created_at": now,
        "updated_at": now,
        "state_since": now - dt.timedelta(seconds=number % 3600),
    }


def _drop(engine: Engine) -> None:
    with engine.execution_options(write=True).begin() as connection:
        for table in reversed([*db.tables(), "alembic_version"]):
            connection.execute(
                text(f"DROP TABLE IF EXISTS {table}" + (" CASCADE" if engine.dialect.name == "postgresql" else ""))
            )


@contextmanager
def postgresql(url: str | None, folder: Path) -> Iterator[str | None]:
    """Yield the URL given, or that of a cluster of our own; None where PostgreSQL is not installed."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if url is not None or not binaries:
        yield url
        return
    home = folder / "postgresql"
    home.mkdir()
    folder.chmod(0o755)
    account: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        import pwd

        user = pwd.getpwnam("postgres")
        os.chown(home, user.pw_uid, user.pw_gid)
        account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = home / "data"
    subprocess.run(
        [binaries[0] / "initdb", "-D", data, "-U", "carpus", "-A", "trust", "-E", "UTF8"],
        check=True,
        stdout=subprocess.DEVNULL,
        **account,
    )
    server = subprocess.Popen(
        [binaries[0] / "postgres", "-D", data, "-k", home, "-c", "listen_addresses="],
        stderr=subprocess.DEVNULL,
        **account,
    )
    try:
        _wait(lambda: any(home.glob(".s.PGSQL.*[0-9]")), 30)
        time.sleep(1)
        yield f"postgresql://carpus@/postgres?host={home}"
    finally:
        server.terminate()
        server.wait(30)


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not within {seconds} s")
        time.sleep(0.05)


if __name__ == "__main__":
    refusal.command(main)
