"""The subcommands of `carpus`, one file each; `service.__main__` finds them by name and loads the one that was asked for.

This is where objects are wired: settings are read here and passed down, and nowhere else.
"""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from service.auditing.messages import Event
    from service.queue.jobs import Jobs
    from service.settings import Settings

AT_TERMINAL = "carpus "  # begins the name of a process that is a person's command

config_option = click.option(
    "--config",
    "-c",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="CARPUS_CONFIG",
    help="Settings in YAML; without it the defaults and CARPUS_* variables hold.",
)

_AGO = {"w": timedelta(weeks=1), "d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}


def _moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """Read so long ago, or a day or time of UTC."""
    if value is None:
        return None
    try:
        if ago := re.fullmatch(r"(\d+)([wdhm])", value, re.ASCII):
            return datetime.now(UTC) - int(ago[1]) * _AGO[ago[2]]
        found = datetime.fromisoformat(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{value!r} is no time: 30m, 12h, 7d or 2w ago, a day (2026-11-21) or a time of UTC (2026-11-21T08:00) is expected"
        ) from error


since_option = click.option(
    "--since",
    metavar="TIME",
    callback=_moment,
    help="Only what came since: 30m, 12h, 7d or 2w ago, or 2026-11-21 or 2026-11-21T08:00 in UTC.",
)


def opened(config: Path | None, process: str) -> "tuple[Settings, Jobs]":
    """Load the settings, set up logging, bring the database to the present version.

    A command that a person gives leaves the tables of an earlier version as they are: it may have come before the backup, beside
    the service that still runs.
    """
    from service import db

    loaded, jobs = unopened(config, process)
    bring = db.require_present if process.startswith(AT_TERMINAL) else db.migrate
    bring(jobs.engine)
    return loaded, jobs


def unopened(config: Path | None, process: str) -> "tuple[Settings, Jobs]":
    """Load the settings and set up logging and memory; the database is not asked anything yet."""
    from service import db, heaps, log, settings
    from service.queue.jobs import Jobs

    heaps.share_heaps()
    loaded = settings.load(config)
    log.configure(loaded.log_level, as_json=loaded.log_json)
    who = f" of {user_at_terminal()}" if process.startswith(AT_TERMINAL) else ""
    return loaded, Jobs(db.connect(loaded.resolved_database_url), process=f"{process} {os.getpid()}{who}")


def traced(settings: "Settings", process: str) -> None:
    """Trace what this process does, where a collector is named."""
    from service import installation, tracing

    tracing.configure(settings.tracing, process, version=installation.software_version())


def audited(settings: "Settings", jobs: "Jobs", event: "Event", detail: str) -> None:
    """Tell the audit trail what somebody at the command line did."""
    from service.auditing.messages import APPLICATION_ROLE, AuditMessage, Participant
    from service.auditing.trail import Trail

    who = Participant(user_at_terminal(), requestor=True, role=APPLICATION_ROLE)
    trail = Trail(jobs.engine)
    trail.append(AuditMessage(event, (who,), trail.now(), detail=detail), source=settings.audit_source)


def user_at_terminal() -> str:
    """Return who runs the command, for the audit trail."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
