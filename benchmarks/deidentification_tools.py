"""Run other open tools for de-identification over a folder of instances, in an environment of their own.

    python deidentification_tools.py IN OUT

It needs pydicom and the tools of `deidentification_tools.txt` alone; `benchmarks.deidentification` makes that environment, calls this
file in it and counts what is left in OUT/TOOL/FILE. Each tool runs as its documentation shows first. The last line is what became of
every file, as JSON.
"""

import json
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pydicom

Tool = Callable[[Path], Any]


def dicognito() -> Tool:
    """Return dicognito with a fixed seed."""
    from dicognito.anonymizer import Anonymizer  # type: ignore[import-not-found]

    def run(path: Path) -> Any:
        ds = pydicom.dcmread(path)
        Anonymizer(seed="carpus").anonymize(ds)
        return ds

    return run


def dicom_anonymizer(edition: str) -> Tool:
    """Return dicom-anonymizer with the rules of one edition of the standard."""
    from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, initialize_actions

    def run(path: Path) -> Any:
        ds = pydicom.dcmread(path)
        anonymize_dataset(ds, base_rules_gen=lambda: initialize_actions(edition))
        return ds

    return run


def deid() -> Tool:
    """Return deid with its own recipe for every image, private attributes removed as its documentation advises."""
    from deid.config import DeidRecipe  # type: ignore[import-not-found]
    from deid.dicom import replace_identifiers  # type: ignore[import-not-found]

    def run(path: Path) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "in.dcm"
            shutil.copy(path, copy)
            (cleaned,) = replace_identifiers([str(copy)], deid=DeidRecipe(), save=False, remove_private=True)
        return cleaned

    return run


def main() -> None:
    """Run every tool over every file."""
    source, target = map(Path, sys.argv[1:3])
    warnings.simplefilter("ignore")
    tools = {
        f"dicognito {version('dicognito')}": dicognito(),
        f"dicom-anonymizer {version('dicom-anonymizer')}, 2023": dicom_anonymizer("dicomfields_2023"),
        f"dicom-anonymizer {version('dicom-anonymizer')}, 2026c": dicom_anonymizer("dicomfields_2026c"),
        f"deid {version('deid')}": deid(),
    }
    results: dict[str, dict[str, dict[str, Any]]] = {}
    with pydicom.config.disable_value_validation():
        for name, run in tools.items():
            (target / name).mkdir(parents=True)
            for path in sorted(source.iterdir()):
                began = time.perf_counter()
                try:
                    # What some tools leave as file meta information makes no valid file.
                    run(path).save_as(
                        target / name / path.name, enforce_file_format=False, implicit_vr=False, little_endian=True
                    )
                except Exception as error:  # noqa: BLE001 - whatever another tool raises is its result here
                    outcome: dict[str, Any] = {"failed": type(error).__name__}
                else:
                    outcome = {"milliseconds": round(1000 * (time.perf_counter() - began))}
                results.setdefault(name, {})[path.stem] = outcome
    print(json.dumps(results))


if __name__ == "__main__":
    main()
