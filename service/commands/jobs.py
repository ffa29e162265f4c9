"""Show the queue and act on single jobs."""

import csv
import json
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.commands import config_option, opened, since_option
from service.commands.job_queues import drain, pause, queues, resume

if TYPE_CHECKING:
    from service.queue.jobs import Jobs

PRIORITIES = ("stat", "routine", "backfill")
EXPORTED_AT_ONCE = 1_000
# The columns of an export; none of them names a patient, a study or a film.
COLUMNS = (
    "id",
    "state",
    "outcome",
    "revision",
    "priority",
    "peer",
    "attempts",
    "created_at",
    "seconds_in_state",
    "overdue",
    "cause_code",
    "cause_text",
    "next_action",
    "bundle_sha256",
)


class _ListFirst(click.Group):
    """A group whose bare name lists: `carpus jobs`, with or without the options of `list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` before options where no subcommand is named."""
        named = [word for word in args[:1] if not word.startswith("-") or word in ctx.help_option_names]
        return super().parse_args(ctx, args if named else ["list", *args])


@click.group(cls=_ListFirst)
def jobs() -> None:
    """Look at the queue, and act on single jobs; without a subcommand: list."""


for _command in (queues, pause, resume, drain):
    jobs.add_command(_command)

ids_argument = click.argument("job_ids", type=int, nargs=-1, required=True)
json_option = click.option("--json", "as_json", is_flag=True, help="As one JSON object a line.")
state_option = click.option("--state", help="Only this state; without it everything but FILTERED.")


@jobs.command("list")
@state_option
@click.option("--accession", help="Only the films of this order, by its accession number.")
@click.option("--cause", help="Only jobs with this cause, e.g. calling-ae-refused.")
@since_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@json_option
@config_option
def jobs_list(
    state: str | None,
    accession: str | None,
    cause: str | None,
    since: datetime | None,
    limit: int,
    as_json: bool,
    config: Path | None,
) -> None:
    """List jobs, newest first, with cause and next action."""
    from rich.console import Console

    from service.queue import job_listing
    from service.queue.queues import Queues

    _, repository = opened(config, "carpus jobs")
    found = repository.list(state=_state(state), limit=limit, accession_number=accession, cause_code=cause, since=since)
    if as_json:
        for job in found:
            click.echo(json.dumps(job_listing.as_dict(job, repository.now())))
    else:
        queues = Queues(repository.engine).all()
        Console().print(job_listing.table(found, repository.counts(), repository.now(), queues))


@jobs.command("show")
@click.argument("job_id", type=int)
@json_option
@config_option
def jobs_show(job_id: int, as_json: bool, config: Path | None) -> None:
    """Show one job: its timeline, its results, its cause and what to do about it."""
    from rich.console import Console

    from service.queue import job_listing

    _, repository = opened(config, "carpus jobs")
    job = repository.get(job_id)
    detail = job_listing.details(
        job,
        repository.instance(job.instance_id),
        repository.timeline(job_id),
        repository.results(job_id),
        repository.now(),
    )
    if as_json:
        click.echo(json.dumps(detail, ensure_ascii=False))
    else:
        Console().print(job_listing.page(detail))


@jobs.command("retry")
@click.argument("job_ids", type=int, nargs=-1)
@click.option("--cause", help="Every FAILED job with this cause, e.g. once its PACS has been corrected.")
@json_option
@config_option
def jobs_retry(job_ids: tuple[int, ...], cause: str | None, as_json: bool, config: Path | None) -> None:
    """Try failed or cancelled jobs again, from the step they left; what was refused is offered again."""
    from service.queue.jobs import State

    if bool(job_ids) == (cause is not None):
        raise click.UsageError("name jobs, or a --cause")
    _, repository = opened(config, "carpus jobs")
    if cause is not None:
        job_ids = tuple(job.id for job in repository.list(state=State.FAILED, cause_code=cause, limit=100_000))
    if not job_ids:
        click.echo(f"no failed job has the cause {cause}", err=True)

    def retry(job_id: int) -> None:
        state = repository.retry(job_id)
        _say(as_json, f"job {job_id} goes on from {state}", id=job_id, state=state)

    _each(job_ids, retry, as_json)


