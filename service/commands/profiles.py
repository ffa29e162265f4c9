"""Show and change what each PACS gets, while the service runs."""

import json
from pathlib import Path

import click

from service.commands import audited, config_option, opened


@click.group(invoke_without_command=True)
@config_option
@click.pass_context
def profiles(context: click.Context, config: Path | None) -> None:
    """Show which result profile each destination has; with a subcommand: change or probe it."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    from service.profiles import Profiles

    settings, jobs = opened(config, "carpus profiles")
    known = Profiles(jobs.engine, settings)
    table = Table("Destination", "Profile", "Objects", "Language", "Report classes", box=None)
    for destination in settings.destinations:
        name, profile = known.of(destination)
        chosen = name if known.configured(destination)[0] == name else f"{name} (chosen)"
        table.add_row(
            *(destination.name, chosen, " ".join(profile.objects), profile.language, ", ".join(profile.report_classes))
        )
    console = Console()
    console.print(table if settings.destinations else "no destinations are set")
    console.print(f"profiles: {', '.join(settings.known_profiles)}")


@profiles.command("show")
@click.argument("name")
@config_option
def show(name: str, config: Path | None) -> None:
    """Print the profile NAME as JSON."""
    from service import settings
    from service.profiles import named

    profile = named(settings.load(config), name)
    whole = {**profile.model_dump(), "series": {k: label.model_dump() for k, label in profile.labels().items()}}
    click.echo(json.dumps(whole, ensure_ascii=False, indent=2))


@profiles.command("use")
@click.argument("destination")
@click.argument("name", required=False)
@config_option
def use(destination: str, name: str | None, config: Path | None) -> None:
    """Give DESTINATION the profile NAME from the next film on; without NAME, the one of the settings again."""
    from service.auditing.messages import Event
    from service.profiles import Profiles

    settings, jobs = opened(config, "carpus profiles")
    known = Profiles(jobs.engine, settings)
    if name is None:
        known.forget(destination)
    else:
        known.use(destination, name)
    audited(settings, jobs, Event.CONFIGURED, f"profile of {destination}: {name or 'as configured'}")
    click.echo(f"{destination}: {known.of(known.destination(destination))[0]}")


@profiles.command("probe")
@click.argument("destination")
@config_option
def probe(destination: str, config: Path | None) -> None:
    """Ask DESTINATION which SOP classes it accepts, and say what of its profile it would get."""
    from service.profiles import Profiles
    from service.sending.negotiation import Negotiation, plan

    settings, jobs = opened(config, "carpus profiles")
    known = Profiles(jobs.engine, settings)
    peer = known.destination(destination)
    _, profile = known.of(peer)
    planned = plan(profile, Negotiation(jobs.engine, settings).ask(peer), peer)
    click.echo(f"sent: {' '.join(planned.kinds)}")
    if planned.report_class is not None:
        click.echo(f"report: {planned.report_class.name} ({planned.report_class})")
    for left_out in planned.left_out:
        click.echo(f"not accepted: {left_out}")
