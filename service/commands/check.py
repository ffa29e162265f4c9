"""`carpus check`: the set-up doctor."""

import json
from pathlib import Path

import click

from service.commands import config_option, unopened


@click.command()
@click.option("--read-only", is_flag=True, help="Store no test objects in the PACS.")
@click.option("--clock", "clock_url", metavar="URL", help="A web page of the PACS; its Date tells the PACS's clock.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@config_option
def check(read_only: bool, clock_url: str | None, as_json: bool, config: Path | None) -> None:
    """Walk the whole loop from the configuration, and for each failure name the setting or the PACS entry to change.

    Test objects go to the patient CARPUS^SETUP CHECK (CARPUS-CHECK); a repeat sends the same instances. Ends with 0, or 1 when
    something failed; warnings do not count.
    """
    import logging

    from rich.console import Console

    from service import db, log
    from service.checkup.finding import Verdict, summary, table
    from service.checkup.walk import walk, without_database
    from service.errors import Permanent, Retryable

    settings, jobs = unopened(config, "carpus check")
    try:
        db.require_present(jobs.engine)
        steps = walk(settings, jobs, read_only=read_only, clock_url=clock_url)
    except (Retryable, Permanent) as error:  # of the database; what needs none is looked at all the same
        steps = without_database(settings, jobs, error, clock_url=clock_url)
    log.configure("CRITICAL", as_json=False)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    findings = []
    console = Console(stderr=True)
    with console.status("looking") as status:
        for each in steps:
            findings.append(each)
            status.update(f"{each.place}: {each.name}")
            if as_json:
                click.echo(json.dumps(each.as_dict(), ensure_ascii=False))
    if not as_json:
        out = Console()
        out.print(table(findings))
        out.print(summary(findings))
    if any(each.verdict == Verdict.FAILED for each in findings):
        raise SystemExit(1)
