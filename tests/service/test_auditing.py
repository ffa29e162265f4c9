"""The audit trail: what it states, that it cannot be changed unseen, that it leaves the machine."""

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sqlalchemy import delete, update
from structlog.testing import capture_logs

from service.auditing.follower import Follower
from service.auditing.messages import SOURCE_ROLE, AuditMessage, Event, Outcome, Participant
from service.auditing.refusals import INTERVAL_SECONDS, MOST, Refusals
from service.auditing.syslog import Repository, record
from service.auditing.trail import Trail
from service.errors import Retryable
from service.settings import AuditSettings, SyslogSettings
from service.tables import AuditRecord, AuditSeal
from tests.service.installation import BEGAN, SECRETS, Clock, Installation

KEY = b"k" * 32
NURSE = Participant("nurse", requestor=True, address="10.1.2.3")


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


@pytest.fixture
def trail(installation: Installation) -> Trail:
    return Trail(installation.jobs.engine, clock=installation.clock)


def _message(event: Event = Event.LOGIN, **fields: object) -> AuditMessage:
    return AuditMessage(event, (NURSE,), BEGAN, **fields)  # type: ignore[arg-type]


def test_a_message_states_event_participants_study_and_patient_as_the_schema_names_them() -> None:
    peer = Participant("PACS", alternative="AETITLES=PACS", address="10.0.0.9", role=SOURCE_ROLE, requestor=True)
    message = AuditMessage(
        Event.RECEIVED, (peer,), BEGAN, Outcome.SUCCESS, "1.2.3", {"1.2.840.10008.5.1.4.1.1.1": 2}, "P-ABC"
    )
    root = ElementTree.fromstring(message.to_xml(source="CARPUS"))
    stated = root.find("EventIdentification")
    assert stated is not None
    assert stated.attrib["EventActionCode"] == "C"
    assert stated.find("EventID").attrib["csd-code"] == "110104"  # type: ignore[union-attr]
    participant = root.find("ActiveParticipant")
    assert participant is not None
    assert participant.attrib["NetworkAccessPointTypeCode"] == "2"
    assert participant.find("RoleIDCode").attrib["csd-code"] == "110153"  # type: ignore[union-attr]
    study, patient = root.findall("ParticipantObjectIdentification")
    assert study.attrib["ParticipantObjectID"] == "1.2.3"
    assert study.find("ParticipantObjectDescription/SOPClass").attrib["NumberOfInstances"] == "2"  # type: ignore[union-attr]
    assert patient.attrib["ParticipantObjectTypeCodeRole"] == "1"
    assert [child.tag for child in root][:2] == ["EventIdentification", "ActiveParticipant"]


def test_text_of_a_participant_cannot_break_out_of_the_message() -> None:
    hostile = Participant('"/><EventIdentification EventOutcomeIndicator="0', requestor=True)
    root = ElementTree.fromstring(AuditMessage(Event.LOGIN, (hostile,), BEGAN).to_xml(source="CARPUS"))
    assert len(root.findall("EventIdentification")) == 1


def test_an_untouched_trail_verifies(trail: Trail) -> None:
    for _ in range(3):
        trail.append(_message())
    assert trail.seal(KEY)
    trail.append(_message(Event.LOGOUT))
    verdict = trail.verify(KEY)
    assert (verdict.records, verdict.sealed, verdict.fault) == (4, 3, "")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (update(AuditRecord).where(AuditRecord.id == 2).values(message="<AuditMessage/>"), "record 2 was changed"),
        (update(AuditRecord).where(AuditRecord.id == 2).values(at=BEGAN + dt.timedelta(1)), "record 2 was changed"),
        (delete(AuditRecord).where(AuditRecord.id == 2), "record 2 is missing"),
        (delete(AuditRecord).where(AuditRecord.id >= 3), "records 3 to 4 were sealed and are gone"),
        (update(AuditSeal).values(mac="0" * 64), "the seal of record 4 is not ours"),
    ],
)
def test_a_change_is_found(trail: Trail, change: object, fault: str) -> None:
    for _ in range(4):
        trail.append(_message())
    trail.seal(KEY)
    with trail.engine.begin() as connection:
        connection.execute(change)  # type: ignore[call-overload]
    assert fault in trail.verify(KEY).fault


