"""What is said, in both languages: every cause has its words, every number its unit, nothing foreign is left in a Chinese report."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont

import models
import service
from models.calibration import SignOff, SiteCalibration
from models.detection import hidden, verdict
from models.detection.second import Other
from models.image import Image
from models.reading import CONTRADICTED, ImageFacts, MethodResult, Reading, Reason, Region, Stage
from models.regions import RUS
from models.scoring import Scoring
from models.standards import RUS_CHN, TW3_RUS, fine_levels, harmony
from models.standards.stages import named_stage
from service.reporting import codes, phrases, result_tables, seg, sr, typesetting, wording
from service.reporting.amendment import Amendment
from service.reporting.results import ResultContext
from service.routing import RULES, Outcome
from tests.service import readings
from tests.service.test_sr import AT, CONTEXT, child, children, film, groups, reread

CHINESE = ResultContext("2.25.42", AT, "zh")
# A job whose header holds no identifier gets no report to stand in, and a folder on disk no PACS.
WITHOUT_A_REPORT = {"no-sop-instance-uid", "file-missing"}


def raised(pattern: str, *folders: Path) -> set[str]:
    return {
        code for folder in folders for path in folder.rglob("*.py") for code in re.findall(pattern, path.read_text())
    }


def every_reason() -> set[str]:
    """Collect the codes of reasons from where they are given: models, codecs, the routing rules, the copy for inference."""
    root, home = Path(models.__file__).parent, Path(service.__file__).parent
    found = raised(r'Reason\(\s*"([a-z-]+)"', root) | raised(r'UnreadablePixels\(\s*"([a-z-]+)"', root)
    found |= set(re.findall(r'code="([a-z-]+)"', (home / "deidentification" / "native_pixels.py").read_text()))
    return (found | {rule.code for rule in RULES if rule.outcome is Outcome.REJECT}) - WITHOUT_A_REPORT


def test_every_reason_that_is_given_has_its_code_its_words_and_its_advice() -> None:
    found = every_reason()
    assert {"not-a-hand", "undecodable", "wrong-body-part", "rotated", "truncated", "not-outlined"} <= found
    assert {code for code in found if codes.canonical(code) not in codes.REASONS} == set()
    remarks = {
        "polarity",
        "laterality",
        "side-marker",
        "order",
        "not-outlined",
        "stages-apart",
        CONTRADICTED,
        "near-mature",
        "unlike-training",
    }  # on films that are read
    assert {code for code in found - remarks if codes.canonical(code) not in wording.ADVICE} == set()


@pytest.mark.parametrize("code", sorted(codes.REASONS))
def test_a_rejection_says_reason_and_advice_in_both_languages(code: str) -> None:
    english = wording.rejection([Reason(code, "")], "en").split("\n")
    chinese = wording.rejection([Reason(code, "")], "zh").split("\n")
    assert english[0] == "The bone age was not read."
    assert chinese[0] == "未判读骨龄。"
    assert english[1] == f"Reason: {codes.REASONS[code].english}."
    assert chinese[1] == f"原因：{codes.REASONS[code].chinese}。"
    assert len(english) == len(chinese) == 4
    assert "".join(english).isascii()
    assert not re.search(r"[a-z]{4}", "".join(chinese))  # PACS and the like apart, nothing is left in English
    assert english[-1] == "For research, not for clinical use."
    assert chinese[-1] == "仅供科研，不用于临床。"


def facts(**changes: object) -> ImageFacts:
    return dataclasses.replace(readings.facts(), **changes)  # type: ignore[arg-type]


def image(level: float = 0.5) -> Image:
    pixels = np.full((64, 64), level, np.float32)
    pixels[0, 0] = 0
    return Image(pixels)


HIDDEN = dict(
    zip(
        codes.SITES,
        (hidden.COVERED, hidden.COINCIDES, hidden.UNSURE, hidden.GRAIN, hidden.UNDER_CAST),
        strict=False,
    )
)


def said_by_the_detector() -> list[str]:
    every = list(codes.SITES)
    seen = verdict.Evidence(0.9, 0.9, every[:18], 0.9, 0.1, ("mc3", "pp1"))
    turned = facts(rotation_degrees=-95.0, polarity="bone dark", laterality="R", laterality_declared="L")
    judged = [
        verdict.judge(image(), turned, seen),
        verdict.judge(image(), facts(), dataclasses.replace(seen, found=every[:20], two_hands_probability=0.0)),
        verdict.judge(image(), facts(), dataclasses.replace(seen, hand_probability=0.1)),
        verdict.judge(image(), facts(), dataclasses.replace(seen, found=every[:5])),
        verdict.judge(image(), facts(), dataclasses.replace(seen, fitting=0.2)),
        verdict.judge(image(0.0), facts(), seen),
        verdict.judge(image(), facts(), dataclasses.replace(seen, found=every[6:], hidden=HIDDEN)),
        *(
            verdict.judge(image(), facts(laterality=read), dataclasses.replace(seen, other=Other(side, lies)))
            for read, side, lies in (
                ("L", "R", "above"),
                ("L", "L", "below"),
                ("R", "R", "beside"),
                ("R", "L", "below"),
            )
        ),
    ]
    return [reason.text for each in judged for reason in each.reasons]


def said_by_the_standards() -> list[str]:
    stages = {bone: RUS_CHN.levels(bone)[-1] for bone in RUS}
    young = {bone: RUS_CHN.levels(bone)[0] for bone in RUS}
    some = {bone: label for bone, label in stages.items() if bone != "mc3"}
    results = [method.read(given, "F") for method in (RUS_CHN, TW3_RUS) for given in (stages, young, some)]
    doubtful = RUS_CHN.read_scores(dict.fromkeys(RUS, 600 / 13), dict.fromkeys(RUS, "1"), "F")
    return [text for each in (*results, doubtful) for text in (each.reason, each.reference) if text]


def contradicted(fused: str = "mc1", years: float = 10.0) -> Reading:
    """A girl's hand as is usual at an age, one bone of it graded as fused, as the Reader returns it."""
    ages, mean, _ = harmony.usual("F")
    stages = {}
    for index, bone in enumerate(RUS):
        usual = len(fine_levels(bone)) - 1 if bone == fused else int(np.interp(years, ages, mean[:, index]))
        chances = np.full(len(fine_levels(bone)), 0.01)
        chances[usual] = 1
        stages[bone] = named_stage(bone, chances)
    scoring = Scoring(contradiction=harmony.Contradiction(0.8, 0.01, 0.01))
    base, results = readings.reading(), scoring.by_stages(stages, ("F",))
    regions, verdict = scoring.staged(base.regions, stages, ("F",)), scoring.remarked(base.verdict, stages, results)
    return dataclasses.replace(base, regions=regions, verdict=verdict, methods=results)


