"""Latency of one film, from the last C-STORE response to the SR stored in the PACS, and where the time goes.

    python -m benchmarks.end_to_end [--films 12] [--output benchmarks/end_to_end.json]

Starts `carpus serve` and the built-in storage SCP on loopback, sends phantom films one after the other, then all of them at once.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from models import phantom, refusal
from models.engine import git_commit
from models.regions import Sex
from service import db, log
from service.demo import run as demo
from service.demo.pacs import BuiltInPacs
from service.queue.jobs import Jobs
from service.sending.requestor import Address
from service.settings import load
from service.tables import Job
from service.wrap import Patient, wrap


def main() -> None:
    """Run the measurement and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=12, help="films sent one by one, and again in one burst")
    parser.add_argument("--rows", type=int, default=2000, help="rows of a film; columns are 4/5 of them")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    log.configure("WARNING", as_json=False)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        result = measure(Path(folder), stack, arguments.films, arguments.rows)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def measure(folder: Path, stack: ExitStack, films: int, rows: int) -> dict[str, Any]:
    """Return latencies in seconds, their parts in milliseconds, memory of the processes and the machine they ran on."""
    carpus_port, pacs_port, web_port = demo.free_ports(3)
    carpus = Address("CARPUS", "127.0.0.1", carpus_port)
    pacs = stack.enter_context(BuiltInPacs(folder / "pacs", dicom_port=pacs_port, carpus=carpus))
    config = demo.configure(folder, carpus_port=carpus_port, web_port=web_port, pacs=pacs.address)
    supervisor = demo.serve(config, folder / "carpus.log", stack)
    jobs = Jobs(db.connect(load(config).resolved_database_url), process="bench")
    datasets = [_film(number, rows) for number in range(2 * films)]

    single = []
    for ds in datasets[:films]:
        pacs.receive([ds])
        single.append(demo.finished(jobs, ds.SOPInstanceUID))
    started = time.monotonic()
    pacs.receive(datasets[films:])
    burst = [demo.finished(jobs, ds.SOPInstanceUID) for ds in datasets[films:]]
    burst_seconds = time.monotonic() - started

    processes = psutil.Process(supervisor.pid).children(recursive=True)
    latencies = sorted(_latency(jobs, job) for job in single)
    return {
        "bench": "end_to_end",
        "command": f"python -m benchmarks.end_to_end --films {films} --rows {rows}",
        "commit": git_commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores",
        "film": f"phantom, {rows} x {rows * 4 // 5}, 12 bit, explicit little endian",
        "n": films,
        "latency_seconds": {
            "median": round(statistics.median(latencies), 3),
            "p95": round(latencies[min(films - 1, int(films * 0.95))], 3),
            "maximum": round(latencies[-1], 3),
        },
        "parts_ms": _parts(jobs, single),
        "burst_films_per_minute": round(60 * films / burst_seconds, 1),
        "burst_latency_seconds_maximum": round(max(_latency(jobs, job) for job in burst), 3),
        "resident_mib": {_name(process): round(process.memory_info().rss / 1024**2) for process in processes},
        "peak_mib": {_name(process): _peak_mib(process.pid) for process in processes},
    }


def _name(process: psutil.Process) -> str:
    """Return the subcommand a process runs, or its program's name."""
    words = [word for word in process.cmdline()[3:] if not word.startswith("-") and "/" not in word]
    return " ".join(words).strip() or str(process.name())


def _peak_mib(pid: int) -> int:
    """Return the most memory that was resident since the process began, as the Linux kernel counts it."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return round(int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024)


def _film(number: int, rows: int) -> Any:
    sex: Sex = "F" if number % 2 else "M"
    drawn = phantom.draw(1000 + number, age_years=4 + number % 12, sex=sex, rows=rows, columns=rows * 4 // 5)
    return wrap(drawn.image, Patient(f"BENCH^{number}", f"BENCH-{number}", sex), kind="DX")


def _latency(jobs: Jobs, job: Job) -> float:
    latency = demo.latency_seconds(jobs, job)
    if latency is None:
        raise SystemExit(f"job {job.id} ended {job.state} without a stored SR: {job.cause_text}")
    return latency


def _parts(jobs: Jobs, finished: list[Job]) -> dict[str, float]:
    parts: dict[str, list[float]] = {}
    for job in finished:
        for event in jobs.timeline(job.id):
            if event.milliseconds is not None:
                parts.setdefault(event.code, []).append(event.milliseconds)
    return {code: round(statistics.median(values), 1) for code, values in parts.items()}


if __name__ == "__main__":
    refusal.command(main)
