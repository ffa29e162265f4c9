"""Send real films through the whole service as a PACS would, and write what came back as a table.

    python -m benchmarks.real_films --data ../shared/data/rsna --folder fullres

`--data` holds `images.csv` (id, file, rows, columns, bone_age_months, sex) and the films it names. The films stay where they are; they
are wrapped into DICOM in memory, stored into the PACS and routed on. A film that comes back without an SR is counted as missed.
"""

import argparse
import csv
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from models import pixels, refusal
from models.engine import git_commit
from models.metrics import ages, bootstrap
from models.reading import Reading
from service import log
from service.demo import run as demo
from service.wrap import Patient, wrap


def main() -> None:
    """Run, write the table, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", default="fullres", help="which films: the first part of `file` in images.csv")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    parser.add_argument(
        "--orthanc", action="store_true", help="Orthanc as the PACS instead of the built-in storage SCP"
    )
    arguments = parser.parse_args()
    log.configure("WARNING", as_json=False)
    rows = [row for row in _table(arguments.data) if row["file"].startswith(arguments.folder + "/")]
    films = [_film(arguments.data, number, row) for number, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        outcomes = demo.run(Path(folder), films, orthanc=arguments.orthanc)
    result = summary(arguments.folder, rows, outcomes, orthanc=arguments.orthanc)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def summary(
    folder: str, rows: list[dict[str, str]], outcomes: list[demo.Outcome], *, orthanc: bool
) -> dict[str, object]:
    """Return the per-case rows and, by method, the mean absolute error with its 95 % interval over films."""
    cases = []
    errors: dict[str, list[float]] = {}
    for row, outcome in zip(rows, outcomes, strict=True):
        reading = Reading.from_json(outcome.job.reading) if outcome.job.reading else None
        truth = float(row["bone_age_months"]) / 12
        ages = {m.name: m.bone_age_years for m in reading.methods} if reading else {}
        for name, age in ages.items():
            if age is not None:
                errors.setdefault(name, []).append(age - truth)
        cases.append(
            {
                "id": row["id"],
                "sex": row["sex"],
                "truth_years": round(truth, 2),
                **{name: None if age is None else round(age, 2) for name, age in ages.items()},
                "state": outcome.job.state,
                "cause": outcome.job.cause_code,
                "regions": len(reading.regions) if reading else 0,
                "latency_seconds": outcome.latency_seconds,
                "returned": " ".join(outcome.kinds),
                "faults": "; ".join(outcome.faults),
            }
        )
    return {
        "bench": "real_films",
        "command": f"python -m benchmarks.real_films --data DATA --folder {folder}" + (" --orthanc" if orthanc else ""),
        "commit": git_commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "films": len(rows),
        "with_sr": sum("SR" in outcome.kinds for outcome in outcomes),
        "methods": {name: _error(values) for name, values in sorted(errors.items())},
        "cases": cases,
    }


def _error(errors: list[float]) -> dict[str, object]:
    months = np.asarray(errors) * 12
    estimate = bootstrap.estimate(months, ages.mae)
    return {
        "n": estimate.n,
        "mae_months": round(estimate.value, 1),
        "interval_95_months": [round(estimate.low, 1), round(estimate.high, 1)],
        "bias_months": round(float(months.mean()), 1),
    }


def _table(data: Path) -> list[dict[str, str]]:
    with (data / "images.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _film(data: Path, number: int, row: dict[str, str]) -> demo.Film:
    patient = Patient(f"TEST^FILM {number}", f"FILM-{row['id']}", row["sex"])
    image = pixels.load(data / row["file"])
    ds = wrap(image, patient, kind="DX" if number % 2 else "CR")
    return demo.Film(row["id"], ds, float(row["bone_age_months"]) / 12)


if __name__ == "__main__":
    refusal.command(main)
