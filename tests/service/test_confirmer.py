"""Accepted is not confirmed: what each PACS proves, how, and what becomes of what it does not keep. Real sockets, real pipeline."""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage, SegmentationStorage
from pydicom.uid import ComputedRadiographyImageStorage as CR
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]
from sqlalchemy import Engine

from models.reading import Reason, Verdict
from service.queue.jobs import Jobs, ResultState, State
from service.receiving.scp import StorageServer
from service.sending import requestor, scu
from service.sending.commitment import NOT_AUTHORISED, Report
from service.sending.confirmation import BATCH, Confirmations, Failure
from service.sending.confirmer import Confirmer, record_of, taker
from service.settings import ConfirmationSettings, Destination, DestinationTls, Limits, Peer, Settings
from service.storage import Stores
from service.tables import ResultObject
from tests import certificates
from tests.factories import instance
from tests.fake_pacs import FakePacs, forgets
from tests.service.test_pipeline import House, hand

OWN = ConfirmationSettings(hold_seconds=2, check_delays_seconds=(1, 1), report_timeout_seconds=60, maximum_resends=1)


class Ward:
    """An installation with one PACS, its listener and what confirms; time passes when it is told to."""

    def __init__(self, folder: Path, engine: Engine, stack: ExitStack, confirm: str = "auto", **pacs: Any) -> None:
        self.pacs = stack.enter_context(FakePacs(**pacs))
        destination = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=self.pacs.port, confirm=confirm)  # type: ignore[arg-type]
        self.house = House(folder, engine, (destination,))
        self.settings = Settings(
            destinations=(destination,),
            peers=(Peer(ae_title="PACS"), Peer(ae_title="STRANGER")),
            confirmation=OWN,
            limits=Limits(minimum_free_disk_bytes=0),
        )
        self.jobs = self.house.jobs
        # The listener has the clock of this machine: it waits for nothing that a test would have to hurry.
        server = StorageServer(self.settings, self.house.stores, Jobs(engine, process="scp"), port=0)
        self.listener = stack.enter_context(server)
        self.pacs.reports_to = requestor.Address("CARPUS", "127.0.0.1", server.port)
        object.__setattr__(self.house.pipeline, "send", scu.store)
        self.destination = destination
        self.record: Confirmations = record_of(self.settings, self.jobs)
        self.confirmer = Confirmer(self.record, self.settings)

    def deliver(self) -> int:
        job_id = self.house.receive(hand())
        assert self.house.run(job_id) in (State.DELIVERED, State.REJECTED)
        return job_id

    def round(self, seconds: float = 0) -> int:
        self.house.clock.pass_seconds(seconds)
        return self.confirmer.round(self.destination)

    def state(self, job_id: int) -> State:
        return State(self.jobs.get(job_id).state)

    def objects(self, job_id: int) -> dict[str, str]:
        return {row.kind: row.state for row in self.jobs.results(job_id)}

    def row(self, job_id: int, kind: str) -> ResultObject:
        return next(row for row in self.jobs.results(job_id) if row.kind == kind)


@pytest.fixture
def ward(tmp_path: Path, engine: Engine) -> Iterator[Callable[..., Ward]]:
    with ExitStack() as stack:
        yield lambda confirm="auto", **pacs: Ward(tmp_path, engine, stack, confirm, **pacs)


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


NOT_A_HAND = Verdict(False, (Reason("not-a-hand", "no hand was found"),))
ALL = dict.fromkeys(("SR", "SC", "GSPS", "SEG"), ResultState.CONFIRMED)


