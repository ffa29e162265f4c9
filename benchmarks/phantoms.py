"""Measure what drawing a phantom costs: python -m benchmarks.phantoms [--films 60].

Time of the processor, one thread, so that other work on the machine does not enter it (it still takes caches and clock away).
"""

import argparse
import json
import platform
import shlex
import sys
import time
from pathlib import Path

import numpy as np

from models import engine, phantom, refusal
from models.metrics.bootstrap import estimate

OUT = Path(__file__).parent / "accuracy" / "phantoms.json"
AIM = 10  # films a second and core


def main() -> None:
    """Draw films and write what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=60)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--columns", type=int, default=800)
    parser.add_argument("--output", type=Path, default=OUT)
    arguments = parser.parse_args()
    phantom.draw(0, rows=arguments.rows, columns=arguments.columns)  # what is drawn once for all films
    taken = []
    for seed in range(arguments.films):
        start = time.process_time()
        phantom.draw(seed, rows=arguments.rows, columns=arguments.columns)
        taken.append(time.process_time() - start)
    rows = np.array(taken)[:, None]
    result = {
        "command": f"python -m benchmarks.phantoms {shlex.join(sys.argv[1:])}".strip(),
        "commit": engine.git_commit(),
        "machine": platform.machine(),
        "film": f"{arguments.rows} x {arguments.columns} pixels",
        "interval": "95 %, bootstrap over films",
        "aim, films a second and core": AIM,
        "films a second of processor time": estimate(rows, lambda r: float(1 / r.mean())).to_dict(),
        "seconds of the processor a film, median": estimate(rows, lambda r: float(np.median(r))).to_dict(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    refusal.command(main)
