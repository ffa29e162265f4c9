"""Removal by age, by disk and on demand: whole, accounted for, never against a hold, never what is unconfirmed."""

import io
import os
import re
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import update
from structlog.testing import capture_logs

from service.__main__ import cli
from service.auditing.follower import Follower
from service.auditing.trail import Trail
from service.deidentification.deidentify import patient_key
from service.ledger import UnknownJob
from service.queue.jobs import State
from service.retention import Held, Removed, Retention, Stuck, Unconfirmed
from service.settings import RetentionSettings
from service.storage import Stored, Stores
from service.tables import Instance, Job
from service.trust.pseudonyms import Pseudonyms
from service.wrap import wrap
from tests.service.installation import PATIENT, Installation

SUBJECT = "P-ABCDEFGHIJKL"
DAY = 86_400


class Films:
    """An installation whose rows have their files, and the retention that removes them."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.installation = Installation(folder)
        self.jobs = self.installation.jobs
        self.clock = self.installation.clock
        self.stores = Stores.open(folder)
        self.trail = Trail(self.jobs.engine, clock=self.clock)
        self.disk = 0.1
        chosen = RetentionSettings.model_validate(settings)
        self.retention = Retention(
            self.jobs,
            self.trail,
            self.stores,
            self.installation.settings.model_copy(update={"retention": chosen}),
            disk_used=lambda: self.disk,
        )

    def film(self, job_id: int) -> int:
        """Give a job's rows their files and its patient; return the job."""
        instance = self.jobs.get(job_id).instance_id
        stored = self.stores.identified.write(b"film %d" % job_id)
        with self.jobs.engine.begin() as session:
            session.execute(update(Job).where(Job.id == job_id).values(subject=SUBJECT))
            session.execute(update(Instance).where(Instance.id == instance).values(name=stored.name))
        for row in self.jobs.results(job_id):
            path = self.stores.results.root / row.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"result")
        return job_id

    def quarantined(self, stored: Stored) -> None:
        """Record a file of the quarantine store that belongs to no film."""
        self.jobs.record_quarantine(
            code="x",
            text="x",
            name=stored.name,
            sha256=stored.sha256,
            SOPInstanceUID=None,
            calling_ae_title="PACS",
            address="127.0.0.1",
        )

    def files(self) -> int:
        stores = (self.stores.identified, self.stores.deidentified, self.stores.results, self.stores.quarantine)
        return sum(1 for store in stores for _ in store.names())


def test_a_confirmed_film_leaves_whole_when_its_days_are_over(tmp_path: Path) -> None:
    films = Films(tmp_path, films_days=30)
    job = films.film(films.installation.confirm())
    films.clock.pass_by(29 * DAY)
    assert films.retention.round().instances == 0
    films.clock.pass_by(2 * DAY)
    assert films.retention.round().instances == 1
    assert films.files() == 0
    with pytest.raises(UnknownJob):
        films.jobs.get(job)
    deleted = [row for row in films.trail.records() if row.event == "DELETED"]
    assert [(row.subject, bool(row.study)) for row in deleted] == [(SUBJECT, True)]


def test_the_removal_of_a_film_is_told_with_the_numbers_of_its_jobs(tmp_path: Path) -> None:
    films = Films(tmp_path, films_days=30)
    first, second = (films.film(films.installation.confirm()) for _ in range(2))
    again = films.jobs.requeue(first)
    films.jobs.cancel(again)
    films.clock.pass_by(31 * DAY)
    assert films.retention.round().instances == 2
    told = [re.findall(r"film \d+ \([^)]*\)", row.message) for row in films.trail.records() if row.event == "DELETED"]
    assert [f"film 2 (job {second})"] in told
    assert told == [[f"film 1 (job {first}, job {again})"], [f"film 2 (job {second})"]]


def test_the_trail_tells_of_the_films_that_come_after_a_removal(tmp_path: Path) -> None:
    """The trail follows films and events by their numbers: one that is given again would lie behind it."""
    films = Films(tmp_path, films_days=30)
    follower = Follower(films.trail, films.installation.settings, b"k" * 32)
    for _ in range(2):
        films.film(films.installation.confirm())
        films.clock.pass_by(10)
        follower.round()
        films.clock.pass_by(31 * DAY)
        assert films.retention.round().instances == 1
    told = [row.event for row in films.trail.records()]
    assert told == ["RECEIVED", "SENT", "DELETED"] * 2
    deleted = [row.message for row in films.trail.records() if row.event == "DELETED"]
    assert len({re.findall(r"film \d+", message)[0] for message in deleted}) == 2


