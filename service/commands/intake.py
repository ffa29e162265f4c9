"""Run the intake: prepare what was received, bring back what was lost, keep the audit trail, remove what is over its time."""

from pathlib import Path

import click

from service.commands import config_option, opened, traced


@click.command()
@config_option
def intake(config: Path | None) -> None:
    """Prepare received films one by one; repeat what brokers and workers lost."""
    import threading

    from service import tasks
    from service.auditing.follower import Follower
    from service.auditing.trail import Trail
    from service.intake import Intake, or_ended, stop_on_signal
    from service.pipeline import Pipeline
    from service.queue.steps import Steps
    from service.queue.sweeper import Sweeper
    from service.retention import Retention
    from service.storage import Stores
    from service.trust.pseudonyms import Pseudonyms
    from service.trust.vault import Vault

    settings, jobs = opened(config, "intake")
    traced(settings, "intake")
    stores = Stores.open(settings.data_directory)
    pseudonyms = Pseudonyms.of(settings)
    vault = Vault.of(settings, pseudonyms)
    pipeline = Pipeline(jobs, stores, settings, pseudonyms=pseudonyms, vault=vault)
    publisher = tasks.Publisher(tasks.create_app(settings), jobs)
    publisher.connect()
    stop = stop_on_signal()
    trail = Trail(jobs.engine)
    beside = {
        "sweep": Sweeper(jobs, publisher, stores=(stores.deidentified, stores.results, stores.quarantine)).run,
        "audit": Follower(trail, settings, pseudonyms.digest("audit", "seal")).run,
        "retention": Retention(jobs, trail, stores, settings, vault=vault).run,
    }
    threads = [threading.Thread(target=run, args=[stop], name=name, daemon=True) for name, run in beside.items()]
    for thread in threads:
        thread.start()
    steps = Steps(jobs, pipeline, publisher.publish, settings)
    Intake(jobs, stores, settings, steps, limited=or_ended).run(stop)
    for thread in threads:
        thread.join(timeout=5)
