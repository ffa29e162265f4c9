"""Pause, drain and resume the queues."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.commands import audited, config_option, opened, user_at_terminal

if TYPE_CHECKING:
    from service.queue.jobs import Jobs
    from service.queue.queues import Queues
    from service.settings import Settings
    from service.tables import QueueMode

NAMES = ("intake", "inference", "delivery")
POLL_SECONDS = 1.0
queue_argument = click.argument("names", metavar="[QUEUE]...", type=click.Choice(NAMES), nargs=-1)
reason_option = click.option("--reason", default="", help="For whoever looks at the page.")
json_option = click.option("--json", "as_json", is_flag=True, help="As one JSON object a line.")


@click.command()
@json_option
@config_option
def queues(as_json: bool, config: Path | None) -> None:
    """Show what waits in each queue, which one is held, which destination is left alone, and why films are refused now."""
    _show(*_open(config), as_json)


@click.command()
@queue_argument
@reason_option
@json_option
@config_option
def pause(names: tuple[str, ...], reason: str, as_json: bool, config: Path | None) -> None:
    """Begin nothing more in these queues (without a name: inference and delivery); what has begun is finished.

    Films are still received, acknowledged and kept.
    """
    from service.tables import QueueMode

    settings, repository, control = _open(config)
    for name in names or NAMES[1:]:
        _set(settings, repository, control, name, QueueMode.PAUSED, reason)
    _show(settings, repository, control, as_json)


@click.command()
@queue_argument
@json_option
@config_option
def resume(names: tuple[str, ...], as_json: bool, config: Path | None) -> None:
    """Let these queues go on (without a name: all of them)."""
    from service.tables import QueueMode

    settings, repository, control = _open(config)
    for name in names or NAMES:
        _set(settings, repository, control, name, QueueMode.RUNNING)
    _show(settings, repository, control, as_json)


@click.command()
@queue_argument
@reason_option
@click.option("--wait", type=click.FloatRange(min=0), help="Wait up to so many seconds until the queues are empty.")
@json_option
@config_option
def drain(names: tuple[str, ...], reason: str, wait: float | None, as_json: bool, config: Path | None) -> None:
    """Finish what waits in these queues and let nothing new in (without a name: the whole service).

    Draining the intake refuses new films for now (0xA700): their senders keep them and send them again after `resume`.
    """
    from service.tables import QueueMode

    settings, repository, control = _open(config)
    for name in names or NAMES[:1]:
        _set(settings, repository, control, name, QueueMode.DRAINING, reason)
    watched = names or NAMES
    deadline = time.monotonic() + (wait or 0)
    while wait is not None and not (empty := _empty(control, watched)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    _show(settings, repository, control, as_json)
    if wait is not None and not empty:
        raise click.ClickException(f"not empty after {wait:g} s: {_what_is_left(control, watched)}")


def _set(
    settings: "Settings", repository: "Jobs", control: "Queues", name: str, mode: "QueueMode", reason: str = ""
) -> None:
    from service.auditing.messages import Event

    control.set(name, mode, by=user_at_terminal(), reason=reason)
    audited(settings, repository, Event.CONFIGURED, f"queue {name}: {mode.value}")


def _empty(control: "Queues", names: tuple[str, ...]) -> bool:
    return all(queue.empty for queue in control.all() if queue.name in names)


def _what_is_left(control: "Queues", names: tuple[str, ...]) -> str:
    """Say which queues are not empty, and of a paused one that it will not get empty."""
    from service.tables import QueueMode

    lines = []
    for queue in control.all():
        if queue.name in names and not queue.empty:
            paused = queue.mode == QueueMode.PAUSED
            held = f", and is paused: `carpus jobs resume {queue.name}`" if paused else ""
            lines.append(f"{queue.name} has {queue.waiting} waiting and {queue.under_way} under way{held}")
    return "; ".join(lines)


def _open(config: Path | None) -> "tuple[Settings, Jobs, Queues]":
    from service.queue.queues import Queues

    settings, repository = opened(config, "carpus jobs")
    return settings, repository, Queues(repository.engine)


def _show(settings: "Settings", repository: "Jobs", control: "Queues", as_json: bool) -> None:
    from rich.console import Console

    from service.queue import job_listing
    from service.queue.breakers import Breakers
    from service.queue.queues import refusing
    from service.tables import BreakerState

    found, breakers = control.all(), Breakers(repository, settings.breaker).all()
    refused = refusing(repository.processes(), repository.now())
    if not as_json:
        Console().print(job_listing.queues_table(found, breakers, refused))
        return
    for queue in found:
        since = queue.since.isoformat() if queue.since else None
        fields = {"queue": queue.name, "mode": queue.mode, "waiting": queue.waiting, "under_way": queue.under_way}
        click.echo(json.dumps(fields | {"since": since, "by": queue.changed_by, "reason": queue.reason}))
    for row in breakers:
        cause = {"code": row.cause_code, "text": row.cause_text, "next_action": row.next_action}
        again = row.probe_at.isoformat() if row.probe_at and row.state != BreakerState.CLOSED else None
        said = {"destination": row.destination, "breaker": row.state, "cause": cause, "again_at": again}
        click.echo(json.dumps(said))
    for each in refused:
        click.echo(json.dumps({"refusing": each["code"], "text": each["text"], "next_action": each["next_action"]}))
