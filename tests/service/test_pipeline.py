"""The three steps on real files and a real database, with a reader that returns a known Reading."""

import dataclasses
import datetime as dt
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import Engine

from models.image import Image
from models.reading import Reading, Reason, Verdict
from models.regions import Sex
from service import pipeline
from service.deidentification.burned_in.cleaning import Cleaning
from service.errors import InvalidInstance, Permanent, Retryable
from service.pipeline import Pipeline
from service.queue.causes import decide
from service.queue.jobs import DuplicateInstance, Jobs, ReceivedInstance, ResultState, State
from service.reporting import codes
from service.sending.negotiation import EVERY_CLASS
from service.sending.requestor import Address
from service.sending.scu import Sent
from service.settings import Destination, RetrySettings, Settings
from service.storage import NotAFile, Stores
from service.trust.pseudonyms import Pseudonyms
from service.trust.vault import Vault
from tests.factories import CHILD, CHINESE_CHILD, encoded, instance
from tests.service import readings
from tests.service.test_jobs import Clock

PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)


@dataclass
class FakeReader:
    """Return the known Reading of the tests, and remember what it was given."""

    verdict: Verdict = field(default_factory=lambda: Verdict(True))
    known: Reading = field(default_factory=readings.reading)
    asked: list[tuple[Image, Sex | None, float | None]] = field(default_factory=list)

    def read(self, image: Image, sex: Sex | None, chronological_age: float | None = None) -> Reading:
        self.asked.append((image, sex, chronological_age))
        known = self.known
        facts = dataclasses.replace(known.image, rows=image.rows, columns=image.columns)
        return dataclasses.replace(known, image=facts, verdict=self.verdict)


@dataclass
class FakePacs:
    """Answer each instance as told; keep what was accepted."""

    answer: Callable[[Dataset], Exception | None] = lambda _ds: None
    kept: list[Dataset] = field(default_factory=list)
    calls: int = 0
    classes: frozenset[str] = frozenset(EVERY_CLASS)
    probes: int = 0

    def probe(self, _address: Address, _classes: Any, **_: Any) -> frozenset[str]:
        self.probes += 1
        return self.classes

    def __call__(self, address: Address, instances: Any, *, on_sent: Callable[[Sent], None], **_: Any) -> list[Sent]:
        self.calls += 1
        results = []
        for path in instances:
            ds = dcmread(path)
            error = self.answer(ds)
            if error is None:
                self.kept.append(ds)
            status = 0 if error is None else 0xA700
            results.append(Sent(ds.SOPInstanceUID, ds.SOPClassUID, status, error, 1.0))  # type: ignore[arg-type]
            on_sent(results[-1])
        return results

    @property
    def kinds(self) -> list[str]:
        return [ds.Modality for ds in self.kept]


class House:
    """One data directory with its pipeline."""

    def __init__(self, folder: Path, engine: Engine, destinations: tuple[Destination, ...] = (PACS,)) -> None:
        self.clock = Clock()
        self.jobs = Jobs(engine, process="test", clock=self.clock)
        self.stores = Stores.open(folder)
        self.reader = FakeReader()
        self.pacs = FakePacs()
        self.pipeline = Pipeline(
            self.jobs,
            self.stores,
            Settings(destinations=destinations),
            pseudonyms=Pseudonyms(bytes(32)),
            reader=self.reader,  # type: ignore[arg-type]  # a Reader of our own
            device_uid="2.25.1",
            send=self.pacs,
            probe=self.pacs.probe,
        )

    def receive(self, ds: Dataset) -> int:
        stored = self.stores.identified.write(encoded(ds))
        uids = ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")
        received = {keyword: str(ds[keyword].value) for keyword in uids}
        self.jobs.record_instance(
            ReceivedInstance(
                **received,
                TransferSyntaxUID=str(ds.file_meta.TransferSyntaxUID),
                digest=stored.sha256,
                byte_count=stored.byte_count,
                name=stored.name,
                calling_ae_title="PACS",
                called_ae_title="CARPUS",
                address="127.0.0.1",
            )
        )
        return self.jobs.find(received["SOPInstanceUID"])[0].id

    def step(self, job_id: int) -> State:
        before = State(self.jobs.get(job_id).state)
        claim = self.jobs.claim(job_id, before)
        assert claim is not None
        steps = {
            State.RECEIVED: self.pipeline.prepare,
            State.PREPARED: self.pipeline.infer,
            State.INFERRED: self.pipeline.deliver,
        }
        steps[before](claim)
        return State(self.jobs.get(job_id).state)

    def run(self, job_id: int) -> State:
        while (state := State(self.jobs.get(job_id).state)) in (State.RECEIVED, State.PREPARED, State.INFERRED):
            state = self.step(job_id)
        return state


