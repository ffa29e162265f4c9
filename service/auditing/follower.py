"""State what was received and sent from the system of record, seal the chain, forward it.

Films and results are audited from the rows that were committed for them, so neither the receiving nor the sending side waits for
the trail, and nothing that was acknowledged is missing from it. One thread of `carpus intake` runs this.
"""

import datetime as dt
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from sqlalchemy import select

from service.auditing.messages import (
    APPLICATION_ROLE,
    DESTINATION_ROLE,
    SOURCE_ROLE,
    AuditMessage,
    Event,
    Outcome,
    Participant,
    ourselves,
)
from service.auditing.syslog import Repository
from service.auditing.trail import Trail
from service.errors import Retryable
from service.ledger import Ledger
from service.log import get_logger, whereabouts
from service.settings import Settings
from service.tables import Instance, Job, JobEvent, ResultObject

log = get_logger()

INTERVAL_SECONDS: Final = 5.0
# Rows of PostgreSQL may be committed in another order than they are numbered; by now every older one is there.
SETTLED_AFTER: Final = dt.timedelta(seconds=5)
BATCH: Final = 500
SENT: Final = ("delivered", "rejected")  # the codes of a job's event when its results have been accepted
PAGES: Final = "web"  # the pages tell the trail themselves, with the account
ASKED_FOR: Final = ("retry", "cancelled", "priority")  # what a person did to a job, by the code of its event


class Committed(Ledger):
    """What was committed since a position, old enough to be complete."""

    def instances(self, position: int) -> list[tuple[Instance, str]]:
        """Return received instances with the pseudonym of their patient ("" where it is not known)."""
        settled = self.now() - SETTLED_AFTER
        query = select(Instance).where(Instance.id > position, Instance.received_at < settled)
        with self._read() as session:
            rows = [*session.scalars(query.order_by(Instance.id).limit(BATCH))]
            of = Job.instance_id.in_([row.id for row in rows])
            found = session.execute(select(Job.instance_id, Job.subject).where(of))
            subjects = {row.instance_id: row.subject for row in found}
        return [(row, subjects.get(row.id) or "") for row in rows]

    def events(self, position: int) -> list[tuple[JobEvent, str, str]]:
        """Return events of jobs with the patient's pseudonym and the StudyInstanceUID."""
        query = (
            select(JobEvent, Job.subject, Instance.StudyInstanceUID)
            .join(Job, Job.id == JobEvent.job_id)
            .join(Instance, Instance.id == Job.instance_id)
            .where(JobEvent.id > position, JobEvent.at < self.now() - SETTLED_AFTER)
        )
        with self._read() as session:
            rows = session.execute(query.order_by(JobEvent.id).limit(BATCH))
            return [(event, subject or "", study) for event, subject, study in rows]


class Follower:
    """Keep the audit trail up to date.

    Parameters
    ----------
    trail
        On the migrated database.
    seal_key
        `Pseudonyms.audit_key`; never in the database.
    """

    def __init__(self, trail: Trail, settings: Settings, seal_key: bytes) -> None:
        self._trail = trail
        self._committed = Committed(trail.engine, clock=trail.now)
        self._settings = settings
        self._key = seal_key
        self._source = settings.audit_source
        self._repository = Repository(settings.audit.syslog) if settings.audit.syslog else None

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; a database or a repository that is away is tried again."""
        self._activity(Event.STARTED)
        while not stop.wait(INTERVAL_SECONDS):
            try:
                self.round()
            except Exception as error:  # noqa: BLE001 - the loop must outlive any outage; the error is logged
                log.error("audit trail not written", **whereabouts(error))
        self._activity(Event.STOPPED)
        self.close()

    def round(self) -> None:
        """Write what is new, seal it, forward it."""
        while self.received() or self.sent():
            pass
        self._trail.seal(self._key)
        self.forward()

    def received(self) -> bool:
        """Write one record for what a peer sent of one study in one go; whether there was any."""
        rows = self._committed.instances(self._trail.position("instances"))
        messages = []
        for (peer, address, study), group in groupby(
            rows, key=lambda row: (row[0].calling_ae_title, row[0].address, row[0].StudyInstanceUID)
        ):
            instances = [*group]
            source = Participant(peer, "", f"AETITLES={peer}", requestor=True, address=address, role=SOURCE_ROLE)
            messages.append(
                AuditMessage(
                    Event.RECEIVED,
                    (source, ourselves(self._settings.ae_title, process="scp", role=DESTINATION_ROLE)),
                    instances[-1][0].received_at,
                    study=study,
                    sop_classes=dict(Counter(row.SOPClassUID for row, _ in instances)),
                    subject=next((subject for _, subject in instances if subject), ""),
                )
            )
        if rows:
            self._trail.append_all(messages, "instances", rows[-1][0].id, source=self._source)
        return bool(rows)

    def sent(self) -> bool:
        """Write a record for each destination of each delivered job, and for what persons did to jobs."""
        rows = self._committed.events(self._trail.position("job_events"))
        messages: list[AuditMessage] = []
        for event, subject, study in rows:
            if event.code in SENT:
                messages += self._left(event, self._committed.results(event.job_id), study, subject)
            elif event.code in ASKED_FOR and not (event.process or "").startswith(PAGES):
                who = Participant(event.process or "unknown", requestor=True, role=APPLICATION_ROLE)
                detail = f"job {event.job_id}: {event.code}"
                messages.append(
                    AuditMessage(Event.CHANGED, (who,), event.at, study=study, subject=subject, detail=detail)
                )
        if rows:
            self._trail.append_all(messages, "job_events", rows[-1][0].id, source=self._source)
        return bool(rows)

    def close(self) -> None:
        """Close the connection to the repository."""
        if self._repository is not None:
            self._repository.close()

    def forward(self) -> int:
        """Send what the audit repository has not had; return how many records."""
        if self._repository is None:
            return 0
        count = 0
        position = self._trail.position("syslog")
        try:
            for row in self._trail.records(after=position):
                self._repository.send(row.message, row.at)
                position = row.id
                count += 1
        except Retryable as error:
            log.warning("audit records wait", code=error.code, cause=str(error))
        if count:
            self._trail.moved("syslog", position)
        return count

    def _left(self, event: JobEvent, results: Sequence[ResultObject], study: str, subject: str) -> list[AuditMessage]:
        by_destination = sorted(results, key=lambda row: row.destination)
        return [
            AuditMessage(
                Event.SENT,
                (
                    ourselves(self._settings.ae_title, process="delivery", role=SOURCE_ROLE, requestor=True),
                    Participant(name, alternative=f"AETITLES={self._ae_title(name)}", role=DESTINATION_ROLE),
                ),
                event.at,
                study=study,
                sop_classes=dict(Counter(row.SOPClassUID for row in rows)),
                subject=subject,
                detail=f"job {event.job_id}",
            )
            for name, rows in groupby(by_destination, key=lambda row: row.destination)
        ]

    def _ae_title(self, destination: str) -> str:
        return next((d.ae_title for d in self._settings.destinations if d.name == destination), destination)

    def _activity(self, event: Event) -> None:
        try:
            self._trail.append(
                AuditMessage(
                    event,
                    (ourselves(self._settings.ae_title, process="intake", role=APPLICATION_ROLE, requestor=True),),
                    self._trail.now(),
                    Outcome.SUCCESS,
                    detail=f"configuration {self._settings.fingerprint}",
                ),
                source=self._source,
            )
        except Exception as error:  # noqa: BLE001 - starting and stopping must not hang on the trail; the error is logged
            log.error("audit trail not written", **whereabouts(error))
