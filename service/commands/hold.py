"""Place, list and release legal holds."""

from pathlib import Path
from typing import Any

import click

from service.commands import config_option, opened, user_at_terminal


@click.group()
def hold() -> None:
    """Keep a patient's or a study's films from being removed, whatever retention says."""


@hold.command("list")
@config_option
def hold_list(config: Path | None) -> None:
    """List the holds in force."""
    from rich.console import Console
    from rich.table import Table

    table = Table("number", "of", "reason", "placed by", "at (UTC)")
    for row in _retention(config)[0].holds():
        at = row.placed_at.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
        table.add_row(str(row.id), f"{row.scope} {row.value}", row.reason, row.placed_by, at)
    Console().print(table)


@hold.command("place")
@click.option("--patient", help="PatientID as in the PACS.")
@click.option("--issuer", default="", help="IssuerOfPatientID, where the PACS states one.")
@click.option("--study", help="StudyInstanceUID.")
@click.option(
    "--reason", required=True, help="Kept with the hold and in the audit trail's place of it; name no patient."
)
@config_option
def hold_place(patient: str | None, issuer: str, study: str | None, reason: str, config: Path | None) -> None:
    """Place a hold on a patient or a study."""
    from service.deidentification.deidentify import patient_key
    from service.trust.pseudonyms import Pseudonyms

    if (patient is None) == (study is None):
        raise click.UsageError("name either --patient or --study")
    retention, settings = _retention(config)
    if patient is not None:
        value = Pseudonyms.of(settings).patient(patient_key(patient, issuer))
        number = retention.hold("patient", value, reason)
    else:
        number = retention.hold("study", str(study), reason)
    click.echo(f"hold {number} is in force")


@hold.command("release")
@click.argument("number", type=int)
@config_option
def hold_release(number: int, config: Path | None) -> None:
    """Lift a hold; retention may remove the films from its next round on."""
    _retention(config)[0].release(number)
    click.echo(f"hold {number} is released")


def _retention(config: Path | None) -> Any:
    from service.auditing.trail import Trail
    from service.retention import Retention
    from service.storage import Stores

    settings, jobs = opened(config, "carpus hold")
    stores = Stores.open(settings.data_directory)
    return Retention(jobs, Trail(jobs.engine), stores, settings, actor=user_at_terminal()), settings
