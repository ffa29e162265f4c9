"""Region features and boosted trees (P2)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models import weights
from models.image import Image
from models.metrics.conformal import Intervals
from models.reading import Region
from models.regions import REGION_FEATURES
from models.regression import boost, drawn_ages
from models.regression.boosted import REGION_XGBOOST, RegionRegressor
from models.regression.network import build
from models.regression.predict import ENSEMBLE, INTERVALS_FILE, Ensemble
from models.regression.regions import KINDS, boxes_on_thumbnail, maps, pooled, table
from models.runs import RunRefused
from models.standards import greulich_pyle
from models.weights import FREE_TERMS, Metadata, WeightsRefused


def _regions(*missing: str) -> tuple[Region, ...]:
    return tuple(
        Region(name, (20.0 + 20 * i, 40.0, 60.0 + 20 * i, 80.0), 0.9)
        for i, name in enumerate(REGION_FEATURES)
        if name not in missing
    )


def test_seventeen_regions_are_of_six_kinds() -> None:
    assert sum(map(len, KINDS.values())) == len(REGION_FEATURES) == 17
    assert {name for names in KINDS.values() for name in names} == set(REGION_FEATURES)


def test_boxes_are_squashed_as_the_thumbnail_is() -> None:
    boxes, scores = boxes_on_thumbnail((Region("radius", (100, 200, 140, 260), 0.8),), 1000, 400)
    index = REGION_FEATURES.index("radius")
    # Middle (120, 230), half sides 20 and 30 times 1.3 = 26 and 39; columns / 4, rows / 10.
    assert boxes[index].tolist() == pytest.approx([94 / 4, 191 / 10, 146 / 4, 269 / 10])
    assert scores[index] == pytest.approx(0.8)
    assert np.count_nonzero(scores) == 1


def test_features_are_those_of_the_place_and_a_kind_without_a_region_is_missing() -> None:
    torch.manual_seed(0)
    network = build("maturity-net").eval()
    film = torch.rand(1, 1, 100, 100)
    boxes, scores = boxes_on_thumbnail(_regions("carpus", "pp1"), 100, 400)
    found = pooled(network, film, boxes[None], scores[None])
    width = sum(level.shape[1] for level in maps(network, film))
    assert width == 64 + 128 + 256
    assert found.shape == (1, 6 * width)
    assert np.isnan(found[0, :width]).all()  # the carpus, the first kind
    assert np.isfinite(found[0, width:]).all()  # pp2 to pp5 stand for pp1
    only = np.where(np.arange(17) == REGION_FEATURES.index("pp3"), scores, 0)
    kind = list(KINDS).index("proximal phalanges")
    alone = pooled(network, film, boxes[None], only[None].astype(np.float32))[0, kind * width : (kind + 1) * width]
    assert np.isfinite(alone).all()
    assert not np.allclose(alone, found[0, kind * width : (kind + 1) * width])


def test_the_chronological_age_is_a_column_only_where_it_is_asked_for() -> None:
    features, sex = np.ones((2, 3), np.float32), np.array([0, 1])
    assert table(features, sex, None).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert table(features, sex, np.array([7.0, 8.0], np.float32))[:, 4].tolist() == [7, 8]


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = Ensemble(["maturity-net"])
    card = Metadata(
        problem="regression", architecture=ENSEMBLE, terms=FREE_TERMS, data=("none: untrained",), seed=0,
        hyperparameters={"method": "test", "members": ["maturity-net"]},
    )  # fmt: skip
    empty = json.dumps(Intervals(0.9, ()).to_dict()).encode()
    weights.save(tmp_path / "trunk", network.state_dict(), card, extra={INTERVALS_FILE: empty})
    return tmp_path / "trunk"


def _cache(folder: Path, n: int = 260, width: int = 6 * 448) -> boost.Cache:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(n, width)).astype(np.float32)
    sex = rng.integers(0, 2, n)
    age = (9 + 3 * features[:, 0] + sex).astype(np.float32).clip(1, 18)
    part = np.array(["train"] * 140 + ["validation"] * 90 + ["test"] * 30)
    cache = boost.Cache(
        np.arange(n).astype(str), part, features, sex, age, (age + rng.normal(0, 0.3, n)).astype(np.float32)
    )
    cache.save(folder)
    return cache


def test_trees_are_searched_stopped_calibrated_saved_and_read_a_film(trunk: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(boost, "GRID", {"max_depth": (2, 3), "scale_pos_weight": (1.0, 2.0)})
    monkeypatch.setitem(boost.FIXED, "colsample_bytree", 1.0)
    _cache(tmp_path / "cache")
    out = tmp_path / "run"
    arguments = [
        "--data",
        tmp_path / "cache",
        "--trunk",
        trunk,
        "--out",
        out,
        "--rounds",
        30,
        "--patience",
        5,
        "--terms",
        "test",
    ]
    boost.main([str(argument) for argument in [*arguments, "--final-rate", 0.3, "--rate", 0.3]])
    figures = json.loads((out / "figures.json").read_text())
    assert figures["test"]["mae_years"]["value"] < 1.5  # the spread of ages is about three years
    assert figures["search"][0]["name"] == "max_depth"
    weightless = figures["search"][1]["validation_mae_years"]
    assert weightless["1"] == weightless["2"]  # it weighs classes; there are none
    assert 0 < figures["trees"] <= 30

    again = [*arguments[:4], "--out", tmp_path / "again", "--measure", out / "weights"]
    boost.main([str(argument) for argument in again])
    measured = json.loads((tmp_path / "again" / "figures.json").read_text())
    assert measured == {"test": figures["test"], "by_year": figures["by_year"]}

    regressor = RegionRegressor(out / "weights")
    image = Image(np.random.default_rng(0).random((500, 400)).astype(np.float32))
    (girl,) = regressor.estimate(image, "F", None, _regions())
    assert girl.name == REGION_XGBOOST
    assert girl.bone_age_years is not None
    assert girl.interval_years is not None
    assert [result.sex for result in regressor.estimate(image, None, None, _regions())] == ["F", "M"]
    (lost,) = regressor.estimate(image, "M", None, _regions(*REGION_FEATURES[:5]))
    assert lost.bone_age_years is None
    assert "5 of 17 regions were not found" in str(lost.reason)
    with pytest.raises(RunRefused, match="chronological_age False, not True"):
        boost.main([str(argument) for argument in [*arguments, "--chronological-age"]])


def test_a_booster_that_was_given_the_chronological_age_serves_no_reader(
    trunk: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(boost, "GRID", {"max_depth": (2,)})
    _cache(tmp_path / "cache")
    out = tmp_path / "run"
    boost.main(
        [
            str(a)
            for a in [
                "--data",
                tmp_path / "cache",
                "--trunk",
                trunk,
                "--out",
                out,
                "--rounds",
                5,
                "--terms",
                "t",
                "--chronological-age",
            ]
        ]
    )
    with pytest.raises(WeightsRefused, match="chronological age as input: expected no, found yes"):
        RegionRegressor(out / "weights")


def test_drawn_ages_scatter_as_the_reference_says_and_a_method_that_follows_them_is_pulled() -> None:
    bone = np.full(4000, 10.0)
    ages = drawn_ages.drawn(bone, ["M"] * 4000, seed=1)
    sd = greulich_pyle.brush_sd_months(120, "M")
    assert sd is not None
    assert 12 * ages.std() == pytest.approx(sd, rel=0.05)
    assert ages.mean() == pytest.approx(10.0, abs=0.05)
    patients = [str(i) for i in range(4000)]
    noise = np.random.default_rng(2).normal(0, 0.5, 4000)
    assert drawn_ages.pull(bone + noise, bone, ages, patients).value == pytest.approx(0.0, abs=0.04)
    followed = drawn_ages.pull(bone + 0.3 * (ages - bone) + noise, bone, ages, patients)
    assert followed.low < 0.3 < followed.high
    assert drawn_ages.drawn(np.array([0.2]), ["F"], seed=3)[0] >= 0
