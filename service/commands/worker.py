"""Run one worker, of either queue."""

from collections.abc import Callable
from pathlib import Path

import click

from service.commands import config_option, opened, traced


@click.command()
@click.argument("queue", type=click.Choice(["inference", "delivery"]))
@click.option("--concurrency", type=click.IntRange(1, 64), help="Deliveries at a time (default 4); inference does one.")
@config_option
def worker(queue: str, concurrency: int | None, config: Path | None) -> None:
    """Read films (QUEUE inference), or send results and have the PACS confirm them (QUEUE delivery)."""
    import threading

    from service import heaps, installation, tasks
    from service.log import get_logger
    from service.pipeline import Pipeline
    from service.queue.queues import INFERENCE
    from service.queue.steps import Steps
    from service.sending.confirmer import Confirmer, record_of
    from service.sending.probing import Prober
    from service.storage import Stores

    settings, jobs = opened(config, f"worker {queue}")
    traced(settings, f"worker {queue}")
    stores = Stores.open(settings.data_directory)
    rounds: Callable[[], object] = list  # nothing beside the steps
    facts: Callable[[], dict[str, object]] = dict
    if queue == INFERENCE:
        if not heaps.keep_pages():
            get_logger().info("every film takes its memory anew: the C library refuses to keep pages")
        import torch

        from service import bundle

        torch.set_num_threads(settings.inference_threads)
        reader = bundle.load(settings)
        reader.warm_up()
        pipeline = Pipeline(jobs, stores, settings, reader=reader)
        facts = _graphics
    else:
        device_uid = installation.device_uid(settings, jobs.engine)
        version = installation.software_version()
        from functools import cache

        from service import bundle
        from service.reporting import result_set
        from service.trust.pseudonyms import Pseudonyms
        from service.trust.vault import Vault

        pipeline = Pipeline(
            jobs,
            stores,
            settings,
            vault=Vault.of(settings, Pseudonyms.of(settings)),
            device_uid=device_uid,
            software_version=version,
            # Loaded only where an earlier film is read again (priors.reread of a destination).
            load_reader=cache(lambda: bundle.load(settings)),
        )
        result_set.warm_up(device_uid)
        rounds = Prober(jobs, settings).round
        Confirmer(record_of(settings, jobs), settings).start(threading.Event())
    app = tasks.create_app(settings)
    publisher = tasks.Publisher(app, jobs)
    publisher.connect()
    steps = Steps(jobs, pipeline, publisher.publish, settings)
    hands = 1 if queue == INFERENCE else concurrency or 4
    made = tasks.Worker(app, jobs, steps, queue, settings, concurrency=hands, rounds=rounds)
    made.run(
        on_ready=lambda: tasks.keep_beating(
            jobs, f"worker {queue}", detail=lambda: {**made.watchdog.detail(), **facts()}
        )
    )


def _graphics() -> dict[str, object]:
    """Return what the graphics processor holds, for the heartbeat; nothing where films are read on the CPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"gpu": torch.cuda.get_device_name(), "gpu_memory_bytes": {"used": total - free, "total": total}}
