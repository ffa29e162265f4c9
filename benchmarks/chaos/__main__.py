"""Run the faults, judge each run, keep the results and rewrite the table of docs/reliability.md.

    python -m benchmarks.chaos --films 1000 --seeds 1 2 3          # three seeds of every fault
    python -m benchmarks.chaos --films 6 --faults "kill -9 scp"    # a look

`--json FILE` keeps the results beside those that are there: what FILE has of this fault, seed and number of films is not run again
(unless `--again`), so seeds add up over days, and a suite that was stopped goes on where it was. Exit status 1 when anything was lost,
doubled or left over. An installation lies in the folder for temporary files: with TMPDIR=/dev/shm nothing waits for the disk, and a
row says so.
"""

import argparse
import datetime as dt
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import dcmtk
from benchmarks.chaos import table
from benchmarks.chaos.faults import BY_NAME, FAULTS, Fault
from benchmarks.chaos.runs import several
from models.engine import git_commit
from service import log


def main() -> None:
    """Run what was asked for and is not there yet."""
    arguments = _arguments()
    dcmtk.needed("storescu")  # it sends the films
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped, also when this is stopped
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    log.configure("CRITICAL", as_json=False)
    where = {"commit": git_commit(), "date": dt.datetime.now(dt.UTC).date().isoformat()}
    bad = False
    for fault in [BY_NAME[name] for name in arguments.faults] if arguments.faults else FAULTS:
        there = table.stored(arguments.json) if arguments.json and not arguments.again else []
        done = {run["seed"] for run in there if (run["fault"], run["films"]) == (fault.name, arguments.films)}
        waiting = [seed for seed in arguments.seeds if seed not in done]
        while waiting:
            for run in _several(fault, arguments.films, waiting, arguments.logs):
                row = {**run, **where, "disk": _file_system(), "load_average": round(os.getloadavg()[0], 1)}
                waiting = [seed for seed in waiting if seed != row["seed"]]
                bad = bad or bool(row["wrong"])
                print(json.dumps(row), flush=True)
                if arguments.json:
                    table.keep(arguments.json, row)
    raise SystemExit(1 if bad else 0)


def _several(fault: Fault, films: int, seeds: list[int], logs: Path | None) -> Iterator[dict[str, Any]]:
    try:
        yield from several(fault, films, seeds, logs=logs)
    except RuntimeError as error:  # the installation did not start; the other faults are run all the same
        yield {"fault": fault.name, "films": films, "seed": seeds[0], "skipped": "", "wrong": [str(error)]}


def _file_system() -> str:
    """Return the kind of file system the installations lie on: that of the folder for temporary files."""
    asked = ["stat", "--file-system", "--format=%T", tempfile.gettempdir()]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=100, help="films in the load of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="each fault is run once with each of them")
    parser.add_argument("--faults", nargs="*", choices=list(BY_NAME), help="only these")
    parser.add_argument("--json", type=Path, help=f"where the results are kept, e.g. benchmarks/{table.RESULTS.name}")
    parser.add_argument("--again", action="store_true", help="run also what is kept there, and replace it")
    parser.add_argument("--logs", type=Path, help="folder for the log of each bad run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
