"""Run a campaign from the command line; see the package."""

import argparse
import json
import platform
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.fuzz.campaign import campaign, findings
from models.engine import git_commit


def main() -> None:
    """Fuzz, print the findings and one JSON line; exit status 1 when there are findings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seeds", type=Path, help="folder of DICOM files to begin with, beside the phantoms")
    parser.add_argument("--seed", type=int, default=1, help="of the programs")
    parser.add_argument("--output", type=Path, help="also append the JSON to this file")
    arguments = parser.parse_args()
    figures = campaign(arguments.minutes * 60, folder=arguments.seeds, seed=arguments.seed)
    result = {
        "bench": "fuzz",
        "command": f"python -m benchmarks.fuzz --minutes {arguments.minutes:g} --seed {arguments.seed}"
        + (" --seeds FOLDER" if arguments.seeds else ""),
        "commit": git_commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores",
        "load": round(psutil.getloadavg()[0], 1),
        **figures,
    }
    if arguments.output:  # one campaign after the other
        earlier = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else []
        arguments.output.write_text(json.dumps([*earlier, result], indent=1) + "\n", encoding="utf-8")
    for text in (found := findings(result)):
        print(f"FINDING {text}")
    print(json.dumps(result))
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
