"""The standards: every printed value, the ends of the ranges, and arithmetic written beside the cases."""

import itertools
import math
import subprocess
import sys

import pytest

from models.regions import CARPALS, RUS
from models.standards import (
    RUS_CHN,
    STANDARDS,
    TW3_RUS,
    TW3C_RUS,
    Curve,
    MissingBones,
    carpal,
    greulich_pyle,
    height,
    sds,
)
from models.standards.rus import fine_levels, labels_of, letter_of
from models.standards.tables import table
from models.standards.weighting import Classic, Top2, TopN

AGE_TABLES = {"RUS-CHN": "rus_chn", "TW3": "tw3_age", "TW3-C RUS": "tw3c_age"}
MATURE = {
    ("RUS-CHN", "M"): 18,
    ("RUS-CHN", "F"): 17,
    ("TW3", "M"): 16.5,
    ("TW3", "F"): 15,
    ("TW3-C RUS", "M"): 16,
    ("TW3-C RUS", "F"): 15,
}


@pytest.mark.parametrize("standard", STANDARDS, ids=lambda s: s.name)
@pytest.mark.parametrize("sex", ["F", "M"])
class TestEveryStandard:
    def test_every_printed_score_reads_as_its_printed_age(self, standard, sex):
        pairs = table(AGE_TABLES[standard.name])["age_score"][sex]
        for age, score in pairs[:-1]:
            if score > 0:
                assert standard.bone_age(score, sex).years == pytest.approx(age, abs=1e-9)
                assert standard.score_of_age(age, sex) == pytest.approx(score, abs=1e-6)

    def test_the_age_never_falls_as_the_score_rises(self, standard, sex):
        ages = [standard.bone_age(score / 2, sex).years for score in range(1, 2000)]
        known = [age for age in ages if age is not None]
        assert all(a < b for a, b in itertools.pairwise(known))

    def test_score_of_age_inverts_bone_age(self, standard, sex):
        low, high = standard.age_range(sex)
        for step in range(1, 40):
            age = low + (high - low) * step / 40
            assert standard.bone_age(standard.score_of_age(age, sex), sex).years == pytest.approx(age, abs=1e-6)

    def test_all_last_stages_sum_to_1000_which_is_mature(self, standard, sex):
        stages = {bone: standard.levels(bone)[-1] for bone in RUS}
        assert standard.total(stages, sex) == 1000
        result = standard.read(stages, sex)
        assert (result.bone_age_years, result.qualifier, result.score) == (None, "mature", 1000)
        assert f"at least {MATURE[standard.name, sex]:g} years" in result.reason

    def test_no_centre_at_all_is_below_range(self, standard, sex):
        result = standard.read(dict.fromkeys(RUS, "0"), sex)
        assert (result.bone_age_years, result.qualifier, result.score) == (None, "below range", 0)
        assert "less than" in result.reason

    def test_scores_never_fall_with_the_stage(self, standard, sex):
        for bone in RUS:
            scores = standard.scores(bone, sex)
            assert scores[0] == 0
            assert len(scores) == len(standard.levels(bone))
            assert list(scores) == sorted(scores)

    def test_a_missing_bone_gives_no_age_and_is_named(self, standard, sex):
        stages = {bone: "3" for bone in RUS if bone != "mc5"}
        with pytest.raises(MissingBones, match="mc5"):
            standard.total(stages, sex)
        result = standard.read(stages, sex)
        assert result.bone_age_years is None
        assert "mc5" in result.reason
        assert len(result.per_bone) == 12

    def test_one_stage_up_changes_the_age_by_what_the_curve_says(self, standard, sex):
        stages = dict.fromkeys(RUS, "3")
        result = standard.read(stages, sex)
        up = standard.read({**stages, "radius": "4"}, sex)
        down = standard.read({**stages, "radius": "2"}, sex)
        part = result.per_bone["radius"]
        assert part.one_stage_up_years == pytest.approx(up.bone_age_years - result.bone_age_years)
        assert part.one_stage_down_years == pytest.approx(down.bone_age_years - result.bone_age_years)
        assert part.one_stage_down_years < 0 < part.one_stage_up_years


