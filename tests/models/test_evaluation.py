"""The report of a reader on films with known ages: arithmetic of its tables, and what stands in its files."""

import csv
import json
from pathlib import Path

import pytest

from models.datasets.archive import Film
from models.evaluation import cases, page, tables
from models.evaluation.cases import Answer, Case, NothingToMeasure
from models.reading import Bundle, ImageFacts, MethodResult, Reading, Reason, Region, Stage, Verdict
from models.regions import Sex
from models.registry import Description
from models.scoring import Scoring

FACTS = ImageFacts(64, 48, None, "L", None, "bone bright", "MONOCHROME2", 0.0)


def _film(name: str, sex: Sex | None, age: float | None, stages: dict[str, str] | None = None) -> Film:
    return Film(Path(name), name, name, sex, age, stages=stages or {})


def _reading(sex: Sex, years: float | None, *, accepted: bool = True) -> Reading:
    stage = Stage("RUS-CHN", "6", "G", 0.8)
    results = tuple(
        MethodResult(
            "RUS-CHN",
            curve,
            years,
            (years - 1, years + 1) if years is not None else None,
            reason=None if years else "mature",
        )
        for curve in ("F", "M")
    )
    return Reading(
        FACTS,
        Verdict(accepted, () if accepted else (Reason("no-hand", "no hand was found"),)),
        Bundle("t", "1", "0"),
        sex,
        regions=(Region("radius", (0, 0, 1, 1), 1.0, stage),),
        methods=results if accepted else (),  # type: ignore[arg-type]
    )


def _case(name: str, sex: Sex, reference: float, years: float | None) -> Case:
    interval = None if years is None else (years - 0.5, years + 0.5)
    return Case(_film(name, sex, reference), sex, reference, {"A": Answer(years, interval, "" if years else "no hand")})


def test_a_film_is_measured_on_the_curve_of_its_sex_and_a_rejected_one_is_missed() -> None:
    found = cases.cases(
        iter(
            [
                (_film("a", "F", 10.0), _reading("F", 10.5)),
                (_film("b", "M", 12.0), _reading("M", None, accepted=False)),
                (_film("c", "M", 12.0), "no pixels"),
                (_film("d", None, 12.0), _reading("F", 10.0)),
                (_film("e", "F", None), _reading("F", 10.0)),
            ]
        )
    )
    assert [case.film.file for case in found] == ["a", "b", "c"]
    assert found[0].answers["RUS-CHN"].years == 10.5
    assert [found[i].answers["RUS-CHN"].missing for i in (1, 2)] == ["no hand was found", "no pixels"]


def test_a_table_without_ages_measures_nothing_and_says_what_it_needs() -> None:
    with pytest.raises(NothingToMeasure, match=r"films\.csv needs sex and bone_age_years"):
        cases.cases(iter([(_film("a", "F", None), _reading("F", 10.0))]))


def test_the_figures_of_a_method_are_those_of_arithmetic() -> None:
    measured = [
        _case("a", "F", 10.0, 10.4),
        _case("b", "F", 5.0, 6.2),
        _case("c", "M", 5.0, 4.2),
        _case("d", "M", 9.5, None),
    ]
    found = tables.figures(measured, "A")
    assert found["all"]["mae_years"]["value"] == pytest.approx((0.4 + 1.2 + 0.8) / 3, abs=1e-4)
    assert found["all"]["within_one_year"]["value"] == 2 / 4  # the missed film is outside
    assert (found["all"]["n"], found["all"]["missed"]) == (4, 1)
    assert found["F"]["bias_years"] == 0.8
    assert found["all"]["coverage_of_intervals"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    # Years are (from, to] as in P2: an age of exactly 5 stands in (4, 5].
    assert found["by_year"] == [
        {
            "years": "(4, 5]",
            "F": {"n": 1, "mae_years": 1.2},
            "M": {"n": 1, "mae_years": 0.8},
            "all": {"n": 2, "mae_years": 1.0},
        },
        {
            "years": "(9, 10]",
            "F": {"n": 1, "mae_years": 0.4},
            "M": {"n": 1, "mae_years": None},
            "all": {"n": 2, "mae_years": 0.4},
        },
    ]


def test_stages_are_compared_where_the_table_has_them() -> None:
    film = _film("a", "F", 10.0, {"radius": "7(0)", "ulna": "6"})
    case = Case(film, "F", 10.0, {"A": Answer(10.0)}, stages={"radius": ("6", 0.8)})
    found = tables.stages([case])
    assert found is not None
    assert (found["exact"]["value"], found["within_one"]["value"], found["bones_without_a_stage"]) == (0.0, 1.0, 1)
    assert found["reliability"] == [{"stated": 0.8, "right": 0.0, "n": 1}]
    assert tables.stages([_case("b", "F", 1.0, 1.0)]) is None


def test_the_report_holds_rows_figures_plots_and_the_reasons_of_missing_ages(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots come with the extra `train`")
    measured = [_case(f"f{i}", "F" if i % 2 else "M", 5.0 + i / 3, 5.3 + i / 3) for i in range(20)]
    measured.append(_case("<b>", "F", 8.0, None))
    bundle = Description("test", "1", tmp_path / "b.json", "0" * 64, "free", None, Scoring(), "")
    page.write(tmp_path / "out", measured, bundle, table_sha256="1" * 64, command="carpus evaluate x")
    with (tmp_path / "out" / "rows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21
    assert rows[-1]["missing"] == "no hand"
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["methods"]["A"]["all"]["mae_years"]["n"] == 20
    assert figures["missing"] == {"A: no hand": ["<b>"]}
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert "A: no hand" in html
    for name in ("bland-altman-a.png", "reliability-a.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