@pytest.mark.parametrize("column", ["event", "outcome", "actor", "study", "subject", "previous", "hash"])
def test_a_change_of_any_column_is_found(trail: Trail, column: str) -> None:
    for event in Event:
        trail.append(_message(event))
    trail.seal(KEY)
    assert trail.verify(KEY).fault == ""
    with trail.engine.begin() as connection:
        connection.execute(update(AuditRecord).where(AuditRecord.id == 2).values(**{column: "another"}))
    assert "record 2 was changed" in trail.verify(KEY).fault


def test_a_chain_computed_anew_by_someone_without_the_key_is_found(trail: Trail) -> None:
    for _ in range(3):
        trail.append(_message())
    trail.seal(KEY)
    with trail.engine.begin() as connection:
        connection.execute(delete(AuditRecord))
    for _ in range(3):
        trail.append(_message(Event.LOGOUT))
    assert "is not the one that was sealed" in trail.verify(KEY).fault


def test_threads_append_one_unbroken_chain(trail: Trail) -> None:
    threads = [threading.Thread(target=lambda: [trail.append(_message()) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verdict = trail.verify(None)
    assert (verdict.records, verdict.fault) == (20, "")


def test_what_was_received_sent_and_asked_for_is_stated_once(installation: Installation, trail: Trail) -> None:
    job = installation.deliver()
    installation.jobs.cancel(installation.receive(peer="DX_ROOM_2"))
    installation.clock.pass_by(10)
    follower = Follower(trail, installation.settings, KEY)
    follower.round()
    follower.round()
    events = [(row.event, row.actor) for row in trail.records()]
    assert events.count(("RECEIVED", "PACS")) == 1
    assert events.count(("RECEIVED", "DX_ROOM_2")) == 1
    assert events.count(("SENT", "delivery")) == 1
    assert sum(event == "CHANGED" for event, _ in events) == 1
    sent = next(row for row in trail.records() if row.event == "SENT")
    assert "AETITLES=ORTHANC" in sent.message
    assert sent.study == installation.jobs.instance(installation.jobs.get(job).instance_id).StudyInstanceUID
    assert trail.verify(KEY).sealed == len(events)


def test_a_young_row_waits_until_every_older_one_must_be_there(installation: Installation, trail: Trail) -> None:
    installation.receive()
    follower = Follower(trail, installation.settings, KEY)
    assert not follower.received()
    installation.clock.pass_by(10)
    assert follower.received()


def test_the_trail_holds_no_name_of_the_patient(installation: Installation, trail: Trail) -> None:
    installation.deliver()
    installation.clock.pass_by(10)
    Follower(trail, installation.settings, KEY).round()
    text = "\n".join(row.message for row in trail.records())
    assert text
    assert [secret for secret in SECRETS if secret in text] == []


class Listener:
    """A repository that keeps what it gets, plain or over TLS."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.received = b""
        self._context = context
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.thread = threading.Thread(target=self._take, daemon=True)
        self.thread.start()

    def _take(self) -> None:
        try:
            connection, _ = self._server.accept()
            with self._context.wrap_socket(connection, server_side=True) if self._context else connection as peer:
                while data := peer.recv(65536):
                    self.received += data
        except OSError:
            return

    def close(self) -> None:
        self._server.close()
        self.thread.join(timeout=10)


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()
    yield found
    found.close()


def _frames(data: bytes) -> list[bytes]:
    frames = []
    while data:
        length, _, rest = data.partition(b" ")
        frames.append(rest[: int(length)])
        data = rest[int(length) :]
    return frames


def test_records_reach_the_repository_once_and_in_order(
    installation: Installation, trail: Trail, listener: Listener
) -> None:
    settings = installation.settings.model_copy(
        update={"audit": AuditSettings(syslog=SyslogSettings(host="127.0.0.1", port=listener.port, tls=False))}
    )
    follower = Follower(trail, settings, KEY)
    trail.append(_message(Event.LOGIN))
    trail.append(_message(Event.LOGOUT))
    assert follower.forward() == 2
    assert follower.forward() == 0
    trail.append(_message(Event.LOG_USED))
    assert follower.forward() == 1
    follower.close()
    listener.close()
    frames = _frames(listener.received)
    assert [frame.startswith(b"<85>1 2026-11-20T08:00:00.000Z ") for frame in frames] == [True] * 3
    assert all(b" DICOM+RFC3881 - \xef\xbb\xbf<AuditMessage>" in frame for frame in frames)
    assert [code in frame for code, frame in zip((b"110122", b"110123", b"110101"), frames, strict=True)] == [True] * 3


def test_a_repository_that_is_away_leaves_the_records_waiting(installation: Installation, trail: Trail) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = installation.settings.model_copy(
        update={"audit": AuditSettings(syslog=SyslogSettings(host="127.0.0.1", port=port, tls=False))}
    )
    trail.append(_message())
    assert Follower(trail, settings, KEY).forward() == 0
    assert trail.position("syslog") == 0


def test_a_repository_that_speaks_no_tls_is_not_talked_to(listener: Listener) -> None:
    repository = Repository(SyslogSettings(host="127.0.0.1", port=listener.port, timeout_seconds=1))
    with pytest.raises(Retryable, match=f"127.0.0.1:{listener.port}"):
        repository.send("<AuditMessage/>", BEGAN)
    assert b"AuditMessage" not in listener.received


def test_a_record_counts_bytes_not_characters() -> None:
    assert record("<a>é</a>", BEGAN, host="h").endswith("<a>é</a>".encode())


def test_a_clock_that_is_set_back_does_not_break_the_chain(trail: Trail) -> None:
    assert isinstance(trail.now, Clock)
    trail.append(_message())
    trail.now.pass_by(-3600)
    trail.append(_message())
    assert trail.verify(None).fault == ""


def test_refusals_are_recorded_without_letting_the_refused_fill_the_trail(trail: Trail) -> None:
    seconds = [0.0]
    refusals = Refusals(trail, source="CARPUS", ae_title="CARPUS", clock=lambda: seconds[0])
    for _ in range(5):
        refusals.note("STRANGER", "192.0.2.1", "calling-ae-title")
    refusals.note("\x00<b>\u00e9" + "X" * 40, "192.0.2.2", "calling-ae-title")
    refusals.note("", "192.0.2.3", "tls-handshake")
    stranger, hostile, unknown = trail.records(limit=10)
    assert [row.event for row in (stranger, hostile, unknown)] == ["ASSOCIATION_REFUSED"] * 3
    assert (stranger.actor, hostile.actor, unknown.actor) == ("STRANGER", "?<b>?" + "X" * 11, "unknown")
    for row in (stranger, hostile, unknown):
        code = ElementTree.fromstring(row.message).find("EventIdentification/EventTypeCode")
        assert code is not None
        assert code.attrib["csd-code"] == "110126"  # Node Authentication
    for number in range(200):
        refusals.note("STRANGER", f"198.51.100.{number}", "calling-ae-title")
    assert len(trail.records(limit=500)) == MOST
    seconds[0] += INTERVAL_SECONDS
    refusals.note("STRANGER", "192.0.2.1", "calling-ae-title")
    assert len(trail.records(limit=500)) == MOST + 1
    assert not trail.verify(KEY).fault


def test_a_database_that_is_away_costs_the_record_of_a_refusal_alone(trail: Trail, installation: Installation) -> None:
    with installation.jobs.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE audit_records RENAME TO gone")
    with capture_logs() as logs:
        Refusals(trail, source="CARPUS", ae_title="CARPUS").note("STRANGER", "192.0.2.1", "calling-ae-title")
    assert [entry["event"] for entry in logs] == ["refusal not written to the audit trail"]
