"""Count the identifiers that de-identification leaves in seeded instances, beside other open tools where they are installed.

    python -m benchmarks.deidentification [--json benchmarks/deidentification.json]

Every attribute of PS3.15 Table E.1-1 holds a marker of its own, and so do private attributes, an overlay, a nested sequence, the
preamble and the file meta information; a marker found in the bytes of the output is an identifier left. Each tool runs as its
documentation shows first; it may keep attributes by intention, which the count does not forgive to anybody.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from service.deidentification.confidentiality import load
from service.deidentification.deidentify import deidentify, for_inference
from service.trust.pseudonyms import Pseudonyms
from tests.factories import instance
from tests.service.seeded import Seeds, from_bytes, seed, to_bytes

Tool = Callable[[Dataset], Dataset]
FRAME = frozenset({0x00080016, 0x00080018, 0x7FE00010})
HIDDEN = "SEED-HIDDEN"
COMPREHENSIVE_SR = UID("1.2.840.10008.5.1.4.1.1.88.33")


def seeded(kind: str) -> tuple[bytes, Seeds]:
    """Return the bytes of a seeded instance (CR, DX, SC or SR) and its markers."""
    ds = instance(kind="CR" if kind == "SR" else kind)
    if kind == "SR":
        del ds.PixelData
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = COMPREHENSIVE_SR
    seeds = Seeds()
    tags = [tag for tag in load().rows if tag >> 16 not in (0x0000, 0x0002, 0x0004)]
    seed(ds, tags, seeds, without=FRAME)
    nested = Dataset()
    seed(nested, tags, seeds, without=FRAME)
    ds.AnatomicRegionSequence = Sequence([nested])
    ds.private_block(0x0009, "ACME", create=True).add_new(0x01, "LO", seeds.value(0x00090001, "LO"))
    ds.add_new(0x60000022, "LO", seeds.value(0x60000022, "LO"))
    ds.add_new(0x60003000, "OW", seeds.value(0x60003000, "OW"))
    ds.file_meta.SourceApplicationEntityTitle = seeds.value(0x00020016, "AE")
    ds.preamble = seeds.value(0x00000001, "LO").encode().ljust(128, b"\0")
    return to_bytes(ds), seeds


def tools() -> dict[str, Tool]:
    """Return what can be run here, by name and version."""
    pseudonyms = Pseudonyms(b"k" * 32)
    found: dict[str, Tool] = {
        f"carpus {version('carpus')}": lambda ds: deidentify(ds, pseudonyms)[0],
        f"carpus {version('carpus')}, copy for inference": lambda ds: for_inference(ds, pseudonyms),
    }
    if find_spec("dicognito"):
        from dicognito.anonymizer import Anonymizer  # type: ignore[import-not-found]

        def dicognito(ds: Dataset) -> Dataset:
            Anonymizer(seed="carpus").anonymize(ds)
            return ds

        found[f"dicognito {version('dicognito')}"] = dicognito
    if find_spec("dicomanonymizer"):
        from dicomanonymizer.simpledicomanonymizer import (
            anonymize_dataset,
            initialize_actions,
        )

        def dicom_anonymizer(edition: str) -> Tool:
            def run(ds: Dataset) -> Dataset:
                anonymize_dataset(ds, base_rules_gen=lambda: initialize_actions(edition))
                return ds

            return run

        for edition in ("dicomfields_2023", "dicomfields_2026c"):
            found[f"dicom-anonymizer {version('dicom-anonymizer')}, {edition[-5:].strip('_')}"] = dicom_anonymizer(
                edition
            )
    if find_spec("deid"):
        from deid.config import DeidRecipe  # type: ignore[import-not-found]
        from deid.dicom import replace_identifiers  # type: ignore[import-not-found]

        def deid(ds: Dataset) -> Dataset:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "in.dcm"
                path.write_bytes(to_bytes(ds))
                # Its own recipe for every image; private attributes removed as its documentation advises.
                cleaned: Dataset
                (cleaned,) = replace_identifiers([str(path)], deid=DeidRecipe(), save=False, remove_private=True)
            return cleaned

        found[f"deid {version('deid')}"] = deid
    return found


def measure(tool: Tool, kind: str) -> dict[str, Any]:
    """Return the markers put in and left, and the time; a tool that fails says with what."""
    data, seeds = seeded(kind)
    planted = sum(len(markers) for markers in seeds.markers.values())
    began = time.perf_counter()
    try:
        output = written(tool(from_bytes(data)))
    except Exception as error:  # noqa: BLE001 - whatever another tool raises is its result here
        return {"planted": planted, "left": None, "failed": type(error).__name__}
    milliseconds = round(1000 * (time.perf_counter() - began))
    left = sum(marker in output for markers in seeds.markers.values() for marker in markers)
    result = {"planted": planted, "left": left, "milliseconds": milliseconds}
    if tool_is_ours(tool):
        kept = {tag for tag in load().rows if load().rule(tag, image=kind != "SR").letter == "K"}
        result["left_besides_retained"] = len(seeds.left_in(output, besides=kept))
    return result


def written(ds: Dataset) -> bytes:
    """Return the bytes of an output; some tools leave file meta information that makes no valid file."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=False, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def tool_is_ours(tool: Tool) -> bool:
    """Whether the profile whose options keep some attributes is ours."""
    return tool.__module__ == __name__ and tool.__name__ == "<lambda>"


def main() -> None:
    """Run every tool on every kind and print the table; the last line is the result as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    kinds = ("CR", "DX", "SC", "SR")
    with config.disable_value_validation():
        rows = {name: {kind: measure(tool, kind) for kind in kinds} for name, tool in tools().items()}
    for name, row in rows.items():
        cells = [
            f"{kind} {r['left'] if r['left'] is not None else r['failed']} of {r['planted']}" for kind, r in row.items()
        ]
        print(f"{name:42} {', '.join(cells)}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    result = {
        "benchmark": "identifiers left in seeded instances",
        "command": "python -m benchmarks.deidentification",
        "commit": commit.strip(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "python": sys.version.split()[0],
        "n": len(kinds),
        "tools": rows,
    }
    line = json.dumps(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
