"""Read unseen phantoms with the whole Reader: accuracy of every method, time of every step, memory.

    python -m benchmarks.reader --films 100 --json benchmarks/accuracy/reader.json

Ends with one JSON line.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import refusal, registry
from models.engine import git_commit
from models.metrics.ages import compare
from models.metrics.bootstrap import estimate
from models.phantom import draw
from models.regions import RUS
from models.standards import RUS_CHN
from service import heaps

FIRST_SEED = 5_000_000


def main() -> None:
    """Draw, read, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=100)
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--rows", type=int, default=1400)
    parser.add_argument("--columns", type=int, default=1100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--first-seed", type=int, default=FIRST_SEED, help="of the phantoms; the one after it is read first"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    heaps.share_heaps()  # as the worker that reads films does
    pages_kept = heaps.keep_pages()
    torch.set_num_threads(options.threads)
    reader = registry.load(options.bundle)
    rejected, exact, near = 0, [], []
    timings: dict[str, list[float]] = {}
    ages: dict[str, list[tuple[float | None, float]]] = {}
    cpu = time.process_time()
    reading_cpu = 0.0
    for number in range(options.films + 1):
        phantom = draw(options.first_seed + number, rows=options.rows, columns=options.columns)
        cpu = time.process_time()
        reading = reader.read(phantom.image, phantom.sex)
        if number == 0:  # the first film also pays for what torch sets up once
            continue
        reading_cpu += time.process_time() - cpu
        for name, value in reading.timings_ms.items():
            timings.setdefault(name, []).append(value)
        if not reading.verdict.accepted:
            rejected += 1
            continue
        true = RUS_CHN.bone_age(phantom.total_score, phantom.sex).years
        if true is not None:
            for method in reading.methods:
                ages.setdefault(method.name, []).append((method.bone_age_years, true))
        offs = []
        for bone in RUS:
            region = reading.region(bone)
            levels = RUS_CHN.levels(bone)
            if region is not None and region.stage is not None:
                offs.append(abs(levels.index(region.stage.label) - levels.index(phantom.stages[bone])))
            else:
                offs.append(99)  # a bone without a stage counts as missed
        exact.append(float(np.mean(np.array(offs) == 0)))
        near.append(float(np.mean(np.array(offs) <= 1)))
    result: dict[str, Any] = {
        "benchmark": "reader",
        "data": f"{options.films} phantoms of {options.rows} x {options.columns}, seeds from {options.first_seed + 1}",
        "bundle": {"name": reader.bundle.name, "version": reader.bundle.version, "sha256": reader.bundle.sha256},
        "commit": git_commit(),
        "command": f"python -m benchmarks.reader --films {options.films} --bundle {options.bundle} "
        f"--first-seed {options.first_seed} --threads {options.threads}",
        "threads": options.threads,
        "pages_kept": pages_kept,
        "rejected": rejected,
        "milliseconds": {
            name: {"p50": round(float(np.median(v)), 1), "p95": round(float(np.percentile(v, 95)), 1)}
            for name, v in timings.items()
        },
        "cpu_milliseconds_a_film": round(1000 * reading_cpu / options.films, 1),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    if exact:
        result["stage_exact"] = estimate(np.array(exact), lambda rows: float(rows.mean())).to_dict()
        result["stage_within_one"] = estimate(np.array(near), lambda rows: float(rows.mean())).to_dict()
    for name, pairs in ages.items():
        if any(found is not None for found, _ in pairs):
            errors = compare([found for found, _ in pairs], [true for _, true in pairs], tolerance=1.0)
            result.setdefault("bone_age_mae_years", {})[name] = {**errors.mae.to_dict(), "missed": errors.missed}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    refusal.command(main)
