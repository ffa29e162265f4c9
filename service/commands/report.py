"""`carpus report`: the objects that would go to the PACS for one film, into a folder, for a look."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.commands import config_option

if TYPE_CHECKING:
    from models.image import Image
    from models.reading import Reading
    from service.reporting.source import Source
    from service.result_profile import Language, ResultProfile


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--sex", type=click.Choice(["F", "M", "O"], case_sensitive=False), help="Left out: as the header says.")
@click.option(
    "--age", type=click.FloatRange(0, 120), help="Chronological age in years; left out: by the header's dates."
)
@click.option("--profile", "name", default="everything", show_default=True, help="What a PACS with this profile gets.")
@click.option("--language", type=click.Choice(["en", "zh"]), help="Left out: as the profile says.")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path("report"), show_default=True
)
@click.option("--bundle", default="default", show_default=True, help="A shipped bundle, or the path of one.")
@config_option
def report(
    path: Path,
    sex: str | None,
    age: float | None,
    name: str,
    language: "Language | None",
    folder: Path,
    bundle: str,
    config: Path | None,
) -> None:
    """Read the film FILE and write what a PACS would get of it; the SR also as HTML, the SC as PNG, the PDF as such.

    A film that is not DICOM is wrapped first, as a nameless patient's. The profile is a built-in one (default, everything,
    report, pictures, each also with -zh) or one of the settings. Ends with 0, or 3 when the film must not be read: then the
    objects say why.
    """
    from service import films, settings
    from service.profiles import named

    profile = named(settings.load(config), name)
    film, wrapped_sex, wrapped_age = _source(path, sex or "")
    image, reading = films.read_film(
        films.load_reader(bundle),
        path,
        films.sex_of(sex if sex is not None else wrapped_sex),
        age if age is not None else wrapped_age,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for file, note in _write(film, image, reading, profile, language, folder):
        click.echo(f"{folder / file}  {note}")
    for remark in film.remarks:
        click.echo(f"tolerated in the header: {remark}", err=True)
    if not reading.verdict.accepted:
        raise SystemExit(3)


def _source(path: Path, sex: str) -> "tuple[Source, str, float | None]":
    """Return the film's header, with its sex and its age in years as far as it states them; a picture is wrapped with `sex`."""
    from io import BytesIO

    from pydicom import dcmread
    from pydicom.misc import is_dicom

    from models import pixels
    from service.deidentification.deidentify import age_days
    from service.errors import InvalidInstance
    from service.reporting import source
    from service.routing import route
    from service.wrap import Patient, wrap

    if is_dicom(path):
        days = age_days(dcmread(path, stop_before_pixels=True))
        return source.load(path), route(dcmread(path)).sex or "", None if days is None else days / 365.25
    try:
        image = pixels.load(path)
    except pixels.UnreadablePixels as error:
        raise InvalidInstance(f"{path}: {error}", code=error.code) from error
    stream = BytesIO()
    wrap(image, Patient(PatientSex=sex.upper()), study=path.name).save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return source.normalise(dcmread(stream)), "", None


def _write(
    film: "Source",
    image: "Image",
    reading: "Reading",
    profile: "ResultProfile",
    language: "Language | None",
    folder: Path,
) -> "list[tuple[str, str]]":
    """Write every object; return each file's name with what it holds."""
    from service.reporting import encoding, preview

    built = preview.build(film, reading, image, profile, language)
    files = []
    for kind, ds in built.items():
        (folder / f"{kind}.dcm").write_bytes(encoding.encoded(ds))
        files.append((f"{kind}.dcm", f"{ds.SOPClassUID.name}, series {ds.SeriesNumber}: {ds.SeriesDescription}"))
    if reading.verdict.accepted and "SEG" in profile.objects and "SEG" not in built:
        files.append(("SEG.dcm", "not written: no bone was outlined"))
    for kind, (name, _, holds, make) in preview.FORMS.items():
        if kind in built:
            (folder / name).write_bytes(make(built[kind]))
            files.append((name, holds))
    return files
