"""Every object we make of every kind of source, by the judgement of dciodvfy and dcentvfy.

    python -m tests.system.validator_matrix [--processes 2] [--films 160]

The 1,280 films of `test_validators.whole_product`, of which the tests themselves take the 40 that hold every pair of properties.
The result stands in `benchmarks/validator_matrix.json`. Ends with status 1 when an object has an error; the first ones are printed.
"""

import argparse
import datetime as dt
import json
import random
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.system.test_validators import faults, identifiers, whole_product

OUT: Final = Path(__file__).resolve().parents[2] / "benchmarks" / "validator_matrix.json"
SHOWN: Final = 20


def main() -> None:
    """Judge the films, write the result and print it as one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--films", type=int, help="so many, drawn from the product, always the same; left out: all")
    options = parser.parse_args()
    of = len(whole_product())
    films = min(options.films or of, of)
    began = time.monotonic()
    with ProcessPoolExecutor(options.processes) as pool:
        judged = list(pool.map(judge, sorted(random.Random(0).sample(range(of), films)), chunksize=8))
    wrong = [(name, errors) for name, _, errors in judged if errors]
    for name, errors in wrong[:SHOWN]:
        sys.stdout.write("\n  ".join([name, *errors]) + "\n")
    version = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${Version}", "dicom3tools"],
        capture_output=True,
        text=True,
        check=False,
    )
    result = {
        "command": "python -m tests.system.validator_matrix" + (f" --films {films}" if films < of else ""),
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
        "tools": version.stdout or "dicom3tools, version unknown",
        "films": films,
        "of": of,
        "objects": sum(objects for _, objects, _ in judged),
        "films_with_errors": len(wrong),
        "seconds": round(time.monotonic() - began),
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result) + "\n")
    raise SystemExit(bool(wrong))


def judge(place: int) -> tuple[str, int, list[str]]:
    """Return the name of one film, how many objects were made of it, and the errors in them."""
    film = whole_product()[place]
    with TemporaryDirectory() as folder:
        found = faults(film, Path(folder))
    errors = [f"{name}: {line}" for name, lines in found.items() for line in lines]
    return identifiers(film), len(found) - 1, errors


if __name__ == "__main__":
    main()