@pytest.mark.parametrize("stage", ["receive", "prepare", "infer", "deliver"])
def test_what_is_unfinished_or_unconfirmed_stays_however_old_it_is(tmp_path: Path, stage: str) -> None:
    films = Films(tmp_path, films_days=1)
    job = films.film(getattr(films.installation, stage)())
    films.clock.pass_by(1000 * DAY)
    films.disk = 0.99
    assert films.retention.round().instances == 0
    assert films.jobs.get(job).state != State.CONFIRMED
    assert films.files() > 0


def test_acceptance_is_enough_of_a_pacs_that_the_site_asks_for_no_proof(tmp_path: Path) -> None:
    films = Films(tmp_path, films_days=30)
    films.film(films.installation.deliver())
    films.film(films.installation.deliver(refused=True))
    settings = films.installation.settings
    unasked = settings.destinations[0].model_copy(update={"confirm": "none"})
    settings = settings.model_copy(update={"destinations": (unasked,)})
    retention = Retention(films.jobs, films.trail, films.stores, settings, disk_used=lambda: 0.1)
    films.clock.pass_by(31 * DAY)
    assert films.retention.round().instances == 0
    assert retention.round().instances == 1
    assert [job.state for job in films.jobs.list()] == [State.FAILED]


def test_a_full_disk_takes_the_oldest_first_and_stops_when_there_is_room(tmp_path: Path) -> None:
    films = Films(tmp_path, films_days=None, maximum_disk_percent=80)
    first, second, third = (films.film(films.installation.confirm()) for _ in range(3))
    films.clock.pass_by(60)
    shares = iter([0.9, 0.9, 0.9, 0.9, 0.7, 0.7, 0.7, 0.7, 0.7])
    films.retention._disk_used = lambda: next(shares)
    removed = films.retention.round().instances
    left = {job.id for job in films.jobs.list()}
    assert removed >= 1
    assert first not in left
    assert third in left
    assert len(left) == 3 - removed
    assert second in left or removed == 2


def test_a_held_film_stays_and_leaves_after_the_release(tmp_path: Path) -> None:
    films = Films(tmp_path, films_days=1)
    films.film(films.installation.confirm())
    number = films.retention.hold("patient", SUBJECT, "case 12/2026")
    films.clock.pass_by(10 * DAY)
    assert films.retention.round().instances == 0
    films.retention.release(number)
    assert films.retention.round().instances == 1
    assert [row.event for row in films.trail.records()] == ["CONFIGURED", "CONFIGURED", "DELETED"]


def test_a_study_is_held_by_its_uid(tmp_path: Path) -> None:
    films = Films(tmp_path, films_days=1)
    job = films.film(films.installation.confirm())
    study = films.jobs.instance(films.jobs.get(job).instance_id).StudyInstanceUID
    films.retention.hold("study", study, "case 12/2026")
    films.clock.pass_by(10 * DAY)
    assert films.retention.round().instances == 0


def test_a_file_that_came_under_the_uid_of_a_held_film_stays_in_quarantine_as_long(tmp_path: Path) -> None:
    films = Films(tmp_path, films_days=1, quarantine_days=1)
    film = films.jobs.instance(films.jobs.get(films.film(films.installation.confirm())).instance_id)
    films.jobs.record_quarantine(
        code="same-uid-other-bytes",
        text="x",
        name=films.stores.quarantine.write(b"other bytes", name="a" * 64).name,
        sha256="a" * 64,
        SOPInstanceUID=film.SOPInstanceUID,
        calling_ae_title="PACS",
        address="127.0.0.1",
    )
    number = films.retention.hold("study", film.StudyInstanceUID, "case 12/2026")
    films.clock.pass_by(10 * DAY)
    assert films.retention.round() == Removed()
    films.retention.release(number)
    assert films.retention.round() == Removed(instances=1, quarantined=1)


def test_a_patient_is_forgotten_whole(tmp_path: Path) -> None:
    films = Films(tmp_path)
    films.film(films.installation.confirm())
    films.film(films.installation.confirm())
    film = wrap(films.installation.picture, PATIENT, kind="DX", study=9)
    buffer = io.BytesIO()
    film.save_as(buffer, enforce_file_format=True)
    mine = films.stores.quarantine.write(buffer.getvalue(), name="a" * 64)
    other = films.stores.quarantine.write(b"not DICOM at all", name="b" * 64)
    for stored in (mine, other):
        films.quarantined(stored)
    removed = films.retention.forget(SUBJECT, belongs=lambda number, _issuer: number == PATIENT.PatientID)
    assert (removed.instances, removed.quarantined) == (2, 1)
    assert films.jobs.list() == []
    assert [row.name for row in films.jobs.quarantined()] == [other.name]
    assert films.files() == 1


