"""The whole loop as a hospital sees it: `carpus serve` with the shipped bundle, films over DICOM, results in the PACS."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless

from models.phantom import draw, draw_other
from service.queue.jobs import State
from service.wrap import Patient, wrap
from tests.collector import Collector, collecting
from tests.integration.serving import ROOT, Installation, serving
from tests.integration.test_serve import send, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CHILD = Patient("TEST^PHANTOM", "TEST-7", "F", date(2016, 5, 4))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def carpus(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("loop")
    command = ("service", "serve", "--config")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")  # ms; 5,000 unless it is set
        with serving(folder, command=command, tracing={"endpoint": collector.url}) as installation:
            yield installation


def returned(installation: Installation, film: Dataset) -> list[Dataset]:
    return [dcmread(path) for path in installation.pacs.files(film.StudyInstanceUID)]


def jobs_command(installation: Installation, *words: str) -> str:
    command = [sys.executable, "-m", "service", "jobs", *words, "--config", str(installation.config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_hand_comes_back_read_within_its_own_study_and_as_one_trace(
    carpus: Installation, collector: Collector
) -> None:
    film = wrap(draw(3, age_years=10, sex="F").image, CHILD, study="hand")
    send(carpus, film)
    wait_for(carpus.jobs, [film], State.CONFIRMED, 120)
    objects = returned(carpus, film)
    assert sorted(ds.Modality for ds in objects) == ["OT", "PR", "SEG", "SR"]
    for ds in objects:
        for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "SpecificCharacterSet"):
            assert ds[keyword].value == film[keyword].value
    report = next(ds for ds in objects if ds.Modality == "SR")
    assert report.CompletionFlag == "COMPLETE"
    assert report.VerificationFlag == "UNVERIFIED"
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert evidence.ReferencedSOPInstanceUID == film.SOPInstanceUID
    traced_to_the_end(carpus, collector, film)


def traced_to_the_end(installation: Installation, collector: Collector, film: Dataset) -> None:
    """Assert that every process has told the collector of its part of the film's one trace, and nothing of the patient."""
    wanted = {
        "receive": "carpus scp",
        "prepare": "carpus intake",
        "infer": "carpus worker inference",
        "deliver": "carpus worker delivery",
        "send": "carpus worker delivery",
    }
    (job,) = installation.jobs.find(film.SOPInstanceUID)
    trace = (job.traceparent or "--").split("-")[1]
    end = time.monotonic() + 30
    while not {*wanted, "confirm"} <= {span["name"] for span in collector.spans if span["trace"] == trace}:
        assert time.monotonic() < end, collector.spans
        time.sleep(0.1)
    spans = {span["name"]: span for span in collector.spans if span["trace"] == trace}
    assert {name: spans[name]["service"] for name in wanted} == wanted
    assert {spans[name]["told"]["carpus.job"] for name in wanted if name != "send"} == {job.id}
    assert {spans[name]["told"]["carpus.called_ae_title"] for name in ("send", "confirm")} == {"PACS"}
    for value in ("PHANTOM", film.PatientID, film.StudyInstanceUID, film.SOPInstanceUID, film.AccessionNumber):
        assert str(value) not in repr(collector.spans)


def until_confirmed(installation: Installation, job_id: int) -> None:
    """Wait for the storage commitment of a rejected film's report: REJECTED is final, its proof comes a little later."""
    end = time.monotonic() + 60
    while installation.jobs.get(job_id).confirmed_at is None:
        assert time.monotonic() < end, installation.jobs.timeline(job_id)
        time.sleep(0.05)


def test_a_chest_film_ends_rejected_with_its_reason_in_the_pacs_and_in_carpus_jobs(carpus: Installation) -> None:
    film = wrap(draw_other("chest", 3), CHILD, study="chest")
    send(carpus, film)
    wait_for(carpus.jobs, [film], State.REJECTED, 120)
    assert "SR" in [ds.Modality for ds in returned(carpus, film)]
    job_id = carpus.jobs.find(film.SOPInstanceUID)[0].id
    until_confirmed(carpus, job_id)
    detail = json.loads(jobs_command(carpus, "show", str(job_id), "--json"))
    assert detail["state"] == "REJECTED"
    assert detail["cause"]["code"] == "not-a-hand"
    assert [row["state"] for row in detail["results"]] == ["confirmed"] * len(detail["results"])
    listed = [json.loads(line) for line in jobs_command(carpus, "list", "--json", "--state", "rejected").splitlines()]
    assert job_id in [job["id"] for job in listed]


def unusable(kind: str) -> Dataset:
    if kind == "foot":
        return wrap(draw_other("foot", 5), CHILD, study=kind)
    if kind == "colour":
        return wrap(np.full((200, 150, 3), 90, np.uint8), CHILD, kind="SC", study=kind)
    film = wrap(draw_other("blank", 5), CHILD, study=kind, transfer_syntax=JPEGLSLossless)
    if kind == "no-pixel-data":
        del film.PixelData
    else:
        film.PixelData = encapsulate([b"\xff\xd8 not a code stream " * 40])
    return film


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("foot", "not-a-hand"),
        ("colour", "colour"),
        ("no-pixel-data", "no-pixel-data"),
        ("undecodable", "undecodable"),
    ],
)
def test_what_cannot_be_read_ends_rejected_and_comes_back_as_a_report(
    carpus: Installation, kind: str, code: str
) -> None:
    film = unusable(kind)
    send(carpus, film)
    wait_for(carpus.jobs, [film], State.REJECTED, 120)
    assert carpus.jobs.find(film.SOPInstanceUID)[0].cause_code == code
    assert "SR" in [ds.Modality for ds in returned(carpus, film)]


def test_the_listing_for_people_names_state_cause_and_timeline(carpus: Installation) -> None:
    film = wrap(draw_other("blank", 4), CHILD, study="blank")
    send(carpus, film)
    wait_for(carpus.jobs, [film], State.REJECTED, 120)
    job_id = carpus.jobs.find(film.SOPInstanceUID)[0].id
    assert "REJECTED" in jobs_command(carpus, "list")
    page = jobs_command(carpus, "show", str(job_id))
    for word in ("timeline", "received", "prepared", "inferred", "rejected", film.StudyInstanceUID):
        assert word in page
