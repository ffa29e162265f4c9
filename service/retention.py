"""Remove what need not be kept: by age, by use of the disk, and a patient on demand; never under a legal hold, never unconfirmed.

A film leaves with everything of it: both copies, the results, quarantined files and the rows, in that order, so that an interrupted
removal is finished by the next round. What stays is the audit trail, which names the study and the patient's pseudonym.
"""

import datetime as dt
import shutil
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy import and_, delete, or_, select, update

from service import tallies
from service.auditing.messages import APPLICATION_ROLE, AuditMessage, Event, Participant
from service.auditing.trail import Trail
from service.errors import Permanent
from service.ledger import Ledger, UnknownJob
from service.log import get_logger, whereabouts
from service.queue.jobs import Jobs
from service.sending import proof_metrics
from service.settings import Settings
from service.storage import Store, Stores
from service.tables import Instance, Job, LegalHold, Quarantined, ResultObject
from service.trust.vault import Vault

log = get_logger()
Thing = TypeVar("Thing")

ROUND_SECONDS: Final = 600.0
BATCH: Final = 100
_ABOUT: Final = {"patient": "subject", "study": "study"}  # what a hold is placed on -> the field of an audit message


class Held(Permanent):
    """A legal hold forbids the removal."""

    code = "legal-hold"


class Unconfirmed(Permanent):
    """Something of it is not finished, or not confirmed by the PACS."""

    code = "unconfirmed"


@dataclass(frozen=True, slots=True)
class Removed:
    """What one round or one request took away."""

    instances: int = 0
    quarantined: int = 0


class Stuck(Permanent):
    """A file that the file system does not let go."""

    code = "cannot-remove"


class Removals(Ledger):
    """The rows behind the files: what belongs to a film or a patient, and what holds it."""

    def of_patient(self, subject: str) -> list[tuple[int, int]]:
        """Return (job, instance) of everything that is known to be the patient's."""
        with self._read() as session:
            query = select(Job.id, Job.instance_id).where(Job.subject == subject).order_by(Job.id)
            return [(row.id, row.instance_id) for row in session.execute(query)]

    def of_film(self, instance_id: int) -> tuple[Instance | None, list[Job], list[str]]:
        """Return a film's row, its jobs and the names of their results; None when it is gone."""
        with self._read() as session:
            jobs = [*session.scalars(select(Job).where(Job.instance_id == instance_id))]
            numbers = [job.id for job in jobs]
            results = [*session.scalars(select(ResultObject.name).where(ResultObject.job_id.in_(numbers)))]
            return session.get(Instance, instance_id), jobs, results

    def drop_film(self, instance_id: int) -> None:
        """Delete the rows of a film; events, results and amendments go with its jobs, what was counted of them stays."""
        of_it = Quarantined.instance_id == instance_id
        with self._write() as session:
            size = session.scalar(select(Instance.byte_count).where(Instance.id == instance_id))
            if size is not None:
                tallies.add(session, tallies.INSTANCES, {"": 1.0})
                tallies.add(session, tallies.BYTES, {"": float(size)})
            proof_metrics.removed_with(
                session, [*session.scalars(select(Job.id).where(Job.instance_id == instance_id))]
            )
            session.execute(update(Quarantined).where(of_it).values(instance_id=None))
            session.execute(delete(Job).where(Job.instance_id == instance_id))
            session.execute(delete(Instance).where(Instance.id == instance_id))

    def quarantine(self) -> Sequence[Quarantined]:
        """Return every quarantined file, oldest first."""
        with self._read() as session:
            return tuple(session.scalars(select(Quarantined).order_by(Quarantined.id)))

    def drop_quarantined(self, row: Quarantined) -> bool:
        """Delete one row; whether another one still names the same file."""
        with self._write() as session:
            count = session.scalar(select(Quarantined.count).where(Quarantined.id == row.id).with_for_update())
            tallies.add(session, tallies.QUARANTINED, {row.cause_code: float(count or 0)})
            session.execute(delete(Quarantined).where(Quarantined.id == row.id))
            return (
                session.scalars(select(Quarantined.id).where(Quarantined.name == row.name).limit(1)).first() is not None
            )

    def hold(self, scope: str, value: str, reason: str, actor: str) -> int:
        """Record a hold and return its number."""
        with self._write() as session:
            row = LegalHold(scope=scope, value=value, reason=reason, placed_by=actor, placed_at=self.now())
            session.add(row)
            session.flush()
            return row.id

    def release(self, number: int, actor: str) -> LegalHold:
        """Record the end of a hold and return it.

        Raises
        ------
        Permanent
            When no hold of this number is in force.
        """
        with self._write() as session:
            row = session.get(LegalHold, number)
            if row is None or row.released_at is not None:
                raise Permanent(f"no legal hold {number} is in force", code="unknown-hold")
            row.released_by, row.released_at = actor, self.now()
            return row

    def holds(self) -> Sequence[LegalHold]:
        """Return the holds in force, oldest first."""
        with self._read() as session:
            query = select(LegalHold).where(LegalHold.released_at.is_(None)).order_by(LegalHold.id)
            return tuple(session.scalars(query))

    def holds_on(self, instance_id: int) -> Sequence[LegalHold]:
        """Return the holds in force on a film, by its study or its patient."""
        study = select(Instance.StudyInstanceUID).where(Instance.id == instance_id).scalar_subquery()
        subjects = select(Job.subject).where(Job.instance_id == instance_id, Job.subject.is_not(None))
        named = or_(
            and_(LegalHold.scope == "study", LegalHold.value == study),
            and_(LegalHold.scope == "patient", LegalHold.value.in_(subjects)),
        )
        with self._read() as session:
            return tuple(session.scalars(select(LegalHold).where(LegalHold.released_at.is_(None), named)))


