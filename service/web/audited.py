"""Tell the audit trail who logged in and out, who was refused, and who looked at or changed which film."""

from dataclasses import dataclass

from starlette.requests import Request

from service.auditing.messages import APPLICATION_ROLE, AuditMessage, Event, Outcome, Participant
from service.auditing.trail import Trail
from service.tables import Instance, Job

NOBODY = "unknown"  # what somebody typed as a name may be a password in the wrong field


@dataclass(frozen=True, slots=True)
class Audited:
    """The audit trail as the pages use it."""

    trail: Trail
    source: str

    def person(self, event: Event, request: Request, user: str, *, refused: bool = False, detail: str = "") -> None:
        """Record that somebody logged in or out, or was not let in."""
        outcome = Outcome.REFUSED if refused else Outcome.SUCCESS
        self._append(AuditMessage(event, (_who(request, user),), self.trail.now(), outcome, detail=detail))

    def film(self, event: Event, request: Request, job: Job, instance: Instance, detail: str = "") -> None:
        """Record that somebody looked at a film, or changed what becomes of it."""
        self._append(
            AuditMessage(
                event,
                (_who(request, request.state.user.name),),
                self.trail.now(),
                study=instance.StudyInstanceUID,
                sop_classes={instance.SOPClassUID: 1},
                subject=job.subject or "",
                detail=detail or f"job {job.id}",
            )
        )

    def setting(self, request: Request, detail: str) -> None:
        """Record that somebody changed how the service runs."""
        who = _who(request, request.state.user.name)
        self._append(AuditMessage(Event.CONFIGURED, (who,), self.trail.now(), detail=detail))

    def _append(self, message: AuditMessage) -> None:
        self.trail.append(message, source=self.source)


def _who(request: Request, user: str) -> Participant:
    address = request.client.host if request.client else ""
    return Participant(user or NOBODY, requestor=True, address=address, role=APPLICATION_ROLE)