def said_of_a_single_bone() -> list[str]:
    return [
        reason.text
        for bone in RUS
        for years in (3.0, 7.0, 10.0)
        for reason in contradicted(bone, years).verdict.reasons
    ]


def test_a_bone_that_the_others_contradict_is_named_with_its_stage_and_those_to_expect() -> None:
    (reason,) = contradicted().verdict.reasons
    assert reason.text == "mc1 is graded 8 (TW3 I) where the other bones let expect 4 to 6(0) (TW3 E to G), look at it"
    assert wording.remark_sentence(reason, "en") == (
        "Note: Stage of one bone contradicts the others: "
        "metacarpal 1 is graded 8 (TW3 I) where the other bones let expect 4 to 6(0) (TW3 E to G), look at it."
    )
    assert wording.remark_sentence(reason, "zh") == (
        "提示：单骨分期与其余各骨不符（第一掌骨判为8期（TW3 I期），据其余各骨应为4～6(0)期（TW3 E～G期），请核对）。"
    )


@pytest.mark.parametrize("context", [CONTEXT, CHINESE])
def test_the_report_flags_the_bone_that_the_others_contradict_and_says_so_of_the_film(context: ResultContext) -> None:
    reading = contradicted()
    found = groups(reread(sr.build(film(), reading, context)))
    flags = {
        name: [item.ConceptCodeSequence[0].CodeValue for item in children(found[name], "REGIONFLAG")] for name in RUS
    }
    assert {name for name, given in flags.items() if "CONTRADICTED" in given} == {"mc1"}
    reasons = [item.ConceptCodeSequence[0].CodeValue for item in children(found["film"], "REASON")]
    comments = [item.TextValue for item in children(found["film"], "121106")]
    assert reasons == ["CONTRADICTED"]
    language: codes.Language = "zh" if context is CHINESE else "en"
    assert comments == [wording.reason_sentence(reading.verdict.reasons[0], language)]
    assert wording.remark_sentence(reading.verdict.reasons[0], language) in wording.conclusion(reading, language)


