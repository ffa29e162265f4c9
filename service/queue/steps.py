"""Take the steps of a job: claim, keep the lease alive, record how it ended, say that the next one may begin."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, Protocol

from sqlalchemy.exc import OperationalError

from service import tracing
from service.errors import Postponed
from service.log import about, get_logger
from service.queue.causes import decide
from service.queue.jobs import Claim, Jobs, LeaseLost, State
from service.queue.keeper import Keeper
from service.settings import RetrySettings, Settings

log = get_logger()

RECORD_AGAIN_SECONDS: Final = 1.0
MESSAGE_STATES: Final = (State.PREPARED, State.INFERRED)
STAGES: Final = {State.PREPARED: "infer", State.INFERRED: "deliver"}  # what a step is called in traces


class Pipeline(Protocol):
    """The three steps; each works on a claimed job and writes its end with `Jobs.advance`."""

    def prepare(self, claim: Claim) -> None:
        """Go from RECEIVED to PREPARED, FILTERED, or INFERRED with a rejection."""

    def infer(self, claim: Claim) -> None:
        """Go from PREPARED to INFERRED."""

    def deliver(self, claim: Claim) -> None:
        """Go from INFERRED to DELIVERED or REJECTED."""


class Steps:
    """The steps, for whoever learns that there is something to do.

    Parameters
    ----------
    publish
        Called with a job and its state when a worker of the next queue has something to do.
    """

    def __init__(
        self, jobs: Jobs, pipeline: Pipeline, publish: Callable[[int, State], Any], settings: Settings
    ) -> None:
        self._jobs = jobs
        self._steps = {State.PREPARED: pipeline.infer, State.INFERRED: pipeline.deliver}
        self._pipeline = pipeline
        self._publish = publish
        self._retry: RetrySettings = settings.retry
        self._keeper = Keeper(jobs)

    def prepare(self, job_id: int) -> None:
        """Prepare a received job; a repeated call does nothing. Errors are the caller's: it keeps the file in quarantine."""
        claim = self._jobs.claim(job_id, State.RECEIVED)
        if claim is not None:
            with _traced("prepare", claim), self._keeper.kept(claim):
                self._pipeline.prepare(claim)
            self._send_next(job_id)

    def infer(self, job_id: int) -> None:
        """Read the film of this prepared job."""
        self._work(self._jobs.claim(job_id, State.PREPARED))

    def deliver(self, job_id: int) -> None:
        """Send the results of this job that has been read or rejected."""
        self._work(self._jobs.claim(job_id, State.INFERRED))

    def next(self, state: State) -> bool:
        """Take the step out of this state of the job whose turn it is; False when nothing waits."""
        return self._work(self._jobs.claim_next(state))

    def _work(self, claim: Claim | None) -> bool:
        if claim is None:
            return False
        job = claim.job
        try:
            with about(job=job.id, step=job.state), _traced(STAGES[State(job.state)], claim), self._keeper.kept(claim):
                self._steps[State(job.state)](claim)
        except LeaseLost:
            log.warning("lease lost", job=job.id, state=job.state)
            return True
        except Exception as error:  # noqa: BLE001 - the one broad catch of a worker; it records the job
            with suppress(LeaseLost):
                self._record_in_time(claim, error)
            return True
        self._send_next(job.id)
        return True

    def _record_in_time(self, claim: Claim, error: Exception) -> None:
        """Write the failure, again and again while the database is away: unwritten, the job would wait for the end of its lease."""
        end = time.monotonic() + self._jobs.lease.total_seconds()
        while True:
            try:
                return self._record(claim, error)
            except OperationalError:
                if time.monotonic() >= end:
                    raise
            time.sleep(RECORD_AGAIN_SECONDS)

    def _record(self, claim: Claim, error: Exception) -> None:
        """Write the failure with its cause: again later, or to the dead letters with what to do."""
        job, now = claim.job, self._jobs.now()
        found = decide(error, attempts=job.attempts, failing_since=job.first_failed_at, now=now, retry=self._retry)
        fields = {"job": job.id, "state": job.state, "code": found.code}
        if isinstance(error, Postponed) and found.delay is not None:
            log.info("step postponed", seconds=round(found.delay.total_seconds(), 1), **fields)
            self._jobs.postpone(claim, found.code, found.text, found.delay, found.next_action)
            return
        if found.delay is None:
            self._jobs.fail(claim, found.code, found.text, found.next_action)
        else:
            self._jobs.retry_later(claim, found.code, found.text, found.delay, found.next_action)
        log.error("step failed", attempt=job.attempts, final=found.last, **fields)

    def _send_next(self, job_id: int) -> None:
        state = self._jobs.state_of(job_id)
        if state in MESSAGE_STATES:
            self._publish(job_id, state)


def _traced(stage: str, claim: Claim) -> AbstractContextManager[None]:
    """Trace one attempt at a step, as a child of the film's reception."""
    job = claim.job
    waited = (claim.started_at - job.state_since).total_seconds() * 1000
    said = {"job": job.id, "revision": job.revision, "attempt": job.attempts, "waited_ms": round(waited, 1)}
    return tracing.span(stage, parent=job.traceparent, kind="CONSUMER", attributes=said)
