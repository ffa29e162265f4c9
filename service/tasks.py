"""Carry the news that there is work, over Celery: who sends it, and the worker that takes it.

A message carries the primary key of a job and nothing else. It says that its queue has something to do; what a worker then
takes is the waiting job whose turn it is, so that priority and fair share hold however the broker orders messages. Losing
messages is harmless (the `sweeper` sends them again from the database), and so is repeating them (nothing waits any more).
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from celery import Celery, signals
from kombu import pools
from kombu.entity import Queue
from kombu.exceptions import KombuError, OperationalError

from service.log import get_logger
from service.queue import messages
from service.queue.jobs import Jobs, State
from service.queue.queues import DELIVERY, INFERENCE
from service.queue.steps import Steps
from service.queue.sweeper import BROKER_EMPTY_AFTER
from service.queue.watchdog import Watchdog
from service.settings import Settings

log = get_logger()

# The task that takes a job out of each state, and the queue it waits in.
NEXT: Final = {State.PREPARED: ("carpus.infer", INFERENCE), State.INFERRED: ("carpus.deliver", DELIVERY)}
CANARY: Final = "carpus.canary"
POLL_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 5.0  # without a message; then a worker looks into the database itself
BROKER_AWAY_SECONDS: Final = 3.0
BROKER_AWAY_TIMES: Final = 9.0  # as long as it took to find out: one that hangs costs a tenth of the time
BROKER_ERRORS: Final = (OperationalError, KombuError, OSError)
TURNED_AWAY: Final = ("AuthenticationError", "NoPermissionError", "AccessRefused")  # of Redis and of RabbitMQ, by name
AMQP: Final = ("amqp", "amqps", "pyamqp")  # RabbitMQ by URL
# What each transport understands; RabbitMQ's driver refuses names it does not know.
TRANSPORT_OPTIONS: Final = {
    **{
        name: {"socket_connect_timeout": 2, "socket_timeout": 10, "visibility_timeout": 3600}
        for name in messages.SCHEMES
    },
    **{name: {"confirm_publish": True} for name in AMQP},
}


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
        if not self.send(task, queue, job_id):
            return False
        self._jobs.published(job_id, state)
        return True

    def send(self, task: str, queue: str, *arguments: int) -> bool:
        """Send one message; False when the broker is away."""
        began = time.monotonic()
        if began < self._away_until:
            return False
        try:
            self._app.send_task(task, args=list(arguments), queue=queue, retry=False, ignore_result=True)
        except BROKER_ERRORS as error:
            # Finding out takes seconds; who works through a backlog must not pay them for each job.
            now = time.monotonic()
            self._away_until = now + max(BROKER_AWAY_SECONDS, BROKER_AWAY_TIMES * (now - began))
            log.warning("message not sent", queue=queue, error=type(error).__name__)
            self._forget_connections()
            return False
        return True

    def _forget_connections(self) -> None:
        """Let the next message open a connection: a broker that lost its data has forgotten the queues the old one declared.

        A pool that was closed gives nothing out any more, ever; so it must also leave the table in which kombu keeps the pools of
        every broker of this process.
        """
        closed = self._app.pool
        for group, own in ((pools.producers, self._app.amqp._producer_pool), (pools.connections, closed)):
            for key in [key for key, pool in group.items() if pool is own]:
                group.pop(key, None)
        self._app._pool = self._app.amqp._producer_pool = None
        closed.force_close_all()

    def waiting(self, state: State) -> int | None:
        """Count the messages of this state's queue; None when the broker is away."""
        try:
            return self._count(state)
        except BROKER_ERRORS:
            return None

    def is_turned_away(self) -> bool:
        """Whether the broker answers, and does not let us in with the account of its URL."""
        try:
            self._count(State.PREPARED)
        except BROKER_ERRORS as error:
            cause: BaseException | None = error
            while cause is not None:
                if type(cause).__name__ in TURNED_AWAY:
                    return True
                cause = cause.__cause__ or cause.__context__
        return False

    def _count(self, state: State) -> int:
        with self._app.connection_for_read() as connection:
            channel = connection.default_channel
            try:
                return int(channel.queue_declare(NEXT[state][1], passive=True).message_count)
            except connection.channel_errors:
                return 0  # Redis has no empty queues


def create_app(settings: Settings) -> Celery:
    """Return the Celery application of this installation; it can send, and a `Worker` lets it work."""
    url = settings.resolved_broker_url
    parts = urlsplit(url)
    transport = parts.scheme.partition("+")[0]
    # A quorum queue of RabbitMQ survives the loss of a node; Redis knows no kinds of queues.
    arguments = {"x-queue-type": "quorum"} if transport in AMQP else None
    # kombu believes any certificate of a Redis unless it is told which; the address may say so (?ssl_ca_certs=FILE).
    trusting = transport == "rediss" and "ssl_" not in parts.query
    app = Celery("carpus", broker=url, set_as_current=False)
    app.conf.update(
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True} if trusting else None,
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_queues=[Queue(name, queue_arguments=arguments) for name in (INFERENCE, DELIVERY)],  # type: ignore[no-untyped-call]
        task_create_missing_queues=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2,
        broker_transport_options=TRANSPORT_OPTIONS.get(transport, {}),
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        enable_utc=True,
    )
    ours = app.amqp.as_task_v2("number", CANARY, args=[], ignore_result=True)
    messages.take_only(ours.headers, ours.body[2])
    return app


