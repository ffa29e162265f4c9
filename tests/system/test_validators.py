"""Every object we make of every kind of source, by the judgement of dciodvfy, dcentvfy and DCMTK."""

import dataclasses
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydicom.dataset import Dataset

from models.reading import Reason, Verdict
from service.conformance import RESULT_CLASSES, SR_CLASSES
from service.reporting import key_objects, presentation, result_set, secondary_capture, source, sr
from service.reporting.results import ResultContext
from service.result_profile import BUILT_IN
from tests.factories import encoded
from tests.pairwise import pairwise
from tests.service import readings
from tests.service.headers import NAMES, received, with_raw
from tests.service.test_sr import AT

pytestmark = pytest.mark.system


def needs(tool: str) -> pytest.MarkDecorator:
    package = "dicom3tools" if tool.endswith("vfy") else "dcmtk"
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} ({package}) is not installed")


class Source(NamedTuple):
    """One kind of film: what its header has and what it lacks."""

    kind: str
    photometric: str
    spacing: bool
    laterality: bool
    orientation: bool
    charset: int
    missing: str | None
    language: str
    report_class: str = "Comprehensive 3D"

    def file(self) -> bytes:
        character_set, name = NAMES[self.charset]
        absent = [] if self.missing is None or self.missing == "PatientName" else [self.missing]
        if not self.spacing and self.kind in ("CR", "DX", "DX-PROCESSING"):
            absent.append("ImagerPixelSpacing")
        if not self.orientation:
            absent.append("PatientOrientation")
        if not self.laterality:
            absent.append("Laterality" if self.kind in ("CR", "SC") else "ImageLaterality")
        raw = with_raw(
            *("PatientName", name + b" " * (len(name) % 2)),
            character_set=character_set,
            kind=self.kind,
            photometric_interpretation=self.photometric,
            picture=readings.image(),
            without=absent,
        )
        if self.missing == "PatientName":
            ds = received(raw)
            del ds.PatientName
            raw = encoded(ds)
        return raw

    def context(self) -> ResultContext:
        return ResultContext(
            "2.25.42",
            AT,
            self.language,  # type: ignore[arg-type]
            institution_name="TEST HOSPITAL",
            kinds=BUILT_IN["everything"].objects,
            report_class=SR_CLASSES[self.report_class],
        )


KINDS, POLARITIES, EITHER = ("CR", "DX", "SC"), ("MONOCHROME1", "MONOCHROME2"), (True, False)
MISSING = (None, *source.TYPE_2)


def whole_product() -> list[Source]:
    """Return every CR and DX film; languages and report classes take turns. `validator_matrix` goes through them."""
    whole = itertools.product(KINDS[:2], POLARITIES, EITHER, EITHER, EITHER, range(4), MISSING)
    classes, languages = itertools.cycle(SR_CLASSES), itertools.cycle(["en", "en", "en", "zh", "zh"])
    return [Source(*row, next(languages), next(classes)) for row in whole]


def sources() -> list[Source]:
    """Return every pair of two properties of a film, language and report class among them."""
    rows = pairwise(KINDS, POLARITIES, EITHER, EITHER, EITHER, range(4), MISSING, ("en", "zh"), tuple(SR_CLASSES))
    return [Source(*row) for row in rows]


def results(film: source.Source, context: ResultContext) -> dict[str, Dataset]:
    """Build everything that can be made of a film."""
    reading = readings.reading(sex=None if context.language == "zh" else "F", alarm=True)
    rejected = Verdict(False, (Reason("two-hands", "2 hands found"), Reason("unheard-of", "something else")))
    made: dict[str, Dataset] = dict(result_set.of_reading(film, reading, context, readings.image))
    assert set(made) == set(RESULT_CLASSES)
    rejections = result_set.of_rejection(film, rejected, context, readings.image, bundle=readings.BUNDLE)
    return made | {f"{kind}-rejection": ds for kind, ds in rejections.items()}


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def write(made: dict[str, Dataset], folder: Path) -> dict[str, Path]:
    paths = {}
    for kind, ds in made.items():
        paths[kind] = folder / f"{kind}.dcm"
        paths[kind].write_bytes(encoded(ds))
    return paths


def identifiers(film: Source) -> str:
    structure = [film.kind, film.photometric, f"charset{film.charset}", film.language]
    structure += [name for name in ("spacing", "laterality", "orientation") if not getattr(film, name)]
    structure.append(film.report_class)
    return "-".join([*structure, film.missing or "complete"])