def test_tw3_states_no_age_below_two_years():
    # Table A1: the first row is 42 = 2.0 years, so 41 is only "less than 2".
    assert TW3_RUS.bone_age(42, "M").years == pytest.approx(2.0)
    below = TW3_RUS.bone_age(41, "M")
    assert (below.years, below.qualifier, below.limit_years) == (None, "below range", 2.0)
    assert TW3_RUS.bone_age(125, "F").qualifier == "below range"


def test_tw3_scores_of_the_printed_radius_row():
    assert TW3_RUS.scores("radius", "M") == (0, 16, 21, 30, 39, 59, 87, 138, 213)
    assert TW3_RUS.scores("ulna", "F") == (0, 30, 33, 37, 45, 74, 118, 173)
    assert TW3C_RUS.scores("mc1", "F") == TW3_RUS.scores("mc1", "F") == (0, 8, 12, 18, 24, 31, 43, 53, 67)


def test_fine_stages_follow_the_letters():
    assert [letter_of("radius", label) for label in fine_levels("radius")] == list("ABCDEFFGHHIIIII")
    assert letter_of("ulna", "7(4)") == "H"
    assert labels_of("radius", "F") == ("5(0)", "5(2)")
    assert TW3_RUS.levels("ulna") == tuple("ABCDEFGH")
    assert TW3_RUS.score("radius", "5(2)", "M") == TW3_RUS.score("radius", "F", "M") == 59
    with pytest.raises(ValueError, match="no stage '5'"):
        RUS_CHN.score("radius", "5", "M")
    with pytest.raises(ValueError, match="no stage 'I'"):
        TW3_RUS.score("ulna", "I", "M")


def test_total_is_the_sum_of_the_table():
    # RUS-CHN boys, every bone at its first stage: 8 + 25 + 4 + 3 + 3 + 4 + 3 + 3 + 3 + 3 + 4 + 3 + 3 = 69.
    assert RUS_CHN.total(dict.fromkeys(RUS, "1"), "M") == 69


def test_the_two_sexes_have_their_own_scores_and_curves():
    for standard in STANDARDS:
        girl, boy = (standard.read(dict.fromkeys(RUS, "3"), sex) for sex in ("F", "M"))
        assert girl.score != boy.score
        assert standard.bone_age(400, "F").years < standard.bone_age(400, "M").years
    with pytest.raises(ValueError, match="'O'"):
        RUS_CHN.bone_age(400, "O")


def test_the_polynomial_agrees_with_its_published_evaluations_and_with_the_curve():
    for sex in ("F", "M"):
        for score, age in table("rus_chn")["polynomial"]["evaluated"][sex].items():
            value = RUS_CHN.polynomial_age(float(score), sex)
            if value is not None:
                assert value == pytest.approx(age, abs=6e-4)
        for score in range(50, 990):
            read = RUS_CHN.bone_age(score, sex)
            assert abs(read.years - read.cross_check_years) < 0.36
    assert RUS_CHN.polynomial_age(17, "M") is None
    assert RUS_CHN.polynomial_age(44, "F") is None
    assert TW3_RUS.bone_age(400, "M").cross_check_years is None


def test_an_age_resting_on_a_corrected_value_says_so():
    assert "597" in RUS_CHN.bone_age(700, "F").uncertain[0]
    assert RUS_CHN.bone_age(700, "M").uncertain == ()
    assert RUS_CHN.bone_age(600, "F").uncertain == ()
    assert "244" in TW3C_RUS.bone_age(245, "F").uncertain[0]


def test_a_curve_refuses_impossible_input():
    with pytest.raises(ValueError, match="increase"):
        Curve([[1, 5], [2, 5]])
    with pytest.raises(ValueError, match="score is -1"):
        RUS_CHN.bone_age(-1, "M")
    with pytest.raises(ValueError, match="score is nan"):
        RUS_CHN.bone_age(math.nan, "M")
    with pytest.raises(ValueError, match="1001"):
        RUS_CHN.bone_age(1001, "M")
    with pytest.raises(ValueError, match="19"):
        RUS_CHN.score_of_age(19, "M")


