"""`carpus report`: what would go to the PACS, in a folder. The reading is given; the readers have tests of their own."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image as Picture
from pydicom import dcmread

from models.reading import Reading, Reason, Verdict
from service import films
from service.__main__ import cli
from tests.factories import encoded, instance
from tests.service import readings


def given(monkeypatch: pytest.MonkeyPatch, reading: Reading) -> dict[str, Any]:
    """Let the command read `reading` from whatever film; return what it asked for."""
    asked: dict[str, Any] = {}

    def read(_reader: object, path: Path, sex: str | None, age: float | None) -> tuple[Any, Reading]:
        asked.update(path=path, sex=sex, age=age)
        return readings.image(), reading

    monkeypatch.setattr(films, "load_reader", lambda bundle: bundle)
    monkeypatch.setattr(films, "read_film", read)
    return asked


def test_a_dicom_film_gives_every_object_in_its_own_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = instance(kind="DX", picture=readings.image())
    (tmp_path / "film.dcm").write_bytes(encoded(film))
    asked = given(monkeypatch, readings.reading())
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "film.dcm"), "--to", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert (asked["sex"], round(asked["age"], 1)) == ("F", 10.5)  # from the header: born 2016-05-04, film of 2026-11-02
    for kind in ("SR", "SEG", "GSPS", "SC"):
        made = dcmread(tmp_path / "out" / f"{kind}.dcm")
        assert (made.StudyInstanceUID, made.PatientID) == (film.StudyInstanceUID, film.PatientID)
    assert "Bone age" in (tmp_path / "out" / "SR.html").read_text(encoding="utf-8")
    with Picture.open(tmp_path / "out" / "SC.png") as picture:
        assert picture.height == 1200


def test_a_profile_decides_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "film.dcm").write_bytes(encoded(instance(picture=readings.image())))
    (tmp_path / "carpus.yaml").write_text(
        "profiles: {old: {objects: [SR, PDF], report_classes: [Enhanced], language: zh}}", encoding="utf-8"
    )
    given(monkeypatch, readings.reading())

    def written(folder: str, *arguments: str) -> list[str]:
        command = ["report", str(tmp_path / "film.dcm"), "--to", str(tmp_path / folder), *arguments]
        done = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert done.exit_code == 0
        return sorted(path.name for path in (tmp_path / folder).iterdir())

    assert written("old", "--profile", "old", "--config", str(tmp_path / "carpus.yaml")) == [
        *("PDF.dcm", "PDF.pdf", "SR.dcm", "SR.html"),
    ]
    assert dcmread(tmp_path / "old" / "SR.dcm").SOPClassUID.name == "Enhanced SR Storage"
    assert dcmread(tmp_path / "old" / "SR.dcm").SeriesDescription.startswith("骨龄报告")
    assert (tmp_path / "old" / "PDF.pdf").read_bytes().startswith(b"%PDF-")
    assert "KOS.dcm" in written("all", "--profile", "everything")
    refused = CliRunner().invoke(cli, ["report", str(tmp_path / "film.dcm"), "--profile", "none"])
    assert "known are default" in str(refused.exception)


def test_a_picture_is_wrapped_and_the_given_sex_age_and_language_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Picture.fromarray((readings.image().pixels * 255).astype("uint8")).save(tmp_path / "film.png")
    asked = given(monkeypatch, readings.reading(masks={}))
    arguments = ["--sex", "M", "--age", "9.5", "--language", "zh", "--to", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "film.png"), *arguments])
    assert done.exit_code == 0, done.output
    assert (asked["sex"], asked["age"]) == ("M", 9.5)
    assert "SEG.dcm  not written: no bone was outlined" in done.output
    assert dcmread(tmp_path / "out" / "SR.dcm").SeriesDescription.startswith("骨龄报告")
    assert dcmread(tmp_path / "out" / "SR.dcm").PatientSex == asked["sex"]  # beside the curve, not "unknown"


def test_a_film_that_must_not_be_read_ends_with_3_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "film.dcm").write_bytes(encoded(instance(picture=readings.image())))
    given(monkeypatch, readings.reading(verdict=Verdict(False, (Reason("not-a-hand", "no regions"),))))
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "film.dcm"), "--to", str(tmp_path / "out")])
    assert done.exit_code == 3
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["SC.dcm", "SC.png", "SR.dcm", "SR.html"]
    assert "No repeat is needed" in (tmp_path / "out" / "SR.html").read_text(encoding="utf-8")