def test_what_is_less_than_one_request_holds_is_left_until_the_next_look(
    ward: Callable[..., Ward], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ward()
    asked: list[int] = []

    def round_of(_destination: Destination) -> int:
        asked.append(BATCH if len(asked) == 1 else 2)
        return asked[-1]

    monkeypatch.setattr(place.confirmer, "round", round_of)
    looks = iter((False, False, False, True))
    place.confirmer._run(
        place.destination, cast(Any, SimpleNamespace(wait=lambda _: next(looks), is_set=lambda: False))
    )
    assert asked == [2, BATCH, 2, 2]  # three looks; the full one was followed at once


@pytest.mark.parametrize("way", ["same", "another"])
def test_a_report_on_the_same_or_another_association_confirms(ward: Callable[..., Ward], way: str) -> None:
    place = ward(commits=way)
    job_id = place.deliver()
    assert place.state(job_id) == State.DELIVERED
    assert set(place.objects(job_id).values()) == {ResultState.ACCEPTED}
    assert place.round() == 4
    wait_for(lambda: place.state(job_id) == State.CONFIRMED)
    assert place.objects(job_id) == ALL
    assert place.jobs.get(job_id).confirmed_at is not None
    assert {row.confirmed_by for row in place.jobs.results(job_id)} == {"commitment"}
    assert [len(references) for _, references in place.pacs.asked] == [4]
    events = [event.code for event in place.jobs.timeline(job_id)]
    assert events.index("commitment-asked") < events.index("object-confirmed") < events.index("confirmed")
    assert place.round(3600) == 0


def test_a_report_that_comes_days_later_on_a_new_association_still_counts(ward: Callable[..., Ward]) -> None:
    place = ward(commits="later", confirm="commitment")
    job_id = place.deliver()
    place.confirmer._own = OWN.model_copy(update={"hold_seconds": 0})
    place.round()
    assert place.state(job_id) == State.DELIVERED
    place.house.clock.pass_seconds(3 * 86_400)
    place.pacs.report_now()
    assert place.state(job_id) == State.CONFIRMED
    place.pacs.report_now()  # a report that is repeated changes nothing
    assert place.state(job_id) == State.CONFIRMED
    assert [event.code for event in place.jobs.timeline(job_id)].count("confirmed") == 1


def test_a_report_survives_a_restart_of_everything(ward: Callable[..., Ward]) -> None:
    place = ward(commits="later")
    job_id = place.deliver()
    place.confirmer._own = OWN.model_copy(update={"hold_seconds": 0})
    place.round()
    transaction_uid = place.row(job_id, "SR").transaction_uid
    assert transaction_uid == place.pacs.asked[0][0]
    fresh = record_of(place.settings, place.jobs)  # as another process has it: nothing but the database
    assert fresh.asked_of(transaction_uid) == "pacs"
    assert fresh.report(transaction_uid, [row.SOPInstanceUID for row in place.jobs.results(job_id)], []) == 4
    assert place.state(job_id) == State.CONFIRMED


def test_where_nobody_commits_the_objects_are_read_back(ward: Callable[..., Ward]) -> None:
    place = ward(commits="no", queried=True)
    job_id = place.deliver()
    place.round()
    assert place.state(job_id) == State.CONFIRMED
    assert {row.confirmed_by for row in place.jobs.results(job_id)} == {"query"}


def test_a_commitment_that_is_never_reported_is_replaced_by_a_look(ward: Callable[..., Ward]) -> None:
    place = ward(commits="silent", queried=True)
    place.confirmer._own = OWN.model_copy(update={"hold_seconds": 0})
    job_id = place.deliver()
    place.round()
    assert place.round(59) == 0  # the report may still come
    assert place.round(2) == 4
    assert place.state(job_id) == State.CONFIRMED
    texts = [event.text for event in place.jobs.timeline(job_id) if event.code == "object-confirmed"]
    assert "no commitment report came in time" in texts[0]


def test_a_commitment_that_is_never_reported_and_cannot_be_looked_up_says_what_to_register(
    ward: Callable[..., Ward],
) -> None:
    place = ward(commits="silent")
    place.confirmer._own = OWN.model_copy(update={"hold_seconds": 0})
    job_id = place.deliver()
    place.round()
    place.round(61)
    job = place.jobs.get(job_id)
    assert (job.state, job.cause_code) == (State.DELIVERED, "commitment-unanswered")
    assert "register CARPUS" in (job.next_action or "")
    assert len(place.pacs.asked) == 2  # it was asked again, with a transaction of its own
    assert place.pacs.asked[0][0] != place.pacs.asked[1][0]
    place.pacs.report_now()
    assert place.state(job_id) == State.CONFIRMED
    assert place.jobs.get(job_id).cause_code is None


def test_a_pacs_that_can_prove_nothing_leaves_the_results_accepted_and_says_so(ward: Callable[..., Ward]) -> None:
    place = ward()
    job_id = place.deliver()
    place.round()
    job = place.jobs.get(job_id)
    assert (job.state, job.cause_code, job.confirmed_at) == (State.DELIVERED, "not-provable", None)
    assert set(place.objects(job_id).values()) == {ResultState.ACCEPTED}
    for word in ("Storage Commitment Push Model", "FIND", "confirm: none"):
        assert word in (job.next_action or "")
    assert place.round(1800) == 0


def test_a_destination_that_is_to_prove_nothing_is_not_asked(ward: Callable[..., Ward]) -> None:
    place = ward(confirm="none", commits="same", queried=True)
    job_id = place.deliver()
    assert place.confirmer.start(stop=None) == []  # type: ignore[arg-type]  # no thread is started that could use it
    place.record.promote()
    assert (place.state(job_id), place.pacs.asked) == (State.DELIVERED, [])


def test_what_was_accepted_and_not_kept_is_sent_again(ward: Callable[..., Ward]) -> None:
    place = ward(commits="same")
    place.pacs.lost = {SegmentationStorage}
    job_id = place.deliver()
    place.round()
    wait_for(lambda: place.state(job_id) == State.INFERRED)
    assert place.objects(job_id) == ALL | {"SEG": ResultState.MISSING}
    assert place.row(job_id, "SEG").failure_reason == 0x0112
    before = place.pacs.requests
    place.pacs.lost = set()
    place.house.clock.pass_seconds(10)
    assert place.house.run(job_id) == State.DELIVERED
    assert place.pacs.requests == before + 1  # nothing but the lost object
    place.round()
    wait_for(lambda: place.state(job_id) == State.CONFIRMED)
    assert sorted(ds.SOPInstanceUID for ds in place.pacs.kept) == sorted(
        row.SOPInstanceUID for row in place.jobs.results(job_id)
    )


@pytest.mark.parametrize("offers", [{"commits": "same"}, {"queried": True}])
def test_a_pacs_that_accepts_and_forgets_is_found_out(ward: Callable[..., Ward], offers: dict[str, Any]) -> None:
    place = ward(behaviour=forgets, **offers)
    job_id = place.deliver()
    for _ in range(20):
        place.round(700)
        if place.state(job_id) == State.INFERRED:
            place.house.clock.pass_seconds(700)
            place.house.run(job_id)
        if place.state(job_id) == State.FAILED:
            break
        time.sleep(0.3 if offers.get("commits") else 0)
    job = place.jobs.get(job_id)
    assert (job.state, job.cause_code) == (State.FAILED, "not-kept")
    assert "accepted SR, SC, GSPS, SEG and does not keep it" in (job.cause_text or "")
    assert job.next_action
    assert place.pacs.requests == 4 * (1 + OWN.maximum_resends)
    place.jobs.retry(job_id)  # by a person, who has mended the PACS
    place.pacs.behaviour = lambda _event: 0x0000
    assert place.house.run(job_id) == State.DELIVERED
    place.round()
    wait_for(lambda: place.state(job_id) == State.CONFIRMED)


def test_a_refusal_that_sending_again_cannot_mend_stops_at_once(ward: Callable[..., Ward]) -> None:
    place = ward(commits="same")
    place.pacs.reasons = {Comprehensive3DSRStorage: 0x0119}
    job_id = place.deliver()
    place.round()
    wait_for(lambda: place.state(job_id) == State.FAILED)
    assert "another SOP class" in (place.jobs.get(job_id).next_action or "")
    assert place.pacs.requests == 4


def test_an_archive_that_shows_objects_a_little_later_is_not_sent_them_twice(ward: Callable[..., Ward]) -> None:
    place = ward(queried=True)
    place.pacs.lost = {SecondaryCaptureImageStorage}
    job_id = place.deliver()
    place.round()
    assert place.objects(job_id) == ALL | {"SC": ResultState.ACCEPTED}
    place.pacs.kept.append(place.pacs.kept[0].__class__(place.pacs.kept[0]))
    place.pacs.kept[-1].SOPInstanceUID = place.row(job_id, "SC").SOPInstanceUID
    place.pacs.kept[-1].SeriesInstanceUID = place.row(job_id, "SC").SeriesInstanceUID
    place.round(2)
    assert place.state(job_id) == State.CONFIRMED
    assert place.pacs.requests == 4


def test_the_report_on_a_film_that_cannot_be_read_is_confirmed_too(ward: Callable[..., Ward]) -> None:
    place = ward(commits="same")
    place.house.reader.verdict = NOT_A_HAND
    job_id = place.deliver()
    assert (place.state(job_id), place.jobs.get(job_id).confirmed_at) == (State.REJECTED, None)
    place.round()
    wait_for(lambda: place.jobs.get(job_id).confirmed_at is not None)
    job = place.jobs.get(job_id)
    assert (job.state, job.cause_code) == (State.REJECTED, "not-a-hand")


def test_a_rejection_whose_report_is_lost_is_sent_again_and_ends_rejected(ward: Callable[..., Ward]) -> None:
    place = ward(queried=True)
    place.house.reader.verdict = NOT_A_HAND
    place.pacs.lost = {Comprehensive3DSRStorage}
    job_id = place.deliver()
    for _ in range(3):
        place.round(2)
    assert place.state(job_id) == State.INFERRED
    place.pacs.lost = set()
    place.house.clock.pass_seconds(10)
    assert place.house.run(job_id) == State.REJECTED
    place.round()
    assert place.jobs.get(job_id).confirmed_at is not None


def test_a_failure_of_a_request_that_was_superseded_changes_nothing(ward: Callable[..., Ward]) -> None:
    place = ward(commits="silent")
    place.confirmer._own = OWN.model_copy(update={"hold_seconds": 0})
    job_id = place.deliver()
    place.round()
    place.round(61)
    first, second = (asked[0] for asked in place.pacs.asked)
    uids = [row.SOPInstanceUID for row in place.jobs.results(job_id)]
    place.record.report(first, [], [Failure(uid, 0x0112) for uid in uids])
    assert place.state(job_id) == State.DELIVERED
    place.record.report(second, uids, [])
    assert place.state(job_id) == State.CONFIRMED


def test_a_report_from_somebody_else_or_on_nothing_is_refused(ward: Callable[..., Ward]) -> None:
    place = ward(commits="later")
    place.confirmer._own = OWN.model_copy(update={"hold_seconds": 0})
    job_id = place.deliver()
    place.round()
    place.pacs.reports_as = "STRANGER"
    with pytest.raises(Exception, match="0x0124"):
        place.pacs.report_now()
    place.pacs.reports_as = "PACS"
    place.pacs.asked = [("2.25.4711", place.pacs.asked[0][1])]
    with pytest.raises(Exception, match="0x0115"):
        place.pacs.report_now()
    assert set(place.objects(job_id).values()) == {ResultState.ACCEPTED}


def test_a_destination_that_is_away_is_asked_again(ward: Callable[..., Ward]) -> None:
    place = ward(commits="same")
    job_id = place.deliver()
    place.confirmer._settings = place.settings
    away = place.destination.model_copy(update={"port": 1})
    assert place.confirmer.round(away) == 4
    assert place.state(job_id) == State.DELIVERED
    assert place.jobs.get(job_id).cause_code is None
    assert place.round(5) == 0
    assert place.round(30) == 4
    wait_for(lambda: place.state(job_id) == State.CONFIRMED)


def test_two_confirmers_do_not_ask_about_the_same_object(ward: Callable[..., Ward]) -> None:
    place = ward(commits="same")
    place.deliver()
    other = record_of(place.settings, place.jobs)
    assert len(place.record.due("pacs")) == 4
    assert other.due("pacs") == []
    place.house.clock.pass_seconds(121)  # the first one died
    assert len(other.due("pacs")) == 4


def test_a_job_with_two_destinations_is_confirmed_when_both_have_proved(ward: Callable[..., Ward]) -> None:
    place = ward(commits="same")
    job_id = place.deliver()
    both = Confirmations(place.jobs.engine, required=["pacs", "archive"], clock=place.house.clock)
    claim = place.jobs.get(job_id)
    with both._write() as session:
        row = place.row(job_id, "SR")
        fields = {c.key: getattr(row, c.key) for c in ResultObject.__mapper__.column_attrs if c.key != "id"}
        session.add(ResultObject(**(fields | {"destination": "archive"})))
    for destination in ("pacs", "archive"):
        assert claim.confirmed_at is None
        assert place.state(job_id) == State.DELIVERED
        both.found(both.due(destination), "found")
    assert place.state(job_id) == State.CONFIRMED


def test_we_commit_to_what_we_keep_and_to_nothing_else(ward: Callable[..., Ward]) -> None:
    place = ward(commits="no")
    film = instance(kind="CR")
    address = requestor.Address("CARPUS", "127.0.0.1", place.listener.port)
    assert scu.store(address, [film], calling_ae_title="STRANGER")[0].accepted
    from service.sending import commitment

    reports: list[commitment.Report] = []

    def take(peer: str, report: commitment.Report) -> int:
        assert peer == "CARPUS"
        reports.append(report)
        return 0x0000

    asked = [
        (film.SOPClassUID, film.SOPInstanceUID),
        (film.SOPClassUID, "2.25.1"),
        (SegmentationStorage, film.SOPInstanceUID),
    ]
    handlers = [commitment.receive(take)]
    commitment.request(
        address,
        asked,
        "2.25.77",
        calling_ae_title="STRANGER",  # no port of it is known: the report comes on this association
        timeout_seconds=10,
        settled=lambda: bool(reports),
        hold_seconds=10,
        handlers=handlers,
    )
    (report,) = reports
    assert report.transaction_uid == "2.25.77"
    assert report.committed == (film.SOPInstanceUID,)
    assert report.failed == (("2.25.1", 0x0112), (film.SOPInstanceUID, 0x0119))
    job = place.jobs.find(film.SOPInstanceUID)[0]
    place.house.stores.identified.remove(place.jobs.instance(job.instance_id).name)
    reports.clear()
    commitment.request(
        address,
        asked[:1],
        "2.25.78",
        calling_ae_title="STRANGER",
        timeout_seconds=10,
        settled=lambda: bool(reports),
        hold_seconds=10,
        handlers=handlers,
    )
    assert reports[0].failed == ((film.SOPInstanceUID, 0x0112),)  # the row alone is no proof


def test_our_report_goes_to_the_peer_s_own_port_and_is_repeated_until_it_is_taken(ward: Callable[..., Ward]) -> None:
    place = ward(commits="no")
    film = instance(kind="CR")
    address = requestor.Address("CARPUS", "127.0.0.1", place.listener.port)
    scu.store(address, [film], calling_ae_title="PACS")
    commitments = place.listener.commitments
    record = commitments._record
    record.asked_by("2.25.5", "PACS", "127.0.0.1", [(film.SOPClassUID, film.SOPInstanceUID)])
    # The destination of this name offers no commitment: the report is refused, and kept for later.
    wait_for(lambda: "accepted none of" in (_request(record).detail or ""), 15)
    asked = _request(record)
    assert (asked.state, asked.attempts) == ("asked", 1)
    assert asked.due_at > record.now()


def _request(record: Any) -> Any:
    from sqlalchemy import select

    from service.tables import Commitment

    with record._read() as session:
        return session.scalars(select(Commitment).where(Commitment.role == "provider")).one()


def test_a_report_goes_over_tls_to_the_port_of_the_peer(tmp_path: Path, engine: Engine) -> None:
    heard: list[tuple[str, str]] = []

    def hear(event: Any) -> int:
        heard.append((event.assoc.requestor.ae_title, str(event.event_information.TransactionUID)))
        return 0x0000

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.folder() / "authority.pem"))
    context.load_cert_chain(certificates.folder() / "PACS.pem", certificates.folder() / "PACS.key")
    context.verify_mode = ssl.CERT_REQUIRED
    ae = AE("PACS")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    pacs = ae.start_server(
        ("127.0.0.1", 0), block=False, ssl_context=context, evt_handlers=[(evt.EVT_N_EVENT_REPORT, hear)]
    )
    assert pacs is not None
    asking = Peer(ae_title="PACS", port=pacs.server_address[1], tls=DestinationTls(certificate_names=("PACS",)))
    settings = Settings(
        peers=(asking,), dicom_tls=certificates.ours(port=None), limits=Limits(minimum_free_disk_bytes=0)
    )
    try:
        with StorageServer(settings, Stores.open(tmp_path), Jobs(engine, process="scp"), port=0) as server:
            server.commitments._record.asked_by("2.25.77", "PACS", "127.0.0.1", [(str(CR), "2.25.1")])
            wait_for(lambda: heard)
    finally:
        pacs.shutdown()
    assert heard == [("CARPUS", "2.25.77")]


def test_a_report_from_another_ae_title_says_which_setting_to_correct(ward: Callable[..., Ward]) -> None:
    place = ward(commits="silent")
    place.confirmer._own = OWN.model_copy(update={"hold_seconds": 0})
    job_id = place.deliver()
    place.round()
    ((transaction_uid, _),) = place.pacs.asked
    take = taker(place.record, place.settings)
    assert take("ARCHIVE", Report(transaction_uid, (), ())) == NOT_AUTHORISED
    place.round(61)
    job = place.jobs.get(job_id)
    assert job.state == State.DELIVERED
    assert "reports on storage commitment as ARCHIVE" in (job.cause_text or "")
    assert "ae_title to ARCHIVE" in (job.next_action or "")
