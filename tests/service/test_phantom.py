"""`carpus phantom` through its own door: files on disk that other tools read."""

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pydicom import dcmread

from models import pixels
from models.datasets import labelimg, labelme
from models.phantom import draw
from models.regions import REGIONS
from service.__main__ import cli

SIZE = ["--rows", "300", "--columns", "240"]


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["phantom", *arguments, *SIZE], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_png_films_carry_boxes_outlines_and_a_table_that_agree(tmp_path: Path) -> None:
    assert "2 films" in _run(str(tmp_path), "--number", "2", "--seed", "8", "--annotations", "voc,labelme,csv")
    for seed in (8, 9):
        truth = draw(seed, rows=300, columns=240)
        film = tmp_path / f"phantom-{seed:08d}.png"
        assert pixels.load(film).pixels.shape == (300, 240)
        boxes = dict(labelimg.read(film.with_suffix(".xml")).boxes)
        assert set(boxes) <= set(REGIONS)
        assert boxes["pp3"] == pytest.approx(truth.boxes["pp3"], abs=0.51)
        outlines = labelme.read(film.with_suffix(".json"), labels=tuple(truth.masks))
        drawn, read = truth.masks["radius"], outlines.mask("radius")
        assert (drawn & read).sum() / (drawn | read).sum() > 0.95
    with (tmp_path / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["phantom-00000008.png", "phantom-00000009.png"]
    assert float(rows[0]["bone_age_years"]) == pytest.approx(draw(8, rows=300, columns=240).bone_age_years, abs=1e-3)


def test_a_cast_is_drawn_on_request(tmp_path: Path) -> None:
    _run(str(tmp_path), "--number", "1", "--seed", "8", "--cast", "plaster", "--annotations", "")
    shown = pixels.load(tmp_path / "phantom-00000008.png").pixels
    assert np.corrcoef(shown.ravel(), draw(8, rows=300, columns=240, cast="plaster").image.pixels.ravel())[0, 1] > 0.999
    assert np.abs(shown - draw(8, rows=300, columns=240).image.pixels).max() > 0.1


def test_dicom_films_say_what_they_are_and_show_the_same_film(tmp_path: Path) -> None:
    _run(str(tmp_path), "--number", "1", "--format", "dicom", "--annotations", "")
    path = tmp_path / "phantom-00000000.dcm"
    truth = draw(0, rows=300, columns=240)
    ds = dcmread(path)
    assert ds.PatientName == "TEST^PHANTOM 0"
    assert (ds.PatientSex, ds.Laterality) == (truth.sex, truth.laterality)
    assert ds.PhotometricInterpretation == truth.image.photometric_interpretation
    seen = pixels.load(path).pixels
    assert np.corrcoef(seen.ravel(), truth.image.pixels.ravel())[0, 1] > 0.99
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert truth.image.pixel_spacing_mm is not None
    assert [float(value) for value in ds.ImagerPixelSpacing] == pytest.approx(truth.image.pixel_spacing_mm, rel=1e-12)
    assert max(len(str(value)) for value in ds.ImagerPixelSpacing) <= 16  # PS3.5 6.2: DS


def test_a_dicom_film_is_the_same_file_again_and_other_options_are_another_instance(tmp_path: Path) -> None:
    name = "phantom-00000000.dcm"
    for folder, age in (("a", "9"), ("b", "9"), ("c", "12")):
        _run(str(tmp_path / folder), "--number", "1", "--format", "dicom", "--annotations", "", "--age", age)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert dcmread(tmp_path / "a" / name).SOPInstanceUID != dcmread(tmp_path / "c" / name).SOPInstanceUID


def test_the_same_seed_writes_the_same_bytes_and_an_unknown_format_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _run(str(tmp_path / name), "--number", "1")
    assert (tmp_path / "a" / "phantom-00000000.png").read_bytes() == (
        tmp_path / "b" / "phantom-00000000.png"
    ).read_bytes()
    result = CliRunner().invoke(cli, ["phantom", str(tmp_path), "--annotations", "coco"])
    assert result.exit_code == 2
    assert "coco" in result.output