@jobs.command("cancel")
@ids_argument
@json_option
@config_option
def jobs_cancel(job_ids: tuple[int, ...], as_json: bool, config: Path | None) -> None:
    """Stop jobs that are not finished; nothing more of them is sent."""
    _, repository = opened(config, "carpus jobs")

    def cancel(job_id: int) -> None:
        repository.cancel(job_id)
        _say(as_json, f"job {job_id} is cancelled", id=job_id, state="CANCELLED")

    _each(job_ids, cancel, as_json)


@jobs.command("requeue")
@ids_argument
@click.option("--priority", type=click.Choice(PRIORITIES), help="Of the new jobs; without it that of the old ones.")
@json_option
@config_option
def jobs_requeue(job_ids: tuple[int, ...], priority: str | None, as_json: bool, config: Path | None) -> None:
    """Read the films of these jobs once more, e.g. with a new bundle, as new revisions beside the old results."""
    from service.tables import Priority

    _, repository = opened(config, "carpus jobs")

    def requeue(job_id: int) -> None:
        new = repository.requeue(job_id, priority=Priority[priority.upper()] if priority else None)
        _say(as_json, f"job {new} reads the film of job {job_id} again", id=new, of=job_id, state="RECEIVED")

    _each(job_ids, requeue, as_json)


@jobs.command("priority")
@click.argument("priority", type=click.Choice(PRIORITIES))
@ids_argument
@json_option
@config_option
def jobs_priority(priority: str, job_ids: tuple[int, ...], as_json: bool, config: Path | None) -> None:
    """Serve these jobs before (stat) or after (backfill) the others."""
    from service.tables import Priority

    _, repository = opened(config, "carpus jobs")

    def prioritise(job_id: int) -> None:
        repository.prioritise(job_id, Priority[priority.upper()])
        _say(as_json, f"job {job_id} is {priority}", id=job_id, priority=priority)

    _each(job_ids, prioritise, as_json)


@jobs.command("export")
@state_option
@since_option
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write here, not to standard output.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines with the steps' durations; without it CSV.")
@config_option
def jobs_export(
    state: str | None, since: datetime | None, output: Path | None, as_json: bool, config: Path | None
) -> None:
    """Write all jobs, newest first, for a spreadsheet or a script; nothing in it names a patient or a film."""
    _, repository = opened(config, "carpus jobs")
    rows = _exported(repository, state, since)
    if output is None:
        _write(rows, sys.stdout, as_json)
        return
    try:
        with output.open("w", encoding="utf-8", newline="") as file:
            count = _write(rows, file, as_json)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from error
    click.echo(f"{count} jobs in {output}", err=True)


def _exported(repository: "Jobs", state: str | None, since: datetime | None) -> Iterable[dict[str, Any]]:
    from service.queue import job_listing

    before = None
    while found := repository.list(state=_state(state), since=since, limit=EXPORTED_AT_ONCE, before_id=before):
        for job in found:
            row = job_listing.as_dict(job, repository.now())
            cause = row.pop("cause") or {}
            row |= {"cause_code": cause.get("code"), "cause_text": cause.get("text")}
            yield {name: row[name] for name in COLUMNS} | {
                "milliseconds": job_listing.durations(repository.timeline(job.id))
            }
        before = found[-1].id


def _write(rows: Iterable[dict[str, Any]], file: Any, as_json: bool) -> int:
    count = 0
    table = csv.DictWriter(file, COLUMNS)
    if not as_json:
        table.writeheader()
    for row in rows:
        count += 1
        if as_json:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            table.writerow({name: _cell(row[name]) for name in COLUMNS})
    return count


def _cell(value: Any) -> Any:
    """Return a value as a spreadsheet shows it: text of a header that begins like a formula is none."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _state(name: str | None) -> Any:
    from service.queue.jobs import State

    if name is not None and name.upper() not in State.__members__:
        raise click.UsageError(f"there is no state {name!r}: {', '.join(State)}")
    return State(name.upper()) if name else None


def _each(job_ids: Iterable[int], act: Callable[[int], None], as_json: bool) -> None:
    """Act on every job: one that cannot be acted on is named and keeps none of the others back; the command then ends with 1."""
    from service.errors import CarpusError

    failed = 0
    for job_id in job_ids:
        try:
            act(job_id)
        except CarpusError as error:
            failed += 1
            if as_json:
                _say(True, "", id=job_id, error=str(error))
            else:
                click.echo(f"carpus: {error}" + (f"; {error.next_action}" if error.next_action else ""), err=True)
    if failed:
        sys.exit(1)


def _say(as_json: bool, text: str, **fields: Any) -> None:
    click.echo(json.dumps(fields) if as_json else text)
