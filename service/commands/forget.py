"""Remove everything of one patient."""

from pathlib import Path

import click

from service.commands import config_option, opened, user_at_terminal


@click.command()
@click.argument("patient")
@click.option("--issuer", default="", help="IssuerOfPatientID, where the PACS states one.")
@click.option("--even-unconfirmed", is_flag=True, help="Also what is unfinished, or not confirmed by the PACS.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
def forget(patient: str, issuer: str, even_unconfirmed: bool, yes: bool, config: Path | None) -> None:
    """Remove every film, copy, result and record of PATIENT (its PatientID in the PACS) from Carpus.

    What the PACS holds stays there. The audit trail keeps that it was done, under the patient's pseudonym. A legal hold forbids it.
    """
    from service.auditing.trail import Trail
    from service.deidentification.deidentify import patient_key
    from service.retention import Retention
    from service.storage import Stores
    from service.trust.pseudonyms import Pseudonyms
    from service.trust.vault import Vault

    settings, jobs = opened(config, "carpus forget")
    if not yes:
        click.confirm(
            "Everything of this patient is removed from Carpus and cannot be brought back. Go on?", abort=True
        )
    key = patient_key(patient, issuer)
    pseudonyms = Pseudonyms.of(settings)
    stores = Stores.open(settings.data_directory)
    vault = Vault.of(settings, pseudonyms)
    retention = Retention(jobs, Trail(jobs.engine), stores, settings, actor=user_at_terminal(), vault=vault)
    removed = retention.forget(
        pseudonyms.patient(key),
        belongs=lambda number, of: patient_key(number, of) == key,
        even_unconfirmed=even_unconfirmed,
    )
    vault.shred(pseudonyms.patient(key))
    click.echo(f"removed {removed.instances} films and {removed.quarantined} quarantined files")
