"""State an audited event as the XML of the DICOM Audit Message Schema (PS3.15 A.5.1).

Patients stand here by their pseudonym, films by their UIDs: the trail can be kept, shown and forwarded without a name in it,
and still answers "who saw this patient's films" to whoever holds the key (`carpus audit list --patient`).
"""

import datetime as dt
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from xml.etree import ElementTree

SOURCE_TYPE: Final = "4"  # PS3.15 A.5.2.3: application server process
DICOM_UID_SCHEME: Final = "DCM"


class Event(Enum):
    """What happened: EventID and action of PS3.15 A.5.3, EventTypeCode where there is one (CID 400 to 402)."""

    STARTED = ("110100", "Application Activity", "E", ("110120", "Application Start"))
    STOPPED = ("110100", "Application Activity", "E", ("110121", "Application Stop"))
    LOG_USED = ("110101", "Audit Log Used", "R", None)
    SENT = ("110104", "DICOM Instances Transferred", "R", None)
    RECEIVED = ("110104", "DICOM Instances Transferred", "C", None)
    ACCESSED = ("110103", "DICOM Instances Accessed", "R", None)
    CHANGED = ("110103", "DICOM Instances Accessed", "U", None)
    DELETED = ("110105", "DICOM Study Deleted", "D", None)
    EXPORTED = ("110106", "Export", "R", None)
    QUERIED = ("110112", "Query", "E", None)
    ASSOCIATION_REFUSED = ("110113", "Security Alert", "E", ("110126", "Node Authentication"))
    CONFIGURED = ("110113", "Security Alert", "E", ("110129", "Security Configuration"))
    ROLES_CHANGED = ("110113", "Security Alert", "E", ("110136", "Security Roles Changed"))
    USER_CHANGED = ("110113", "Security Alert", "E", ("110137", "User Security Attributes Changed"))
    LOGIN = ("110114", "User Authentication", "E", ("110122", "Login"))
    LOGOUT = ("110114", "User Authentication", "E", ("110123", "Logout"))

    @property
    def code(self) -> str:
        """The EventID."""
        return str(self.value[0])


class Outcome(Enum):
    """EventOutcomeIndicator (PS3.15 A.5.2.1)."""

    SUCCESS = "0"
    REFUSED = "4"  # minor failure
    FAILED = "8"  # serious failure


@dataclass(frozen=True, slots=True)
class Participant:
    """Who took part: a person, or an application entity as `AETITLES=...` in `alternative` (PS3.15 A.5.2.2)."""

    user_id: str
    name: str = ""
    alternative: str = ""
    requestor: bool = False
    address: str = ""
    role: tuple[str, str] | None = None  # CID 402: ("110153", "Source Role ID")


SOURCE_ROLE: Final = ("110153", "Source Role ID")
DESTINATION_ROLE: Final = ("110152", "Destination Role ID")
APPLICATION_ROLE: Final = ("110150", "Application")


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """One event.

    Parameters
    ----------
    study
        StudyInstanceUID the event is about, or empty.
    sop_classes
        SOPClassUID -> number of instances of the study.
    subject
        Pseudonym of the patient, or empty.
    detail
        What else a reader needs: an account's name, a setting's hash, a cause; never a patient's value.
    """

    event: Event
    participants: Sequence[Participant]
    at: dt.datetime
    outcome: Outcome = Outcome.SUCCESS
    study: str = ""
    sop_classes: dict[str, int] = field(default_factory=dict)
    subject: str = ""
    detail: str = ""

    @property
    def actor(self) -> str:
        """Who asked for it."""
        asked = [participant for participant in self.participants if participant.requestor]
        return (asked or list(self.participants))[0].user_id

    def to_xml(self, *, source: str) -> str:
        """Return the message; `source` is the AuditSourceID, one for each installation."""
        code, meaning, action, kind = self.event.value
        root = ElementTree.Element("AuditMessage")
        stated = ElementTree.SubElement(
            root,
            "EventIdentification",
            EventActionCode=action,
            EventDateTime=self.at.astimezone(dt.UTC).isoformat(timespec="milliseconds"),
            EventOutcomeIndicator=self.outcome.value,
        )
        _coded(stated, "EventID", code, meaning)
        if kind is not None:
            _coded(stated, "EventTypeCode", *kind)
        if self.detail:
            ElementTree.SubElement(stated, "EventOutcomeDescription").text = self.detail
        for participant in self.participants:
            _participant(root, participant)
        ElementTree.SubElement(root, "AuditSourceIdentification", code=SOURCE_TYPE, AuditSourceID=source)
        if self.study:
            _study(root, self.study, self.sop_classes)
        if self.subject:
            # PS3.15 Table A.5.2-6: a person (1), the patient (1), by patient number (2).
            patient = _object(root, self.subject, kind="1", role="1", id_code=("2", "RFC-3881", "Patient Number"))
            ElementTree.SubElement(patient, "ParticipantObjectName").text = "pseudonym"
        return ElementTree.tostring(root, encoding="unicode")


