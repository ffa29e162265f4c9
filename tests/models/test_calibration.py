import dataclasses
from pathlib import Path

import numpy as np
import pytest

from models import calibration, registry, site
from models.calibration import CalibrationRefused, Line, Pair, SignOff, SiteCalibration, fit, measure
from models.metrics.conformal import Band, Intervals
from models.reading import MethodResult
from models.regions import Sex
from models.scoring import Scoring

SIGNED = SignOff("TEST^Reader", "2026-01-02", 80, "0" * 64, "default 1", "1" * 64)


def _pairs(sex: Sex, slope: float, shift: float, *, n: int = 60, sd: float = 0.3) -> list[Pair]:
    rng = np.random.default_rng(5)
    found = rng.uniform(3, 16, n)
    truth = slope * found + shift + rng.normal(0, sd, n)
    return [Pair(f"{sex}{i}", sex, float(x), float(y)) for i, (x, y) in enumerate(zip(found, truth, strict=True))]


def test_a_line_is_found_and_beyond_its_films_the_shift_of_its_end_holds() -> None:
    line = fit("RUS-CHN", "F", _pairs("F", 0.9, 1.0, sd=0.0))
    assert (line.slope, line.intercept_years) == (pytest.approx(0.9, abs=1e-4), pytest.approx(1.0, abs=1e-3))
    assert line.apply(10.0) == pytest.approx(0.9 * 10 + 1.0)
    # At the oldest film of about 16 years the line lowers by 0.1 * 16 - 1 = 0.6 years; at 18 years it still does.
    assert line.apply(18.0) == pytest.approx(18 - (0.1 * line.to_years - 1.0))


def test_one_gross_error_does_not_turn_the_line() -> None:
    pairs = _pairs("F", 0.9, 1.0)
    pairs[0] = dataclasses.replace(pairs[0], reference_years=0.0)
    assert fit("RUS-CHN", "F", pairs).slope == pytest.approx(0.9, abs=0.03)


def test_too_few_films_and_an_implausible_slope_are_refused_with_value_and_limit() -> None:
    with pytest.raises(CalibrationRefused, match="12 films; at least 20 are needed"):
        fit("RUS-CHN", "F", _pairs("F", 1, 0, n=12))
    with pytest.raises(CalibrationRefused, match=r"slope is 0\.30; between 0\.6 and 1\.6"):
        fit("RUS-CHN", "F", _pairs("F", 0.3, 5))


def test_before_and_after_are_stated_by_sex_and_a_sex_without_films_enough_is_left_alone() -> None:
    lines, intervals, figures = measure("RUS-CHN", [*_pairs("F", 0.9, 2.5), *_pairs("M", 1, 0, n=9)])
    assert [line.sex for line in lines] == ["F"]
    assert figures["F"]["after"]["mae_years"]["value"] < 0.5 < figures["F"]["before"]["mae_years"]["value"]
    assert figures["M"]["after"] == figures["M"]["before"]
    assert "9 films" in figures["left_alone"]["M"]
    assert {band.sex for band in intervals.bands} == {"F", "M"}
    assert figures["F"]["coverage_of_new_intervals"]["value"] > 0.75


def test_a_method_that_is_right_already_is_left_alone() -> None:
    lines, _, figures = measure("RUS-CHN", _pairs("M", 1.0, 0.0))
    assert lines == ()
    assert "neither a shift nor a line errs less" in figures["left_alone"]["M"]
    assert figures["all"]["after"] == figures["all"]["before"]


def test_a_result_is_moved_once_keeps_its_former_age_and_names_the_site() -> None:
    site = SiteCalibration("Example", (Line("RUS-CHN", "F", 1.0, 0.5, 3, 16, 60),), SIGNED)
    raw = MethodResult("RUS-CHN", "F", 10.0, interval_years=(9, 11), reference="table")
    moved = site.applied(raw)
    assert (moved.bone_age_years, moved.uncalibrated_years, moved.interval_years) == (10.5, 10.0, None)
    assert moved.reference == "table; site calibration Example of 2026-01-02: 10.00 years before it"
    assert site.applied(moved) == moved
    other = MethodResult("RUS-CHN", "M", 10.0)
    assert site.applied(other) is other


def test_a_calibration_survives_its_plain_form() -> None:
    site = SiteCalibration("Example", (Line("TW3", "M", 1.1, -0.5, 3, 16, 60),), SIGNED, {"TW3": {}})
    assert SiteCalibration.from_dict(site.to_dict()) == site


def test_a_correction_by_a_person_is_calibrated_as_the_first_reading_was() -> None:
    site = SiteCalibration("Example", (Line("RUS-CHN", "F", 1.0, 0.5, 3, 16, 60),), SIGNED)
    result = Scoring(calibration=site).complete(MethodResult("RUS-CHN", "F", 10.0), None)
    assert (result.bone_age_years, result.uncalibrated_years) == (10.5, 10.0)


