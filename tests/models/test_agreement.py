"""Intervals of every method by stages and the threshold of the alarm, from cross-validated ages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models import agreement
from models.metrics.conformal import Intervals
from models.reading import Bundle, ImageFacts, MethodResult, Reading, Verdict
from models.regions import RUS, Sex
from models.standards import fine_levels, harmony

FACTS = ImageFacts(64, 48, None, "L", None, "bone bright", "MONOCHROME2", 0.0)


def test_the_spread_is_that_of_the_widest_pair_and_needs_two_methods() -> None:
    found = agreement.spreads([{"a": 10.0, "b": 11.5, "c": 9.0}, {"a": 10.0, "b": None}])
    assert found[0] == 2.5
    assert np.isnan(found[1])


def test_the_threshold_lets_nineteen_of_twenty_good_films_pass() -> None:
    spread = np.arange(1, 101) / 50  # 0.02 to 2 years
    error = np.zeros(100)
    threshold, _ = agreement.threshold_of(spread, error, [str(i) for i in range(100)])
    # The 95 % quantile of 100 values, the next one above: the 96th, 1.92 years.
    assert threshold == pytest.approx(1.92)


def test_grossly_wrong_films_do_not_move_the_threshold_and_are_what_it_finds() -> None:
    spread = np.concatenate([np.full(60, 0.5), np.full(10, 4.0)])
    error = np.concatenate([np.full(60, 0.2), np.full(10, 3.0)])
    threshold, figures = agreement.threshold_of(spread, error, [str(i) for i in range(70)])
    assert threshold == 0.5
    assert figures["alarm_where_grossly_wrong"]["value"] == 1.0
    assert figures["alarm_where_read_well"]["value"] == 0.0
    assert figures["correlation_of_spread_and_error"] == pytest.approx(1.0)


def test_how_the_end_of_growth_is_read_is_measured_from_the_lowest_age_given_to_a_hand_near_it() -> None:
    years = np.array([13.0, 13.67, 14.5, 14.0, 15.5, np.nan, 14.9])
    truth = np.array([13.5, 14.9, 14.0, 16.0, 15.0, 17.0, 16.0])
    sexes = ["F", "F", "F", "F", "F", "F", "M"]
    # Girls of 15 and more: given 14.0 and 15.5. At 14.0 or more lie three, one of them read two years too young.
    assert agreement.late_end("F", years, truth, sexes) == agreement.LateEnd(14.0, 3, 0.33)
    assert agreement.late_end("M", years, truth, sexes) == agreement.LateEnd(14.9, 1, 1.0)
    assert agreement.late_end("F", years, np.full(7, 10.0), sexes) is None


def _chances(row: dict[str, Any], rng: np.random.Generator) -> NDArray[np.float64]:
    """The stages of a hand read a year off, more or less."""
    ages, mean, _ = harmony.usual(row["sex"])
    read = row["bone_age_years"] + float(rng.normal(0, 1))
    chances = np.zeros((len(RUS), max(len(fine_levels(bone)) for bone in RUS)))
    for index, bone in enumerate(RUS):
        stage = int(np.interp(read, ages, mean[:, index]) + rng.normal(0, 0.4))
        chances[index, np.clip(stage, 0, len(fine_levels(bone)) - 1)] = 1
    return chances


def test_intervals_and_threshold_are_written_into_the_bundle_with_their_coverage(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows, lines = [], []
    for index in range(240):
        truth = float(rng.uniform(3, 13))
        ages = {name: truth + float(rng.normal(0, 1)) for name in agreement.BY_STAGES}
        if index == 7:
            ages = dict.fromkeys(agreement.BY_STAGES)  # a bone of it was not found
        sex: Sex = "F" if index % 2 else "M"
        rows.append({"file": f"f/{index}.png", "sex": sex, "bone_age_years": truth, "fold": index % 2, **ages})
        other = MethodResult("rsna-cnn", sex, truth + float(rng.normal(0, 0.6)))
        read = Reading(FACTS, Verdict(accepted=True), Bundle("t", "1", "0"), sex=sex, methods=(other,))
        lines.append(json.dumps({"file": f"f/{index}.png", **read.to_dict()}))
    (tmp_path / "tuning.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "readings.jsonl").write_text("\n".join(lines))
    rules = {"weighting": "TopN:0.7", "hand_prior": {"weight": 0.5, "slack_stages": 1.0}}
    (tmp_path / "bundle.json").write_text(
        json.dumps({"format_version": 1, "name": "b", "version": "1", "default_method": "RUS-CHN", **rules})
    )
    places = {name: tmp_path / file for name, file in (("tuning", "tuning.json"), ("readings", "readings.jsonl"))}
    for fold in (0, 1):
        own = [_chances(row, rng) for row in rows if row["fold"] == fold]
        np.save(tmp_path / f"fold-{fold}.npy", np.stack(own))
    result_file = tmp_path / "result.json"
    places |= {"bundle": tmp_path / "bundle.json", "json": result_file}
    agreement.main([word for name, path in places.items() for word in (f"--{name}", str(path))])
    bundle = json.loads((tmp_path / "bundle.json").read_text())
    intervals = Intervals.from_dict(bundle["intervals"])
    for method in agreement.BY_STAGES:
        for sex in ("F", "M"):
            assert intervals.interval(method, sex, 9.0) is not None
    assert 1.0 < bundle["agreement_threshold_years"] < 5.0
    assert bundle["discord_threshold"] > 0
    result = json.loads(result_file.read_text())
    coverage = result["coverage_of_90_percent_intervals"]
    assert coverage["TW3"]["all"]["n"] == 239
    assert all(0.85 < found["all"]["value"] < 0.97 for found in coverage.values())
    assert set(coverage) == {*agreement.BY_STAGES, "rsna-cnn"}
    assert intervals.interval("rsna-cnn", "F", 9.0) is not None

    # A second time, keeping what the bundle says of RUS-CHN, and of a method that the readings do not have.
    for band in bundle["intervals"]["bands"]:
        band["half_width_years"] = 9.0
    bundle["intervals"]["bands"].append({**bundle["intervals"]["bands"][0], "method": "another"})
    places["bundle"].write_text(json.dumps(bundle))
    words = [word for name, path in places.items() for word in (f"--{name}", str(path))]
    agreement.main([*words, "--keep", "RUS-CHN"])
    again = json.loads(places["bundle"].read_text())["intervals"]["bands"]
    nine = {band["method"] for band in again if band["half_width_years"] == 9.0}
    assert nine == {"RUS-CHN", "another"}
    assert json.loads(result_file.read_text())["intervals_kept"] == ["RUS-CHN"]


def test_intervals_that_are_not_there_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="--keep TW3: the bundle holds no intervals of it"):
        agreement.kept_bands({"intervals": None}, ["TW3"])
