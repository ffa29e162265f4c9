"""How long it takes to build all objects of one result on one core, and in how much memory.

    python -m benchmarks.result_objects [--repeats 30]

A phantom film of 2048 x 1500 pixels and the Reading that is true of it; every kind of object (SR, picture, presentation state,
segmentation, PDF, key object note), encoded as it would be sent. Limits: 0.5 s a result, 300 MB resident for the process.
"""

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, Final

from models import refusal

OUT: Final = Path(__file__).resolve().parent / "result_objects.json"
LIMITS: Final = {"seconds": 0.5, "resident_mb": 300}
ROWS, COLUMNS = 2048, 1500


def main() -> None:
    """Measure in a process of its own, so that drawing the phantom costs it no memory; write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--measure", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.repeats)))
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        prepare(Path(folder))
        command = [sys.executable, "-m", "benchmarks.result_objects", "--measure", folder]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        done = subprocess.run(
            [*command, "--repeats", str(options.repeats)],
            env={**os.environ, **threads},
            capture_output=True,
            text=True,
            check=True,
        )
    result = {
        "command": "python -m benchmarks.result_objects",
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; one core used",
        "load_average": round(os.getloadavg()[0], 1),
        "film": f"{ROWS} x {COLUMNS}, 12 bit",
        "limits": LIMITS,
        **json.loads(done.stdout.splitlines()[-1]),
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def prepare(folder: Path) -> None:
    """Draw the film and write what is true of it, as the delivery finds film and Reading."""
    from models.phantom import draw
    from service.wrap import Patient, wrap
    from tests.service import truth

    phantom = draw(3, age_years=9, rows=ROWS, columns=COLUMNS, laterality="L", rotation_degrees=0.0)
    wrap(phantom.image, Patient("TEST^BENCH", "T-1", phantom.sex), kind="DX", laterality="L").save_as(
        folder / "film.dcm", enforce_file_format=True
    )
    (folder / "reading.json").write_text(truth.reading(phantom).to_json(), encoding="utf-8")


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Build the result over and over on one core; the first one after the warm-up is told apart."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from models import pixels
    from models.reading import Reading
    from service.reporting import encoding, result_set, source
    from service.reporting.results import ResultContext
    from service.result_profile import BUILT_IN

    path = folder / "film.dcm"
    reading = Reading.from_json((folder / "reading.json").read_text(encoding="utf-8"))
    kinds = BUILT_IN["everything"].objects
    sizes: dict[str, int] = {}

    def build(*wanted: str) -> tuple[float, float]:
        chosen = tuple(kind for kind in kinds if kind in wanted)
        context = ResultContext("2.25.1", dt.datetime(2026, 11, 21, tzinfo=dt.UTC), kinds=chosen)
        began, worked = time.perf_counter(), time.process_time()
        film, image = source.load(path), cache(lambda: pixels.load(path))
        for kind, ds in result_set.of_reading(film, reading, context, image).items():
            sizes[kind] = len(encoding.encoded(ds))
        return time.perf_counter() - began, time.process_time() - worked

    imported_mb, began = _peak_mb(), time.perf_counter()
    result_set.warm_up("2.25.1")  # as a delivery worker does before it takes work
    warm_up = time.perf_counter() - began
    first, _ = build(*kinds)
    whole = sorted(build(*kinds) for _ in range(repeats))
    parts = {kind: _median(sorted(build(kind)[1] for _ in range(max(3, repeats // 5)))) for kind in kinds}
    walls, works = [wall for wall, _ in whole], sorted(work for _, work in whole)
    return {
        "n": repeats,
        "seconds": {
            "median": round(_median(walls), 3),
            "p95": round(walls[int(0.95 * (repeats - 1))], 3),
            "maximum": round(walls[-1], 3),
            "warm_up": round(warm_up, 3),
            "first": round(first, 3),
        },
        "cpu_seconds": {"median": round(_median(works), 3), "maximum": round(works[-1], 3)},
        "cpu_ms_by_kind": {kind: round(1000 * seconds) for kind, seconds in parts.items()},
        "bytes_by_kind": sizes,
        "resident_mb": {
            "imported": round(imported_mb),
            "peak": round(_peak_mb()),
        },
    }


def _peak_mb() -> float:
    """Return the most memory this process has held; `ru_maxrss` would count what its parent held before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1000


def _median(values: list[float]) -> float:
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


if __name__ == "__main__":
    refusal.command(main)
