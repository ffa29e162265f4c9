"""End a worker that looks alive and is not, so that whoever keeps it alive starts it anew.

Celery on Redis is known to stop consuming after a reconnection while the process lives on and its heartbeats go out (field
lesson 5). So a worker sends a canary message to itself through the broker every few seconds: it is alive when one of them came
back lately. It is not judged while all its hands are busy or while the broker is away, which a restart would not mend. Beside
that a step may not take for ever, and a process that has grown too large, or worked long enough, leaves after its step.
Once a minute it gives the memory that is free but still held by the allocator back to the system.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psutil

from service.heaps import give_back
from service.log import get_logger
from service.settings import WorkerSettings

log = get_logger()

STALLED: Final = 75  # exit status: the broker's messages no longer come through (EX_TEMPFAIL of sysexits.h)
STUCK: Final = 76  # exit status: a step took longer than it may
ROUND_SECONDS: Final = 1.0
CANARIES_PER_LIMIT: Final = 6
TIDY_SECONDS: Final = 60.0


def leave() -> None:
    """Ask our own process to stop after the step at hand."""
    os.kill(os.getpid(), signal.SIGTERM)


class Watchdog:
    """Watch the process it runs in.

    Parameters
    ----------
    send
        Sends one canary; False when the broker is away.
    hands
        Steps at a time; a worker whose hands are all busy cannot take a canary.
    end
        Ends the process at once with an exit status; a lease that is held then runs out, or is released by the supervisor.
    stop
        Asks the process to leave after the step at hand.
    tidy
        Called once a minute.
    """

    def __init__(
        self,
        send: Callable[[], bool],
        settings: WorkerSettings,
        *,
        hands: int = 1,
        end: Callable[[int], Any] = os._exit,
        stop: Callable[[], Any] = leave,
        clock: Callable[[], float] = time.monotonic,
        resident_bytes: Callable[[], int] = lambda: int(psutil.Process().memory_info().rss),
        tidy: Callable[[], Any] = give_back,
    ) -> None:
        self._send = send
        self._settings = settings
        self._hands = hands
        self._end = end
        self._stop = stop
        self._clock = clock
        self._resident_bytes = resident_bytes
        self._tidy = tidy
        self._tidied_at = clock()
        self._lock = threading.Lock()
        self._running: dict[int, float] = {}  # when each step at hand began, by its number
        self._done = 0
        self._came_back_at: float | None = None
        self._excused_until = clock()  # the last moment at which no canary could be expected
        self._sent_at = float("-inf")
        self._stopping = False

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a step while it runs."""
        with self._lock:
            self._done += 1
            number = self._done
            self._running[number] = self._clock()
        try:
            yield
        finally:
            with self._lock:
                if len(self._running) >= self._hands:
                    self._excused_until = self._clock()
                del self._running[number]

    def canary(self) -> None:
        """Note that a canary came back."""
        with self._lock:
            self._came_back_at = self._clock()

    def silent_seconds(self) -> float:
        """Return for how long a canary should have come back and did not."""
        with self._lock:
            if len(self._running) >= self._hands:
                return 0.0
            return self._clock() - max(self._came_back_at or self._excused_until, self._excused_until)

    def detail(self) -> dict[str, Any]:
        """Return what goes with the heartbeat of the process."""
        with self._lock:
            age = None if self._came_back_at is None else round(self._clock() - self._came_back_at, 1)
            return {"canary_seconds": age, "steps": self._done, "busy": len(self._running)}

    def run(self) -> None:
        """Watch until the process ends; for a thread of its own."""
        while True:
            time.sleep(ROUND_SECONDS)
            try:
                self.round()
            except Exception as error:  # noqa: BLE001 - the watch must outlive any error; it is logged
                log.error("watch failed", error=type(error).__name__)

    def round(self) -> None:
        """Send a canary if one is due, then judge."""
        limits, now = self._settings, self._clock()
        if now - self._sent_at >= limits.stall_seconds / CANARIES_PER_LIMIT:
            self._sent_at = now
            if not self._send():
                with self._lock:
                    self._excused_until = self._clock()
        with self._lock:
            oldest = min(self._running.values(), default=None)
        if oldest is not None and now - oldest > limits.step_seconds:
            log.error("step takes too long: process ends", seconds=round(now - oldest), limit=limits.step_seconds)
            self._end(STUCK)
        silent = self.silent_seconds()
        if silent > limits.stall_seconds:
            log.error("no message comes through: process ends", seconds=round(silent), limit=limits.stall_seconds)
            self._end(STALLED)
        if now - self._tidied_at >= TIDY_SECONDS:
            self._tidied_at = now
            self._tidy()
        self._judge_wear()

    def _judge_wear(self) -> None:
        limits = self._settings
        if self._stopping:
            return
        if limits.maximum_steps and self._done >= limits.maximum_steps:
            log.info("worked long enough: process leaves", steps=self._done, limit=limits.maximum_steps)
            self._stopping = True
        resident = self._resident_bytes()
        if limits.maximum_resident_bytes and resident > limits.maximum_resident_bytes:
            self._tidy()  # what is free and held is no growth
            resident = self._resident_bytes()
        if limits.maximum_resident_bytes and resident > limits.maximum_resident_bytes:
            log.warning("grown too large: process leaves", bytes=resident, limit=limits.maximum_resident_bytes)
            self._stopping = True
        if self._stopping:
            self._stop()
