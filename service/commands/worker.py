"""Run one worker, of either queue."""

from pathlib import Path

import click

from service.commands import config_option, opened


@click.command()
@click.argument("queue", type=click.Choice(["inference", "delivery"]))
@click.option("--concurrency", type=click.IntRange(1, 64), help="Deliveries at a time (default 4); inference does one.")
@config_option
def worker(queue: str, concurrency: int | None, config: Path | None) -> None:
    """Read films (QUEUE inference) or send results (QUEUE delivery)."""
    from service import installation, tasks
    from service.pipeline import Pipeline
    from service.storage import Stores

    settings, jobs = opened(config, f"worker {queue}")
    stores = Stores.open(settings.data_directory)
    if queue == tasks.INFERENCE:
        import numpy as np
        import torch

        from models import registry
        from models.image import Image

        torch.set_num_threads(settings.inference_threads)
        reader = registry.load(settings.bundle)
        # The first call allocates and loads what the later ones reuse; no film should wait for it.
        reader.read(Image(np.linspace(0, 1, 640 * 480, dtype=np.float32).reshape(640, 480)), None)
        pipeline = Pipeline(jobs, stores, settings, reader=reader)
    else:
        device_uid = installation.device_uid(settings)
        version = installation.software_version()
        pipeline = Pipeline(jobs, stores, settings, device_uid=device_uid, software_version=version)
        pipeline.warm_up()
    app = tasks.create_app(settings)
    publisher = tasks.Publisher(app, jobs)
    publisher.connect()
    steps = tasks.Steps(jobs, pipeline, publisher.publish, settings)
    tasks.Worker(app, jobs, steps, queue, concurrency=1 if queue == tasks.INFERENCE else concurrency or 4).run(
        on_ready=lambda: tasks.keep_beating(jobs, f"worker {queue}")
    )
