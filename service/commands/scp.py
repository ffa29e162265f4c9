"""`carpus scp`: receive instances until told to stop."""

from pathlib import Path

import click

from service.commands import config_option


@click.command()
@config_option
def scp(config: Path | None) -> None:
    """Receive films from the listed peers until SIGTERM.

    One process of `carpus serve`, which starts it by itself. Needs the data directory and the database, nothing else.
    """
    from service import db, log, settings
    from service.queue.jobs import Jobs
    from service.receiving.scp import serve
    from service.storage import Stores

    loaded = settings.load(config)
    log.configure(loaded.log_level, as_json=loaded.log_json)
    engine = db.connect(loaded.resolved_database_url)
    db.migrate(engine)
    stores = Stores.open(loaded.data_directory, minimum_free_bytes=loaded.limits.minimum_free_disk_bytes)
    serve(loaded, stores, Jobs(engine, process="scp"))
