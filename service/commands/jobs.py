"""Show the queue and act on single jobs."""

import json
from pathlib import Path

import click

from service.commands import config_option, opened


class _ListFirst(click.Group):
    """A group whose bare name lists: `carpus jobs`, with or without the options of `list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` before options where no subcommand is named."""
        named = [word for word in args[:1] if not word.startswith("-") or word in ctx.help_option_names]
        return super().parse_args(ctx, args if named else ["list", *args])


@click.group(cls=_ListFirst)
def jobs() -> None:
    """Look at the queue, and act on single jobs; without a subcommand: list."""


@jobs.command("list")
@click.option("--state", help="Only this state; without it everything but FILTERED.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@config_option
def jobs_list(state: str | None, limit: int, as_json: bool, config: Path | None) -> None:
    """List jobs, newest first, with cause and next action."""
    from rich.console import Console

    from service import job_listing
    from service.jobs import State

    if state is not None and state.upper() not in State.__members__:
        raise click.UsageError(f"there is no state {state!r}: {', '.join(State)}")
    _, repository = opened(config, "carpus jobs")
    found = repository.list(state=State(state.upper()) if state else None, limit=limit)
    if as_json:
        for job in found:
            click.echo(json.dumps(job_listing.as_dict(job, repository.now())))
    else:
        Console().print(job_listing.table(found, repository.counts(), repository.now()))


@jobs.command("show")
@click.argument("job_id", type=int)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@config_option
def jobs_show(job_id: int, as_json: bool, config: Path | None) -> None:
    """Show one job: its timeline, its results, its cause and what to do about it."""
    from rich.console import Console

    from service import job_listing

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
@click.argument("job_ids", type=int, nargs=-1, required=True)
@config_option
def jobs_retry(job_ids: tuple[int, ...], config: Path | None) -> None:
    """Try failed or cancelled jobs again, from the step they left."""
    _, repository = opened(config, "carpus jobs")
    for job_id in job_ids:
        click.echo(f"job {job_id} goes on from {repository.retry(job_id)}")


@jobs.command("cancel")
@click.argument("job_ids", type=int, nargs=-1, required=True)
@config_option
def jobs_cancel(job_ids: tuple[int, ...], config: Path | None) -> None:
    """Stop jobs that are not finished; nothing more of them is sent."""
    _, repository = opened(config, "carpus jobs")
    for job_id in job_ids:
        repository.cancel(job_id)
        click.echo(f"job {job_id} is cancelled")


@jobs.command("again")
@click.argument("job_ids", type=int, nargs=-1, required=True)
@config_option
def jobs_again(job_ids: tuple[int, ...], config: Path | None) -> None:
    """Read the films of these jobs once more, as new revisions beside the old results."""
    _, repository = opened(config, "carpus jobs")
    for job_id in job_ids:
        click.echo(f"job {repository.requeue(job_id)} reads the film of job {job_id} again")
