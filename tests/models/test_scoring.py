import dataclasses
import re

import numpy as np
import pytest

from models import standards
from models.reading import CONTRADICTED, BoneScore, Mask, MethodResult, Reading, Reason, Region, Stage, Verdict
from models.regions import REGIONS, RUS
from models.scoring import APART, LATE, LateEnd, Scoring
from models.standards import harmony
from models.standards.stages import named_stage
from tests.service import readings

MIDDLE = {bone: readings.middle(bone) for bone in RUS}


def _method(reading: Reading, name: str, sex: str = "F") -> MethodResult:
    return next(method for method in reading.methods if (method.name, method.sex) == (name, sex))


def test_without_a_change_the_same_tables_give_the_same_ages() -> None:
    before = readings.staged()
    after = Scoring().restage(before, {})
    assert after.methods == before.methods
    assert after.regions == before.regions


def test_one_stage_changes_the_total_by_the_difference_of_the_table() -> None:
    before = readings.staged()
    levels = standards.fine_levels("mc5")
    up = levels[levels.index(MIDDLE["mc5"]) + 1]
    after = Scoring().restage(before, {"mc5": up})
    table = standards.RUS_CHN
    difference = table.score("mc5", up, "F") - table.score("mc5", MIDDLE["mc5"], "F")
    assert difference > 0
    old, new = _method(before, "RUS-CHN"), _method(after, "RUS-CHN")
    assert new.score == pytest.approx(old.score + difference)
    # The effect the first Reading announced is the effect the correction has.
    part = old.per_bone["mc5"]
    assert isinstance(part, BoneScore)
    assert part.one_stage_up_years is not None
    assert new.bone_age_years == pytest.approx(old.bone_age_years + part.one_stage_up_years)
    given = after.region("mc5")
    assert given is not None
    assert given.stage is not None
    assert (given.stage.label, given.stage.probability, given.stage.runner_up) == (up, 1.0, None)


def test_a_regression_looks_at_the_film_and_stays() -> None:
    after = Scoring().restage(readings.staged(), {"radius": standards.fine_levels("radius")[-1]})
    assert _method(after, "rsna-cnn").bone_age_years == 9.5


def test_an_unknown_sex_is_recomputed_on_both_curves() -> None:
    after = Scoring().restage(readings.staged(sex=None), {"dp1": standards.fine_levels("dp1")[-1]})
    assert [m.sex for m in after.methods if m.name == "RUS-CHN"] == ["F", "M"]
    assert _method(after, "RUS-CHN", "F").bone_age_years != _method(after, "RUS-CHN", "M").bone_age_years


def test_a_rejected_region_leaves_with_its_outline_and_the_totals_say_which_bone_is_missing() -> None:
    after = Scoring().restage(readings.staged(), {}, ["radius"])
    assert after.region("radius") is None
    assert set(after.masks) == {"ulna"}
    assert _method(after, "RUS-CHN").bone_age_years is None
    assert "radius" in (_method(after, "RUS-CHN").reason or "")
    assert _method(after, "rsna-cnn").bone_age_years == 9.5


def test_a_rejected_region_without_stage_changes_no_age() -> None:
    before = readings.staged()
    after = Scoring().restage(before, {}, ["pp2"])
    assert after.region("pp2") is None
    assert _method(after, "TW3") == _method(before, "TW3")


def test_the_agreement_is_judged_again() -> None:
    before = readings.staged()
    widest = Scoring(threshold_years=0.0).restage(before, {bone: standards.fine_levels(bone)[-2] for bone in RUS})
    assert widest.agreement.alarm
    assert widest.agreement != before.agreement