def test_an_anatomy_that_contradicts_a_region_has_a_flag_of_its_own() -> None:
    regions = tuple(
        dataclasses.replace(r, flags=("order",)) if r.name == "mc3" else r for r in readings.reading().regions
    )
    found = groups(reread(sr.build(film(), readings.reading(regions=regions), CONTEXT)))
    flags = [item.ConceptCodeSequence[0].CodeValue for item in children(found["mc3"], "REGIONFLAG")]
    assert flags == ["ANATOMY"]


def test_the_bone_that_the_others_contradict_is_checked_first_and_marked_in_the_table() -> None:
    reading = contradicted()
    assert wording.check_sentence(reading, "en").startswith("Check first: MC1 8->7(2) subtracts ")
    names = [row.name for row in result_tables.bone_rows(reading, "en")]
    assert [name for name in names if "!" in name] == ["MC1!"]
    assert "! The other bones contradict it." in wording.marks_note("en")
    assert "! 与其余各骨不符" in wording.marks_note("zh")


def test_what_the_models_say_can_be_said_in_chinese() -> None:
    texts = [*said_by_the_detector(), *said_by_the_standards(), *said_of_a_single_bone()]
    assert len(said_of_a_single_bone()) > 20
    texts += [
        "bundle default 0.2 holds no weights for grading",
        "no outline of radius and ulna: the bone was not found in its region",
        "distance 3.27 from the films learned from, where 1 is usual and 99% stay below 2.48",
        "distance 3.27 from the films learned from, where 1 is usual and the limit is 2.48",
        "the joints of the middle finger are 8.3 pixels wide; stages need at least 22",
    ]
    assert len(texts) > 12
    for text in texts:
        translated = phrases.chinese(text)
        assert not re.search(r"[a-z]{3}", re.sub(r"MONOCHROME\d|default|Brush", "", translated)), text
        for value in re.findall(r"\d+\.\d+|\d{3,}", text):  # what was measured is not lost
            assert value in translated


def test_bones_are_named_in_english_as_a_radiologist_writes_them() -> None:
    reason = Reason("missing-regions", "not seen on the film: dp2, mc5; at most 3 may be missing, the radius not")
    assert "distal phalanx 2, metacarpal 5; at most 3" in wording.rejection([reason], "en")
    assert phrases.english("mp3dp5 tamp3 mp6") == "mp3dp5 tamp3 mp6"


def test_what_no_pattern_knows_stays_as_it_came() -> None:
    assert phrases.chinese("something new: 12.3") == "something new: 12.3"
    assert (
        phrases.chinese("the code stream has 101 scans and 110 segments or more") == "码流含101次扫描和110个以上标记段"
    )
    assert phrases.chinese("no hand was seen (probability 0.12; the limit is 0.5)") == "未见手部，概率0.12，阈值0.5"