@dataclass(frozen=True, slots=True)
class Stated:
    """What a message says of the columns that stand beside it."""

    events: frozenset[str]  # names of the events that are written in this way
    outcome: str
    actor: str
    study: str | None
    subject: str | None


def stated(xml: str) -> Stated:
    """Read back from a message (PS3.15 A.5) what its record holds in columns.

    Raises
    ------
    ValueError
        When it is no message that `AuditMessage.to_xml` has written.
    """
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - one of our own, whose hash was compared before
        event = root.find("EventIdentification")
        codes = [element.get("csd-code") for element in (event or []) if element.tag != "EventOutcomeDescription"]
        participants = root.findall("ActiveParticipant")
        asked = [one for one in participants if one.get("UserIsRequestor") == "true"] or participants
        objects = {
            one.get("ParticipantObjectTypeCode"): one.get("ParticipantObjectID")
            for one in root.findall("ParticipantObjectIdentification")
        }
        if event is None or not asked:
            raise ValueError("an audit message without event or participant")
        outcome = Outcome(event.get("EventOutcomeIndicator"))
    except ElementTree.ParseError as error:
        raise ValueError("no audit message") from error
    names = frozenset(
        one.name
        for one in Event
        if codes == [one.value[0], *([one.value[3][0]] if one.value[3] is not None else [])]
        and event.get("EventActionCode") == one.value[2]
    )
    return Stated(names, outcome.name, asked[0].get("UserID", ""), objects.get("2"), objects.get("1"))


def _coded(parent: ElementTree.Element, tag: str, code: str, meaning: str, system: str = "DCM") -> None:
    attributes = {"csd-code": code, "codeSystemName": system, "originalText": meaning}
    ElementTree.SubElement(parent, tag, attributes)


def _participant(root: ElementTree.Element, participant: Participant) -> None:
    attributes = {"UserID": participant.user_id, "UserIsRequestor": str(participant.requestor).lower()}
    if participant.alternative:
        attributes["AlternativeUserID"] = participant.alternative
    if participant.name:
        attributes["UserName"] = participant.name
    if participant.address:
        # PS3.15 A.5.2.2: 1 is a machine name, 2 an IP address.
        kind = "2" if _is_ip(participant.address) else "1"
        attributes |= {"NetworkAccessPointID": participant.address, "NetworkAccessPointTypeCode": kind}
    element = ElementTree.SubElement(root, "ActiveParticipant", attributes)
    if participant.role is not None:
        _coded(element, "RoleIDCode", *participant.role)


def _object(
    root: ElementTree.Element, identifier: str, *, kind: str, role: str, id_code: tuple[str, str, str]
) -> ElementTree.Element:
    element = ElementTree.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=identifier,
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    code, system, meaning = id_code
    _coded(element, "ParticipantObjectIDTypeCode", code, meaning, system)
    return element


def _study(root: ElementTree.Element, study: str, sop_classes: dict[str, int]) -> None:
    # PS3.15 Table A.5.2-6: a system object (2), a report (3), by Study Instance UID (110180, DCM).
    element = _object(root, study, kind="2", role="3", id_code=("110180", DICOM_UID_SCHEME, "Study Instance UID"))
    described = ElementTree.SubElement(element, "ParticipantObjectDescription")
    for uid, number in sorted(sop_classes.items()):
        ElementTree.SubElement(described, "SOPClass", UID=uid, NumberOfInstances=str(number))


def ourselves(
    ae_title: str, *, process: str, role: tuple[str, str] | None = None, requestor: bool = False
) -> Participant:
    """Return this installation as a participant."""
    host = socket.gethostname()
    return Participant(process, alternative=f"AETITLES={ae_title}", address=host, role=role, requestor=requestor)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