@pytest.fixture
def house(tmp_path: Path, engine: Engine) -> House:
    return House(tmp_path, engine)


def hand(**options: Any) -> Dataset:
    return instance(rows=readings.ROWS, columns=readings.COLUMNS, **options)


def test_a_film_ends_delivered_with_every_object_in_its_own_study(house: House) -> None:
    film = hand()
    assert house.run(house.receive(film)) == State.DELIVERED
    assert sorted(house.pacs.kinds) == ["OT", "PR", "SEG", "SR"]
    for ds in house.pacs.kept:
        for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber"):
            assert ds[keyword].value == film[keyword].value
        assert ds.SeriesInstanceUID != film.SeriesInstanceUID


def test_inference_sees_the_pixels_the_sex_and_the_age_and_no_identity(house: House) -> None:
    film = hand()
    job_id = house.receive(film)
    house.step(job_id)
    job = house.jobs.get(job_id)
    copy = house.stores.deidentified.read(job.deidentified_name or "")
    for value in (film.PatientID, "CHILD", film.SOPInstanceUID, film.StudyInstanceUID, film.AccessionNumber):
        assert str(value).encode() not in copy
        assert str(value) not in repr({key: getattr(job, key) for key in job.__table__.columns.keys()})  # noqa: SIM118
    house.step(job_id)
    ((image, sex, age),) = house.reader.asked
    assert (image.rows, image.columns, sex) == (readings.ROWS, readings.COLUMNS, "F")
    assert age == pytest.approx((np.datetime64("2026-11-02") - np.datetime64("2016-05-04")).astype(int) / 365.25)
    assert house.jobs.get(job_id).reading is not None


def test_a_film_of_unknown_sex_is_read_without_a_default(house: House) -> None:
    film = hand()
    film.PatientSex = "O"
    job_id = house.receive(film)
    house.step(job_id)
    house.step(job_id)
    assert house.reader.asked[0][1] is None


def test_a_film_that_is_no_hand_ends_rejected_and_its_reason_reaches_the_pacs(house: House) -> None:
    house.reader.verdict = Verdict(False, (Reason("not-a-hand", "no hand was found"),))
    job_id = house.receive(hand())
    assert house.run(job_id) == State.REJECTED
    job = house.jobs.get(job_id)
    assert (job.cause_code, job.cause_text) == ("not-a-hand", "no hand was found")
    assert house.pacs.kinds[0] == "SR"


@pytest.mark.parametrize(
    ("film", "code"),
    [
        (lambda: hand(body_part="CHEST"), "wrong-body-part"),
        (lambda: hand(without=["PixelData"]), "no-pixel-data"),
    ],
)
def test_a_film_turned_away_by_its_header_ends_rejected_without_inference(
    house: House, film: Callable[[], Dataset], code: str
) -> None:
    ds = film()
    job_id = house.receive(ds)
    assert house.run(job_id) == State.REJECTED
    assert house.jobs.get(job_id).cause_code == code
    assert house.reader.asked == []
    assert house.pacs.kept[0].StudyInstanceUID == ds.StudyInstanceUID


def test_a_film_that_cannot_be_decoded_ends_rejected_and_the_next_one_is_read(house: House) -> None:
    broken = hand(transfer_syntax="1.2.840.10008.1.2.4.90")
    data = bytearray(broken.PixelData)
    data[60:] = bytes(len(data) - 60)
    broken.PixelData = bytes(data)
    job_id = house.receive(broken)
    assert house.run(job_id) == State.REJECTED
    assert house.jobs.get(job_id).cause_code == "undecodable"
    assert house.pacs.kinds[0] == "SR"
    assert house.run(house.receive(hand(seed=1))) == State.DELIVERED


