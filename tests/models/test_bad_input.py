"""What the reader says of films and bundles it cannot read in full: a reason each, and the other methods still answer."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from models import registry, standards, weights
from models.image import Image
from models.reader import Reader
from models.reading import Bundle, ImageFacts, MethodResult, Reading, Region, Stage, Verdict
from models.regions import REGIONS, RUS, Sex
from models.registry import BundleRefused
from models.weights import FREE_TERMS, Metadata, WeightsRefused

FILM = Image(np.zeros((64, 48), np.float32))
FACTS = ImageFacts(64, 48, None, "L", None, "bone bright", "MONOCHROME2", 0.0)
BY_STAGES = ("RUS-CHN", "TW3-C RUS", "TW3")
ACCEPTED = Verdict(accepted=True)


@dataclasses.dataclass
class _Found:
    regions: tuple[Region, ...]
    facts: ImageFacts = FACTS
    verdict: Verdict = ACCEPTED


@dataclasses.dataclass
class _Detector:
    names: tuple[str, ...] = REGIONS

    def detect(self, image: Image) -> _Found:
        return _Found(tuple(Region(name, (1, 1, 33, 33), 0.9) for name in self.names))


@dataclasses.dataclass
class _Grader:
    place: int  # the stage of every bone, counted from absent; -1 is the last

    def grade(self, image: Image, regions: tuple[Region, ...], facts: ImageFacts) -> Mapping[str, Stage]:
        graded = {}
        for region in regions:
            if region.name not in RUS:
                continue
            levels = standards.fine_levels(region.name)
            label = levels[self.place]
            chances = tuple(float(level == label) for level in levels)
            graded[region.name] = Stage(
                "RUS-CHN", label, standards.letter_of(region.name, label), 1.0, probabilities=chances
            )
        return graded


class _Regressor:
    def estimate(
        self, image: Image, sex: Sex | None, facts: ImageFacts, regions: tuple[Region, ...]
    ) -> tuple[MethodResult, ...]:
        sexes: tuple[Sex, ...] = ("F", "M") if sex is None else (sex,)
        return tuple(MethodResult("film", one, 9.5) for one in sexes)


def _read(
    place: int = 6, *, names: tuple[str, ...] = REGIONS, sex: Sex | None = "F", age: float | None = None
) -> Reading:
    reader = Reader(_Detector(names), Bundle("t", "1", "0"), grader=_Grader(place), regressors=(_Regressor(),))
    return reader.read(FILM, sex, age)


def _methods(reading: Reading) -> dict[str, MethodResult]:
    return {method.name: method for method in reading.methods}


@pytest.mark.parametrize("sex", ["F", "M"])
def test_all_epiphyses_fused_is_mature_at_the_end_of_each_standard_and_no_age(sex: Sex) -> None:
    found = _methods(_read(-1, sex=sex))
    for name in BY_STAGES:
        assert (found[name].bone_age_years, found[name].qualifier) == (None, "mature")
        assert "the standard ends there" in str(found[name].reason)
    assert found["film"].bone_age_years == 9.5


@pytest.mark.parametrize("sex", ["F", "M"])
def test_no_epiphysis_yet_is_below_the_range_and_no_age(sex: Sex) -> None:
    found = _methods(_read(0, sex=sex))
    for name in BY_STAGES:
        assert (found[name].bone_age_years, found[name].qualifier) == (None, "below range")
        assert "below the range of the standard" in str(found[name].reason)
    assert found["film"].bone_age_years == 9.5


def test_a_missing_bone_is_named_and_the_film_is_still_read_as_a_whole() -> None:
    found = _methods(_read(names=tuple(name for name in REGIONS if name not in ("mc1", "dp5"))))
    for name in BY_STAGES:
        assert found[name].bone_age_years is None
        assert found[name].reason == "not applicable: no stage for mc1, dp5; the total needs all 13 bones"
    assert found["film"].bone_age_years == 9.5


def test_an_unknown_sex_gives_every_method_on_both_curves() -> None:
    reading = _read(sex=None)
    assert [(m.name, m.sex) for m in reading.methods] == [
        (name, sex) for name in (*BY_STAGES, "film") for sex in ("F", "M")
    ]
    assert all(method.bone_age_years is not None for method in reading.methods)


@pytest.mark.parametrize("age", [0.05, 40.0])
def test_an_age_outside_the_reference_gives_no_deviation_and_moves_no_age(age: float) -> None:
    inside, outside = _methods(_read(age=10.0))["film"], _methods(_read(age=age))["film"]
    assert inside.sds is not None
    assert (outside.sds, outside.percentile) == (None, None)
    assert outside.bone_age_years == inside.bone_age_years


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    card = Metadata(problem="detection", architecture="handnet", terms=FREE_TERMS, data=("none",), seed=1)
    import torch

    weights.save(tmp_path / "d", {"w": torch.ones(2)}, card)
    (tmp_path / "b.json").write_text(
        json.dumps({"format_version": 1, "name": "b", "version": "1", "detection": "d"}), encoding="utf-8"
    )
    return tmp_path


def _metadata(shelf: Path, **changed: object) -> None:
    path = shelf / "d" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_a_bundle_with_a_wrong_hash_says_which_was_expected_and_found(shelf: Path) -> None:
    _metadata(shelf, files={"weights.safetensors": "0" * 64})
    with pytest.raises(WeightsRefused, match=r"sha256 of weights\.safetensors: expected 0{64}, found [0-9a-f]{64}"):
        registry.load("b", folder=shelf)


def test_a_bundle_of_an_unknown_architecture_says_which_are_known(shelf: Path) -> None:
    _metadata(shelf, architecture="rcnn")
    with pytest.raises(WeightsRefused, match=r"architecture: expected handnet.*, found rcnn"):
        registry.load("b", folder=shelf)


def test_weights_and_bundles_of_another_version_are_refused(shelf: Path) -> None:
    _metadata(shelf, format_version=9)
    with pytest.raises(WeightsRefused, match="format version: expected 1, found 9"):
        registry.load("b", folder=shelf)
    (shelf / "b.json").write_text(json.dumps({"format_version": 2, "name": "b", "version": "1", "detection": "d"}))
    with pytest.raises(BundleRefused, match="format version: expected 1, found 2"):
        registry.load("b", folder=shelf)


def test_a_site_calibration_that_is_none_is_refused(shelf: Path) -> None:
    values = json.loads((shelf / "b.json").read_text())
    (shelf / "b.json").write_text(json.dumps({**values, "site_calibration": {"site": "x"}}))
    with pytest.raises(BundleRefused, match="site_calibration: 'lines'"):
        registry.describe("b", folder=shelf)