def test_a_tw3_letter_stands_for_its_only_label_and_is_refused_where_it_has_several() -> None:
    single = next(
        (bone, letter)
        for bone in RUS
        for letter in "BCDEFGHI"
        if letter in standards.TW3_RUS.levels(bone) and len(standards.labels_of(bone, letter)) == 1
    )
    region = Scoring().restage(readings.staged(), {single[0]: single[1].lower()}).region(single[0])
    assert region is not None
    assert region.stage is not None
    assert region.stage.letter == single[1]
    several = next(
        (bone, letter)
        for bone in RUS
        for letter in "BCDEFGHI"
        if letter in standards.TW3_RUS.levels(bone) and len(standards.labels_of(bone, letter)) > 1
    )
    with pytest.raises(ValueError, match="name one"):
        Scoring().restage(readings.staged(), {several[0]: several[1]})


@pytest.mark.parametrize(
    ("stages", "rejected", "said"),
    [
        ({"mc5": "99"}, [], "mc5 has no stage '99'; it has 0, "),
        ({"mc2": "5"}, [], "'mc2' carries no stage; the staged bones are radius, "),
        ({"femur": "5"}, [], "'femur' is not on this film; found were radius, "),
        ({}, ["femur"], "'femur' is not on this film"),
        ({"mc5": "5"}, ["mc5"], "mc5: either a stage is given or the region is rejected"),
    ],
)
def test_a_bad_correction_names_value_and_limit(stages: dict[str, str], rejected: list[str], said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is checked below
        Scoring().restage(readings.staged(), stages, rejected)
    assert said in str(caught.value)


def test_a_film_that_was_not_read_has_nothing_to_correct() -> None:
    rejected = dataclasses.replace(readings.staged(), verdict=Verdict(False))
    with pytest.raises(ValueError, match="nothing to correct"):
        Scoring().restage(rejected, {"mc5": "5"})


def test_a_region_found_without_a_stage_can_be_given_one() -> None:
    before = readings.staged()
    bare = dataclasses.replace(
        before, regions=tuple(Region(r.name, r.box, r.score) if r.name == "mp3" else r for r in before.regions)
    )
    after = Scoring().restage(bare, {"mp3": MIDDLE["mp3"]})
    assert _method(after, "RUS-CHN").bone_age_years is not None
    assert isinstance(after.masks["ulna"], Mask)


def _staged(labels: dict[str, str]) -> dict[str, Stage]:
    made = {}
    for bone, label in labels.items():
        levels = standards.fine_levels(bone)
        chances = tuple(float(level == label) for level in levels)
        made[bone] = Stage("RUS-CHN", label, "A", 1.0, probabilities=chances)
    return made


def test_stages_that_no_hand_shows_together_are_remarked_on_and_a_correction_takes_the_remark_away() -> None:
    ages, mean, _ = harmony.usual("F")
    at_ten = mean[int(np.argmin(np.abs(ages - 10)))]
    usual = {bone: standards.fine_levels(bone)[int(at_ten[i])] for i, bone in enumerate(RUS)}
    scoring = Scoring(discord_threshold=2.0)
    quiet = scoring.remarked(Verdict(True), _staged(usual), scoring.by_stages(_staged(usual), ("F",)))
    assert quiet.reasons == ()
    broken = _staged({**usual, "radius": standards.fine_levels("radius")[-1]})
    loud = scoring.remarked(Verdict(True), broken, scoring.by_stages(broken, ("F",)))
    assert [reason.code for reason in loud.reasons] == [APART]
    assert "furthest from the others: radius" in loud.reasons[0].text
    assert "usual are up to 2" in loud.reasons[0].text
    assert scoring.remarked(loud, _staged(usual), scoring.by_stages(_staged(usual), ("F",))).reasons == ()
    assert Scoring().apart(broken, scoring.by_stages(broken, ("F",))) is None


def _hand(years: float, **others: str) -> dict[str, Stage]:
    """A girl's hand graded with nine tenths at the stage that is usual at an age, and at other stages where said."""
    ages, mean, _ = harmony.usual("F")
    made = {}
    for index, bone in enumerate(RUS):
        levels = standards.fine_levels(bone)
        usual = levels[int(np.interp(years, ages, mean[:, index]))]
        chances = np.array([0.9 if level == others.get(bone, usual) else 0.1 / (len(levels) - 1) for level in levels])
        made[bone] = named_stage(bone, chances)
    return made


def test_a_single_stage_that_the_other_bones_contradict_is_remarked_on_with_what_they_let_expect() -> None:
    scoring = Scoring(contradiction=harmony.Contradiction(0.8, 0.01, 0.01))
    for sexes in (("F",), ("F", "M")):
        hand = _hand(10.0, mc1="8")
        verdict = scoring.remarked(Verdict(True), hand, scoring.by_stages(hand, sexes))
        (reason,) = verdict.reasons
        assert reason.code == CONTRADICTED
        named = re.fullmatch(
            r"mc1 is graded 8 \(TW3 I\) where the other bones let expect (\S+) to (\S+) \(TW3 ([A-I]) to ([A-I])\), look at it",
            reason.text,
        )
        assert named is not None, reason.text
        low, high, *letters = named.groups()
        levels = standards.fine_levels("mc1")
        usual = _hand(10.0)["mc1"].label
        assert levels.index(low) <= levels.index(usual) <= levels.index(high) < levels.index("8")
        assert letters == [standards.letter_of("mc1", low), standards.letter_of("mc1", high)]
        quiet = _hand(10.0)
        assert scoring.remarked(verdict, quiet, scoring.by_stages(quiet, sexes)).reasons == ()
        assert Scoring().contradicted(hand, sexes) == {}


def test_several_bones_that_contradict_the_others_have_a_remark_each() -> None:
    scoring = Scoring(contradiction=harmony.Contradiction(0.8, 0.01, 0.01))
    assert list(scoring.contradicted(_hand(10.0, mc1="8", dp1="8"), ("F",))) == ["mc1", "dp1"]


def test_the_contradicted_bone_carries_a_flag_until_a_person_gives_its_stage_whichever_it_is() -> None:
    scoring = Scoring(contradiction=harmony.Contradiction(0.8, 0.01, 0.01))
    base, hand = readings.reading(), _hand(10.0, mc1="8")
    ordered = tuple(dataclasses.replace(r, flags=("order",)) if r.name == "mc1" else r for r in base.regions)
    before = dataclasses.replace(base, regions=scoring.staged(ordered, hand, ("F",)))

    def flags(reading: Reading) -> dict[str, tuple[str, ...]]:
        return {region.name: region.flags for region in reading.regions if region.flags}

    assert flags(before) == {"mc1": ("order", CONTRADICTED)}
    assert {r.name for r in before.regions if r.stage is None} == set(REGIONS) - set(RUS)
    for given, code in (({}, [CONTRADICTED]), ({"mc5": hand["mc5"].label}, [CONTRADICTED]), ({"mc1": "8"}, [])):
        after = scoring.restage(before, given)
        assert [reason.code for reason in after.verdict.reasons] == code
        assert flags(after) == {"mc1": ("order", *code)}


def test_what_the_others_let_expect_of_a_bone_does_not_hang_on_the_bone_itself() -> None:
    prior = harmony.told_by_others({b: s.probabilities for b, s in _hand(10.0).items()}, ("F",), 0.8)
    broken = harmony.told_by_others({b: s.probabilities for b, s in _hand(10.0, mc1="8").items()}, ("F",), 0.8)
    assert np.allclose(prior["mc1"], broken["mc1"])
    assert all(chances.sum() == pytest.approx(1) for chances in broken.values())
    assert harmony.told_by_others({"mc1": _hand(10.0)["mc1"].probabilities}, ("F",), 0.8) == {}
    alone = {"mc1": _hand(10.0, mc1="8")["mc1"]}
    assert Scoring(contradiction=harmony.Contradiction(0.8, 0.49, 0.49)).contradicted(alone, ("F",)) == {}


def test_how_far_ahead_and_how_far_behind_a_stage_may_lie_are_two_limits() -> None:
    ahead, behind = _hand(10.0, mc1="8"), _hand(10.0, mc1="0")
    for hand, limits in ((ahead, (0.01, 1e-9)), (behind, (1e-9, 0.01))):
        for given, bones in ((limits, ["mc1"]), (limits[::-1], [])):
            assert list(Scoring(contradiction=harmony.Contradiction(0.8, *given)).contradicted(hand, ("F",))) == bones
    # 0.1 + 0.2 lie at or above the fourth of five stages, 0.1 + 0.2 + 0.4 + 0.1 at or below it.
    assert harmony.tails(np.array([0.1, 0.2, 0.4, 0.1, 0.2]), 3) == pytest.approx((0.3, 0.8))


@pytest.mark.parametrize(
    ("slack", "ahead", "behind"), [(0, 0.01, 0.01), (6, 0.01, 0.01), (0.8, 0, 0.01), (0.8, 0.01, 0.5)]
)
def test_a_contradiction_outside_its_limits_is_refused(slack: float, ahead: float, behind: float) -> None:
    with pytest.raises(ValueError, match=r"of a contradiction is .* possible"):
        harmony.Contradiction(slack, ahead, behind)


def test_near_the_end_of_growth_the_reading_says_how_its_bundle_reads_such_hands() -> None:
    scoring = Scoring(late_end={"F": LateEnd(13.4, 19, 0.42)})

    def said(*results: MethodResult) -> list[str]:
        return [reason.text for reason in scoring.remarked(Verdict(True, (Reason(LATE, "old"),)), {}, results).reasons]

    girl = MethodResult("RUS-CHN", "F", 13.4)
    assert said(girl) == [
        "of 19 girls given 13.4 years or more by RUS-CHN, 42% were read more than a year too young; compare the whole-hand regression"
    ]
    younger, by_another = dataclasses.replace(girl, bone_age_years=13.3), dataclasses.replace(girl, name="TW3")
    boy, mature = dataclasses.replace(girl, sex="M"), dataclasses.replace(girl, bone_age_years=None, qualifier="mature")
    assert said(younger, by_another, boy, mature) == []
    assert len(said(dataclasses.replace(girl, bone_age_years=13.0, uncalibrated_years=13.5))) == 1
    assert len(said(boy, girl)) == 1  # sex unknown: on either curve


def test_the_prior_of_the_hand_moves_a_bone_that_contradicts_the_others_and_says_so_in_the_parameters() -> None:
    prior = harmony.HandPrior(1.0, 0.8)
    scoring = Scoring(hand_prior=prior)
    assert scoring.parameters()["prior of the hand"] == "weight 1, 0.8 stages"
    ages, mean, _ = harmony.usual("F")
    graded = {}
    for index, bone in enumerate(RUS):
        stage = int(np.interp(8.0, ages, mean[:, index]))
        chances = np.full(len(standards.fine_levels(bone)), 0.05)
        chances[0 if bone == "dp5" else stage] += 1
        graded[bone] = named_stage(bone, chances)
    for sexes in (("F",), ("F", "M")):
        told = scoring.told(graded, sexes)
        middle = {bone: float(np.arange(len(one.probabilities)) @ one.probabilities) for bone, one in told.items()}
        before = {bone: float(np.arange(len(one.probabilities)) @ one.probabilities) for bone, one in graded.items()}
        assert middle["dp5"] > before["dp5"] + 1
        assert all(told[bone].label == graded[bone].label for bone in RUS if bone != "dp5")
        assert all(sum(one.probabilities) == pytest.approx(1, abs=1e-3) for one in told.values())
    assert Scoring().told(graded, ("F",)) is graded
    certain = {**graded, "dp5": named_stage("dp5", np.eye(len(standards.fine_levels("dp5")))[0])}
    assert scoring.told(certain, ("F",))["dp5"].label == "0"
    assert scoring.told({}, ("F",)) == {}


@pytest.mark.parametrize(("weight", "slack"), [(-0.1, 0.8), (2.5, 0.8), (1.0, 0.0), (1.0, 6.0)])
def test_a_prior_outside_its_limits_is_refused(weight: float, slack: float) -> None:
    with pytest.raises(ValueError, match=r"hand's prior is .* are possible"):
        harmony.HandPrior(weight, slack)
