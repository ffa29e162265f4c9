"""Orthanc as the PACS on both sides: it routes films to Carpus by itself and gets the results back into the same study."""

import subprocess
from pathlib import Path

import pytest

from service.demo import run as demo
from service.demo.pacs import find_orthanc
from service.reporting import sr_html
from tests.system.tools import tool

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed (Debian: orthanc)"),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[demo.Outcome], Path]:
    """One run of the whole demo, shared by the tests of this file."""
    folder = tmp_path_factory.mktemp("demo")
    return demo.run(folder, demo.phantom_films()), folder


def test_every_film_comes_back_as_it_should(outcomes: tuple[list[demo.Outcome], Path]) -> None:
    faults = {outcome.film.title: outcome.faults for outcome in outcomes[0] if outcome.faults}
    assert faults == {}


def test_the_chest_is_refused_with_a_reason_and_a_report(outcomes: tuple[list[demo.Outcome], Path]) -> None:
    (chest,) = [outcome for outcome in outcomes[0] if outcome.film.must_be_refused]
    assert chest.job.state == "REJECTED"
    assert chest.job.cause_code == "not-a-hand"
    assert "SR" in chest.kinds


def test_each_film_gets_its_own_reading(outcomes: tuple[list[demo.Outcome], Path]) -> None:
    """Films of 6 to 15 years: whoever mixes two of them up is further off than three years."""
    for outcome in outcomes[0]:
        if outcome.film.truth_years is not None:
            ages = {method.name: method.bone_age_years for method in demo.methods(outcome.job)}
            age = ages["RUS-CHN"]
            assert age is not None
            assert abs(age - outcome.film.truth_years) < 3, outcome.film.title


def test_every_returned_object_satisfies_dciodvfy(outcomes: tuple[list[demo.Outcome], Path], tmp_path: Path) -> None:
    dciodvfy = tool("dciodvfy", "dicom3tools")
    errors = []
    for outcome in outcomes[0]:
        for item in outcome.returned:
            path = tmp_path / f"{item.SOPInstanceUID}.dcm"
            item.save_as(path)
            said = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, check=False)
            errors += [
                (outcome.film.title, demo.kind(item), line) for line in said.stderr.splitlines() if "Error" in line
            ]
    assert errors == []


def test_the_report_reads_as_a_page(outcomes: tuple[list[demo.Outcome], Path]) -> None:
    report = next(item for item in outcomes[0][0].returned if demo.kind(item) == "SR")
    page = sr_html.render(report)
    assert "Bone age" in page
    assert "not for clinical use" in page
