import dataclasses
import json
from collections.abc import Mapping

import numpy as np
import pytest

from models import registry, standards
from models.image import Image
from models.reader import Reader
from models.reading import Bundle, ImageFacts, Mask, MethodResult, Novelty, Reading, Reason, Region, Stage, Verdict
from models.regions import REGIONS, RUS, Sex
from models.scoring import Scoring, agreement

FILM = Image(np.zeros((64, 48), np.float32))
FACTS = ImageFacts(64, 48, None, "L", None, "bone bright", "MONOCHROME2", 0.0)
ACCEPTED = Verdict(accepted=True)
BUNDLE = Bundle("test", "1", "0" * 64, "free")
# Radius at TW3 stage G, the others at the label in the middle of their list.
MIDDLE = {bone: standards.RUS_CHN.levels(bone)[6] for bone in RUS}


@dataclasses.dataclass
class Found:
    regions: tuple[Region, ...]
    facts: ImageFacts
    verdict: Verdict


@dataclasses.dataclass
class FakeDetector:
    verdict: Verdict = ACCEPTED
    side: int = 24

    def detect(self, image: Image) -> Found:
        box = (1, 1, 1 + self.side, 1 + self.side)
        return Found(tuple(Region(name, box, 0.9) for name in REGIONS), FACTS, self.verdict)


@dataclasses.dataclass
class FakeSegmenter:
    bones: tuple[str, ...] = ("radius", "ulna")

    def segment(self, image: Image, regions: tuple[Region, ...]) -> Mapping[str, Mask]:
        return {bone: Mask.from_array(np.ones((64, 48), bool)) for bone in self.bones}


@dataclasses.dataclass
class FakeGrader:
    labels: Mapping[str, str]

    def grade(self, image: Image, regions: tuple[Region, ...], facts: ImageFacts) -> Mapping[str, Stage]:
        stages = {}
        for bone, label in self.labels.items():
            levels = standards.RUS_CHN.levels(bone)
            chances = tuple(1.0 if level == label else 0.0 for level in levels)
            stages[bone] = Stage("RUS-CHN", label, "A", 1.0, probabilities=chances)
        return stages


class FakeRegressor:
    def estimate(
        self, image: Image, sex: Sex | None, facts: ImageFacts, regions: tuple[Region, ...]
    ) -> tuple[MethodResult, ...]:
        return tuple(MethodResult("fake", s, 9.0) for s in ((sex,) if sex else ("F", "M")))


class FakeIntervals:
    def interval(
        self, method: str, sex: Sex, bone_age_years: float, share: float | None = None
    ) -> tuple[float, float] | None:
        return (bone_age_years - share, bone_age_years + share) if method == "RUS-CHN" and share else None


def _reader(**changes: object) -> Reader:
    reader = Reader(FakeDetector(), BUNDLE, FakeSegmenter(), FakeGrader(MIDDLE), (FakeRegressor(),))
    return dataclasses.replace(reader, **changes)


def _method(reading: Reading, name: str, sex: Sex = "F") -> MethodResult:
    return next(m for m in reading.methods if (m.name, m.sex) == (name, sex))


def test_every_method_stands_side_by_side_on_the_curve_of_the_sex() -> None:
    reading = _reader().read(FILM, "F")
    assert [(m.name, m.sex) for m in reading.methods] == [
        ("RUS-CHN", "F"),
        ("TW3-C RUS", "F"),
        ("TW3", "F"),
        ("fake", "F"),
    ]
    expected = sum(standards.RUS_CHN.score(bone, label, "F") for bone, label in MIDDLE.items())
    assert _method(reading, "RUS-CHN").score == expected
    assert _method(reading, "RUS-CHN").bone_age_years == standards.RUS_CHN.bone_age(expected, "F").years
    assert reading.region("radius").stage.label == MIDDLE["radius"]  # type: ignore[union-attr]
    assert reading.region("mc2").stage is None  # type: ignore[union-attr]


def test_warming_up_takes_a_film_through_every_step_though_the_detector_turns_it_away() -> None:
    seen: list[str] = []

    class Segmenter(FakeSegmenter):
        def segment(self, image: Image, regions: tuple[Region, ...]) -> Mapping[str, Mask]:
            seen.append("segmenter")
            return {}

    class Grader(FakeGrader):
        def grade(self, image: Image, regions: tuple[Region, ...], facts: ImageFacts) -> Mapping[str, Stage]:
            seen.append("grader")
            assert [region.name for region in regions] == list(REGIONS)
            return super().grade(image, regions, facts)

    class Regressor(FakeRegressor):
        def estimate(
            self, image: Image, sex: Sex | None, facts: ImageFacts, regions: tuple[Region, ...]
        ) -> tuple[MethodResult, ...]:
            seen.append("regressor")
            return super().estimate(image, sex, facts, regions)

    class Newness:
        def novelty(self, image: Image, facts: ImageFacts) -> Novelty:
            seen.append("novelty")
            return Novelty(None)

    turned_away = FakeDetector(Verdict(False, (Reason("not-a-hand", ""),)))
    _reader(
        detector=turned_away,
        segmenter=Segmenter(),
        grader=Grader(MIDDLE),
        regressors=(Regressor(),),
        newness=Newness(),
    ).warm_up()
    assert seen == ["segmenter", "grader", "regressor", "novelty"]


