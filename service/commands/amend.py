"""`carpus amend`: correct a delivered reading; the corrected report goes the way of the first one."""

from pathlib import Path

import click

from service.commands import audited, config_option, opened


@click.command()
@click.argument("job_id", metavar="JOB", type=int)
@click.option("--stage", "stages", multiple=True, metavar="BONE=STAGE", help="RUS-CHN stage of a bone, e.g. mc5=7(1).")
@click.option(
    "--reject-region", "rejected", multiple=True, metavar="BONE", help="A region that is not what it is named."
)
@click.option("--observer", required=True, metavar="NAME", help="Who corrects: Family^Given, or a name as it stands.")
@click.option("--organisation", default="", help="Of the observer; left out: institution_name of the configuration.")
@click.option("--verify", is_flag=True, help="The observer verifies the report: it is sent as VERIFIED and FINAL.")
@config_option
def amend(
    job_id: int,
    stages: tuple[str, ...],
    rejected: tuple[str, ...],
    observer: str,
    organisation: str,
    verify: bool,
    config: Path | None,
) -> None:
    """Correct the delivered reading of JOB: give bones another stage, or reject regions.

    The same tables are read again. A new report goes to every destination of the first one; it names the observer, refers to the
    report it takes the place of, and keeps the values of the algorithm beside the corrected ones.
    """
    from models.reading import Reading
    from service.amendments import Amendments, parse_stages
    from service.auditing.messages import Event
    from service.reporting import wording

    settings, jobs = opened(config, "carpus amend")
    amendments = Amendments(jobs, settings.bundle, settings.institution_name)
    made = amendments.amend(
        job_id,
        stages=parse_stages(stages),
        rejected=rejected,
        observer=observer,
        organisation=organisation,
        verify=verify,
    )
    audited(settings, jobs, Event.CHANGED, f"job {job_id} corrected by job {made}")
    click.echo(f"job {made} delivers the corrected reading of job {job_id}")
    reading = Reading.from_json(jobs.get(made).reading or "")
    for method in wording.in_order(reading):
        click.echo(f"  {wording.method_sentence(method, 'en')}")