def test_a_methods_own_intervals_are_brought_to_other_films_by_one_factor_a_sex() -> None:
    rng = np.random.default_rng(3)
    shipped = Intervals(
        0.9, (Band("net", "F", 0, 8, 1.0, 500), Band("net", "F", 8, 20, 2.0, 500), Band("net", "M", 0, 20, 1.0, 900))
    )
    # Girls err half as much as the widths say, the older ones twice as much as the younger: the shape of the bands holds.
    pairs = []
    for index in range(200):
        age = float(rng.uniform(4, 12))
        error = float(rng.uniform(-1, 1)) / 1.8 * (1 if age < 8 else 2)
        pairs.append(Pair(str(index), "F", age, age - error))
    made, inside, width = calibration.rescaled(shipped, "net", [*pairs, Pair("boy", "M", 9.0, 9.0)])
    young, old = made.bands  # one boy gives no interval
    assert young.half_width_years == pytest.approx(0.5, abs=0.05)
    assert old.half_width_years == pytest.approx(2 * young.half_width_years)
    assert (young.sex, young.n, old.from_years) == ("F", 200, 8)
    assert 0.85 < inside[:200].mean() < 0.95
    assert np.isnan(width[200])
    assert set(np.round(width[:200] / young.half_width_years)) == {1, 2}


def test_films_cropped_to_the_hand_get_widths_of_their_own() -> None:
    rng = np.random.default_rng(5)
    shipped = Intervals(0.9, (Band("net", "F", 0, 20, 1.0, 500), Band("net", "M", 0, 20, 2.0, 500)))
    pairs = []
    for index in range(600):
        cropped, age = index % 3 == 0, float(rng.uniform(4, 12))
        error = float(rng.uniform(-1, 1)) * (1 if index % 2 else 2) * (3 if cropped else 1)
        share = calibration.CROPPED + float(rng.uniform(0, 0.1) if cropped else rng.uniform(-0.3, -0.01))
        pairs.append(Pair(str(index), "F" if index % 2 else "M", age, age - error, share))
    kind = np.array([pair.share >= calibration.CROPPED for pair in pairs])
    made, inside, _ = calibration.rescaled(shipped, "net", pairs)
    assert [inside[kind].mean(), inside[~kind].mean()] == pytest.approx([0.9, 0.9], abs=0.04)
    _, mixed, _ = calibration.rescaled(shipped, "net", pairs, kinds=False)
    assert mixed[kind].mean() < 0.75 < 0.97 < mixed[~kind].mean()
    for sex, size in (("F", 1), ("M", 2)):
        widths = [made.band("net", sex, 9.0, share).half_width_years for share in (0.6, 0.9)]
        assert widths == pytest.approx([0.9 * size, 2.7 * size], rel=0.1)
        assert made.band("net", sex, 9.0).half_width_years == widths[1]  # how the film is cropped is unknown: the wider
    assert Intervals.from_dict(made.to_dict()) == made
    few = [pair for pair in pairs if pair.share < calibration.CROPPED or int(pair.patient) < 40]
    assert len(calibration.rescaled(shipped, "net", few)[0].bands) == 2  # 14 cropped films tell nothing of their kind


def test_an_interval_of_the_bundle_comes_before_one_that_the_method_brings() -> None:
    brought = MethodResult("net", "F", 10.0, interval_years=(8.0, 12.0))
    bundle = Intervals(0.9, (Band("net", "F", 0, 20, 1.0, 100),))
    assert Scoring(intervals=bundle).complete(brought, None).interval_years == (9.0, 11.0)
    assert Scoring(intervals=Intervals(0.9, ())).complete(brought, None).interval_years == (8.0, 12.0)


def test_a_site_that_asks_for_no_line_gets_its_intervals_signed(tmp_path: Path) -> None:
    def result(films: int) -> site.Result:
        bands = tuple(Band("RUS-CHN", "F", low, high, 1.5, films // 2) for low, high in ((0, 10), (10, 20)))
        return site.Result((), (Intervals(0.9, bands),), {}, films, "0" * 64, registry.describe("phantom"))

    with pytest.raises(calibration.CalibrationRefused, match="no method and sex was calibrated"):
        site.write(tmp_path / "few.json", result(18), name="Example", signed_by="TEST^Reader")
    site.write(tmp_path / "site.json", result(20), name="Example", signed_by="TEST^Reader")
    made = registry.describe(str(tmp_path / "site.json"))
    girl = made.scoring.complete(MethodResult("RUS-CHN", "F", 9.0), None)
    assert (girl.bone_age_years, girl.interval_years, girl.uncalibrated_years) == (9.0, (7.5, 10.5), None)
    assert made.scoring.calibration is not None
    assert made.scoring.calibration.sign_off.name == "TEST^Reader"
