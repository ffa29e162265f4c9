"""The inference worker with the known Reading of the tests instead of a trained bundle; everything else is the real thing.

`python -m tests.integration.known_reader_worker --config FILE [--short]`: a short Reading has two regions and no outlines.
"""

import sys
from collections import deque
from pathlib import Path

from service import tasks
from service.commands import opened
from service.pipeline import Pipeline
from service.queue.steps import Steps
from service.storage import Stores
from tests.service import readings
from tests.service.test_pipeline import FakeReader


def main() -> None:
    settings, jobs = opened(Path(sys.argv[2]), "worker inference")
    known = readings.short() if "--short" in sys.argv else readings.reading()
    reader = FakeReader(asked=deque(maxlen=1), known=known)  # type: ignore[arg-type]  # a long run must not keep every film
    pipeline = Pipeline(jobs, Stores.open(settings.data_directory), settings, reader=reader)  # type: ignore[arg-type]
    app = tasks.create_app(settings)
    steps = Steps(jobs, pipeline, tasks.Publisher(app, jobs).publish, settings)
    tasks.Worker(app, jobs, steps, tasks.INFERENCE, settings).run(lambda: tasks.keep_beating(jobs, "worker inference"))


if __name__ == "__main__":
    main()