class Worker:
    """Take the steps of one queue: by message, and from the database where messages fail to come.

    A broker may be away for hours, and messages may stop coming (see `watchdog`); a worker that has been idle while jobs wait
    therefore takes them itself.

    Parameters
    ----------
    concurrency
        Steps at a time. Inference takes one, in the main thread or the poller's, never in a forked process (CUDA does not
        survive a fork, field lesson 29); delivery takes several, so that a PACS that does not answer holds up no other.
    rounds
        Called between looks into the database, every two seconds; for what a worker does beside its steps.
    """

    def __init__(
        self,
        app: Celery,
        jobs: Jobs,
        steps: Steps,
        queue: str,
        settings: Settings,
        *,
        concurrency: int = 1,
        rounds: Callable[[], Any] = lambda: None,
    ) -> None:
        self._app = app
        self._jobs = jobs
        self._steps = steps
        self._queue = queue
        self._concurrency = concurrency
        self._rounds = rounds
        self._gate = threading.BoundedSemaphore(concurrency)
        self._state = next(state for state, (_, name) in NEXT.items() if name == queue)
        self._message_at = time.monotonic()
        publisher = Publisher(app, jobs)
        self._canary_queue = f"canary.{queue}.{socket.gethostname()}.{os.getpid()}"
        self.watchdog = Watchdog(lambda: publisher.send(CANARY, self._canary_queue), settings.worker, hands=concurrency)
        # Gone by itself with the connection, or when nobody has used it for ten minutes (RabbitMQ).
        own = Queue(self._canary_queue, auto_delete=True, durable=False, expires=600)  # type: ignore[no-untyped-call]
        app.conf.task_queues = [*app.conf.task_queues, own]

    def run(self, on_ready: Callable[[], Callable[[], None]]) -> None:
        """Work until SIGTERM: finish the step at hand, then return.

        Parameters
        ----------
        on_ready
            Called when messages are taken; what it returns is called when none are taken any more.
        """
        afterwards: list[Callable[[], None]] = []
        threading.Thread(target=self._poll, name="poller", daemon=True).start()
        threading.Thread(target=self.watchdog.run, name="watchdog", daemon=True).start()
        self._app.task(name=NEXT[self._state][0])(self._by_message)
        self._app.task(name=CANARY)(self.watchdog.canary)
        signals.worker_ready.connect(lambda **_: afterwards.append(on_ready()), weak=False)
        self._app.Worker(
            hostname=f"{self._queue}@carpus",
            queues=[self._queue, self._canary_queue],
            pool="solo" if self._concurrency == 1 else "threads",
            concurrency=self._concurrency,
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        ).start()
        for each in afterwards:
            each()

    def _by_message(self, job_id: int) -> None:
        with self._gate, self.watchdog.working():
            self._message_at = time.monotonic()
            worked = self._steps.next(self._state)
            self._message_at = time.monotonic()
        if not worked:
            log.debug("nothing to do", job=job_id, queue=self._queue)

    def _poll(self) -> None:
        while True:
            time.sleep(POLL_SECONDS)
            try:
                self._rounds()
                if time.monotonic() - self._message_at >= IDLE_SECONDS:
                    self.take_waiting()
            except Exception as error:  # noqa: BLE001 - the loop must outlive a database that is away; the error is logged
                log.error("poll failed", queue=self._queue, error=type(error).__name__)

    def take_waiting(self) -> None:
        """Do what waits in the database although its message was sent a while ago, or never; until a message comes."""
        old, last = BROKER_EMPTY_AFTER, self._message_at
        while waiting := self._jobs.unpublished(limit=1, older_than=old, settled_for=old, state=self._state):
            with self._gate, self.watchdog.working():
                if self._message_at != last:  # a long step only looked like silence
                    return
                log.warning("taken without a message", job=waiting[0][0], queue=self._queue)
                if not self._steps.next(self._state):
                    return


def keep_beating(
    jobs: Jobs, kind: str, *, seconds: float = 10, detail: Callable[[], dict[str, Any]] | None = None
) -> Callable[[], None]:
    """Record now, and from a thread of its own ever after, that this process is alive, and what it says of itself.

    What is returned ends that, and records that the process ends in order.
    """
    name = jobs.sign_on(kind)
    host = {"host": socket.gethostname()}
    jobs.beat(name, {**host, **(detail() if detail else {})})

    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(seconds):
            try:
                jobs.beat(name, {**host, **(detail() if detail else {})})
            except Exception as error:  # noqa: BLE001 - a database that is away must not end the heartbeats for good
                log.warning("heartbeat not written", process=name, error=type(error).__name__)

    beating = threading.Thread(target=beat, name="heartbeats", daemon=True)
    beating.start()

    def end() -> None:
        ended.set()
        beating.join(timeout=seconds)
        jobs.sign_off(name)

    return end
