"""Bring back what was lost: leases of dead workers, messages that a broker lost, retries whose time has come.

What a dead worker was writing is cleared away: its next try writes a file of its own.
"""

import datetime as dt
import threading
import time
from collections.abc import Sequence
from typing import Final, Protocol

from service.log import get_logger
from service.queue.jobs import Jobs, State
from service.queue.steps import MESSAGE_STATES
from service.storage import Store

log = get_logger()

NAMED_AT_MOST: Final = 10  # jobs in one line of the log; a backlog is overdue by hundreds
SWEEP_SECONDS: Final = 60.0
OUTBOX_AFTER: Final = dt.timedelta(seconds=1)  # by then whoever finished the step before has sent its message
# An unfinished file that nobody has written to for so long has no writer; one that is only slow fails as on a full disk and tries again.
LEFT_SECONDS: Final = 60.0
BROKER_EMPTY_AFTER: Final = dt.timedelta(seconds=5)  # a message younger than this may be on its way to a worker


class Messages(Protocol):
    """The broker, as far as the sweep needs it; `service.tasks.Publisher` is one."""

    def publish(self, job_id: int, state: State) -> bool:
        """Send the message that takes a job out of this state; False when the broker is away."""

    def waiting(self, state: State) -> int | None:
        """Count the messages of this state's queue; None when the broker is away."""


class Sweeper:
    """Look at start, every second for messages that are due, every minute for leases, deadlines and unfinished files.

    Parameters
    ----------
    stores
        Where unfinished files are cleared away; not where films are received, whose listener does so itself.
    """

    def __init__(
        self, jobs: Jobs, messages: Messages, *, stores: Sequence[Store] = (), sweep_seconds: float = SWEEP_SECONDS
    ) -> None:
        self._jobs = jobs
        self._messages = messages
        self._stores = stores
        self._sweep_seconds = sweep_seconds
        self._swept_at = -sweep_seconds  # the first round sweeps

    def run(self, stop: threading.Event, *, interval_seconds: float = 1.0) -> None:
        """Work until told to stop; a database that is away is tried again."""
        while not stop.wait(interval_seconds):
            try:
                self.round()
            except Exception as error:  # noqa: BLE001 - the loop must outlive any outage; the error is logged
                log.error("sweep failed", error=type(error).__name__)

    def round(self) -> int:
        """Do what is due now; return how many messages were sent."""
        if time.monotonic() - self._swept_at >= self._sweep_seconds:
            self._swept_at = time.monotonic()
            swept = self._jobs.sweep()
            if swept.released or swept.abandoned or swept.overdue:
                found = {"released": swept.released, "abandoned": swept.abandoned, "overdue": swept.overdue}
                counts = {what: len(jobs) for what, jobs in found.items()}
                some = {f"some_{what}": list(jobs[:NAMED_AT_MOST]) for what, jobs in found.items() if jobs}
                log.warning("swept", **counts, **some)
            for store in self._stores:
                if left := store.sweep(older_than_seconds=LEFT_SECONDS):
                    log.warning("unfinished files removed", store=store.root.name, count=left)
        due = self._jobs.unpublished(settled_for=OUTBOX_AFTER, older_than=None)
        for state in MESSAGE_STATES:
            lost = self._jobs.unpublished(older_than=BROKER_EMPTY_AFTER, settled_for=BROKER_EMPTY_AFTER, state=state)
            if lost and self._messages.waiting(state) == 0:
                due.extend(job for job in lost if job not in due)
        return sum(1 for job_id, state in due if self._messages.publish(job_id, state))
