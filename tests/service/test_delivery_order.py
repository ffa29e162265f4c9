"""How results leave: in order per patient, each destination by itself, refusals for good apart from those that pass."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import Engine

from models.reading import Reason, Verdict
from service.errors import Permanent, Postponed, Retryable
from service.queue.jobs import ResultState, State
from service.queue.steps import Steps
from service.sending.requestor import Address
from service.sending.scu import Sent
from service.settings import Destination, Settings
from tests.factories import instance
from tests.service.test_pipeline import PACS, House

ARCHIVE = Destination(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=105, profile="report")
AWAY = Retryable("no answer", code="peer-unreachable")
UNKNOWN = Permanent("CARPUS is not known", code="calling-ae-refused", next_action="register CARPUS")


class TwoPacs:
    """Send through the fake of the house, unless an error is set for the AE title."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.errors: dict[str, Exception] = {}
        self.calls: list[str] = []

    def __call__(self, address: Address, instances: Any, **options: Any) -> list[Sent]:
        self.calls.append(address.ae_title)
        if address.ae_title in self.errors:
            raise self.errors[address.ae_title]
        return self.house.pacs(address, instances, **options)


class Setup:
    """Two destinations and the steps that a worker takes."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        import dataclasses

        self.house = House(folder, engine, (PACS.model_copy(update={"profile": "report"}), ARCHIVE))
        self.jobs, self.clock = self.house.jobs, self.house.clock
        self.network = TwoPacs(self.house)
        pipeline = dataclasses.replace(self.house.pipeline, send=self.network)
        self.settings: Settings = pipeline.settings
        self.steps = Steps(self.jobs, pipeline, lambda *_: None, self.settings)

    def read(self, seed: int, patient: str = "P1") -> int:
        """Take a film to where its results are to be delivered."""
        ds = instance(seed=seed)
        ds.PatientID = patient
        job_id = self.house.receive(ds)
        self.house.step(job_id)
        self.house.step(job_id)
        return job_id

    def states(self, job_id: int) -> dict[str, str]:
        return {row.destination: str(row.state) for row in self.jobs.results(job_id)}

    def work(self, seconds: float = 0) -> None:
        """Let time pass, then do everything that may be done."""
        self.clock.pass_seconds(seconds)
        while self.steps.next(State.INFERRED):
            pass


@pytest.fixture
def setup(tmp_path: Path, engine: Engine) -> Setup:
    return Setup(tmp_path, engine)


def test_results_of_one_patient_reach_a_pacs_that_was_away_in_order(setup: Setup) -> None:
    first = setup.read(1)
    setup.network.errors["PACS"] = AWAY
    setup.work()
    assert setup.states(first) == {"pacs": "built", "archive": "accepted"}
    second, other = setup.read(2), setup.read(3, patient="P2")
    setup.network.errors.clear()
    setup.network.calls.clear()
    setup.work()  # the first one still waits for its next try
    assert setup.states(second) == {"archive": "accepted"}
    assert setup.jobs.get(second).cause_text == f"the results of job {first}, of the same patient, go to pacs first"
    assert setup.jobs.get(other).state == State.DELIVERED, "another patient does not wait"
    setup.work(seconds=15)
    assert [setup.jobs.get(job_id).state for job_id in (first, second)] == [State.DELIVERED] * 2
    sent = [(ds.SOPInstanceUID, ds.PatientID) for ds in setup.house.pacs.kept]
    uids = [
        next(row.SOPInstanceUID for row in setup.jobs.results(j) if row.destination == "pacs") for j in (first, second)
    ]
    places = [sent.index((uid, "P1")) for uid in uids]
    assert places == sorted(places)


def test_a_dead_letter_holds_up_no_later_result_of_its_patient(setup: Setup) -> None:
    setup.network.errors["PACS"] = UNKNOWN
    first = setup.read(1)
    setup.work()
    assert setup.jobs.get(first).state == State.FAILED
    setup.network.errors.clear()
    second = setup.read(2)
    setup.work()
    assert setup.jobs.get(second).state == State.DELIVERED


def test_what_one_pacs_refuses_for_good_is_not_offered_again_while_another_is_away(setup: Setup) -> None:
    setup.network.errors = {"PACS": UNKNOWN, "ARCHIVE": AWAY}
    job_id = setup.read(1)
    setup.work()
    job = setup.jobs.get(job_id)
    # The cause shown is the one a person has to act on; the job goes on for the destination that is only away.
    assert (job.state, job.cause_code, job.next_action) == (State.INFERRED, "calling-ae-refused", "register CARPUS")
    setup.network.calls.clear()
    setup.network.errors.pop("ARCHIVE")
    setup.work(seconds=15)
    assert setup.network.calls == ["ARCHIVE"]
    job = setup.jobs.get(job_id)
    assert (job.state, job.cause_code, job.next_action) == (State.FAILED, "calling-ae-refused", "register CARPUS")
    assert setup.states(job_id) == {"pacs": "refused", "archive": "accepted"}
    setup.network.errors.clear()
    setup.jobs.retry(job_id)
    setup.work()
    assert setup.jobs.get(job_id).state == State.DELIVERED
    assert setup.network.calls == ["ARCHIVE", "PACS"]


def test_a_pacs_that_is_away_for_the_whole_burst_is_tried_a_few_times_and_then_left_alone(setup: Setup) -> None:
    setup.network.errors["PACS"] = AWAY
    ids = [setup.read(seed, patient=f"P{seed}") for seed in range(1, 7)]
    setup.work()
    assert setup.network.calls.count("PACS") == setup.settings.breaker.failures
    assert setup.network.calls.count("ARCHIVE") == len(ids)
    left = [setup.jobs.get(job_id) for job_id in ids[3:]]
    assert {job.cause_code for job in left} == {"destination-unavailable"}
    assert {job.attempts for job in left} == {0}
    setup.network.errors.clear()
    from service.sending.probing import Prober

    setup.clock.pass_seconds(setup.settings.breaker.probe_seconds)
    assert Prober(setup.jobs, setup.settings, echo=lambda *_, **__: 1.0).round() == ["pacs"]
    setup.work()
    assert {str(setup.jobs.get(job_id).state) for job_id in ids} == {"DELIVERED"}


def test_a_status_that_passes_leaves_the_object_to_be_sent_again(setup: Setup) -> None:
    setup.house.pacs.answer = lambda _ds: Retryable("full", code="status-a700")
    job_id = setup.read(1)
    setup.work()
    assert setup.states(job_id) == {"pacs": "built", "archive": "built"}
    assert {row.status_code for row in setup.jobs.results(job_id)} == {0xA700}
    setup.house.pacs.answer = lambda _ds: None
    setup.work(seconds=60)
    assert setup.jobs.get(job_id).state == State.DELIVERED


def test_a_rejected_film_says_what_to_do_next(setup: Setup) -> None:
    setup.house.reader.verdict = Verdict(False, (Reason("missing-regions", "not on the film: radius"),))
    job_id = setup.read(1)
    setup.work()
    job = setup.jobs.get(job_id)
    assert (job.state, job.cause_code) == (State.REJECTED, "missing-regions")
    assert (job.next_action or "").startswith("Repeat: one left hand and wrist")


def test_a_film_that_comes_late_is_read_and_leaves_the_first_result_as_it_is(setup: Setup) -> None:
    def of_one_study(seed: int) -> Dataset:
        ds = instance(seed=seed)
        ds.StudyInstanceUID = "2.25.777"
        return ds

    first = setup.house.receive(of_one_study(1))
    setup.house.step(first)
    setup.house.step(first)
    setup.work()
    before = [(row.SOPInstanceUID, row.sha256, row.state) for row in setup.jobs.results(first)]
    setup.clock.pass_seconds(dt.timedelta(days=2).total_seconds())
    late = setup.house.receive(of_one_study(2))
    setup.house.step(late)
    setup.house.step(late)
    setup.work()
    assert setup.jobs.get(late).state == State.DELIVERED
    assert [(row.SOPInstanceUID, row.sha256, row.state) for row in setup.jobs.results(first)] == before
    notes = {job_id: [e.text for e in setup.jobs.timeline(job_id) if e.code == "late-film"] for job_id in (first, late)}
    assert notes == {
        first: [f"job {late} reads another film of this study; this result stays"],
        late: [f"its study has been answered already, by job {first}"],
    }


def test_nothing_of_a_job_may_be_removed_while_anything_of_it_is_unconfirmed(setup: Setup) -> None:
    job_id = setup.read(1)
    assert "it is not finished" in (setup.jobs.may_be_removed(job_id) or "")
    setup.work()
    claim = setup.jobs.claim(job_id, State.DELIVERED)
    assert claim is not None
    setup.jobs.advance(claim, State.CONFIRMED)
    for row in setup.jobs.results(job_id)[:1]:
        setup.jobs.record_status(job_id, row.destination, row.SOPInstanceUID, ResultState.CONFIRMED)
    later = setup.jobs.now() + dt.timedelta(days=1)
    assert "1 objects of job 1 are not confirmed by archive" in (setup.jobs.may_be_removed(job_id) or "")
    assert setup.jobs.removable(later) == ()
    for row in setup.jobs.results(job_id):
        setup.jobs.record_status(job_id, row.destination, row.SOPInstanceUID, ResultState.CONFIRMED)
    assert setup.jobs.may_be_removed(job_id) is None
    assert setup.jobs.removable(later) == (job_id,)
    assert setup.jobs.removable(setup.jobs.now() - dt.timedelta(days=1)) == ()


def test_a_postponed_delivery_is_an_error_of_its_own(setup: Setup) -> None:
    """So that nothing that was never tried is counted as a failure of a destination."""
    assert issubclass(Postponed, Retryable)
    setup.network.errors["PACS"] = AWAY
    for seed in range(1, 5):
        setup.read(seed, patient=f"P{seed}")
    setup.work()
    from service.queue.breakers import Breakers

    (row,) = Breakers(setup.jobs, setup.settings.breaker).all()
    assert (row.destination, row.failures) == ("pacs", setup.settings.breaker.failures)