def test_our_own_results_coming_back_are_filtered_and_nothing_is_sent(house: House) -> None:
    house.run(house.receive(hand()))
    calls = house.pacs.calls
    overview = next(ds for ds in house.pacs.kept if ds.Modality == "OT")
    assert house.run(house.receive(overview)) == State.FILTERED
    assert house.pacs.calls == calls
    assert [job.state for job in house.jobs.list()] == [State.DELIVERED]


def test_a_delivery_repeated_sends_only_what_was_not_accepted_and_the_same_bytes(house: House) -> None:
    job_id = house.receive(hand())
    house.step(job_id)
    house.step(job_id)
    house.pacs.answer = lambda ds: Retryable("full", code="status-a700") if ds.Modality == "SEG" else None
    claim = house.jobs.claim(job_id, State.INFERRED)
    assert claim is not None
    with pytest.raises(Retryable):
        house.pipeline.deliver(claim)
    first = {row.kind: (row.SOPInstanceUID, row.sha256, row.state) for row in house.jobs.results(job_id)}
    assert {kind: row[2] for kind, row in first.items()} == {
        kind: ResultState.BUILT if kind == "SEG" else ResultState.ACCEPTED for kind in ("SR", "SC", "GSPS", "SEG")
    }
    house.jobs.retry(job_id)
    house.clock.pass_seconds(3600)
    house.pacs.answer = lambda _ds: None
    house.pacs.kept.clear()
    assert house.run(job_id) == State.DELIVERED
    assert house.pacs.kinds == ["SEG"]
    second = {row.kind: (row.SOPInstanceUID, row.sha256) for row in house.jobs.results(job_id)}
    assert second == {kind: row[:2] for kind, row in first.items()}


def waiting_for_the_pacs(house: House) -> int:
    """Return a film whose results are made and lie here, since the PACS refused them for now."""
    job_id = house.receive(hand())
    house.step(job_id)
    house.step(job_id)
    house.pacs.answer = lambda _ds: Retryable("full", code="status-a700")
    claim = house.jobs.claim(job_id, State.INFERRED)
    assert claim is not None
    with pytest.raises(Retryable) as failed:
        house.pipeline.deliver(claim)
    house.jobs.retry_later(claim, "status-a700", str(failed.value), dt.timedelta(minutes=1))
    return job_id


@pytest.mark.parametrize("harm", ["damaged", "cut short", "gone"])
def test_a_result_that_the_disk_did_not_keep_is_made_anew_and_never_sent_damaged(house: House, harm: str) -> None:
    job_id = waiting_for_the_pacs(house)
    for row in house.jobs.results(job_id):
        path = house.stores.results.path(row.name)
        if harm == "gone":
            path.unlink()
        else:
            whole = bytearray(path.read_bytes())
            whole[-9] ^= 1
            path.write_bytes(whole if harm == "damaged" else whole[:-40])
    house.clock.pass_seconds(3600)
    house.pacs.answer = lambda _ds: None
    assert house.run(job_id) == State.DELIVERED
    rows = house.jobs.results(job_id)
    assert sorted(house.pacs.kinds) == ["OT", "PR", "SEG", "SR"]
    assert all(house.stores.results.holds(row.name, row.sha256) for row in rows)


@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_result_ends_the_delivery_with_its_name_and_is_not_waited_for(house: House) -> None:
    job_id = waiting_for_the_pacs(house)
    path = house.stores.results.path(house.jobs.results(job_id)[0].name)
    path.unlink()
    os.mkfifo(path)
    house.clock.pass_seconds(3600)
    house.pacs.answer = lambda _ds: None
    claim = house.jobs.claim(job_id, State.INFERRED)
    assert claim is not None
    with pytest.raises(NotAFile) as refused:
        house.pipeline.deliver(claim)
    found = decide(refused.value, attempts=2, failing_since=None, now=house.clock(), retry=RetrySettings())
    assert found.last
    assert found.text == f"{path} is a pipe and no file"
    assert found.next_action.startswith("remove it")