class Retention:
    """Remove films and answer for it in the audit trail.

    Parameters
    ----------
    vault
        Where the headers of the films are sealed; they go with them.
    actor
        Who removes: the process, or the person at the command line.
    disk_used
        Share of the data directory's disk in use, 0 to 1; given by tests.
    """

    def __init__(
        self,
        jobs: Jobs,
        trail: Trail,
        stores: Stores,
        settings: Settings,
        *,
        actor: str = "retention",
        vault: Vault | None = None,
        disk_used: Callable[[], float] | None = None,
    ) -> None:
        self._jobs = jobs
        self._rows = Removals(jobs.engine, clock=jobs.now)
        self._trail = trail
        self._stores = stores
        self._vault = vault
        self._settings = settings.retention
        self._unasked = [destination.name for destination in settings.destinations if destination.confirm == "none"]
        self._actor = actor
        self._disk_used = disk_used or (lambda: _disk_used(settings))

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop, the first time soon after the start."""
        delay = 30.0
        while not stop.wait(delay):
            delay = ROUND_SECONDS
            try:
                removed = self.round()
                if removed.instances or removed.quarantined:
                    log.info("removed", films=removed.instances, quarantined=removed.quarantined)
            except Exception as error:  # noqa: BLE001 - the loop must outlive any outage; the error is logged
                log.error("retention failed", **whereabouts(error))

    def round(self) -> Removed:
        """Remove what is older than the settings keep, then the oldest while the disk is fuller than they allow."""
        now = self._jobs.now()
        films = quarantined = 0
        if self._settings.films_days is not None:
            films = self._remove_finished(now - dt.timedelta(days=self._settings.films_days), lambda: True)
        if self._settings.quarantine_days is not None:
            quarantined = self._remove_quarantined(now - dt.timedelta(days=self._settings.quarantine_days))
        limit = self._settings.maximum_disk_percent / 100
        if self._disk_used() > limit:
            films += self._remove_finished(now, lambda: self._disk_used() > limit)
            if self._disk_used() > limit:
                log.warning(
                    "disk over its limit and nothing more may be removed",
                    percent=round(100 * self._disk_used()),
                    limit=self._settings.maximum_disk_percent,
                )
        return Removed(films, quarantined)

    def forget(self, subject: str, *, belongs: Callable[[str, str], bool], even_unconfirmed: bool = False) -> Removed:
        """Remove everything of one patient.

        Parameters
        ----------
        subject
            The patient's pseudonym.
        belongs
            Whether a (PatientID, IssuerOfPatientID) is this patient's: finds quarantined files, of which no row names the patient.
        even_unconfirmed
            Also what is unfinished or not confirmed by the PACS.

        Raises
        ------
        Held, Unconfirmed
            Before anything is removed, naming the holds or the jobs.
        """
        rows = self._rows.of_patient(subject)
        instances = sorted({instance for _, instance in rows})
        held = [hold for instance in instances for hold in self._rows.holds_on(instance)]
        held += [hold for hold in self._rows.holds() if hold.scope == "patient" and hold.value == subject]
        if held:
            raise Held(
                f"a legal hold forbids it: {', '.join(sorted({h.reason for h in held}))}",
                next_action="release them first: carpus hold list, carpus hold release NUMBER",
            )
        kept = [why for job, _ in rows if (why := self._jobs.may_be_removed(job, unasked=self._unasked)) is not None]
        if kept and not even_unconfirmed:
            raise Unconfirmed(
                "; ".join(kept), next_action="wait for the confirmation, or repeat with --even-unconfirmed"
            )
        for instance in instances:
            self._remove(instance)
        files = [row for row in self._rows.quarantine() if _is_of(self._stores.quarantine, row, belongs)]
        for row in files:
            self._remove_file(row)
        return Removed(len(instances), len(files))

    def hold(self, scope: str, value: str, reason: str) -> int:
        """Forbid the removal of a patient (pseudonym) or a study (UID); return the hold's number."""
        if scope not in _ABOUT or not value or not reason.strip():
            raise Permanent("a hold needs a patient or a study, and a reason", code="incomplete-hold")
        number = self._rows.hold(scope, value, reason, self._actor)
        self._audited(Event.CONFIGURED, f"legal hold {number} placed", **{_ABOUT[scope]: value})
        return number

    def release(self, number: int) -> None:
        """Lift a hold."""
        row = self._rows.release(number, self._actor)
        self._audited(Event.CONFIGURED, f"legal hold {number} released", **{_ABOUT[row.scope]: row.value})

    def holds(self) -> Sequence[LegalHold]:
        """Return the holds in force, oldest first."""
        return self._rows.holds()

    def _remove_finished(self, before: dt.datetime, goes_on: Callable[[], bool]) -> int:
        """Remove films whose every job finished before this time, oldest first, as long as `goes_on`."""
        count = 0
        seen: set[int] = set()
        while goes_on():
            found = [
                job for job in self._jobs.removable(before, BATCH + len(seen), unasked=self._unasked) if job not in seen
            ]
            if not found:
                return count
            for job in found:
                seen.add(job)
                if not goes_on():
                    return count
                with suppress(Held, Unconfirmed, UnknownJob):  # unknown: an earlier job of the same film took it along
                    count += _or_told(self._remove_whole, self._jobs.get(job).instance_id, job=job)
        return count

    def _remove_whole(self, instance_id: int) -> None:
        holds = self._rows.holds_on(instance_id)
        if holds:
            raise Held(f"film {instance_id} is under a legal hold: {holds[0].reason}")
        for job in self._rows.of_film(instance_id)[1]:
            why = self._jobs.may_be_removed(job.id, unasked=self._unasked)
            if why is not None:
                raise Unconfirmed(why)
        self._remove(instance_id)

    def _remove(self, instance_id: int) -> None:
        """Remove the files, tell the trail, then remove the rows that named them."""
        instance, jobs, results = self._rows.of_film(instance_id)
        if instance is None:
            return  # another job of the same film led here already
        _unlink(self._stores.results, results)
        _unlink(self._stores.deidentified, [job.deidentified_name for job in jobs if job.deidentified_name])
        _unlink(self._stores.identified, [instance.name])
        if self._vault is not None:
            for job in jobs:
                self._vault.drop_header(job.id)
        subject = next((job.subject for job in jobs if job.subject), "")
        # Other records of the trail, and the pages, name it by its jobs.
        its = ", ".join(f"job {job.id}" for job in jobs)
        self._audited(Event.DELETED, f"film {instance_id} ({its})", study=instance.StudyInstanceUID, subject=subject)
        self._rows.drop_film(instance_id)

    def _remove_quarantined(self, before: dt.datetime) -> int:
        rows = [row for row in self._rows.quarantine() if row.last_at < before]
        free = [row for row in rows if row.instance_id is None or not self._rows.holds_on(row.instance_id)]
        return sum(_or_told(self._remove_file, row, quarantined=row.id) for row in free)

    def _remove_file(self, row: Quarantined) -> None:
        self._audited(Event.DELETED, f"quarantined file {row.id}, {row.cause_code}")
        if not self._rows.drop_quarantined(row):
            _unlink(self._stores.quarantine, [row.name])

    def _audited(self, event: Event, detail: str, *, study: str = "", subject: str = "") -> None:
        who = Participant(self._actor, requestor=True, role=APPLICATION_ROLE)
        self._trail.append(AuditMessage(event, (who,), self._jobs.now(), study=study, subject=subject, detail=detail))


