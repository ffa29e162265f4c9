"""Run each step of a job once, wherever its message arrives, and send the next message after the commit.

A message carries the primary key of a job and nothing else. Losing messages is harmless (the `Sweeper` sends them again from
the database), and so is repeating them (the second one finds the job claimed or done).
"""

import datetime as dt
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from celery import Celery, signals
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from service.errors import CarpusError, Permanent
from service.jobs import Claim, Jobs, LeaseLost, State
from service.log import get_logger
from service.settings import Settings

log = get_logger()

INFERENCE: Final = "inference"
DELIVERY: Final = "delivery"
# The task that takes a job out of each state, and the queue it waits in.
NEXT: Final = {State.PREPARED: ("carpus.infer", INFERENCE), State.INFERRED: ("carpus.deliver", DELIVERY)}
MAXIMUM_UNEXPECTED: Final = 3  # attempts after an error that nobody foresaw; then it is a dead letter
HEARTBEATS_PER_LEASE: Final = 4
SWEEP_SECONDS: Final = 60.0
POLL_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 5.0  # without a message; then a worker looks into the database itself
BROKER_AWAY_SECONDS: Final = 3.0
OUTBOX_AFTER: Final = dt.timedelta(seconds=1)  # by then whoever finished the step before has sent its message
BROKER_EMPTY_AFTER: Final = dt.timedelta(seconds=5)  # a message younger than this may be on its way to a worker


class Pipeline(Protocol):
    """The three steps; each works on a claimed job and writes its end with `Jobs.advance`."""

    def prepare(self, claim: Claim) -> None:
        """Go from RECEIVED to PREPARED, FILTERED, or INFERRED with a rejection."""

    def infer(self, claim: Claim) -> None:
        """Go from PREPARED to INFERRED."""

    def deliver(self, claim: Claim) -> None:
        """Go from INFERRED to DELIVERED or REJECTED."""


class Publisher:
    """Hand messages to the broker; a broker that is away costs a log line, not a job."""

    def __init__(self, app: Celery, jobs: Jobs) -> None:
        self._app = app
        self._jobs = jobs
        self._away_until = 0.0

    def connect(self) -> bool:
        """Open the connection now, so that the first message does not wait for it; False when the broker is away."""
        return all(self.waiting(state) is not None for state in NEXT)

    def publish(self, job_id: int, state: State) -> bool:
        """Send the message that takes the job out of this state; False when the broker is away."""
        task, queue = NEXT[state]
        if time.monotonic() < self._away_until:
            return False
        try:
            self._app.send_task(task, args=[job_id], queue=queue, retry=False, ignore_result=True)
        except (OperationalError, OSError) as error:
            # Finding out takes seconds; who works through a backlog must not pay them for each job.
            self._away_until = time.monotonic() + BROKER_AWAY_SECONDS
            log.warning("message not sent", job=job_id, queue=queue, error=type(error).__name__)
            return False
        self._jobs.published(job_id, state)
        return True

    def waiting(self, state: State) -> int | None:
        """Count the messages of this state's queue; None when the broker is away."""
        try:
            with self._app.connection_for_read() as connection:
                channel = connection.default_channel
                try:
                    return int(channel.queue_declare(NEXT[state][1], passive=True).message_count)
                except connection.channel_errors:
                    return 0  # Redis has no empty queues
        except (OperationalError, OSError):
            return None


