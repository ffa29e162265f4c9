"""Let films come in at a steady rate for hours, and watch memory, open files and the size of the database.

    python -m benchmarks.soak --hours 2 --rate 2 --samples samples.jsonl --json soak.json

Inference is a stub process (a known Reading); so is the search for text in the pixels unless `--clean` is given, and the result set is
what `--objects` names. Everything else is what a hospital runs. A sample is taken every minute and appended to `--samples`, so that a
stopped run leaves what it saw; `--judge samples.jsonl` judges such a file. A process that was started anew is judged from ten minutes after
its start. Prints a table and ends with one JSON line.
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

import numpy as np
import psutil
from sqlalchemy import func, select

from benchmarks.chaos import house as houses
from benchmarks.chaos import load
from benchmarks.chaos.pacs import Pacs
from models import refusal
from models.engine import git_commit
from service import log
from service.errors import CarpusError
from service.sending import requestor, scu
from service.tables import Job

SAMPLE_SECONDS = 60.0
BATCH = 20  # films written and sent over one association
WARM_UP_SECONDS = 600.0  # of a process, which do not count
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
    parser.add_argument("--judge", type=Path, metavar="SAMPLES", help="run nothing: judge what an earlier run saw")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    log.configure("CRITICAL", as_json=False)
    if arguments.judge:
        samples = [json.loads(line) for line in arguments.judge.read_text(encoding="utf-8").splitlines()]
        print(json.dumps(judged(samples)))
        return
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
        wrong = wrong if complete else ["not all confirmed in time", *wrong]
        found = judged(samples)
        grown = [f"{name} grew by {each['growth_percent']} %" for name, each in found["processes"].items()]
        wrong += [
            text
            for text, each in zip(grown, found["processes"].values(), strict=True)
            if each["growth_percent"] > 100 * GROWTH_LIMIT
        ]
        return {
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "machine": f"{os.cpu_count()} cores",
            "commit": git_commit(),
            "inference": "stub process (known Reading)",
            "text": "searched for in the pixels" if clean else "not searched for in the pixels",
            "objects": list(kinds),
            "seconds": round(seconds),
            "films": len(films),
            "films_a_second": round(len(films) / seconds, 2),
            "batches_not_taken_at_once": refused,
            **found,
            "wrong": wrong[:20],
            "wrong_count": len(wrong),
        }


def _send(house: houses.House, films: Sequence[load.Film]) -> int:
    """Store one batch over one association, again until it is taken; return how often that failed."""
    address = requestor.Address("CARPUS", "127.0.0.1", house.settings.scp_port)
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


def judged(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compare the end with the time after the warm-up."""
    last = samples[-1]
    processes = {}
    for name in last["processes"]:
        seen = [(each["seconds"], each["processes"][name]) for each in samples if name in each["processes"]]
        pid = last["processes"][name]["pid"]
        alive = [(at, figures) for at, figures in seen if figures["pid"] == pid]
        settled = [figures for at, figures in alive if at >= alive[0][0] + WARM_UP_SECONDS] or [alive[-1][1]]
        first, end = settled[0], settled[-1]
        before, after = alive[0], alive[-1]
        processes[name] = {
            "started_anew": len({figures["pid"] for _, figures in seen}) - 1,
            "mib_after_warm_up": round(first["mib"], 1),
            "mib_at_end": round(end["mib"], 1),
            "growth_percent": round(100 * (end["mib"] / first["mib"] - 1), 1),
            "files": [min(each["files"] for each in settled), max(each["files"] for each in settled)],
            "threads": [min(each["threads"] for each in settled), max(each["threads"] for each in settled)],
            "cores": round((after[1]["cpu_seconds"] - before[1]["cpu_seconds"]) / max(after[0] - before[0], 1), 3),
        }
    half = [each for each in samples if WARM_UP_SECONDS / 2 <= each["seconds"] <= last["seconds"] / 2] or list(samples)
    sizes = np.array([each["database_bytes"] for each in half], dtype=float)
    known = np.array([[1.0, *_facts(each)] for each in half])
    fitted, *_ = np.linalg.lstsq(known, sizes, rcond=None)
    predicted = float(np.array([1.0, *_facts(last)]) @ fitted)
    loads = sorted(each["load_average"] for each in samples)
    return {
        "samples": len(samples),
        "sampled_seconds": last["seconds"],
        "sent": last["sent"],
        "states_at_end": last["states"],
        "load_average": [loads[0], loads[len(loads) // 2], loads[-1]],
        "database_bytes": last["database_bytes"],
        "database_bytes_predicted": round(predicted),
        "database_bytes_a_film": round(fitted[1] + fitted[2]),
        "processes": processes,
    }


def _facts(sample: Mapping[str, Any]) -> tuple[float, float]:
    """Return what the size of the database follows from: films received, films finished."""
    return float(sample["sent"]), float(sample["states"].get("CONFIRMED", 0))


if __name__ == "__main__":
    refusal.command(main)