def faults(kind: Source, folder: Path) -> dict[str, list[str]]:
    """Return the errors in each object of a film, and those of all of them beside it, by name of the object."""
    original = folder / "source.dcm"
    original.write_bytes(kind.file())
    made = write(results(source.normalise(received(original.read_bytes())), kind.context()), folder)
    said = {name: run("dciodvfy", str(path)) for name, path in made.items()}
    said["together"] = run("dcentvfy", str(original), *map(str, made.values()))
    return {name: [line for line in text.splitlines() if line.startswith("Error")] for name, text in said.items()}


@needs("dciodvfy")
@needs("dcentvfy")
@pytest.mark.parametrize("kind", sources(), ids=identifiers)
def test_no_object_has_an_error(kind: Source, tmp_path: Path) -> None:
    assert {name: errors for name, errors in faults(kind, tmp_path).items() if errors} == {}


@needs("dciodvfy")
def test_a_name_in_a_set_it_does_not_state_gives_no_error_that_the_film_has_not(tmp_path: Path) -> None:
    def errors(ds: Dataset | bytes, name: str) -> set[str]:
        path = tmp_path / name
        path.write_bytes(ds if isinstance(ds, bytes) else encoded(ds))
        return {line for line in run("dciodvfy", str(path)).splitlines() if line.startswith("Error")}

    kind = Source("CR", "MONOCHROME2", True, True, True, 4, None, "en")
    film = kind.file()
    inherited = errors(film, "film.dcm")
    assert inherited  # bytes of GBK beside no character set
    for name, ds in results(source.normalise(received(film)), kind.context()).items():
        assert errors(ds, f"{name}.dcm") <= inherited, name


BARE: dict[str, tuple[str, ...]] = {
    "no pixel data": ("PixelData", "Rows", "Columns", "BitsAllocated"),
    "no geometry": ("Rows",),
    "hardly a header": ("Rows", "Columns", "Modality", "PhotometricInterpretation", "PixelData", "PatientID"),
}


@needs("dciodvfy")
@pytest.mark.parametrize("kind", ["CR", "DX", "DX-PROCESSING", "SC"])
@pytest.mark.parametrize("lacking", BARE)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_rejection_of_a_film_that_cannot_be_read_has_no_error(
    kind: str, lacking: str, language: Any, tmp_path: Path
) -> None:
    raw = with_raw("PatientName", NAMES[1][1], character_set="ISO_IR 192", kind=kind, without=BARE[lacking])
    film = source.normalise(received(raw))
    context = ResultContext("2.25.42", AT, language)
    verdict = Verdict(False, (Reason("no-pixel-data", ""),))
    made = {
        "SR": sr.build_rejection(film, verdict, context),
        "SC": secondary_capture.build_rejection(film, verdict, context),
    }
    for path in write(made, tmp_path).values():
        assert not [line for line in run("dciodvfy", str(path)).splitlines() if line.startswith("Error")]


@needs("dsr2html")
@pytest.mark.parametrize("charset", range(4))
@pytest.mark.parametrize("language", ["en", "zh"])
def test_dsr2html_shows_every_value_beside_its_name(charset: int, language: Any, tmp_path: Path) -> None:
    kind = Source("DX", "MONOCHROME2", True, True, True, charset, None, language)
    film = source.normalise(received(kind.file()))
    path = write({"SR": sr.build(film, readings.reading(), kind.context())}, tmp_path)["SR"]
    page = re.sub(r"<[^>]+>|\s+", " ", run("dsr2html", "+Cm", "+U8", str(path)))
    page = re.sub(r"\s+", " ", page)
    if language == "en":
        for shown in (
            "Bone age: 10.53 year",
            "RUS-CHN stage 5(2) (TW3 stage F)",
            "Total skeletal maturity score: 512.4",
        ):
            assert shown in page
    else:
        for shown in ("骨龄: 10.53 岁", "RUS-CHN 5(2)期（TW3 F期）", "骨成熟度总分: 512.4", "仅供科研，不用于临床"):
            assert shown in page