class Steps:
    """Take the steps of a job: claim, keep the lease alive, record how it ended, send the next message."""

    def __init__(
        self, jobs: Jobs, pipeline: Pipeline, publish: Callable[[int, State], Any], settings: Settings
    ) -> None:
        self._jobs = jobs
        self._pipeline = pipeline
        self._publish = publish
        self._settings = settings

    def prepare(self, job_id: int) -> None:
        """Prepare a received job; a repeated call does nothing. Errors are the caller's: it keeps the file in quarantine."""
        claim = self._jobs.claim(job_id, State.RECEIVED)
        if claim is not None:
            with self._kept(claim):
                self._pipeline.prepare(claim)
            self._send_next(job_id)

    def infer(self, job_id: int) -> None:
        """Read the film of a prepared job."""
        self._run(job_id, State.PREPARED, self._pipeline.infer)

    def deliver(self, job_id: int) -> None:
        """Send the results of a job that has been read or rejected."""
        self._run(job_id, State.INFERRED, self._pipeline.deliver)

    def _run(self, job_id: int, state: State, step: Callable[[Claim], None]) -> None:
        claim = self._jobs.claim(job_id, state)
        if claim is None:
            log.debug("nothing to do", job=job_id, state=state)
            return
        try:
            with self._kept(claim):
                step(claim)
        except LeaseLost:
            log.warning("lease lost", job=job_id, state=state)
            return
        except Exception as error:  # noqa: BLE001 - the one broad catch of a worker; it records the job
            with suppress(LeaseLost):
                self._record(claim, error)
            return
        self._send_next(job_id)

    def _record(self, claim: Claim, error: Exception) -> None:
        """Write the failure with its cause: again later, or to the dead letters with what to do."""
        job = claim.job
        if isinstance(error, CarpusError):
            code, text, action = error.code, str(error), error.next_action
            last = isinstance(error, Permanent)
        else:
            # The text of a foreign error may quote a patient's value, so only its kind and place are kept.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            code, text = "unexpected-error", f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
            action = "report this with the job's timeline; retry once it is mended"
            last = job.attempts >= MAXIMUM_UNEXPECTED
        since = job.first_failed_at
        if (
            not last
            and since is not None
            and self._jobs.now() - since > dt.timedelta(hours=self._settings.retry_for_hours)
        ):
            last = True
            text += f"; given up after {self._settings.retry_for_hours:g} hours and {job.attempts} attempts"
            action = action or "mend the cause, then retry the job"
        log.error("step failed", job=job.id, state=job.state, code=code, attempt=job.attempts, final=last)
        if last:
            self._jobs.fail(claim, code, text, action)
        else:
            self._jobs.retry_later(claim, code, text, delay(self._settings.retry_delays_seconds, job.attempts), action)

    @contextmanager
    def _kept(self, claim: Claim) -> Iterator[None]:
        """Extend the lease from a thread of its own while the step works."""
        done = threading.Event()
        period = self._jobs.lease.total_seconds() / HEARTBEATS_PER_LEASE

        def beat() -> None:
            while not done.wait(period):
                if not self._jobs.heartbeat(claim):
                    return

        thread = threading.Thread(target=beat, name=f"lease of job {claim.job.id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _send_next(self, job_id: int) -> None:
        state = State(self._jobs.get(job_id).state)
        if state in NEXT:
            self._publish(job_id, state)


class Sweeper:
    """Bring back what was lost: leases of dead workers, messages that a broker lost, retries whose time has come."""

    def __init__(self, jobs: Jobs, publisher: Publisher, *, sweep_seconds: float = SWEEP_SECONDS) -> None:
        self._jobs = jobs
        self._publisher = publisher
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
                log.warning("swept", released=swept.released, abandoned=swept.abandoned, overdue=swept.overdue)
        due = self._jobs.unpublished(settled_for=OUTBOX_AFTER)
        for state in NEXT:
            lost = self._jobs.unpublished(older_than=BROKER_EMPTY_AFTER, settled_for=BROKER_EMPTY_AFTER, state=state)
            if lost and self._publisher.waiting(state) == 0:
                due.extend(job for job in lost if job not in due)
        return sum(1 for job_id, state in due if self._publisher.publish(job_id, state))


def delay(delays_seconds: tuple[float, ...], attempt: int) -> dt.timedelta:
    """Return how long to wait after this attempt (1 is the first): the listed delay, spread by +-20 %."""
    seconds = delays_seconds[min(attempt, len(delays_seconds)) - 1]
    return dt.timedelta(seconds=seconds * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, guards nothing


def create_app(settings: Settings) -> Celery:
    """Return the Celery application of this installation; it can send, and a `Worker` lets it work."""
    app = Celery("carpus", broker=settings.resolved_broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_queues=[Queue(name) for name in (INFERENCE, DELIVERY)],  # type: ignore[no-untyped-call]
        task_create_missing_queues=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2,
        broker_transport_options={"socket_connect_timeout": 2, "socket_timeout": 10, "visibility_timeout": 3600},
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        enable_utc=True,
    )
    return app


class Worker:
    """Take the steps of one queue: by message, and from the database where messages fail to come.

    Celery on Redis is known to stop consuming after a reconnection while the process lives on (field lesson 5), and a broker
    may be away for hours; a worker that has been idle while jobs wait therefore takes them itself.

    Parameters
    ----------
    concurrency
        Steps at a time. Inference takes one, in the main thread or the poller's, never in a forked process (CUDA does not
        survive a fork, field lesson 29); delivery takes several, so that a PACS that does not answer holds up no other.
    """

    def __init__(self, app: Celery, jobs: Jobs, steps: Steps, queue: str, *, concurrency: int = 1) -> None:
        self._app = app
        self._jobs = jobs
        self._queue = queue
        self._concurrency = concurrency
        self._gate = threading.BoundedSemaphore(concurrency)
        self._state = next(state for state, (_, name) in NEXT.items() if name == queue)
        self._step = {INFERENCE: steps.infer, DELIVERY: steps.deliver}[queue]
        self._message_at = time.monotonic()

    def run(self, on_ready: Callable[[], None]) -> None:
        """Work until SIGTERM: finish the step at hand, then return."""
        threading.Thread(target=self._poll, name="poller", daemon=True).start()
        self._app.task(name=NEXT[self._state][0])(self._by_message)
        signals.worker_ready.connect(lambda **_: on_ready(), weak=False)
        self._app.Worker(
            hostname=f"{self._queue}@carpus",
            queues=[self._queue],
            pool="solo" if self._concurrency == 1 else "threads",
            concurrency=self._concurrency,
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        ).start()

    def _by_message(self, job_id: int) -> None:
        with self._gate:
            self._message_at = time.monotonic()
            self._step(job_id)
            self._message_at = time.monotonic()

    def _poll(self) -> None:
        while True:
            time.sleep(POLL_SECONDS)
            if time.monotonic() - self._message_at < IDLE_SECONDS:
                continue
            try:
                self.take_waiting()
            except Exception as error:  # noqa: BLE001 - the loop must outlive a database that is away; the error is logged
                log.error("poll failed", queue=self._queue, error=type(error).__name__)

    def take_waiting(self) -> None:
        """Do what waits in the database although its message was sent a while ago, or never."""
        for job_id, _ in self._jobs.unpublished(
            older_than=BROKER_EMPTY_AFTER, settled_for=BROKER_EMPTY_AFTER, state=self._state
        ):
            with self._gate:
                log.warning("taken without a message", job=job_id, queue=self._queue)
                self._step(job_id)


def keep_beating(jobs: Jobs, name: str, *, seconds: float = 10) -> None:
    """Record now, and from a thread of its own ever after, that this process is alive."""
    jobs.beat(name)

    def beat() -> None:
        while True:
            time.sleep(seconds)
            try:
                jobs.beat(name)
            except Exception as error:  # noqa: BLE001 - a database that is away must not end the heartbeats for good
                log.warning("heartbeat not written", process=name, error=type(error).__name__)

    threading.Thread(target=beat, name="heartbeats", daemon=True).start()