def test_topn_takes_stages_until_their_sum_exceeds_the_threshold():
    chances, scores = [0.1, 0.5, 0.3, 0.1], [0, 10, 20, 40]
    assert Classic().score(chances, scores) == 10
    # Top2: (0.5 * 10 + 0.3 * 20) / 0.8 = 13.75
    assert Top2().score(chances, scores) == pytest.approx(13.75)
    assert TopN(0.45).score(chances, scores) == 10
    # 0.5 does not exceed 0.5, so a second stage is taken.
    assert TopN(0.5).score(chances, scores) == pytest.approx(13.75)
    # 0.8 does not exceed 0.85; of the two stages at 0.1 the lower one comes first: (5 + 6 + 0) / 0.9.
    assert TopN(0.85).score(chances, scores) == pytest.approx(11 / 0.9)
    # All stages: 5 + 6 + 4 = 15.
    assert TopN(1.0).score(chances, scores) == pytest.approx(15)


@pytest.mark.parametrize(
    ("chances", "scores"),
    [([0.5, 0.4], [0, 1]), ([1.2, -0.2], [0, 1]), ([1.0], [0, 1])],
    ids=["sum", "negative", "length"],
)
def test_weighting_refuses_what_is_no_distribution(chances, scores):
    with pytest.raises(ValueError, match="probabilities"):
        TopN().score(chances, scores)


def test_threshold_must_be_a_probability():
    with pytest.raises(ValueError, match="threshold is 61"):
        TopN(61)


def _likely(at: int, chance: float) -> dict[str, list[float]]:
    """Every bone at one end of its stages with a chance, the rest at the stage beside it."""
    found = {}
    for bone in RUS:
        found[bone] = [0.0] * len(fine_levels(bone))
        found[bone][at] = chance
        found[bone][at + (1 if at == 0 else -1)] = 1 - chance
    return found


@pytest.mark.parametrize("sex", ["F", "M"])
def test_a_hand_whose_bones_are_all_likelier_fused_than_not_is_mature_though_none_is_certain(sex):
    for standard in STANDARDS:
        result = standard.read_probabilities(_likely(-1, 0.51), sex, TopN(0.92))
        assert (result.bone_age_years, result.qualifier, result.score) == (None, "mature", 1000.0)
    less = _likely(-1, 0.51)
    less["mc5"] = _likely(-1, 0.49)["mc5"]
    assert STANDARDS[0].read_probabilities(less, sex, TopN(0.92)).qualifier is None


def test_a_hand_without_a_likely_centre_is_below_the_range():
    for standard in STANDARDS:
        result = standard.read_probabilities(_likely(0, 0.6), "M", TopN(0.92))
        assert (result.bone_age_years, result.qualifier) == (None, "below range")


def test_a_missing_bone_is_named_even_where_the_others_are_fused():
    chances = _likely(-1, 0.9)
    del chances["ulna"]
    assert STANDARDS[0].read_probabilities(chances, "F", TopN(0.92)).reason == (
        "not applicable: no stage for ulna; the total needs all 13 bones"
    )


def test_fine_probabilities_sum_into_letters():
    fine = [0.0] * 15
    fine[5], fine[6] = 0.3, 0.4  # radius 5(0) and 5(2), both letter F
    fine[7] = 0.3
    letters = dict(zip(TW3_RUS.levels("radius"), TW3_RUS.probabilities("radius", fine), strict=True))
    assert letters["F"] == pytest.approx(0.7)
    assert letters["G"] == pytest.approx(0.3)
    assert sum(letters.values()) == pytest.approx(1)


def test_certain_probabilities_read_as_their_stages():
    stages = {bone: fine_levels(bone)[4] for bone in RUS}
    certain = {bone: [float(label == stages[bone]) for label in fine_levels(bone)] for bone in RUS}
    for standard in STANDARDS:
        for weighting in (Classic(), Top2(), TopN(0.6)):
            assert standard.read_probabilities(certain, "F", weighting) == standard.read(stages, "F")


def test_carpal_scores_sum_to_1000_and_the_age_is_score_only():
    for sex in ("F", "M"):
        last = {bone: carpal.levels(bone)[-1] for bone in CARPALS}
        assert carpal.total(last, sex) == 1000
        result = carpal.read(last, sex)
        assert (result.bone_age_years, result.score) == (None, 1000)
        assert result.reason.startswith("score only")
        for age, score in table("carpal")["jp_tw2_age_score"][sex][:-1]:
            assert carpal.japanese_tw2_age(score, sex).years == pytest.approx(age, abs=1e-9)
    assert "triquetral" in carpal.read({**dict.fromkeys(CARPALS, "B"), "triquetral": "E"}, "F").reason
    with pytest.raises(ValueError, match="lunate"):
        carpal.total({bone: "B" for bone in CARPALS if bone != "lunate"}, "M")