@needs("dcmp2pgm")
def test_the_presentation_state_shows_bone_bright_for_both_polarities(tmp_path: Path) -> None:
    shown = {}
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        kind = Source("CR", photometric, True, True, True, 1, None, "en")
        (tmp_path / "film.dcm").write_bytes(kind.file())
        film = source.load(tmp_path / "film.dcm")
        state = write({"GSPS": presentation.build(film, readings.reading(), kind.context())}, tmp_path)["GSPS"]
        run("dcmp2pgm", "-p", str(state), str(tmp_path / "film.dcm"), str(tmp_path / "out.pgm"))
        pgm = (tmp_path / "out.pgm").read_bytes()
        shown[photometric] = np.frombuffer(pgm[-readings.ROWS * readings.COLUMNS :], np.uint8).reshape(
            readings.ROWS, -1
        )
    x1, y1, x2, y2 = (round(v) for v in readings.box("radius"))
    for pixels in shown.values():
        assert pixels[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3].mean() > pixels[:20].mean() + 50
    assert np.abs(shown["MONOCHROME1"].astype(int) - shown["MONOCHROME2"]).max() <= 1


PIXELMED = Path("/usr/share/java/pixelmed.jar")
# Messages of the 2022 templates that are not faults of ours, each with its reason.
EXPECTED = (
    r"TEXT \(122405,DCM,.*Content Item not in template",  # Algorithm Manufacturer came to TID 4019 later
    r"CODE \([A-Z]+,99CARPUS,.*Content Item not in template",  # TID 1410 is extensible; stage and quality have no public code
    r"CONTAINER \(121076,DCM,\"Conclusions\"\).*Content Item not in template",  # TID 1500 is extensible
    r"TEXT \(121106,DCM,\"Comment\"\): Content Item not in template",  # likewise
    r"TEXT \(121406,DCM,\"Reference Authority\"\): Content Item not in template",  # likewise
    r"IMAGE \(OUTLINEDBY,99CARPUS,.*Content Item not in template",  # likewise: the region itself is the SCOORD
    r"\(37362-1,LN,.*not found in context group 100",  # CID 100 is extensible and has no bone age procedure
    # TID 310 row 5 allows exactly this item; the validator takes it for the wildcards of TID 300 rows 9 and 10.
    r"NUM \(371884006,SCT,.*expected INFERRED FROM - found HAS PROPERTIES",
)


def pixelmed(path: Path) -> list[str]:
    """Return what PixelMed's validator says of a structured report, line by line."""
    limits = [f"-Djdk.xml.xpath{limit}Limit=0" for limit in ("TotalOp", "ExprOp", "ExprGrp")]
    validator = "com.pixelmed.validate.DicomSRValidator"
    return run("java", *limits, "-cp", f"{PIXELMED.parent}/*", validator, str(path)).splitlines()


needs_pixelmed = pytest.mark.skipif(
    shutil.which("java") is None or not PIXELMED.exists(), reason="PixelMed (libpixelmed-java) is not installed"
)


@needs_pixelmed
def test_pixelmed_finds_the_template_of_the_key_object_note(tmp_path: Path) -> None:
    kind = Source("CR", "MONOCHROME2", True, True, True, 1, None, "en")
    note = key_objects.build(source.normalise(received(kind.file())), readings.reading(), kind.context())
    said = pixelmed(write({"KOS": note}, tmp_path)["KOS"])
    assert any("Root Template Validation Complete" in line for line in said)
    assert not [line for line in said if line.startswith(("Error", "Warning"))]


@needs_pixelmed
def test_pixelmed_finds_the_templates_and_says_nothing_unexpected(tmp_path: Path) -> None:
    kind = Source("DX", "MONOCHROME2", True, True, True, 1, None, "en")
    film = source.normalise(received(kind.file()))
    whole = readings.reading(reasons=(Reason("rotated", "38 degrees"),))
    # One group of each kind is enough: the validator's time grows with the square of their number.
    few = tuple(region for region in whole.regions if region.name in ("radius", "pp1"))
    built = sr.build(film, dataclasses.replace(whole, methods=whole.methods[:1], regions=few), kind.context())
    said = pixelmed(write({"SR": built}, tmp_path)["SR"])
    assert any("Found Root Template TID_1500" in line for line in said)
    assert any("Root Template Validation Complete" in line for line in said)
    messages = [line for line in said if line.startswith(("Error", "Warning"))]
    assert not [line for line in messages if not any(re.search(known, line) for known in EXPECTED)]
