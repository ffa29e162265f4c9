"""Orthanc as the archive: a repeated delivery adds nothing, a correction stands beside what it corrects, priors are found there."""

import dataclasses
import datetime as dt
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import Engine

from service import db
from service.demo.pacs import find_orthanc, stop, wait_until
from service.queue.jobs import State
from service.sending import scu
from service.sending.requestor import Address
from service.settings import Destination, PriorSettings, Settings
from tests.factories import instance
from tests.integration.serving import free_ports
from tests.service import readings
from tests.service.test_amendments import UP, StagedReader, amendments
from tests.service.test_pipeline import House
from tests.service.test_priors import CHILD
from tests.service.test_sr import child, children, value
from tests.system.tools import tool

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


class Archive:
    """An Orthanc with what it holds."""

    def __init__(self, url: str, port: int, priors_port: int) -> None:
        self.url, self.port, self.priors_port = url, port, priors_port
        self.address = Address("ARCHIVE", "127.0.0.1", port)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.loads(answer.read())

    def uids(self) -> list[str]:
        return sorted(
            self.get(f"/instances/{each}/simplified-tags")["SOPInstanceUID"] for each in self.get("/instances")
        )


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    tool("Orthanc", "orthanc")
    program = find_orthanc()
    assert program is not None
    http, dicom, priors_port = free_ports(3)
    configuration = {
        "DicomAet": "ARCHIVE",
        "DicomPort": dicom,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "storage"),
        "Plugins": [],
        "DicomAlwaysAllowGet": True,
        "DicomModalities": {
            "carpus": {"AET": "CARPUS", "Host": "127.0.0.1", "Port": priors_port},
            "priors": {"AET": "CARPUS-PRIORS", "Host": "127.0.0.1", "Port": priors_port},
        },
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration), encoding="utf-8")
    made = Archive(f"http://127.0.0.1:{http}", dicom, priors_port)

    def answers() -> bool:
        try:
            return bool(made.get("/system"))
        except OSError:
            return False

    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(tmp_path / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until(answers, 60, "Orthanc to answer")
            yield made
        finally:
            stop(process)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = db.connect(f"sqlite:///{tmp_path / 'carpus.sqlite'}")
    db.migrate(engine)
    yield engine
    engine.dispose()


def house(folder: Path, engine: Engine, archive: Archive, **options: Any) -> House:
    """Return an installation that delivers to the archive over DICOM."""
    pacs = Destination(name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=archive.port, **options)
    made = House(folder, engine, (pacs,))
    made.pipeline = dataclasses.replace(
        made.pipeline,
        settings=Settings(destinations=(pacs,)),
        reader=StagedReader(),  # type: ignore[arg-type]  # a Reader of our own
        send=scu.store,
        probe=scu.accepted_classes,
    )
    return made


def film(at: dt.datetime) -> Dataset:
    size = {"rows": readings.ROWS, "columns": readings.COLUMNS}
    return instance(patient=CHILD, at=at, study=str(at), kind="DX", **size)


NOW = dt.datetime(2026, 11, 2, 9, 30, tzinfo=dt.UTC)


def test_a_repeated_delivery_sends_the_same_instances_and_adds_none(
    tmp_path: Path, engine: Engine, archive: Archive
) -> None:
    one = house(tmp_path / "a", engine, archive, profile="everything")
    job_id = one.receive(film(NOW))
    assert one.run(job_id) == State.DELIVERED
    first = archive.uids()
    assert first == sorted(row.SOPInstanceUID for row in one.jobs.results(job_id))
    assert len(first) == 6
    # What a crash after the send and before its record leaves behind: everything is built and sent once more.
    again = scu.store(
        archive.address,
        [one.stores.results.path(row.name) for row in one.jobs.results(job_id)],
        calling_ae_title="CARPUS",
    )
    assert all(sent.accepted for sent in again)
    assert archive.uids() == first
    # An installation that lost its database reads the same film anew: the same objects, byte for byte their identifiers.
    other_engine = db.connect(f"sqlite:///{tmp_path / 'other.sqlite'}")
    db.migrate(other_engine)
    other = house(tmp_path / "b", other_engine, archive, profile="everything")
    assert other.run(other.receive(film(NOW))) == State.DELIVERED
    other_engine.dispose()
    assert archive.uids() == first
    assert archive.get("/statistics")["CountInstances"] == 6


def test_a_correction_stands_beside_what_it_corrects_in_the_same_study(
    tmp_path: Path, engine: Engine, archive: Archive
) -> None:
    one = house(tmp_path, engine, archive)
    job_id = one.receive(film(NOW))
    one.run(job_id)
    made = amendments(one).amend(job_id, stages={"mc5": UP["mc5"]}, observer="Li^Wei", verify=True)
    assert one.run(made) == State.DELIVERED
    assert archive.get("/statistics")["CountStudies"] == 1
    flags = [archive.get(f"/instances/{each}/simplified-tags") for each in archive.get("/instances")]
    reports = {tags["SOPInstanceUID"]: tags for tags in flags if tags["Modality"] == "SR"}
    assert sorted(tags["VerificationFlag"] for tags in reports.values()) == ["UNVERIFIED", "VERIFIED"]
    verified = next(tags for tags in reports.values() if tags["VerificationFlag"] == "VERIFIED")
    (study,) = verified["PredecessorDocumentsSequence"]
    predecessor = study["ReferencedSeriesSequence"][0]["ReferencedSOPSequence"][0]["ReferencedSOPInstanceUID"]
    assert reports[predecessor]["VerificationFlag"] == "UNVERIFIED"


@pytest.mark.parametrize("retrieve", ["get", "move"])
def test_the_report_of_last_year_is_found_in_orthanc_and_compared(
    retrieve: Any, tmp_path: Path, engine: Engine, archive: Archive
) -> None:
    port = archive.priors_port if retrieve == "move" else None
    asked = PriorSettings(retrieve=retrieve, timeout_seconds=60, move_port=port)
    one = house(tmp_path, engine, archive, priors=asked)
    earlier = one.receive(film(NOW - dt.timedelta(days=365)))
    assert one.run(earlier) == State.DELIVERED
    job_id = one.receive(film(NOW))
    assert one.run(job_id) == State.DELIVERED
    notes = [event.text for event in one.jobs.timeline(job_id) if event.code == "priors"]
    assert notes == ["pacs: 1 earlier studies, 4 bone ages, 4 of them comparable"]
    name = next(row.name for row in one.jobs.results(job_id) if row.kind == "SR")
    report = one.stores.results.path(name)
    listed = children(child(dcmread(report), "EARLIERAGES"), "EARLIERAGE")
    assert len(listed) == 4
    known = {method.bone_age_years for method in readings.staged().methods}
    assert {value(item) for item in listed} == known