def test_greulich_pyle_plates_and_brush_deviations_are_as_printed():
    assert len(greulich_pyle.plates_months("M")) == 31
    assert len(greulich_pyle.plates_months("F")) == 27
    assert greulich_pyle.nearest_plate_months(100, "M") == 96
    for sex in ("F", "M"):
        for age, deviation in table("greulich_pyle")["brush_sd_months"][sex]:
            assert greulich_pyle.brush_sd_months(age, sex) == deviation
    # Halfway between the printed 9.79 (120 months) and 10.09 (132 months).
    assert greulich_pyle.brush_sd_months(126, "M") == pytest.approx(9.94)
    assert greulich_pyle.brush_sd_months(2, "M") is None
    assert greulich_pyle.brush_sd_months(193, "F") is None


def test_position_counts_deviations_from_the_chronological_age():
    # Boy of 120 months, bone age 120 - 2 * 9.79: SDS -2, percentile 2.275.
    place = greulich_pyle.position(120 - 2 * 9.79, 120, "M")
    assert place.sds == pytest.approx(-2)
    assert place.percentile == pytest.approx(2.275, abs=1e-3)
    assert greulich_pyle.position(120 - 2.1 * 9.79, 120, "M").word == "delayed"
    assert greulich_pyle.position(120 + 2.1 * 9.79, 120, "M").word == "advanced"
    assert greulich_pyle.position(120, 120, "M").percentile == pytest.approx(50)
    assert sds(10, 10, "M") == (pytest.approx(0), pytest.approx(50), greulich_pyle.REFERENCE)
    assert sds(18, 18, "M") is None


def test_bayley_pinneau_picks_the_table_by_the_lead_of_the_bone_age():
    # Boy, bone age 10.0 years = 120 months: average table 78.4 %, accelerated 74.7 %, retarded 81.2 %.
    assert height.bayley_pinneau(140, 10, 10, "M").adult_height_cm == pytest.approx(14000 / 78.4)
    assert height.bayley_pinneau(140, 10, 8.9, "M").adult_height_cm == pytest.approx(14000 / 74.7)
    assert height.bayley_pinneau(140, 10, 11.1, "M").adult_height_cm == pytest.approx(14000 / 81.2)
    outside = height.bayley_pinneau(100, 5, 5, "M")
    assert outside.adult_height_cm is None
    assert "outside the average table" in outside.reason


def test_tanner_1975_is_the_printed_equation_and_warns():
    # Boys from 12.0: 1.08 h - 4.2 a - 2.6 b + 98 = 162 - 50.4 - 31.2 + 98 = 178.4 at h = 150, a = b = 12.
    result = height.tanner_1975(150, 12, 12, "M")
    assert result.adult_height_cm == pytest.approx(178.4)
    assert result.notes == (height.TANNER_WARNING,)
    assert height.tanner_1975(150, 12, 12, "F").adult_height_cm is None
    before = height.tanner_1975(150, 12, 12, "F", "before").adult_height_cm
    assert before != height.tanner_1975(150, 12, 12, "F", "after").adult_height_cm
    assert height.tanner_1975(180, 18, 18, "M").adult_height_cm is None


def test_chinese_height_reference_is_exact_at_printed_values():
    place = height.height_position(140.2, 10, "M")
    assert place.sds == pytest.approx(0)
    assert place.median_cm == 140.2
    assert height.height_position(134.0, 10, "M").sds == pytest.approx(-1)
    assert height.height_position(100, 10, "M") is None
    assert height.height_position(140, 19, "M") is None
    assert height.height_position(140.1, 10, "F").uncertain == (height.GIRLS_FROM_MEMORY,)


def test_every_table_names_its_source_and_confidence():
    for name in ("rus_chn", "tw3_rus", "tw3_age", "tw3c_age", "carpal", "greulich_pyle", "harmony"):
        assert table(name)["source"]
        assert table(name)["confidence"]


def test_standards_load_without_torch():
    code = "import sys, models.standards; sys.exit('torch' in sys.modules or 'pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
