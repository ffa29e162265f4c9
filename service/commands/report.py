"""`carpus report`: the objects that would go to the PACS for one film, into a folder, for a look."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from models.image import Image
    from models.reading import Reading
    from service.reporting.results import ResultContext
    from service.reporting.source import Source

# The objects of a preview belong to no installation.
PREVIEW_DEVICE_UID = "2.25.0"


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--sex", type=click.Choice(["F", "M", "O"], case_sensitive=False), help="Left out: as the header says.")
@click.option(
    "--age", type=click.FloatRange(0, 120), help="Chronological age in years; left out: by the header's dates."
)
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True)
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path("report"), show_default=True
)
@click.option("--bundle", default="default", show_default=True, help="A shipped bundle, or the path of one.")
def report(path: Path, sex: str | None, age: float | None, language: str, folder: Path, bundle: str) -> None:
    """Read the film FILE and write its SR, SEG, GSPS and SC, the SR also as HTML and the SC as PNG.

    A film that is not DICOM is wrapped first, as a nameless patient's. Ends with 0, or 3 when the film must not be read: then
    the objects say why.
    """
    from datetime import UTC, datetime

    from service import films
    from service.reporting.results import ResultContext

    film, wrapped_sex, wrapped_age = _source(path)
    image, reading = films.read_film(
        films.load_reader(bundle),
        path,
        films.sex_of(sex if sex is not None else wrapped_sex),
        age if age is not None else wrapped_age,
    )
    context = ResultContext(
        PREVIEW_DEVICE_UID, datetime.now(UTC), "zh" if language == "zh" else "en", profile="preview"
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, note in _write(film, image, reading, context, folder):
        click.echo(f"{folder / name}  {note}")
    for remark in film.remarks:
        click.echo(f"tolerated in the header: {remark}", err=True)
    if not reading.verdict.accepted:
        raise SystemExit(3)


def _source(path: Path) -> "tuple[Source, str, float | None]":
    """Return the film's header, with its sex and its age in years as far as it states them."""
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
    wrap(image, Patient(), study=path.name).save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return source.normalise(dcmread(stream)), "", None


def _write(
    film: "Source", image: "Image", reading: "Reading", context: "ResultContext", folder: Path
) -> "list[tuple[str, str]]":
    """Write every object; return each file's name with what it holds."""
    from PIL import Image as Picture

    from service.reporting import overview, presentation, secondary_capture, seg, sr, sr_html

    built: dict[str, Dataset | None]
    if reading.verdict.accepted:
        report = sr.build(film, reading, context)
        built = {
            "SR": report,
            "SEG": seg.build(film, reading, context),
            "GSPS": presentation.build(film, reading, context),
            "SC": secondary_capture.build(film, reading, context, image),
        }
        picture = overview.draw(image, reading, context.language)
    else:
        bundle, verdict = reading.bundle, reading.verdict
        report = sr.build_rejection(film, verdict, context, bundle=bundle)
        built = {
            "SR": report,
            "SC": secondary_capture.build_rejection(film, verdict, context, image=image, bundle=bundle),
        }
        picture = overview.draw_rejection(image, verdict.reasons, context.language)
    files = []
    for kind, ds in built.items():
        if ds is None:
            files.append((f"{kind}.dcm", "not written: no bone was outlined"))
            continue
        ds.save_as(folder / f"{kind}.dcm", enforce_file_format=True)
        files.append((f"{kind}.dcm", f"{ds.SOPClassUID.name}"))
    (folder / "SR.html").write_text(sr_html.render(report), encoding="utf-8")
    Picture.fromarray(picture).save(folder / "SC.png")
    return [*files, ("SR.html", "the report as a page"), ("SC.png", "the Secondary Capture as a picture")]