def test_to_forget_a_patient_waits_for_no_pipe_in_the_place_of_a_quarantined_file(tmp_path: Path) -> None:
    films = Films(tmp_path)
    stored = films.stores.quarantine.write(b"not DICOM at all", name="a" * 64)
    films.quarantined(stored)
    path = films.stores.quarantine.path(stored.name)
    path.unlink()
    os.mkfifo(path)
    found: list[Removed] = []
    asked = threading.Thread(
        target=lambda: found.append(films.retention.forget(SUBJECT, belongs=lambda *_: True)), daemon=True
    )
    asked.start()
    asked.join(20)
    assert [each.quarantined for each in found] == [0]  # it is nobody's file, and stays for somebody to look at


def test_a_hold_or_an_unconfirmed_result_stops_forgetting_before_anything_is_removed(tmp_path: Path) -> None:
    films = Films(tmp_path)
    films.film(films.installation.confirm())
    films.film(films.installation.deliver())
    before = films.files()
    with pytest.raises(Unconfirmed, match="job 2 is DELIVERED"):
        films.retention.forget(SUBJECT, belongs=lambda *_: False)
    number = films.retention.hold("patient", SUBJECT, "case 12/2026")
    with pytest.raises(Held, match="case 12/2026"):
        films.retention.forget(SUBJECT, belongs=lambda *_: False, even_unconfirmed=True)
    assert films.files() == before
    films.retention.release(number)
    assert films.retention.forget(SUBJECT, belongs=lambda *_: False, even_unconfirmed=True).instances == 2
    assert films.files() == 0


def test_an_interrupted_removal_is_finished_by_the_next_round(tmp_path: Path) -> None:
    films = Films(tmp_path, films_days=1)
    job = films.film(films.installation.confirm())
    films.stores.identified.remove(films.jobs.instance(films.jobs.get(job).instance_id).name)
    films.clock.pass_by(10 * DAY)
    assert films.retention.round().instances == 1
    assert films.files() == 0


def test_a_file_that_cannot_be_removed_is_told_and_keeps_no_other_film(tmp_path: Path) -> None:
    films = Films(tmp_path, films_days=30)
    stuck, free = (films.film(films.installation.confirm()) for _ in range(2))
    path = films.stores.identified.path(films.jobs.instance(films.jobs.get(stuck).instance_id).name)
    path.unlink()
    path.mkdir()  # as a restore by another user leaves it, root passes over rights
    films.clock.pass_by(31 * DAY)
    with capture_logs() as logs:
        assert films.retention.round().instances == 1
    with pytest.raises(UnknownJob):
        films.jobs.get(free)
    (line,) = [entry for entry in logs if entry["event"] == "not removed"]
    assert line["job"] == stuck
    assert str(path) in line["cause"]
    with pytest.raises(Stuck, match="cannot be removed"):
        films.retention.forget(SUBJECT, belongs=lambda *_: False)
    path.rmdir()
    assert films.retention.round().instances == 1
    assert films.files() == 0


def test_the_commands_hold_forget_and_verify(tmp_path: Path) -> None:
    films = Films(tmp_path)
    films.film(films.installation.confirm())
    subject = Pseudonyms.open(tmp_path).patient(patient_key("MRN-1", ""))
    with films.jobs.engine.begin() as session:
        session.execute(update(Job).values(subject=subject))
    config = tmp_path / "carpus.yaml"
    config.write_text(f"data_directory: {tmp_path}\n")

    def run(*words: str) -> str:
        result = CliRunner().invoke(cli, [*words, "--config", str(config)])
        return f"{result.exit_code} {result.output} {result.exception or ''}"

    assert run("hold", "place", "--patient", "MRN-1", "--reason", "case 9").startswith("0 hold 1 is in force")
    assert "case 9" in run("hold", "list")
    assert "a legal hold forbids it" in run("forget", "MRN-1", "--yes")
    assert run("hold", "release", "1").startswith("0")
    assert "removed 1 films" in run("forget", "MRN-1", "--yes")
    assert "DELETED" in run("audit", "list", "--patient", "MRN-1", "--json")
    listed = run("audit", "list", "--patient", "MRN-1")
    assert re.search(r"DELETED .* P-[A-Z2-7]{12,} +[0-9.]{20,}\n", listed)  # identifiers are not cut off
    assert "whole" in run("audit", "verify")