def test_one_destination_that_refuses_does_not_keep_the_others_waiting(tmp_path: Path, engine: Engine) -> None:
    archive = PACS.model_copy(update={"name": "archive", "profile": "report-zh"})
    house = House(tmp_path, engine, (PACS, archive))
    job_id = house.receive(hand())
    house.step(job_id)
    house.step(job_id)
    send = house.pacs.__call__

    def refuse_the_first(address: Address, instances: Any, **options: Any) -> list[Sent]:
        if house.pacs.calls == 0:
            house.pacs.calls += 1
            raise Permanent("not known there", code="calling-ae-refused", next_action="register CARPUS")
        return send(address, instances, **options)

    pipeline = dataclasses.replace(house.pipeline, send=refuse_the_first)
    claim = house.jobs.claim(job_id, State.INFERRED)
    assert claim is not None
    with pytest.raises(Permanent, match="not known there"):
        pipeline.deliver(claim)
    states = {(row.destination, row.kind): row.state for row in house.jobs.results(job_id)}
    assert states["archive", "SR"] == ResultState.ACCEPTED
    assert states["pacs", "SR"] == ResultState.REFUSED


def test_without_a_destination_the_job_says_what_to_configure(tmp_path: Path, engine: Engine) -> None:
    house = House(tmp_path, engine, ())
    job_id = house.receive(hand())
    house.step(job_id)
    house.step(job_id)
    with pytest.raises(Permanent, match="no destination") as caught:
        house.step(job_id)
    assert "destinations" in caught.value.next_action


def test_a_second_reading_of_a_film_is_new_objects_beside_the_first(house: House) -> None:
    first = house.receive(hand())
    house.run(first)
    second = house.jobs.requeue(first)
    assert house.run(second) == State.DELIVERED
    uids = [{row.SOPInstanceUID for row in house.jobs.results(job_id)} for job_id in (first, second)]
    assert not uids[0] & uids[1]


def test_the_same_film_with_a_new_bundle_gets_a_new_result_only_when_asked(house: House) -> None:
    first = house.receive(hand())
    house.run(first)
    old, sent = house.jobs.get(first), len(house.pacs.kept)
    made = {row.SOPInstanceUID: row.state for row in house.jobs.results(first)}
    newer = dataclasses.replace(house.reader.known.bundle, version="0.2", sha256="ab" * 32)
    house.reader.known = dataclasses.replace(house.reader.known, bundle=newer)

    with pytest.raises(DuplicateInstance):  # it is sent again
        house.receive(hand())
    house.clock.pass_seconds(86_400)
    house.jobs.sweep()  # as at every start
    assert house.jobs.unprepared(house.jobs.now(), 10) == []
    assert house.jobs.unpublished() == []
    assert [house.jobs.claim_next(state) for state in (State.PREPARED, State.INFERRED)] == [None, None]
    assert [job.id for job in house.jobs.list()] == [first]
    assert len(house.pacs.kept) == sent

    second = house.jobs.requeue(first)  # it is asked for
    assert house.run(second) == State.DELIVERED
    assert house.jobs.get(second).bundle_sha256 == newer.sha256
    assert house.jobs.get(first).bundle_sha256 == old.bundle_sha256 != newer.sha256
    assert {row.SOPInstanceUID: row.state for row in house.jobs.results(first)} == made
    fresh = {str(ds.SOPInstanceUID) for ds in house.pacs.kept[sent:]}
    assert len(fresh) == len(made)
    assert not fresh & made.keys()


def test_the_timeline_tells_how_long_each_part_took(house: House) -> None:
    job_id = house.receive(hand())
    house.run(job_id)
    events = {event.code: event.milliseconds for event in house.jobs.timeline(job_id)}
    for part in ("de-identified", "decoded", "results built", "sent to pacs"):
        assert events[part] is not None
    assert {"received", "prepared", "inferred", "delivered"} <= events.keys()


