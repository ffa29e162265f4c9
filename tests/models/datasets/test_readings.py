"""What `carpus read FOLDER --json` wrote, read again: every line is a film's Reading or why it has none."""

import json
from pathlib import Path

import pytest

from models.datasets import readings
from models.datasets.faults import BadData
from models.reading import Bundle, ImageFacts, Reading, Verdict

READING = Reading(
    ImageFacts(64, 48, None, "L", None, "bone bright", "MONOCHROME2", 0.0),
    Verdict(accepted=True),
    Bundle("t", "1", "0"),
)


def _written(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "readings.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_line_is_a_reading_or_why_there_is_none(tmp_path: Path) -> None:
    found = readings.read(_written(tmp_path, {"file": "a", **READING.to_dict()}, {"file": "b", "error": "no film"}))
    assert found["a"].error is None
    assert found["a"].reading() == READING
    assert found["b"].error == "no film"


def test_a_film_with_two_readings_is_refused_with_both_lines(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"readings\.jsonl:3: 'a': has a reading already, in line 1"):
        readings.read(_written(tmp_path, *({"file": file, "error": "x"} for file in ("a", "b", "a"))))


@pytest.mark.parametrize("line", [[], {}, {"file": 3}, "a", None])
def test_a_line_that_names_no_film_is_refused(tmp_path: Path, line: object) -> None:
    with pytest.raises(BadData, match=r"readings\.jsonl:1: "):
        readings.read(_written(tmp_path, line))


def test_a_reading_of_another_version_is_refused_with_its_line(tmp_path: Path) -> None:
    line = {"file": "a", **READING.to_dict(), "aura": 3}
    with pytest.raises(BadData, match=r"readings\.jsonl:1: 'a': is no reading of this version \(TypeError: .*aura"):
        readings.read(_written(tmp_path, line))["a"].reading()
