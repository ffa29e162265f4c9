"""Let films come in at a steady rate for hours, and watch memory, open files and the size of the database.

    python -m benchmarks.soak --hours 2 --rate 2 --samples samples.jsonl --json soak.json

Inference is a stub process (a known Reading); so is the search for text in the pixels unless `--clean` is given, and the result set is
what `--objects` names. Everything else is what a hospital runs. A sample is taken every minute and appended to `--samples`, so that a
stopped run leaves what it saw. Prints a table and ends with one JSON line.
"""

import argparse
import datetime as dt
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from benchmarks.chaos import house as houses
from benchmarks.chaos import load
from benchmarks.chaos.pacs import Pacs
from service import log
from service.errors import CarpusError
from service.sending import scu
from service.tables import Job

SAMPLE_SECONDS = 60.0
BATCH = 20  # films written and sent over one association
WARM_UP = 0.1  # share of the time that does not count
GROWTH_LIMIT = 0.10  # of resident memory after the warm-up


def main() -> None:
    """Run, report, end with 1 when something grew or was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=2.0, help="films a second")
    parser.add_argument("--objects", nargs="+", default=["GSPS"], help="of each result set, e.g. SR GSPS")
    parser.add_argument("--clean", action="store_true", help="look for text in the pixels, as the service does")
    parser.add_argument("--samples", type=Path, help="one JSON line a minute is appended here")
    parser.add_argument("--json", type=Path, help="where the result goes")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    log.configure("CRITICAL", as_json=False)
    result = run(
        arguments.hours * 3600,
        arguments.rate,
        kinds=arguments.objects,
        clean=arguments.clean,
        record=arguments.samples,
    )
    for name, figures in result["processes"].items():
        print(f"{name:<20}" + "  ".join(f"{key} {value}" for key, value in figures.items()))
    line = json.dumps({"command": " ".join(["python -m benchmarks.soak", *sys.argv[1:]]), **result})
    if arguments.json:
        arguments.json.write_text(line + "\n", encoding="utf-8")
    print(line)
    raise SystemExit(1 if result["wrong"] else 0)


def run(seconds: float, rate: float, *, kinds: Sequence[str], clean: bool, record: Path | None) -> dict[str, Any]:
    """Send films at the rate for the time; return what was measured."""
    with tempfile.TemporaryDirectory(prefix="carpus-soak-") as name, ExitStack() as stack:
        folder = Path(name)
        pacs = Pacs(folder / "pacs")
        stack.callback(pacs.down)
        house = stack.enter_context(houses.opened(folder / "carpus", pacs, kinds=kinds, clean=clean))
        samples: list[dict[str, Any]] = []
        started = sampled = time.monotonic()
        films: list[load.Film] = []
        refused = 0
        for number in count():
            elapsed = time.monotonic() - started
            if elapsed >= seconds:
                break
            if not samples or time.monotonic() - sampled >= SAMPLE_SECONDS:
                sampled = time.monotonic()
                samples.append(_sample(house, elapsed, len(films)))
                if record:
                    with record.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(samples[-1]) + "\n")
            made = load.films(folder / "films", min(BATCH, max(1, round(rate * seconds))), f"b{number}")
            refused += _send(house, made)
            films += made
            for film in made:
                film.path.unlink(missing_ok=True)
            time.sleep(max(0.0, len(films) / rate - (time.monotonic() - started)))
        complete = house.wait_confirmed(films, 120 + 2 * len(films) ** 0.5)
        samples.append(_sample(house, time.monotonic() - started, len(films)))
        wrong = house.judge(films, {film.path.name for film in films})
        return _judged(samples, films, seconds, refused, wrong if complete else ["not all confirmed in time", *wrong])


def _send(house: houses.House, films: Sequence[load.Film]) -> int:
    """Store one batch over one association, again until it is taken; return how often that failed."""
    address = scu.Address("CARPUS", "127.0.0.1", house.settings.scp_port)
    failures, waiting = 0, [film.path for film in films]
    while waiting:
        try:
            sent = scu.store(address, waiting, calling_ae_title="PACS", timeout_seconds=30)
            waiting = [path for path, each in zip(waiting, sent, strict=True) if not each.accepted]
        except CarpusError:
            pass
        if waiting:
            failures += 1
            time.sleep(1)
    return failures


def _sample(house: houses.House, elapsed: float, sent: int) -> dict[str, Any]:
    processes: dict[str, dict[str, float]] = {}
    for child in sorted(psutil.Process(house.process.pid).children(recursive=True), key=lambda each: each.pid):
        try:
            words = child.cmdline()
            named = [word for word in words[2:5] if not word.startswith(("-", "/"))]
            name = "redis" if "redis" in words[0] else " ".join(named)
            name += f" ({sum(other.split(' (')[0] == name for other in processes) + 1})" if name in processes else ""
            with child.oneshot():
                spent = child.cpu_times()
                processes[name] = {
                    "pid": child.pid,
                    "mib": child.memory_info().rss / 2**20,
                    "files": child.num_fds(),
                    "threads": child.num_threads(),
                    "cpu_seconds": spent.user + spent.system,
                }
        except (psutil.Error, IndexError):
            continue
    database = sum(path.stat().st_size for path in house.settings.data_directory.glob("carpus.sqlite*"))
    with house.jobs.engine.connect() as connection:
        states = {
            str(state): count
            for state, count in connection.execute(select(Job.state, func.count()).group_by(Job.state))
        }
    return {
        "seconds": round(elapsed, 1),
        "sent": sent,
        "states": states,
        "database_bytes": database,
        "load_average": round(os.getloadavg()[0], 1),
        "processes": processes,
    }


def _judged(
    samples: Sequence[Mapping[str, Any]], films: Sequence[load.Film], seconds: float, refused: int, wrong: list[str]
) -> dict[str, Any]:
    """Compare the end with the time after the warm-up."""
    settled = [each for each in samples if each["seconds"] >= WARM_UP * seconds] or list(samples)
    first, last = settled[0], settled[-1]
    processes = {}
    for name, after in last["processes"].items():
        before = first["processes"].get(name, after)
        growth = after["mib"] / before["mib"] - 1
        processes[name] = {
            "mib_after_warm_up": round(before["mib"], 1),
            "mib_at_end": round(after["mib"], 1),
            "growth_percent": round(100 * growth, 1),
            "files_after_warm_up": before["files"],
            "files_at_end": after["files"],
        }
        if growth > GROWTH_LIMIT:
            wrong = [*wrong, f"{name} grew by {100 * growth:.0f} %"]
    grown = last["database_bytes"] - first["database_bytes"]
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end",
        "inference": "stub process (known Reading)",
        "seconds": round(seconds),
        "films": len(films),
        "films_a_second": round(len(films) / seconds, 2),
        "batches_not_taken_at_once": refused,
        "database_bytes_a_film": round(grown / max(last["sent"] - first["sent"], 1)),
        "samples": len(samples),
        "processes": processes,
        "wrong": wrong[:20],
    }


if __name__ == "__main__":
    main()
