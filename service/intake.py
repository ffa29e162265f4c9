"""Prepare what has been received: find it in the database, hand each job to `prepare`, keep one failure from the others.

The database is asked, not the network: an instance that was committed is found even if nobody announced it, however late it
comes and whatever was restarted in between. Every usable film is a job of its own as soon as the debounce is over; there is no
waiting for a study to be complete, which DICOM does not tell.
"""

import datetime as dt
import faulthandler
import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from sqlalchemy.exc import SQLAlchemyError

from service.log import get_logger, whereabouts
from service.queue.causes import decide
from service.queue.jobs import Jobs, LeaseLost
from service.settings import Settings
from service.storage import DiskFull, Stores

log = get_logger()

BATCH: Final = 10  # few, so that an urgent film that comes in meanwhile does not wait for many others
POLL_SECONDS: Final = 0.1
BEAT_SECONDS: Final = 5.0
DATABASE_AWAY_SECONDS: Final = 1.0


class Steps(Protocol):
    """What takes a job out of RECEIVED; `service.tasks.Steps` does."""

    def prepare(self, job_id: int) -> None:
        """Prepare the job; a repeated call does nothing.

        Raises
        ------
        Retryable, Permanent
            With the cause. A film that must not be read is no error.
        """


class Intake:
    """The loop between receiving and inference.

    Parameters
    ----------
    jobs, stores, settings
        Where jobs are found, where a failed film is kept, how long to wait.
    steps
        See `Steps`.
    limited
        Held around the preparation of each film, given the seconds it may take; the process of the intake gives `or_ended`.
    """

    def __init__(
        self,
        jobs: Jobs,
        stores: Stores,
        settings: Settings,
        steps: Steps,
        *,
        limited: Callable[[float], AbstractContextManager[None]],
    ) -> None:
        self._jobs = jobs
        self._stores = stores
        self._steps = steps
        self._debounce = dt.timedelta(seconds=settings.debounce_seconds)
        self._retry = settings.retry
        self._longest_seconds = settings.limits.maximum_preparation_seconds
        self._limited = limited

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; the job at hand is finished first."""
        beaten_at = -BEAT_SECONDS
        while not stop.is_set():
            try:
                if time.monotonic() - beaten_at >= BEAT_SECONDS:
                    self._jobs.beat("intake")
                    beaten_at = time.monotonic()
                found = self.round(stop)
            except SQLAlchemyError as error:
                log.error("database away", **whereabouts(error))
                stop.wait(DATABASE_AWAY_SECONDS)
            else:
                if not found:
                    stop.wait(POLL_SECONDS)
        self._jobs.sign_off("intake")

    def round(self, stop: threading.Event | None = None) -> int:
        """Prepare what waits longer than the debounce, oldest first; return how many jobs were looked at."""
        due = self._jobs.unprepared(self._jobs.now() - self._debounce, BATCH)
        for count, job_id in enumerate(due):
            if stop is not None and stop.is_set():
                return count
            self._prepare(job_id)
        return len(due)

    def _prepare(self, job_id: int) -> None:
        started = time.monotonic()
        try:
            with self._limited(self._longest_seconds):
                self._steps.prepare(job_id)
        except LeaseLost:
            log.warning("lease lost", job=job_id)
        except (SQLAlchemyError, MemoryError):
            raise  # not this job's fault: `run` waits, or the process ends and is started again
        except Exception as error:  # noqa: BLE001 - the one broad catch of this process; it records the job
            self._failed(job_id, error)
        else:
            log.info("prepared", job=job_id, seconds=round(time.monotonic() - started, 3))

    def _failed(self, job_id: int, error: Exception) -> None:
        job, now = self._jobs.get(job_id), self._jobs.now()
        found = decide(error, attempts=job.attempts, failing_since=job.first_failed_at, now=now, retry=self._retry)
        log.error("preparation failed", job=job_id, code=found.code, cause=found.text, final=found.last)
        if self._jobs.prepare_failed(job_id, found):
            self._quarantine(job_id, found.code, found.text)

    def _quarantine(self, job_id: int, code: str, text: str) -> None:
        """Keep a copy of the film with its cause; what was received stays where it is for a retry."""
        instance = self._jobs.instance(self._jobs.get(job_id).instance_id)
        if not self._stores.identified.path(instance.name).is_file():  # a pipe put in its place would be waited for
            log.error("quarantine failed: there is no file", job=job_id)
            return
        try:
            data = self._stores.identified.read(instance.name)
            sha256 = hashlib.sha256(data).hexdigest()
            stored = self._stores.quarantine.write(data, name=sha256)
        except (OSError, DiskFull) as error:
            log.error("quarantine failed", job=job_id, **whereabouts(error))
            return
        self._jobs.record_quarantine(
            code=code,
            text=text,
            name=stored.name,
            sha256=sha256,
            SOPInstanceUID=instance.SOPInstanceUID,
            calling_ae_title=instance.calling_ae_title,
            address=instance.address,
            instance_id=instance.id,
        )


@contextmanager
def or_ended(seconds: float) -> Iterator[None]:
    """End the process if the block takes longer, and write where it was to standard error.

    A decoder that goes on without end may hold the interpreter, and then no thread of ours would run to see it: faulthandler's
    watch needs none. Whoever keeps the process alive starts it anew; the film comes back and is taken out at its third loss.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def stop_on_signal() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
