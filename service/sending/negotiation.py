"""Settle with a destination what it gets, before any result is identified.

An association without a store tells which SOP classes a PACS accepts. The answer is kept in the database until it is too old,
the destination moves, or a refusal contradicts it. A report is then written in the best class the PACS takes: one SOP Instance
UID never stands for objects of two classes.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pydicom.uid import UID
from sqlalchemy import Engine, bindparam, delete, select
from sqlalchemy.orm import Session

from service.conformance import RESULT_CLASSES, SR_CLASSES
from service.errors import Permanent
from service.ledger import utc_now
from service.log import get_logger
from service.result_profile import ResultKind, ResultProfile
from service.sending import requestor, scu
from service.settings import Destination, Settings
from service.tables import Negotiated

log = get_logger()
EVERY_CLASS: Final = tuple(uid for classes in RESULT_CLASSES.values() for uid in classes)
# Asked for every delivery: put together once.
_KNOWN: Final = select(Negotiated).where(Negotiated.destination == bindparam("destination"))
# A film that was not read comes back as these, as far as the profile has them.
REJECTION_KINDS: Final[tuple[ResultKind, ...]] = ("SR", "SC")


class Probe(Protocol):
    """Asks a peer which SOP classes it accepts; `scu.accepted_classes` is the one that uses DICOM."""

    def __call__(
        self, address: requestor.Address, sop_classes: Sequence[UID], *, calling_ae_title: str, timeout_seconds: float
    ) -> frozenset[str]:
        """Return the UIDs of the accepted ones; empty when the peer accepts none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one destination gets of one result.

    Parameters
    ----------
    report_class
        SOP class of the Structured Report; None where there is none.
    left_out
        What the profile asks for and the PACS does not accept: kinds with the names and UIDs of their classes.
    """

    kinds: tuple[ResultKind, ...]
    report_class: UID | None
    left_out: tuple[str, ...] = ()


class Negotiation:
    """The SOP classes each destination accepts, as last heard."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        probe: Probe = scu.accepted_classes,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._engine = engine
        self._writer = engine.execution_options(write=True)
        self._settings = settings
        self._probe = probe
        self._now = clock

    def accepted(self, destination: Destination) -> frozenset[str]:
        """Return the classes a destination accepts, from memory while it is fresh.

        Raises
        ------
        Retryable, Permanent
            When it had to be asked and no association came about.
        """
        now = self._now()
        oldest = now - dt.timedelta(hours=self._settings.negotiation_hours)
        with Session(self._engine) as session:
            known = session.scalars(_KNOWN, {"destination": destination.name}).one_or_none()
            if known is not None and known.address == self._address(destination) and known.asked_at > oldest:
                return frozenset(known.sop_classes.split())
        return self.ask(destination)

    def ask(self, destination: Destination) -> frozenset[str]:
        """Ask a destination now and remember the answer, unless it is that nothing is accepted."""
        accepted = self._probe(
            requestor.address_of(destination, self._settings),
            EVERY_CLASS,
            calling_ae_title=self._settings.ae_title,
            timeout_seconds=destination.timeout_seconds,
        )
        log.debug("negotiated", destination=destination.name, accepted=len(accepted), asked=len(EVERY_CLASS))
        if not accepted:
            self.forget(destination)
            return accepted
        row = Negotiated(
            destination=destination.name,
            address=self._address(destination),
            sop_classes=" ".join(sorted(accepted)),
            asked_at=self._now(),
        )
        with Session(self._writer) as session, session.begin():
            session.merge(row)
        return accepted

    def forget(self, destination: Destination) -> None:
        """Drop the answer: a refusal has contradicted it."""
        with Session(self._writer) as session, session.begin():
            session.execute(delete(Negotiated).where(Negotiated.destination == destination.name))

    def _address(self, destination: Destination) -> str:
        return f"{self._settings.ae_title} to {destination.ae_title} at {destination.host}:{destination.port}"


def plan(
    profile: ResultProfile, accepted: frozenset[str], destination: Destination, *, rejection: bool = False
) -> Plan:
    """Decide what a destination gets of its profile.

    A rejection is a report and a picture, as far as the profile has them; where it has neither, whichever is accepted.

    Raises
    ------
    Permanent
        When the PACS accepts none of it; the classes are named.
    """
    wanted = tuple(kind for kind in profile.objects if not rejection or kind in REJECTION_KINDS) or REJECTION_KINDS
    classes = {kind: _classes(kind, profile) for kind in wanted}
    found = {kind: next((uid for uid in classes[kind] if uid in accepted), None) for kind in wanted}
    kinds = tuple(kind for kind in wanted if found[kind] is not None)
    left_out = tuple(f"{kind}: {_named(classes[kind])}" for kind in wanted if found[kind] is None)
    if not kinds:
        missing = _named([uid for kind in wanted for uid in classes[kind]])
        raise Permanent(
            f"{destination.ae_title} at {destination.host}:{destination.port} accepts none of: {missing}",
            code="sop-class-refused",
            next_action=f"in the PACS, allow one of these SOP classes for our AE title, or give {destination.name} another "
            "profile (`carpus profiles`); then retry the job",
        )
    return Plan(kinds, found.get("SR"), left_out)


def _classes(kind: ResultKind, profile: ResultProfile) -> tuple[UID, ...]:
    return tuple(SR_CLASSES[name] for name in profile.report_classes) if kind == "SR" else RESULT_CLASSES[kind]


def _named(classes: Sequence[UID]) -> str:
    return ", ".join(f"{uid.name} ({uid})" for uid in classes)
