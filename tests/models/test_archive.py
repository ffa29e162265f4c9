from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from models.datasets import archive
from models.datasets.faults import BadData


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        Picture.fromarray(np.arange(64 * 48, dtype=np.uint8).reshape(64, 48)).save(tmp_path / name)
    return tmp_path


def _table(
    folder: Path, *rows: str, columns: str = "file,sex,patient,bone_age_years,chronological_age_years,stage_radius"
) -> Path:
    (folder / archive.TABLE).write_text("\n".join((columns, *rows)) + "\n", encoding="utf-8")
    return folder


def test_a_table_becomes_films_that_load_their_pixels(folder: Path) -> None:
    first, second = archive.read(_table(folder, "a.png,F,P1,10.5,11,6", "b.png,,P2,,,"))
    assert (first.patient, first.sex, first.bone_age_years, first.stages) == ("P1", "F", 10.5, {"radius": "6"})
    assert (second.sex, second.bone_age_years, second.stages) == (None, None, {})
    assert (first.load().rows, first.load().columns) == (64, 48)


@pytest.mark.parametrize(
    ("row", "value", "reason"),
    [
        ("a.png,X,P1,10,,", "'X'", "sex is F, M, O or empty"),
        ("none.png,F,P1,10,,", "'none.png'", "no such file"),
        ("a.png,F,P1,ten,,", "'ten'", "is no number"),
        ("a.png,F,P1,31,,", "'31'", "outside 0 to 25 years"),
        ("a.png,F,P1,10,-1,", "'-1'", "outside 0 to 120 years"),
        ("a.png,F,P1,nan,,", "'nan'", "outside 0 to 25 years"),
        ("a.png,F,P1,10,,99", "'99'", "radius has no such RUS-CHN stage"),
    ],
)
def test_a_bad_row_is_refused_with_line_value_and_limit(folder: Path, row: str, value: str, reason: str) -> None:
    with pytest.raises(BadData, match=reason) as caught:
        archive.read(_table(folder, row))
    assert f"{archive.TABLE}:2: {value}" in str(caught.value)


def test_a_column_that_is_there_twice_is_refused_by_its_name(folder: Path) -> None:
    columns = "file,sex,bone_age_years,patient,bone_age_years"
    with pytest.raises(BadData, match=r"films\.csv:1: 'bone_age_years': is the name of 2 columns"):
        archive.read(_table(folder, "a.png,F,10,P1,11", columns=columns))
    assert archive.read(_table(folder, "a.png,F,10,,", columns="file,sex,bone_age_years,,"))[0].bone_age_years == 10


def test_a_row_with_more_cells_than_columns_is_refused(folder: Path) -> None:
    columns = "file,sex,bone_age_years,chronological_age_years"
    with pytest.raises(BadData, match=r"films\.csv:3: '8': is beyond the last column"):  # 10,5 with a decimal comma
        archive.read(_table(folder, "b.png,F,10,,", "a.png,F,10,5,8", columns=columns))


def test_a_film_listed_twice_and_a_patient_of_two_sexes_are_refused(folder: Path) -> None:
    with pytest.raises(BadData, match="listed twice"):
        archive.read(_table(folder, "a.png,F,P1,10,,", "a.png,F,P1,10,,"))
    with pytest.raises(BadData, match="one patient with the sexes F and M"):
        archive.read(_table(folder, "a.png,F,P1,10,,", "b.png,M,P1,10,,"))


def test_a_use_that_needs_bone_ages_says_so(folder: Path) -> None:
    with pytest.raises(BadData, match="lacks the columns bone_age_years"):
        archive.read(_table(folder, "a.png,F", columns="file,sex"), needs=("bone_age_years",))
    with pytest.raises(BadData, match="bone_age_years is empty"):
        archive.read(_table(folder, "a.png,F,P1,,,"), needs=("bone_age_years",))


def test_an_absent_and_an_empty_table_are_refused(folder: Path) -> None:
    with pytest.raises(BadData, match="cannot be read"):
        archive.read(folder)
    with pytest.raises(BadData, match="names no film"):
        archive.read(_table(folder))


def test_all_films_of_a_patient_fall_into_one_part_and_a_tenth_into_each_measuring_part(folder: Path) -> None:
    films = [
        archive.Film(folder / "a.png", f"{patient}-{film}", f"P{patient}", "F")
        for patient in range(800)
        for film in range(2)
    ]
    by_patient = {film.patient: film.part for film in films}
    assert all(by_patient[film.patient] == film.part for film in films)
    shares = {part: list(by_patient.values()).count(part) / 800 for part in ("train", "validation", "test")}
    assert shares["train"] == pytest.approx(0.8, abs=0.05)
    assert shares["validation"] == pytest.approx(0.1, abs=0.04)
    assert shares["test"] == pytest.approx(0.1, abs=0.04)


def test_a_table_in_another_encoding_is_refused_with_its_line(folder: Path) -> None:
    (folder / archive.TABLE).write_bytes("file,sex,patient\na.png,F,P1\nb.png,F,Jürgen\n".encode("latin-1"))
    with pytest.raises(BadData, match=r"films\.csv:3: '0xfc': this byte is not UTF-8"):
        archive.read(folder)


def test_a_table_with_semicolons_is_told_what_separates_columns(folder: Path) -> None:
    (folder / archive.TABLE).write_text("file;sex\na.png;F\n")
    with pytest.raises(BadData, match=r"films\.csv:1: 'file;sex': .*lacks the columns file, sex; .*commas"):
        archive.read(folder)


def test_a_name_that_no_file_can_have_and_a_second_way_to_write_a_name_are_refused(folder: Path) -> None:
    with pytest.raises(BadData, match=r"films\.csv:2: .*there is no such file"):
        archive.read(_table(folder, f"{'x' * 300},F", columns="file,sex"))
    with pytest.raises(BadData, match=r"films\.csv:4: './a.png': the film is listed twice"):
        archive.read(_table(folder, "", "a.png,F", "./a.png,F", columns="file,sex"))