def test_the_report_refers_to_the_segment_of_each_outlined_bone_and_cites_the_segmentation() -> None:
    report = reread(sr.build(film(), readings.reading(), CONTEXT))
    found = groups(report)
    uids = set()
    for place, name in enumerate(("radius", "ulna"), 1):
        cited = child(found[name], "OUTLINEDBY").ReferencedSOPSequence[0]
        assert cited.ReferencedSegmentNumber == place
        uids.add(cited.ReferencedSOPInstanceUID)
    segmentation = seg.build(film(), readings.reading(), CONTEXT)
    assert segmentation is not None
    assert uids == {segmentation.SOPInstanceUID}
    evidence = [
        (series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    assert (segmentation.SeriesInstanceUID, segmentation.SOPInstanceUID) in evidence
    without = ResultContext("2.25.42", AT, kinds=("SR", "SC"))
    assert not children(groups(sr.build(film(), readings.reading(), without))["radius"], "OUTLINEDBY")


def test_hard_and_doubtful_bones_are_flagged() -> None:
    reading = readings.reading()
    regions = tuple(
        dataclasses.replace(region, stage=dataclasses.replace(region.stage, probability=0.31))
        if region.name == "mc3" and region.stage
        else region
        for region in reading.regions
    )
    found = groups(sr.build(film(), readings.reading(regions=regions), CONTEXT))
    flags = {
        name: [item.ConceptCodeSequence[0].CodeValue for item in children(found[name], "REGIONFLAG")] for name in RUS
    }
    assert {name for name, given in flags.items() if "HARDBONE" in given} == {"pp1", "pp5"}
    assert {name for name, given in flags.items() if "DOUBTFUL" in given} == {"mc3"}


def test_a_method_without_a_reference_says_why() -> None:
    bare = dataclasses.replace(readings.reading().methods[0], sds=None, percentile=None, reference=None)
    outside = dataclasses.replace(bare, name="rsna-cnn", per_bone={})

    def why(method: MethodResult, age: float | None = 9.6) -> str:
        reading = readings.reading(methods=(method,), chronological_age_years=age)
        group = groups(sr.build(film(), reading, CONTEXT))[f"{method.name} F"]
        return str(child(group, "NOSDS").ConceptCodeSequence[0].CodeValue)

    assert (why(bare), why(outside), why(bare, None)) == ("NOREFERENCE", "OUTSIDEREF", "AGEUNKNOWN")
    said = wording.conclusion(readings.reading(methods=(bare,)), "en")
    assert "No SDS for RUS-CHN: no standard deviations are published for the method." in said


def test_one_stage_more_or_less_is_said_as_a_reader_says_it() -> None:
    stages = {bone: RUS_CHN.levels(bone)[len(RUS_CHN.levels(bone)) // 2] for bone in RUS}
    fine, coarse = RUS_CHN.read(stages, "F"), TW3_RUS.read(stages, "F")
    scored = coarse.per_bone["mc5"]
    assert scored.one_stage_up_years is not None
    letter, above = scored.stage, chr(ord(scored.stage) + 1)
    adds = f"MC5 {letter}->{above} adds {scored.one_stage_up_years:.1f} y"
    assert wording.one_stage_sentence(coarse, "mc5", "en").startswith(adds)
    assert wording.one_stage_sentence(fine, "mc5", "zh").startswith(f"第五掌骨{stages['mc5']}期，升至")
    reading = readings.reading(methods=(fine,))
    comments = [item.TextValue for item in children(groups(sr.build(film(), reading, CONTEXT))["mc5"], "121106")]
    assert comments == [wording.one_stage_sentence(fine, "mc5", "en")]


def test_the_conclusion_names_the_doubtful_bone_that_weighs_most_first() -> None:
    stages = {bone: RUS_CHN.levels(bone)[6] for bone in RUS}
    method = RUS_CHN.read(stages, "F")
    regions = tuple(
        Region(bone, readings.box(bone), 0.9, Stage("RUS-CHN", label, "E", 0.3 if bone in ("radius", "dp5") else 0.9))
        for bone, label in stages.items()
    )
    said = wording.check_sentence(readings.reading(methods=(method,), regions=regions), "en")
    assert said.startswith("Check first: RADIUS ")  # of the 13 it has the widest steps
    assert "MC3" not in said


def test_the_parameters_the_reader_ran_with_stand_in_the_report() -> None:
    sign = SignOff("A. Reader", "2026-11-01", 121, "0" * 64, "default 0.2", "1" * 64)
    scoring = Scoring(threshold_years=2.0, calibration=SiteCalibration("north", (), sign))
    parameters = scoring.parameters()
    assert parameters == {
        "weighting": "TopN 0.61",
        "alarm above": "2 years",
        "site calibration": "north, 2026-11-01, 121 films",
    }
    report = sr.build(film(), readings.reading(parameters=parameters), CONTEXT)
    given = {item.TextValue for item in children(groups(report)["RUS-CHN F"], "111002")}
    assert {"weighting: TopN 0.61", "alarm above: 2 years"} <= given


# By whose English meaning viewers find their way; everything else in a Chinese report is Chinese.
SKELETON = {
    *(
        "Imaging Measurement Report",
        "Image Library",
        "Image Library Group",
        "Imaging Measurements",
        "Measurement Group",
    ),
    *("Tracking Identifier", "Tracking Unique Identifier", "Finding", "Finding Site", "Image Region", "Source"),
    *("Chinese (S)", "Computed Radiography", "Digital Radiography"),
}


def test_a_chinese_report_shows_chinese_meanings_all_but_the_skeleton() -> None:
    shown: set[str] = set()

    def walk(item: object) -> None:
        for keyword in ("ConceptNameCodeSequence", "ConceptCodeSequence"):
            shown.update(str(code.CodeMeaning) for code in item.get(keyword, ()))  # type: ignore[attr-defined]
        for nested in item.get("ContentSequence", ()):  # type: ignore[attr-defined]
            walk(nested)

    walk(reread(sr.build(film(), readings.reading(alarm=True, reasons=(Reason("rotated", ""),)), CHINESE)))
    foreign = {meaning for meaning in shown if meaning.isascii() and re.search("[A-Za-z]{2}", meaning)}
    assert foreign <= SKELETON


def test_the_english_text_is_ascii_and_the_chinese_one_can_be_drawn() -> None:
    held = set(TTFont(str(typesetting.CHINESE_FONT)).getBestCmap())
    texts = [phrases.chinese(text) for text in (*said_by_the_detector(), *said_by_the_standards())]
    texts += [chinese for _, chinese, _ in phrases._PATTERNS] + [words[1] for words in result_tables._WORDS.values()]
    reading = readings.reading(alarm=True)
    assert wording.conclusion(reading, "en").isascii()
    texts.append(wording.conclusion(reading, "zh"))
    assert {c for text in texts for c in text if not c.isascii() and ord(c) not in held} == set()


@pytest.mark.parametrize(
    ("years", "english", "chinese"),
    [(8.5, "8 y 6 mo", "8岁6个月"), (0.9, "11 mo", "11个月"), (11.96, "12 y 0 mo", "12岁0个月")],
)
def test_an_age_is_said_in_years_and_months(years: float, english: str, chinese: str) -> None:
    assert (wording.years_and_months(years, "en"), wording.years_and_months(years, "zh")) == (english, chinese)


def test_the_age_is_set_beside_the_chronological_one() -> None:
    reading = readings.reading()
    assert wording.age_sentence(reading, "en") == (
        "Chronological age 9.6 years (9 y 7 mo); bone age (RUS-CHN) 10 y 6 mo is 0.9 years ahead of it."
    )
    assert wording.age_sentence(reading, "zh") == (
        "生活年龄9.6岁（9岁7个月）；骨龄（RUS-CHN）10岁6个月，较生活年龄提前0.9岁。"
    )


def test_ages_of_the_same_month_are_equal() -> None:
    known = readings.reading()  # the bone age is 10.53 years
    near = dataclasses.replace(known, chronological_age_years=10.47)
    assert wording.age_sentence(near, "en").endswith("bone age (RUS-CHN) 10 y 6 mo equals it.")
    assert "0.1 years behind" in wording.age_sentence(dataclasses.replace(known, chronological_age_years=10.6), "en")


def test_a_right_hand_is_remarked_on_for_the_standards_know_left_ones() -> None:
    right = readings.reading(image=dataclasses.replace(readings.facts(), laterality="R"))
    assert "Right hand: the standards were made from left hands." in wording.conclusion(right, "en")
    assert "右手片" in wording.conclusion(right, "zh")
    assert "Right hand" not in wording.conclusion(readings.reading(), "en")


def test_with_both_curves_each_position_names_its_own() -> None:
    said = wording.position_sentence(readings.reading(sex=None), "en")
    assert "RUS-CHN, girls: SDS" in said
    assert "RUS-CHN, boys: SDS" in said


def test_picture_and_page_show_what_a_person_changed_beside_what_was_read() -> None:
    """A row of a corrected bone says who set it, not how sure the grader is of another stage."""
    original = readings.reading()
    amendment = Amendment("TEST^READER", "HOSPITAL", AT, True, original, {"mc5": "6"}, ("dp5",))
    without = dataclasses.replace(original, regions=tuple(r for r in original.regions if r.name != "dp5"))
    rows = {row.name: row for row in result_tables.bone_rows(without, "en", amendment)}
    assert (rows["MC5"].certainty, rows["MC5"].by_hand, rows["MC5"].runner_up) == ("reader", True, "AI: 5")
    assert rows["DP5"].stage == "rejected by the reader"
    assert {row.name: row.stage for row in result_tables.bone_rows(without, "en")}["DP5"] == "not found"


@pytest.mark.parametrize(
    ("language", "default", "none"),
    [
        ("en", "RUS-CHN gave no bone age; the other methods are below.", "No method gave a bone age."),
        ("zh", "RUS-CHN未给出骨龄，其他方法见下。", "没有方法给出骨龄。"),
    ],
)
def test_the_headline_without_the_default_method_does_not_deny_the_others(
    language: codes.Language, default: str, none: str
) -> None:
    whole = readings.reading()

    def missing(*names: str) -> Reading:
        lost = {"bone_age_years": None, "interval_years": None, "reason": "no stage for dp5"}
        methods = (dataclasses.replace(m, **lost) if m.name in names else m for m in whole.methods)  # type: ignore[arg-type]
        return dataclasses.replace(whole, methods=tuple(methods))

    assert result_tables.headline(missing("RUS-CHN")) == []
    assert result_tables.no_headline(missing("RUS-CHN"), language) == default
    assert result_tables.no_headline(missing(*(m.name for m in whole.methods)), language) == none


def test_lines_break_where_chinese_and_english_allow_it() -> None:
    lines = typesetting.wrap("骨龄（RUS-CHN）较生活年龄大1.2岁。", 8, len)
    assert all(not line.startswith(("）", "。")) and not line.endswith("（") for line in lines)
    assert "".join(lines) == "骨龄（RUS-CHN）较生活年龄大1.2岁。"
    assert typesetting.wrap("one two three", 7, len) == ["one two", "three"]
    assert typesetting.shortened("one two three", 9, len) == "one tw..."


def test_a_rejected_film_of_several_reasons_gives_each_advice_once() -> None:
    said = wording.rejection([Reason("two-hands", ""), Reason("cropped", ""), Reason("no-pixel-data", "")], "en")
    assert said.count("Repeat: one left hand") == 1
    assert said.count("Send the original image again") == 1


@pytest.mark.parametrize(
    ("reason", "qualifier", "english", "chinese"),
    [
        (
            "mature: at least 18 years; the standard ends there",
            "mature",
            "mature: at least 18 years",
            "已成熟：至少18岁",
        ),
        (
            "below the range of the standard: less than 1 year",
            "below range",
            "below the range: less than 1 year",
            "小于1岁",
        ),
        (
            "below the range of the standard: less than 2 years",
            "below range",
            "below the range: less than 2 years",
            "小于2岁",
        ),
    ],
)
def test_a_hand_beyond_a_standard_is_told_where_the_standard_ends(
    reason: str, qualifier: str, english: str, chinese: str
) -> None:
    method = MethodResult("RUS-CHN", "M", None, score=1000.0, qualifier=qualifier, reason=reason)
    assert wording.method_sentence(method, "en") == f"RUS-CHN, boys: {english}; total score 1000."
    assert chinese in wording.method_sentence(method, "zh")