@pytest.mark.parametrize("bundle", ["default", "phantom", "regions"])
def test_every_shipped_bundle_can_be_warmed_up(bundle: str) -> None:
    """A worker that could not would never take a film."""
    registry.load(bundle).warm_up()


def test_a_film_of_few_pixels_is_read_as_a_whole_and_not_staged() -> None:
    reading = _reader(detector=FakeDetector(side=18)).read(FILM, "F")
    said = "the joints of the middle finger are 18.0 pixels wide; stages need at least 22"
    assert [(m.name, m.bone_age_years, m.reason) for m in reading.methods[:3]] == [
        (name, None, said) for name in ("RUS-CHN", "TW3-C RUS", "TW3")
    ]
    assert _method(reading, "fake").bone_age_years == 9.0
    assert all(region.stage is None for region in reading.regions)
    assert [(r.code, r.text) for r in reading.verdict.reasons] == [("too-small", said)]
    assert reading.verdict.accepted


def test_an_unknown_sex_gives_both_curves_and_no_default() -> None:
    reading = _reader().read(FILM, None)
    assert reading.sex is None
    assert [m.sex for m in reading.methods if m.name == "RUS-CHN"] == ["F", "M"]
    girl, boy = _method(reading, "RUS-CHN", "F"), _method(reading, "RUS-CHN", "M")
    assert girl.bone_age_years != boy.bone_age_years


def test_the_chronological_age_moves_no_method_and_only_adds_its_deviation() -> None:
    without, young = _reader().read(FILM, "F"), _reader().read(FILM, "F", 5.0)
    assert [m.bone_age_years for m in without.methods] == [m.bone_age_years for m in young.methods]
    assert _method(without, "fake").sds is None
    # Brush SD of a girl of 60 months is 11.65 months: (108 - 60) / 11.65 = 4.12
    assert _method(young, "fake").sds == pytest.approx(4.12, abs=0.005)
    assert "Brush" in (_method(young, "fake").reference or "")


def test_ages_by_stages_get_no_deviation_of_another_reference() -> None:
    reading = _reader().read(FILM, "F", 5.0)
    assert {_method(reading, name).sds for name in ("RUS-CHN", "TW3", "TW3-C RUS")} == {None}


def test_a_rejected_film_is_not_read_further() -> None:
    verdict = Verdict(accepted=False, reasons=(Reason("not-a-hand", "no hand was found"),))
    reading = _reader(detector=FakeDetector(verdict)).read(FILM, "F")
    assert reading.methods == ()
    assert reading.masks == {}
    assert reading.verdict == verdict


def test_missing_weights_are_a_stated_outcome_and_the_other_methods_still_answer() -> None:
    reason = "bundle x holds no weights for grading"
    reading = _reader(grader=None, segmenter=None, absences={"grading": reason}).read(FILM, "M")
    assert _method(reading, "TW3", "M").reason == reason
    assert _method(reading, "TW3", "M").bone_age_years is None
    assert _method(reading, "fake", "M").bone_age_years == 9.0
    assert [r.code for r in reading.verdict.reasons] == ["not-outlined"]
    assert _method(_reader(regressors=()).read(FILM, "F"), "regression").reason is not None


def test_a_bone_without_a_stage_leaves_the_totals_without_an_age() -> None:
    reading = _reader(grader=FakeGrader({b: s for b, s in MIDDLE.items() if b != "mp5"})).read(FILM, "F")
    for name in ("RUS-CHN", "TW3-C RUS", "TW3"):
        assert _method(reading, name).bone_age_years is None
        assert "mp5" in (_method(reading, name).reason or "")
    assert _method(reading, "fake").bone_age_years == 9.0


def test_a_bone_that_was_not_outlined_is_named() -> None:
    reading = _reader(segmenter=FakeSegmenter(("radius",))).read(FILM, "F")
    assert reading.verdict.accepted
    assert "ulna" in reading.verdict.reasons[0].text


def test_intervals_are_given_where_they_were_measured() -> None:
    reading = _reader(scoring=Scoring(intervals=FakeIntervals())).read(FILM, "F")
    age = _method(reading, "RUS-CHN").bone_age_years
    assert age is not None
    share = reading.hand_share
    assert share
    assert _method(reading, "RUS-CHN").interval_years == (age - share, age + share)  # as wide as this film asks for
    assert _method(reading, "fake").interval_years is None


def test_the_agreement_is_the_spread_on_one_curve_and_alarms_beyond_its_threshold() -> None:
    results = (MethodResult("a", "F", 9.0), MethodResult("b", "F", 10.5), MethodResult("b", "M", 20.0))
    assert agreement(results, 1.5).spread_years == 1.5
    assert not agreement(results, 1.5).alarm
    assert agreement(results, 1.4).alarm
    assert not agreement(results, None).alarm
    assert agreement(results[:1], 1.0).spread_years is None


def test_a_reading_names_the_time_of_every_step_and_survives_json() -> None:
    reading = _reader().read(FILM, None, 9.0)
    assert set(reading.timings_ms) == {
        "detection",
        "segmentation",
        "grading",
        "standards",
        "regression",
        "novelty",
        "total",
    }
    assert Reading.from_json(reading.to_json()) == dataclasses.replace(reading)
    assert json.loads(reading.to_json())["bundle"]["sha256"] == "0" * 64
