"""Run the intake: prepare what was received, and bring back what was lost."""

from pathlib import Path

import click

from service.commands import config_option, opened


@click.command()
@config_option
def intake(config: Path | None) -> None:
    """Prepare received films one by one; repeat what brokers and workers lost."""
    import threading

    from service import tasks
    from service.intake import Intake, stop_on_signal
    from service.pipeline import Pipeline
    from service.pseudonyms import Pseudonyms
    from service.steps import Steps
    from service.storage import Stores
    from service.sweeper import Sweeper

    settings, jobs = opened(config, "intake")
    stores = Stores.open(settings.data_directory)
    pipeline = Pipeline(jobs, stores, settings, pseudonyms=Pseudonyms.open(settings.data_directory))
    publisher = tasks.Publisher(tasks.create_app(settings), jobs)
    publisher.connect()
    stop = stop_on_signal()
    sweep = threading.Thread(target=Sweeper(jobs, publisher).run, args=[stop], name="sweep", daemon=True)
    sweep.start()
    Intake(jobs, stores, settings, Steps(jobs, pipeline, publisher.publish, settings)).run(stop)
    sweep.join(timeout=5)