@pytest.mark.parametrize(
    ("keyword", "value"), [("PatientID", "OTHER"), ("PatientBirthDate", "20110101"), ("PatientSex", "M")]
)
def test_two_patients_in_one_study_end_failed_with_the_attribute_named(house: House, keyword: str, value: str) -> None:
    first, second = hand(seed=1), hand(seed=2)
    second.StudyInstanceUID = first.StudyInstanceUID
    for name in ("PatientID", "PatientBirthDate", "PatientSex"):
        setattr(second, name, getattr(first, name))
    setattr(second, keyword, value)
    jobs = [house.receive(first), house.receive(second)]
    for job_id in jobs:
        house.step(job_id)
        house.step(job_id)
        with pytest.raises(InvalidInstance, match=keyword) as refusal:
            house.step(job_id)
        assert refusal.value.code == "conflicting-patient"
        assert value not in str(refusal.value)
        assert value not in refusal.value.next_action
    assert house.pacs.kept == []
    house.jobs.cancel(jobs[1])  # the person says which one is wrong
    house.jobs.retry(jobs[0])
    house.clock.pass_seconds(3600)
    assert house.run(jobs[0]) == State.DELIVERED


def test_a_study_whose_instances_leave_something_empty_is_of_one_patient(house: House) -> None:
    first, second = hand(seed=1), hand(seed=2, without=["PatientBirthDate"])
    second.StudyInstanceUID, second.PatientID, second.PatientSex = first.StudyInstanceUID, first.PatientID, "F"
    second.PatientName = "TEST^C^^^"
    assert [house.run(house.receive(ds)) for ds in (first, second)] == [State.DELIVERED, State.DELIVERED]


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_film_without_an_identifier_that_a_result_needs_ends_failed_by_its_name(house: House, keyword: str) -> None:
    film = hand()
    job_id = house.receive(film)
    path = house.stores.identified.path(house.jobs.instance(house.jobs.get(job_id).instance_id).name)
    stripped = dcmread(path)
    del stripped[keyword]
    stripped.save_as(path, enforce_file_format=True)
    house.step(job_id)
    house.step(job_id)
    with pytest.raises(InvalidInstance, match=f"{keyword} is missing") as refusal:
        house.step(job_id)
    assert keyword in refusal.value.next_action
    assert house.pacs.kept == []


def test_delivery_takes_the_identity_from_the_sealed_header_and_from_nowhere_else(house: House, tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault.sqlite", Pseudonyms(bytes(32)))
    house.pipeline = dataclasses.replace(house.pipeline, vault=vault)
    film = hand(patient=CHINESE_CHILD)
    job = house.receive(film)
    house.step(job)
    house.step(job)
    header = vault.header(job)
    assert header is not None
    assert (
        dcmread(BytesIO(header)).get_item("PatientName").value
        == dcmread(BytesIO(encoded(film))).get_item("PatientName").value
    )
    assert b"TEST-2" not in (tmp_path / "vault.sqlite").read_bytes()
    # The file on the disk now names somebody else: the report must not.
    name = house.jobs.instance(house.jobs.get(job).instance_id).name
    house.stores.identified.path(name).write_bytes(encoded(hand(patient=CHILD)))
    house.step(job)
    assert {str(ds.PatientID) for ds in house.pacs.kept} == {CHINESE_CHILD.PatientID}


def test_a_side_marker_reaches_the_report_where_it_contradicts_the_thumb(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "clean_instance", lambda *_: Cleaning(markers=("R",)))
    job = house.receive(instance(rows=readings.ROWS, columns=readings.COLUMNS))
    house.run(job)
    reading = Reading.from_json(house.jobs.get(job).reading or "")
    assert (reading.image.laterality, reading.image.laterality_marked) == ("L", "R")
    (report,) = (ds for ds in house.pacs.kept if ds.Modality == "SR")
    text = report.to_json()
    assert codes.SIDE_MARKER.english in text
    assert "the side marker on the film says right, the thumb lies as on a left hand" in text


def test_two_side_markers_name_no_side(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "clean_instance", lambda *_: Cleaning(markers=("L", "R")))
    job = house.receive(instance(rows=readings.ROWS, columns=readings.COLUMNS))
    house.run(job)
    assert Reading.from_json(house.jobs.get(job).reading or "").image.laterality_marked is None
