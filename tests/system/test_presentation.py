"""What other programs make of our results: DCMTK renders the presentation state and the report, readers get the numbers back."""

import datetime as dt
import re
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from PIL import Image as Picture
from pydicom import Dataset, dcmread

from models.phantom import Phantom, draw
from models.regions import RUS
from models.scoring import Scoring
from service.reporting import encapsulated_pdf, overview, presentation, sr
from service.reporting.amendment import Amendment, Predecessor
from service.reporting.results import ResultContext
from service.reporting.source import normalise
from service.wrap import Patient, wrap
from tests.factories import encoded
from tests.service import readings, truth
from tests.service.test_priors import NOW, header, prior
from tests.service.test_priors import film as earlier_film
from tests.service.test_sr import AT, child, children, film, groups, reread, value
from tests.system.tools import tool

pytestmark = pytest.mark.system
CONTEXT = ResultContext("2.25.1", AT)
PHANTOM = draw(5, age_years=8, rows=400, columns=320, laterality="L", rotation_degrees=0.0, furnished=False)


def saved(ds: Dataset, path: Path) -> str:
    ds.save_as(path, enforce_file_format=True)
    return str(path)


@pytest.mark.parametrize("kind", ["CR", "DX"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dcmtk_renders_the_presentation_state_with_bone_bright(photometric: Any, kind: Any, tmp_path: Path) -> None:
    dcmp2pgm = tool("dcmp2pgm", "dcmtk")
    ds = wrap(PHANTOM.image, Patient("TEST^PR", "T-3", PHANTOM.sex), kind=kind, photometric_interpretation=photometric)
    picture = saved(ds, tmp_path / "film.dcm")
    state = presentation.build(normalise(dcmread(BytesIO(encoded(ds)))), truth.reading(PHANTOM), CONTEXT)
    command = [dcmp2pgm, "-p", saved(state, tmp_path / "state.dcm"), picture, str(tmp_path / "out.pgm")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    rendered = np.asarray(Picture.open(tmp_path / "out.pgm"), dtype=np.float64)
    assert rendered.shape == PHANTOM.image.pixels.shape
    assert np.corrcoef(rendered.ravel(), PHANTOM.image.pixels.ravel())[0, 1] > 0.9
    bone, ground = bone_and_ground(PHANTOM)
    assert rendered[bone].mean() > rendered[ground].mean() + 40


def bone_and_ground(phantom: Phantom) -> tuple[Any, Any]:
    """Return where bone is, and where the film shows air."""
    bone = phantom.masks["radius"] | phantom.masks["mc3"]
    return bone, phantom.image.pixels < np.percentile(phantom.image.pixels, 20)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_dsr2html_shows_every_value_with_its_name(language: Any, tmp_path: Path) -> None:
    dsr2html = tool("dsr2html", "dcmtk")
    reading = readings.reading()
    report = sr.build(film(), reading, ResultContext("2.25.1", AT, language))
    command = [dsr2html, "+Cm", "+Ri", saved(report, tmp_path / "sr.dcm")]
    said = subprocess.run(command, capture_output=True, check=False)
    assert said.returncode == 0, said.stderr
    text = " ".join(re.sub(r"<[^>]*>", " ", said.stdout.decode("utf-8")).split())
    age = {"en": "Bone age: 10.53 year", "zh": "骨龄: 10.53 岁"}[language]
    assert age in text, text[:3000]
    for expected in {
        "en": (
            "Verification Flag: UNVERIFIED",
            "Skeletal maturity stage",
            "Fifth metacarpal bone",
            "not for clinical use",
        ),
        "zh": ("Verification Flag: UNVERIFIED", "骨成熟度分期", "第五掌骨", "不用于临床"),
    }[language]:
        assert expected in text


@pytest.mark.parametrize("sex", ["F", None])
def test_the_report_parsed_by_highdicom_and_by_pydicom_gives_the_numbers_of_the_reading(sex: Any) -> None:
    """Every number that the report carries for a method or a bone, by two readers, against the Reading."""
    reading = readings.reading(sex=sex)
    ds = reread(sr.build(film(), reading, CONTEXT))
    by_pydicom = groups(ds)
    parsed = hd.sr.srread(BytesIO(encoded(ds)))
    by_highdicom = {group.tracking_identifier: group for group in parsed.content.get_planar_roi_measurement_groups()}
    assert set(by_highdicom) == set(by_pydicom)
    for method in reading.methods:
        name = f"{method.name} {method.sex}"
        numbers = {
            "85151-9": method.bone_age_years,
            "TOTALSCORE": method.score,
            "INTERVALLOW": method.interval_years and method.interval_years[0],
            "INTERVALHIGH": method.interval_years and method.interval_years[1],
            "121416": method.sds,
            "121415": method.percentile,
            "CHRONAGE": reading.chronological_age_years,
        }
        for code, expected in numbers.items():
            assert by_first(by_pydicom[name], code) == expected, (name, code)
            assert measured(by_highdicom[name], code) == expected, (name, code)
    for bone in RUS:
        region = reading.region(bone)
        assert region is not None
        assert region.stage is not None
        assert child(by_pydicom[bone], "STAGE").ConceptCodeSequence[0].CodeValue == f"RUSCHN-{region.stage.label}"
        (outline,) = [by_highdicom[bone].roi]
        x1, y1, x2, y2 = region.box
        np.testing.assert_allclose(outline.value[[0, 2]], [[x1, y1], [x2, y2]], rtol=1e-6)
        probabilities = every(by_pydicom[bone], "STAGEPROB")
        assert region.stage.probability in probabilities
        scores = every(by_pydicom[bone], "BONESCORE")
        assert sorted(scores) == sorted(m.per_bone[bone].score for m in reading.methods if bone in m.per_bone)


def by_first(group: Dataset, code: str) -> float | None:
    found = children(group, code)
    return value(found[0]) if found else None


def every(item: Dataset, code: str) -> list[float]:
    """Return each number of a concept anywhere below an item."""
    found = []
    for below in item.get("ContentSequence", ()):
        if below.ConceptNameCodeSequence[0].CodeValue == code:
            found.append(value(below))
        found += every(below, code)
    return found


def measured(group: Any, code: str) -> float | None:
    """Return a measurement as highdicom reads it."""
    found = [m for m in group.get_measurements() if m.name.value == code]
    return float(found[0].value) if found else None


def test_the_pdf_says_how_far_the_bone_age_advanced(tmp_path: Path) -> None:
    pdftotext = tool("pdftotext", "poppler-utils")
    earlier = (prior(dt.date(2025, 11, 2), 9.0312345),)
    context = ResultContext("2.25.1", NOW, priors=earlier, kinds=("PDF",))
    page = encapsulated_pdf.build(
        header(earlier_film()), readings.reading(), context, overview.film(readings.image(), readings.reading())
    )
    (tmp_path / "page.pdf").write_bytes(page.EncapsulatedDocument)
    said = subprocess.run([pdftotext, str(tmp_path / "page.pdf"), "-"], capture_output=True, text=True, check=True)
    text = " ".join(said.stdout.split())
    assert "Since 2025-11-02 (RUS-CHN): bone age 9.0 to 10.5 years in 1.0 years, +1.5 years per year." in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_corrected_report_with_priors_satisfies_dciodvfy(language: Any, tmp_path: Path) -> None:
    dciodvfy = tool("dciodvfy", "dicom3tools")
    predecessor = Predecessor("1.2.840.10008.5.1.4.1.1.88.33", "2.25.5", "2.25.6")
    original = readings.staged()
    amendment = Amendment("Li^Wei", "Hospital", AT, True, original, {"mc5": "6"}, ("pp2",), predecessor)
    corrected = Scoring().restage(original, {"mc5": "6"}, ["pp2"])
    earlier = (prior(dt.date(2025, 11, 2), 9.0), prior(None, 8.0, comparable=False, remark="undated"))
    context = ResultContext("2.25.1", NOW, language, revision=2, priors=earlier, amendment=amendment)
    report = sr.build(header(earlier_film()), corrected, context)
    said = subprocess.run([dciodvfy, saved(report, tmp_path / "sr.dcm")], capture_output=True, text=True, check=False)
    assert [line for line in said.stderr.splitlines() if line.startswith("Error")] == []
    assert "SR" in said.stderr
