import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from models import standards
from models.image import Image
from models.reader import Reader
from models.reading import Bundle, ImageFacts, MethodResult, Reading, Reason, Region, Stage, Verdict
from models.regions import REGIONS, RUS
from service import films, terminal
from service.errors import InvalidConfiguration, InvalidInstance


class _Detection:
    def __init__(self, image: Image) -> None:
        self.facts = ImageFacts(image.rows, image.columns, None, "L", None, "bone bright", "MONOCHROME2", 0.0)
        # A film brighter on average than half is a chest to this detector.
        hand = float(image.pixels.mean()) < 0.5
        self.verdict = Verdict(hand, () if hand else (Reason("not-a-hand", "this is no hand"),))
        self.regions = tuple(Region(name, (5, 5, 30, 30), 0.9) for name in REGIONS) if hand else ()


class _Detector:
    def detect(self, image: Image) -> _Detection:
        return _Detection(image)


class _Grader:
    def grade(self, image: Image, regions: tuple[Region, ...], facts: ImageFacts) -> Mapping[str, Stage]:
        graded = {}
        for bone in RUS:
            levels = standards.RUS_CHN.levels(bone)
            chances = tuple(0.75 if i == 5 else 0.25 if i == 6 else 0.0 for i in range(len(levels)))
            graded[bone] = Stage("RUS-CHN", levels[5], "E", 0.75, levels[6], 0.25, chances)
        return graded


READER = Reader(_Detector(), Bundle("test", "1", "0" * 64, "free"), grader=_Grader(), default_method="RUS-CHN")


def _film(path: Path, bright_share: float) -> None:
    grey = np.zeros((64, 64), np.uint8)
    grey[: int(64 * bright_share)] = 255
    Picture.fromarray(grey).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _film(tmp_path / "hand.png", 0.3)
    _film(tmp_path / "chest.png", 0.8)
    (tmp_path / "broken.png").write_bytes(b"not a film")
    return tmp_path


def _table(folder: Path, text: str) -> list[films.Case]:
    (folder / "cases.csv").write_text(text, encoding="utf-8")
    return films.load_cases(folder / "cases.csv")


def test_every_case_is_one_line_in_the_order_of_the_table(folder: Path) -> None:
    cases = _table(folder, "file,sex\nbroken.png,F\nhand.png,M\nabsent.png,F\nchest.png,\n")
    lines = list(films.read_folder(READER, folder, cases))
    assert [line["file"] for line in lines] == ["broken.png", "hand.png", "absent.png", "chest.png"]
    assert ["error" in line for line in lines] == [True, False, True, False]
    reading = Reading.from_dict({key: value for key, value in lines[1].items() if key != "file"})
    assert reading.sex == "M"
    assert not lines[3]["verdict"]["accepted"]


def test_sex_missing_or_o_gives_both_curves(folder: Path) -> None:
    cases = _table(folder, "file,sex\nhand.png,\nhand.png,O\nhand.png,f\n")
    curves = [
        [m["sex"] for m in line["methods"] if m["name"] == "TW3"] for line in films.read_folder(READER, folder, cases)
    ]
    assert curves == [["F", "M"], ["F", "M"], ["F"]]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("hand.png,X,", "line 2: sex is 'X'; F, M, O or nothing is needed"),
        ("hand.png,F,ten", "line 2: chronological_age_years is 'ten'; a number of years is needed"),
        ("hand.png,F,-1", "line 2: chronological_age_years is -1; it must lie between 0 and 120"),
        ("hand.png,F,nan", "line 2: chronological_age_years is nan; it must lie between 0 and 120"),
        (",F,10", "line 2: file is empty"),
    ],
)
def test_a_bad_row_names_its_line_and_value(folder: Path, row: str, fault: str) -> None:
    cases = _table(folder, f"file,sex,chronological_age_years\n{row}\nhand.png,F,10\n")
    lines = list(films.read_folder(READER, folder, cases))
    assert lines[0]["error"] == fault
    assert lines[1]["chronological_age_years"] == 10


