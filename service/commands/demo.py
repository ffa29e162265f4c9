"""`carpus demo`: the main job on this machine."""

from pathlib import Path

import click

from models.regions import Sex
from service.errors import CarpusError


@click.command()
@click.option("--film", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A film of your own.")
@click.option("--sex", type=click.Choice(["F", "M"]), help="Its subject's sex; without it both curves are given.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=Path("demo"), show_default=True)
@click.option("--built-in-pacs", is_flag=True, help="Do not use Orthanc even where it is installed.")
def demo(film: Path | None, sex: Sex | None, output: Path, built_in_pacs: bool) -> None:
    """Do the main job on this machine: films in from a PACS, reports back into it."""
    from service import log
    from service.demo import run as demonstration

    log.configure("WARNING", as_json=False)
    films = demonstration.own_film(film, sex) if film else demonstration.phantom_films()
    outcomes = demonstration.run(output, films, orthanc=not built_in_pacs, say=click.echo)
    if any(outcome.faults for outcome in outcomes):
        raise CarpusError("not everything came back as it should; the last column says what differs")
