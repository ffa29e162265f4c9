"""Refuse instances early, before anything is written, while they could not be kept or would wait too long.

What is looked at once a second: the free space of the disk, how many instances wait to be prepared and for how long, how long
the database takes, and whether a person drains the service. A refused peer gets 0xA700 with the cause and keeps its film; the
causes are counted in the database and shown on the page and in the metrics.
"""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from service.errors import Retryable
from service.log import get_logger
from service.queue.jobs import Jobs
from service.queue.queues import INTAKE, Queues
from service.settings import Limits
from service.storage import Store
from service.tables import QueueMode

BELIEVED_SECONDS: Final = 1.0  # how long what was measured is believed
SLOW_COMMIT_SECONDS: Final = 5.0  # how long one slow commit keeps instances out; then the next one shows how it is
SHOWN_SECONDS: Final = 15.0  # how long after its last refusal a cause is shown as holding

log = get_logger()


class Refused(Retryable):
    """Nothing can be taken for now."""

    code = "refused"


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found the last time."""

    backlog: int = 0
    oldest_seconds: float = 0.0  # the longest that an instance has waited to be prepared
    database_seconds: float = 0.0  # what the questions above took
    draining: bool = False


class Pressure:
    """Judge whether one more instance can be taken.

    Parameters
    ----------
    store
        Where it would be written.
    """

    def __init__(
        self, limits: Limits, store: Store, jobs: Jobs, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._store = store
        self._jobs = jobs
        self._queues = Queues(jobs.engine, clock=jobs.now)
        self._clock = clock
        self._measuring = threading.Lock()
        self._measured = Measured()
        self._believed_until = float("-inf")
        self._slow_commit = (float("-inf"), 0.0)  # when it ended, how long it took
        self._counts: dict[str, tuple[int, Retryable]] = {}
        self._refusing: dict[str, tuple[float, Retryable]] = {}

    def check(self) -> None:
        """Return when an instance can be taken.

        Raises
        ------
        Refused, DiskFull
            With the value, the limit and what to do about it.
        """
        self._store.check_free()
        now = self._clock()
        # One thread asks; the others go by what was found before.
        if now >= self._believed_until and self._measuring.acquire(blocking=self._believed_until == float("-inf")):
            try:
                self._measured = self._measure()
                self._believed_until = self._clock() + BELIEVED_SECONDS
            finally:
                self._measuring.release()
        self._judge(self._measured)

    def committed(self, seconds: float) -> None:
        """Note how long the database took to commit an instance."""
        if seconds > self._limits.maximum_database_seconds:
            self._slow_commit = (self._clock(), seconds)

    def refused(self, error: Retryable | SQLAlchemyError) -> None:
        """Count a refusal; `flush` writes it down."""
        if isinstance(error, SQLAlchemyError):
            text = f"the database does not answer ({type(error).__name__})"
            error = Refused(
                text, code="database-unavailable", next_action="start the database, or correct database_url"
            )
        with self._measuring:
            self._counts[error.code] = (self._counts.get(error.code, (0, error))[0] + 1, error)
            self._refusing[error.code] = (self._clock(), error)

    def flush(self) -> dict[str, Any]:
        """Write the counted refusals down; return what goes with the heartbeat: what is being refused now and why, and the disk."""
        with self._measuring:
            counts, self._counts = self._counts, {}
            now = self._clock()
            young = {code: each for code, each in self._refusing.items() if now - each[0] < SHOWN_SECONDS}
            self._refusing = young
        try:
            for code, (count, error) in counts.items():
                self._jobs.count_refusals(code, str(error), error.next_action, count)
        except SQLAlchemyError:
            with self._measuring:
                for code, (count, error) in counts.items():
                    self._counts[code] = (self._counts.get(code, (0, error))[0] + count, error)
            raise
        return {
            **self._disk(),
            "refusing": [
                {"code": code, "text": str(error), "next_action": error.next_action}
                for code, (_, error) in sorted(young.items())
            ],
        }

    def _disk(self) -> dict[str, dict[str, int]]:
        name = self._store.root.name
        try:
            size = shutil.disk_usage(self._store.root).total
            return {"disk_free_bytes": {name: self._store.free_bytes()}, "disk_size_bytes": {name: size}}
        except OSError:
            return {}  # a sign of life must not fail on a disk that is away; the next film says it

    def _measure(self) -> Measured:
        started = self._clock()
        backlog, oldest = self._jobs.unprepared_since()
        draining = self._queues.mode(INTAKE) == QueueMode.DRAINING
        return Measured(backlog, oldest.total_seconds(), self._clock() - started, draining)

    def _judge(self, found: Measured) -> None:
        limits = self._limits
        if found.draining:
            raise Refused("the service is being drained", code="draining", next_action="`carpus jobs resume` ends it")
        if found.backlog >= limits.maximum_backlog:
            raise Refused(
                f"{found.backlog} instances wait to be prepared; the limit is {limits.maximum_backlog}",
                code="backlog",
                next_action="see whether the intake process runs, or raise limits.maximum_backlog",
            )
        if found.oldest_seconds > limits.maximum_backlog_seconds:
            raise Refused(
                f"an instance has waited {found.oldest_seconds:.0f} s to be prepared; the limit is "
                f"{limits.maximum_backlog_seconds:g} s",
                code="backlog-age",
                next_action="see whether the intake process runs and what its log says",
            )
        ended, took = self._slow_commit
        took = max(found.database_seconds, took if self._clock() - ended < SLOW_COMMIT_SECONDS else 0.0)
        if took > limits.maximum_database_seconds:
            raise Refused(
                f"the database took {took:.1f} s; the limit is {limits.maximum_database_seconds:g} s",
                code="database-slow",
                next_action="see what keeps the database or its disk busy",
            )
