"""A real worker process over a real broker whose steps take a set time and leave a mark in a file each time they run.

`python -m tests.integration.steps_worker QUEUE DATA_DIRECTORY SECONDS [BROKER_URL]`. On SIGRTMIN it stops consuming and goes on
living, as Celery workers on Redis do after some reconnections (field lesson 5).
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from celery import signals

from service import db, log, tasks
from service.queue.jobs import Claim, Jobs, State
from service.queue.steps import Steps
from service.settings import Settings, WorkerSettings


class MarkingPipeline:
    """Sleep, then advance; `marks` gets one line for each begin and end of a step."""

    def __init__(self, jobs: Jobs, marks: Path, seconds: float) -> None:
        self.jobs, self.marks, self.seconds = jobs, marks, seconds

    def _step(self, name: str, claim: Claim, to: State) -> None:
        self._mark(f"begin {name} {claim.job.id} {os.getpid()}")
        time.sleep(self.seconds)
        self.jobs.advance(claim, to)
        self._mark(f"end {name} {claim.job.id} {os.getpid()}")

    def _mark(self, line: str) -> None:
        with self.marks.open("a", encoding="ascii") as file:
            file.write(line + "\n")

    def prepare(self, claim: Claim) -> None:
        self._step("prepare", claim, State.PREPARED)

    def infer(self, claim: Claim) -> None:
        self._step("infer", claim, State.INFERRED)

    def deliver(self, claim: Claim) -> None:
        self._step("deliver", claim, State.DELIVERED)


def main() -> None:
    queue, data_directory, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    log.configure("INFO")
    broker = sys.argv[4] if len(sys.argv) > 4 else ""
    # Nobody starts a worker of a test anew that missed its canaries because the machine was busy.
    patience = WorkerSettings(stall_seconds=20)
    settings = Settings(data_directory=data_directory, broker_url=broker, worker=patience)
    jobs = Jobs(db.connect(settings.resolved_database_url), process=f"worker {queue} {os.getpid()}", lease_seconds=4)
    app = tasks.create_app(settings)
    pipeline = MarkingPipeline(jobs, data_directory / "marks", seconds)
    steps = Steps(jobs, pipeline, tasks.Publisher(app, jobs).publish, settings)
    worker = tasks.Worker(app, jobs, steps, queue, settings, concurrency=1 if queue == tasks.INFERENCE else 4)

    def turn_deaf(*_: object) -> None:
        for consumer in consumers:
            consumer.task_consumer.cancel()

    consumers: list[Any] = []
    signals.worker_ready.connect(lambda sender, **_: consumers.append(sender), weak=False)
    signal.signal(signal.SIGRTMIN, turn_deaf)
    worker.run(on_ready=lambda: tasks.keep_beating(jobs, f"worker {queue}", detail=worker.watchdog.detail))


if __name__ == "__main__":
    main()
