"""`carpus read`: the bone age of one film, or of a folder of films."""

from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--sex", type=click.Choice(["F", "M", "O"], case_sensitive=False), help="O or left out: both curves.")
@click.option("--age", type=click.FloatRange(0, 120), help="Chronological age in years; no method sees it.")
@click.option(
    "--json",
    "json_to",
    is_flag=False,
    flag_value="-",
    help="A film: print its Reading. A folder: JSON lines to a file.",
)
@click.option(
    "--overlay", type=click.Path(path_type=Path), help="Write the film with its labelled regions as a picture."
)
@click.option("--cases", type=click.Path(path_type=Path), help="A folder's table: file, sex, chronological_age_years.")
@click.option("--csv", "csv_to", type=click.Path(path_type=Path), help="A folder: also a table, one row a method.")
@click.option("--bundle", default="default", show_default=True, help="A shipped bundle, or the path of one.")
def read(
    path: Path,
    sex: str | None,
    age: float | None,
    json_to: str | None,
    overlay: Path | None,
    cases: Path | None,
    csv_to: Path | None,
    bundle: str,
) -> None:
    """Read the bone age from the film PATH, or from the films of the folder PATH by a table of cases.

    Ends with 0 when everything was read, 3 when the film must not be read (or a case was not), 1 on an error.
    """
    if path.is_dir():
        if cases is None or (json_to is None and csv_to is None):
            raise click.UsageError("a folder needs --cases cases.csv and --json out.jsonl (or --csv out.csv)")
        if sex or age is not None or overlay:
            raise click.UsageError("--sex, --age and --overlay are for one film; a folder's come from its table")
        _read_folder(path, cases, json_to, csv_to, bundle)
        return
    if cases or csv_to:
        raise click.UsageError("--cases and --csv are for a folder")
    from service import films, terminal

    image, reading = films.read_film(films.load_reader(bundle), path, films.sex_of(sex or ""), age)
    if overlay:
        films.save_overlay(overlay, image, reading)
    if json_to is None:
        click.echo(terminal.page(path.name, reading))
    elif json_to == "-":
        click.echo(reading.to_json(indent=1))
    else:
        films.write_text(Path(json_to), reading.to_json(indent=1) + "\n")
    if not reading.verdict.accepted:
        raise SystemExit(3)


def _read_folder(folder: Path, table: Path, json_to: str | None, csv_to: Path | None, bundle: str) -> None:
    """Read every case of the table with a progress bar on the terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from service import films

    cases = films.load_cases(table)
    reader = films.load_reader(bundle)
    failed = 0
    with (
        films.lines_to(json_to) as write,
        films.rows_to(csv_to) as tabulate,
        Progress(console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("films", total=len(cases))
        for line in films.read_folder(reader, folder, cases, done=lambda: bar.advance(task)):
            write(line)
            tabulate(line)
            if "error" in line:
                failed += 1
                bar.console.print(f"{line['file']}: {line['error']}", markup=False, highlight=False)
    click.echo(f"{len(cases) - failed} of {len(cases)} cases read", err=True)
    if failed:
        raise SystemExit(3)
