"""Count the identifiers that de-identification leaves in seeded instances, beside other open tools on the same files.

    python -m benchmarks.deidentification [--json benchmarks/deidentification.json]

Every attribute of PS3.15 Table E.1-1 holds a marker of its own, and so do private attributes, an overlay, a nested sequence, the
preamble and the file meta information; a marker found in the bytes of the output is an identifier left. The other tools run in an
environment that is made for this and removed again (`deidentification_tools.txt`; needs a package index), as their documentation
shows first; a tool may keep attributes by intention, which the count does not forgive to anybody.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from models import refusal
from service.deidentification.confidentiality import load
from service.deidentification.deidentify import deidentify, for_inference
from service.errors import CarpusError
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


def ours() -> dict[str, Tool]:
    """Return what Carpus does, by name and version."""
    pseudonyms = Pseudonyms(b"k" * 32)
    return {
        f"carpus {version('carpus')}": lambda ds: deidentify(ds, pseudonyms)[0],
        f"carpus {version('carpus')}, copy for inference": lambda ds: for_inference(ds, pseudonyms),
    }


def others(seeds: dict[str, tuple[bytes, Seeds]]) -> dict[str, dict[str, Any]]:
    """Return what is left by the other tools, by name and kind."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        place, source, target = Path(folder) / "environment", Path(folder) / "in", Path(folder) / "out"
        venv.create(place, with_pip=True)
        python = str(place / "bin" / "python")
        requirements = str(here / "deidentification_tools.txt")
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "-r", requirements], check=True, timeout=900)
        source.mkdir()
        for kind, (data, _) in seeds.items():
            (source / f"{kind}.dcm").write_bytes(data)
        ran = subprocess.run(
            [python, str(here / "deidentification_tools.py"), str(source), str(target)],
            capture_output=True, text=True, check=True, timeout=900,
        )  # fmt: skip
        rows: dict[str, dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
        for name, row in rows.items():
            for kind, cell in row.items():
                markers = [marker for found in seeds[kind][1].markers.values() for marker in found]
                output = b"" if "failed" in cell else (target / name / f"{kind}.dcm").read_bytes()
                cell["planted"] = len(markers)
                cell["left"] = None if "failed" in cell else sum(marker in output for marker in markers)
    return rows


def measure(tool: Tool, kind: str, data: bytes, seeds: Seeds) -> dict[str, Any]:
    """Return the markers put in and left by Carpus, and the time; a refusal says with what."""
    planted = sum(len(markers) for markers in seeds.markers.values())
    began = time.perf_counter()
    try:
        output = written(tool(from_bytes(data)))
    except CarpusError as error:
        return {"planted": planted, "left": None, "failed": type(error).__name__}
    milliseconds = round(1000 * (time.perf_counter() - began))
    left = sum(marker in output for markers in seeds.markers.values() for marker in markers)
    kept = {tag for tag in load().rows if load().rule(tag, image=kind != "SR").letter == "K"}
    return {
        "planted": planted,
        "left": left,
        "milliseconds": milliseconds,
        "left_besides_retained": len(seeds.left_in(output, besides=kept)),
    }


def written(ds: Dataset) -> bytes:
    """Return the bytes of an output."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=False, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def main() -> None:
    """Run every tool on every kind and print the table; the last line is the result as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    kinds = ("CR", "DX", "SC", "SR")
    with config.disable_value_validation():
        inputs = {kind: seeded(kind) for kind in kinds}
        rows = {name: {kind: measure(tool, kind, *inputs[kind]) for kind in kinds} for name, tool in ours().items()}
        rows |= others(inputs)
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
    refusal.command(main)