def _or_told(remove: Callable[[Thing], None], thing: Thing, **what: int) -> bool:
    """Remove one thing; one that stays is told, and keeps none of the others."""
    try:
        remove(thing)
    except Stuck as error:
        log.error("not removed", cause=str(error), next_action=error.next_action, **what)
        return False
    return True


def _unlink(store: Store, names: Iterable[str]) -> None:
    for name in names:
        try:
            store.remove(name)
        except OSError as error:
            raise Stuck(
                f"{store.path(name)} cannot be removed: {error.strerror}",
                next_action="let the user of the service write in this folder, or remove what is there instead of a file",
            ) from error


def _is_of(store: Store, row: Quarantined, belongs: Callable[[str, str], bool]) -> bool:
    """Whether a quarantined file names the patient; one that cannot be read names nobody."""
    if not store.path(row.name).is_file():  # gone, or a pipe that would be waited for
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is in quarantine is broken by definition
            header = dcmread(store.path(row.name), stop_before_pixels=True, force=True)
            named = str(header.get("PatientID", "")), str(header.get("IssuerOfPatientID", ""))
    except (OSError, InvalidDicomError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError):
        return False
    return belongs(*named)


def _disk_used(settings: Settings) -> float:
    usage = shutil.disk_usage(settings.data_directory)
    return usage.used / usage.total
