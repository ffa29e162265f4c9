"""Keep the leases of a process's steps: one thread that gives a sign of life for each claim that is worked on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from service.log import get_logger
from service.queue.jobs import Claim, Jobs

HEARTBEATS_PER_LEASE: Final = 4

log = get_logger()


class Keeper:
    """Extends the lease of each claim it is given, four times in the span of a lease, until the claim is given back.

    Its thread starts with the first claim and ends when it finds none: a thread for each step cost more than many a step.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._period = jobs.lease.total_seconds() / HEARTBEATS_PER_LEASE
        self._held: dict[str, Claim] = {}  # by token
        self._one = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def kept(self, claim: Claim) -> Iterator[None]:
        """Keep the lease for the block."""
        with self._one:
            self._held[claim.token] = claim
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._one:
                self._held.pop(claim.token, None)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(self._period)
            with self._one:
                held = list(self._held.values())
                if not held:
                    self._thread = None
                    return
            for claim in held:
                self._beat(claim)

    def _beat(self, claim: Claim) -> None:
        try:
            lost = not self._jobs.heartbeat(claim)
        except SQLAlchemyError as error:  # the next beat may find the database; else the lease runs out, as it should
            log.warning("lease not extended", job=claim.job.id, error=type(error).__name__)
        else:
            if lost:  # or the step has just ended
                with self._one:
                    self._held.pop(claim.token, None)
