"""What the picture and the page both show, as rows of text: the methods, the bones, and the words around them.

Where a row is drawn, in which size and colour, is the canvas's own affair; what it says is settled here, once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from models.overlay import STAGE_COLOURS, UNGRADED
from models.reading import CONTRADICTED, MethodResult, Reading, Stage
from models.regions import RUS
from service.reporting import codes, wording
from service.reporting.amendment import Amendment
from service.reporting.codes import Language

_WORDS: Final = {
    "title": ("Bone age", "骨龄"),
    "report": ("Bone age report", "骨龄报告"),
    "not read": ("Bone age not read", "未判读骨龄"),
    "position": ("Position of the bone age", "骨龄位置"),
    "notes": ("To check", "核对要点"),
    "conclusion": ("Conclusion", "结论"),
    "method": ("Method", "方法"),
    "years": ("Years", "岁"),
    "interval": ("90 % interval", "90%区间"),
    "score": ("Score", "总分"),
    "sds": ("SDS (pct.)", "SDS（百分位）"),
    "bones": ("Stages by RUS-CHN", "RUS-CHN分期"),
    "bone": ("Bone", "骨"),
    "stage": ("Stage (TW3)", "分期（TW3）"),
    "probability": ("Prob.", "概率"),
    "runner-up": ("Next", "次选"),
    "change": ("-1/+1 stage, y", "降/升一期（岁）"),
    "chronological": ("chronological age", "生活年龄"),
    "no methods": ("No method gave a bone age.", "没有方法给出骨龄。"),
    "no default": ("{} gave no bone age; the other methods are below.", "{}未给出骨龄，其他方法见下。"),
    "by hand": ("reader", "人工"),
    "own": ("AI: {}", "AI：{}"),
    "absent": ("not found", "未检出"),
    "rejected": ("rejected by the reader", "人工排除"),
    "no stage": ("no stage", "未分期"),
    "name": ("Name", "姓名"),
    "id": ("Patient ID", "患者编号"),
    "sex": ("Sex", "性别"),
    "birth": ("Date of birth", "出生日期"),
    "study": ("Study date", "检查日期"),
    "accession": ("Accession number", "检查号"),
    "guessed": ("(character set guessed)", "（字符集为推测）"),
}


def word(key: str, language: Language) -> str:
    """Return one of the words that stand on picture and page."""
    return _WORDS[key][language == "zh"]


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method: either a bone age and what belongs to it, or why there is none."""

    name: str  # with the curve, where both are shown
    result: MethodResult
    years: str = ""
    interval: str = ""
    sds: str = ""  # with the percentile
    score: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class BoneRow:
    """One of the 13 bones: its stage and how sure that is, or why there is none."""

    name: str
    stage: str
    colour: tuple[int, int, int] | None = None  # of the stage; none without one
    certainty: str = ""
    doubtful: bool = False
    by_hand: bool = False
    runner_up: str = ""
    change: str = ""


def headline(reading: Reading) -> list[MethodResult]:
    """Return what is written large: the default method, on each curve that was used; empty where nothing can be said."""
    methods = wording.in_order(reading)
    shown = [method for method in methods if method.name == reading.default_method] or methods[:1]
    return [method for method in shown if method.bone_age_years is not None or method.qualifier]


def no_headline(reading: Reading, language: Language) -> str:
    """Return what is written large where the default method has no result; another method's age does not take its place."""
    methods = wording.in_order(reading)
    if all(method.bone_age_years is None for method in methods):
        return word("no methods", language)
    return word("no default", language).format(wording.method_name(methods[0].name, language))


def under_headline(method: MethodResult, language: Language) -> str:
    """Return what stands below the large number: the age in years and months, the method and the curve."""
    name, curve = wording.method_name(method.name, language), wording.curve(method.sex, language)
    named = f"{name}（{curve}）" if language == "zh" else f"{name}, {curve}"
    if method.bone_age_years is None:
        return named
    return f"{wording.years_and_months(method.bone_age_years, language)}{'，' if language == 'zh' else ', '}{named}"


def method_rows(reading: Reading, language: Language) -> Iterator[MethodRow]:
    """Yield the methods, the default one first."""
    for method in wording.in_order(reading):
        name = wording.method_name(method.name, language)
        if reading.sex is None:
            curve = wording.curve(method.sex, language)
            name += f"（{curve}）" if language == "zh" else f", {curve}"
        if method.bone_age_years is None:
            yield MethodRow(name, method, why=wording.age_with_interval(method, language))
            continue
        interval = method.interval_years
        position = "" if method.percentile is None else f" ({wording.percentile(method.percentile)})"
        yield MethodRow(
            name,
            method,
            f"{method.bone_age_years:.1f}",
            wording.no_interval(language) if interval is None else f"{interval[0]:.1f} - {interval[1]:.1f}",
            "" if method.sds is None else wording.signed(method.sds) + position,
            "" if method.score is None else f"{method.score:.0f}",
        )


def bone_rows(reading: Reading, language: Language, amendment: Amendment | None = None) -> Iterator[BoneRow]:
    """Yield the bones; of a stage that a person gave, what the grader had said."""
    scored = next((method for method in wording.in_order(reading) if method.per_bone), None)
    for bone in RUS:
        name = wording.bone_label(bone, language) + ("*" if bone in codes.HARD_BONES else "")
        region = reading.region(bone)
        if region is None or region.stage is None:
            rejected = amendment is not None and bone in amendment.rejected
            why = "rejected" if rejected else "absent" if region is None else "no stage"
            yield BoneRow(name, word(why, language))
            continue
        stage = region.stage
        if CONTRADICTED in region.flags:
            name += "!"
        certainty, doubtful, by_hand, runner_up = _certainty(bone, stage, language, amendment)
        yield BoneRow(
            name,
            f"{stage.label} ({stage.letter})",
            STAGE_COLOURS.get(stage.letter, UNGRADED),
            certainty,
            doubtful,
            by_hand,
            runner_up,
            wording.changes(scored.per_bone[bone]) if scored is not None and bone in scored.per_bone else "",
        )


def _certainty(bone: str, stage: Stage, language: Language, amendment: Amendment | None) -> tuple[str, bool, bool, str]:
    if amendment is not None and bone in amendment.stages:
        before = amendment.stage_before(bone)
        return word("by hand", language), False, True, "" if before is None else word("own", language).format(before)
    doubtful = stage.probability < wording.DOUBTFUL
    return f"{100 * stage.probability:.0f} %", doubtful, False, stage.runner_up or ""
