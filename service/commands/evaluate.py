"""`carpus evaluate`: how well a bundle reads films whose bone age is known."""

from pathlib import Path

import click

from service.errors import InvalidConfiguration, installing


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the report.")
@click.option("--bundle", default="default", show_default=True, help="A shipped bundle, or the path of one.")
@click.option(
    "--readings",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Use these, of `carpus read FOLDER --json`, and read nothing.",
)
@click.option(
    "--part",
    type=click.Choice(["all", "train", "validation", "test"]),
    default="all",
    show_default=True,
    help="Only this part of the patients.",
)
def evaluate(data: Path, out: Path, bundle: str, readings: Path | None, part: str) -> None:
    """Read the films of DATA (a folder with films.csv, or a table beside its films) and compare with their bone ages.

    Columns: file, sex, bone_age_years; optional patient, chronological_age_years, stage_radius … stage_dp5. Writes rows.csv,
    figures.json, plots and report.html into the folder.
    """
    from rich.console import Console
    from rich.progress import Progress

    from models import registry
    from models.datasets import archive, splits
    from models.evaluation import cases, page
    from models.refusal import Refusal
    from models.weights import WeightsRefused

    table = data / archive.TABLE if data.is_dir() else data
    try:
        films = [film for film in archive.read(table, needs=("bone_age_years",)) if part in ("all", film.part)]
        description = registry.describe(bundle)
        with Progress(console=Console(stderr=True)) as bar:
            if readings is not None:
                read = cases.kept(readings, films, description.sha256)
            else:
                task = bar.add_task("films", total=len(films))
                read = cases.read(registry.load(bundle), films, lambda: bar.advance(task))
            measured = cases.cases(read)
    except (registry.BundleRefused, WeightsRefused) as error:
        raise InvalidConfiguration(
            str(error), code="bundle-refused", next_action="`carpus models` lists and verifies the bundles"
        ) from error
    except Refusal as error:
        raise InvalidConfiguration(str(error), code="bad-table") from error
    try:
        report = page.write(
            out,
            measured,
            description,
            table_sha256=splits.digest(table),
            command=f"carpus evaluate {data.name} --bundle {bundle} --part {part}",
        )
    except ModuleNotFoundError as error:
        raise InvalidConfiguration(
            f"{error.name} is not installed; plots need it", next_action=installing("train")
        ) from error
    for method, parts in report["methods"].items():
        row = parts["all"]
        if "mae_years" not in row:
            click.echo(f"{method:16} no age in {row['missed']} of {row['n']} films")
            continue
        mae, within = row["mae_years"], row["within_one_year"]
        click.echo(
            f"{method:16} MAE {mae['value']:.2f} y ({mae['low']:.2f} to {mae['high']:.2f}), "
            f"within a year {within['value']:.0%}, n = {row['n']}, {row['missed']} missed"
        )
    click.echo(f"report: {out / 'report.html'}")
