"""`carpus phantom`: synthetic hand radiographs with exact annotations, to try, to train and to test with."""

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from models.phantom import Phantom

ANNOTATIONS = ("voc", "labelme", "csv")
TAKEN: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)  # when drawn films say they were taken


def _annotations(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Split the comma-separated list and refuse what is not in it."""
    asked = tuple(part.strip() for part in value.split(",") if part.strip())
    unknown = [part for part in asked if part not in ANNOTATIONS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}; there are {', '.join(ANNOTATIONS)}", ctx, param)
    return asked


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--number", type=click.IntRange(1), default=10, show_default=True, help="How many films.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first film; the next count on."
)
@click.option("--format", "form", type=click.Choice(["png", "dicom"]), default="png", show_default=True)
@click.option("--annotations", default="csv", show_default=True, callback=_annotations, help="Any of voc,labelme,csv.")
@click.option("--age", type=click.FloatRange(0, 20), help="Bone age aimed at, years; left out: drawn for each film.")
@click.option("--sex", type=click.Choice(["F", "M"]), help="Left out: drawn for each film.")
@click.option("--cast", type=click.Choice(["plaster", "fibreglass"]), help="A cast over forearm, wrist and palm.")
@click.option("--rows", type=click.IntRange(64, 4096), default=1000, show_default=True)
@click.option("--columns", type=click.IntRange(64, 4096), default=800, show_default=True)
def phantom(
    out: Path,
    number: int,
    seed: int,
    form: str,
    annotations: tuple[str, ...],
    age: float | None,
    sex: str | None,
    cast: str | None,
    rows: int,
    columns: int,
) -> None:
    """Draw phantom films into the folder OUT, with their annotations.

    The same seed and options give the same films. csv writes cases.csv (file, sex, bone age, stages; a table for
    `carpus read OUT --cases`) and boxes.csv; voc and labelme write one file beside each film.
    """
    from models.phantom import annotations as written
    from models.phantom import draw

    out.mkdir(parents=True, exist_ok=True)
    cases: list[dict[str, str]] = []
    boxes: list[dict[str, str]] = []
    for index in range(seed, seed + number):
        film = draw(index, age_years=age, sex=sex, cast=cast, rows=rows, columns=columns)  # type: ignore[arg-type]  # checked by click
        path = out / f"phantom-{index:08d}.{'png' if form == 'png' else 'dcm'}"
        if form == "png":
            written.save_png(path, film)
        else:
            _save_dicom(path, film, index, (age, sex, cast, rows, columns))
        if "voc" in annotations:
            path.with_suffix(".xml").write_text(written.voc(path.name, film), encoding="utf-8")
        if "labelme" in annotations:
            path.with_suffix(".json").write_text(written.labelme(path.name, film), encoding="utf-8")
        cases.append(written.case_row(path.name, film))
        boxes += written.box_rows(path.name, film)
    if "csv" in annotations:
        _write(out / "cases.csv", written.CASE_COLUMNS, cases)
        _write(out / "boxes.csv", written.BOX_COLUMNS, boxes)
    click.echo(f"{number} films in {out}" + (f" with {', '.join(annotations)}" if annotations else ""))


def _write(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def _save_dicom(path: Path, film: "Phantom", seed: int, drawn_by: tuple[object, ...]) -> None:
    """Write one film: other options than before are another instance, the same ones the same file on every day."""
    from service.wrap import Patient, save, wrap

    patient = Patient(PatientName=f"TEST^PHANTOM {seed}", PatientID=f"PHANTOM-{seed}", PatientSex=film.sex)
    ds = wrap(
        film.image,
        patient,
        photometric_interpretation="MONOCHROME1"
        if film.image.photometric_interpretation == "MONOCHROME1"
        else "MONOCHROME2",
        bits_stored=film.image.bits_stored,
        study=(seed, *drawn_by),
        laterality=film.laterality,
        spacing_mm=film.image.pixel_spacing_mm,
        at=TAKEN,
    )
    save(ds, path)
