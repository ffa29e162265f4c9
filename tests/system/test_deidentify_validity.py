"""Copies without identity are as valid as their originals, by the judgement of dciodvfy."""

import shutil
import subprocess
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from service.deidentification.deidentify import deidentify
from service.trust.pseudonyms import Pseudonyms
from tests.factories import instance
from tests.service.seeded import from_bytes, to_bytes

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed"),
]


def errors(ds: Dataset, path: Path) -> set[str]:
    path.write_bytes(to_bytes(ds))
    run = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return {line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")}


@pytest.mark.parametrize("kind", ["CR", "DX", "DX-PROCESSING", "SC"])
def test_deidentification_adds_no_error(kind: str, tmp_path: Path) -> None:
    film = instance(kind=kind)
    film.OperatorsName = "TEST^OPERATOR"
    film.InstitutionName = "TEST"
    film.StationName = "CRROOM1"
    film.DeviceSerialNumber = "1"
    film.ProtocolName = "Hand"
    film.ContrastBolusAgent = ""
    film.RequestAttributesSequence = [Dataset()]
    film.RequestAttributesSequence[0].RequestedProcedureID = "1"
    film.RequestAttributesSequence[0].ScheduledProcedureStepID = "1"
    before = errors(film, tmp_path / "before.dcm")
    copy, _ = deidentify(from_bytes(to_bytes(film)), Pseudonyms(b"k" * 32))
    assert errors(copy, tmp_path / "after.dcm") - before == set()