def test_a_table_without_its_columns_is_refused_with_those_it_has(folder: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="lacks the columns sex"):
        _table(folder, "file,gender\nhand.png,F\n")
    with pytest.raises(InvalidConfiguration, match=r"no\.csv: 'no\.csv': cannot be read"):
        films.load_cases(folder / "no.csv")


def test_a_table_saved_by_a_spreadsheet_with_a_byte_order_mark_is_read(folder: Path) -> None:
    (folder / "cases.csv").write_bytes(b"\xef\xbb\xbffile,sex\r\nhand.png,F\r\n")
    assert films.load_cases(folder / "cases.csv") == [films.Case(2, "hand.png", "F")]


def test_json_lines_and_table_hold_the_same_cases(folder: Path) -> None:
    cases = _table(folder, "file,sex\nhand.png,F\nbroken.png,F\n")
    with films.lines_to(str(folder / "out.jsonl")) as write, films.rows_to(folder / "out.csv") as tabulate:
        for line in films.read_folder(READER, folder, cases):
            write(line)
            tabulate(line)
    lines = [json.loads(text) for text in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    with (folder / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [line["file"] for line in lines] == ["hand.png", "broken.png"]
    assert [row["method"] for row in rows] == ["RUS-CHN", "TW3-C RUS", "TW3", "regression", ""]
    assert float(rows[0]["bone_age_years"]) == lines[0]["methods"][0]["bone_age_years"]
    assert rows[-1]["error"] == lines[1]["error"]


def test_a_file_without_a_film_is_an_error_with_its_code(folder: Path) -> None:
    with pytest.raises(InvalidInstance) as refusal:
        films.read_film(READER, folder / "broken.png", "F", None)
    assert refusal.value.code == "not-an-image"


def test_an_overlay_is_written_and_an_unknown_format_is_refused(folder: Path) -> None:
    image, reading = films.read_film(READER, folder / "hand.png", "F", None)
    films.save_overlay(folder / "overlay.png", image, reading)
    with Picture.open(folder / "overlay.png") as picture:
        assert picture.size == (1200, 1200)
    with pytest.raises(InvalidConfiguration, match="cannot write the overlay"):
        films.save_overlay(folder / "overlay.xyz", image, reading)


def test_the_page_names_methods_bones_bundle_and_purpose(folder: Path) -> None:
    _, reading = films.read_film(READER, folder / "hand.png", None, 9.0)
    page = terminal.page("hand.png", reading)
    assert "sex unknown: both curves are given" in page
    assert "RUS-CHN *" in page
    assert "no SDS by RUS-CHN: no standard deviations are published for the method" in page
    assert sum(line.startswith(RUS) for line in page.splitlines()) == 13
    assert "no weights for regression" in page
    assert page.endswith("For research, not for clinical use.")


def test_the_page_says_below_the_table_why_a_method_gives_no_age(folder: Path) -> None:
    _, reading = films.read_film(READER, folder / "hand.png", "F", None)
    mature = MethodResult("TW3", "F", None, score=1000.0, qualifier="mature", reason="mature: at least 15 years")
    facts = dataclasses.replace(reading.image, rotation_degrees=-0.3)
    page = terminal.page("hand.png", dataclasses.replace(reading, methods=(mature,), image=facts))
    assert "TW3               F      mature                      1000.0" in page
    assert "\nno age by TW3, F: mature: at least 15 years\n" in page
    assert "turned 0 degrees" in page


def test_the_page_of_a_rejected_film_says_why(folder: Path) -> None:
    _, reading = films.read_film(READER, folder / "chest.png", "F", None)
    assert "NOT READ\n  not-a-hand: this is no hand" in terminal.page("chest.png", reading)


def test_a_bundle_that_is_refused_is_a_matter_of_configuration() -> None:
    with pytest.raises(InvalidConfiguration, match="cannot be read") as refusal:
        films.load_reader("no-such-bundle")
    assert refusal.value.code == "bundle-refused"
