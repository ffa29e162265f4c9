"""Read and verify the audit trail."""

import datetime as dt
import json
from pathlib import Path

import click

from service.commands import config_option, opened, since_option, user_at_terminal


@click.group()
def audit() -> None:
    """Look into the audit trail (PS3.15 A.5): who sent, who saw, what left, who changed something."""


@audit.command("list")
@click.option("--patient", help="PatientID as in the PACS; the trail holds its pseudonym.")
@click.option("--issuer", default="", help="IssuerOfPatientID, where the PACS states one.")
@click.option("--actor", help="Account, AE title or process.")
@since_option
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--xml", "as_xml", is_flag=True, help="The messages as PS3.15 A.5 defines them, one a line.")
@config_option
def audit_list(
    patient: str | None,
    issuer: str,
    actor: str | None,
    since: dt.datetime | None,
    limit: int,
    as_json: bool,
    as_xml: bool,
    config: Path | None,
) -> None:
    """List records, oldest first. Reading the trail is itself audited."""
    from service.auditing.messages import AuditMessage, Event, Participant
    from service.auditing.trail import Trail
    from service.deidentification.deidentify import patient_key
    from service.trust.pseudonyms import Pseudonyms

    settings, jobs = opened(config, "carpus audit")
    trail = Trail(jobs.engine)
    subject = ""
    if patient is not None:
        subject = Pseudonyms.of(settings).patient(patient_key(patient, issuer))
    rows = trail.records(limit=limit, subject=subject, actor=actor or "", since=since)
    who = (Participant(user_at_terminal(), requestor=True),)
    trail.append(AuditMessage(Event.LOG_USED, who, trail.now(), subject=subject), source=settings.audit_source)
    if as_xml:
        for row in rows:
            click.echo(row.message)
    elif as_json:
        for row in rows:
            fields = ("id", "event", "outcome", "actor", "study", "subject", "hash")
            click.echo(json.dumps({"at": row.at.isoformat(), **{name: getattr(row, name) for name in fields}}))
    else:
        lines = [("number", "time (UTC)", "event", "outcome", "who", "patient", "study")]
        for row in rows:
            at = row.at.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
            lines.append((str(row.id), at, row.event, row.outcome, row.actor, row.subject or "-", row.study or "-"))
        # Nothing is cut off: what is looked for here is an identifier.
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        for line in lines:
            click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


@audit.command("verify")
@config_option
def audit_verify(config: Path | None) -> None:
    """Walk the whole chain and its seals; exit status 1 when a record was changed, put in or removed."""
    from service.auditing.trail import Trail
    from service.trust.pseudonyms import Pseudonyms

    settings, jobs = opened(config, "carpus audit")
    verdict = Trail(jobs.engine).verify(Pseudonyms.of(settings).digest("audit", "seal"))
    if verdict.fault:
        raise click.ClickException(f"the audit trail is not whole: {verdict.fault}")
    click.echo(f"{verdict.records} records, whole; sealed up to record {verdict.sealed}")
