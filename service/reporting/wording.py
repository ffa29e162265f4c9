"""Say in words what the numbers mean, in English (ASCII only, so that any character set holds it) and in Chinese.

Radiology wording: a finding first, then its evidence, then what to check. Nothing here decides anything; it renders a Reading.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from models.reading import CONTRADICTED, BoneScore, MethodResult, Reading, Reason
from models.regions import Sex
from models.standards import STANDARDS
from service.reporting import codes, phrases
from service.reporting.amendment import Amendment
from service.reporting.codes import Concept, Language
from service.reporting.history import Prior, velocities
from service.reporting.results import DISCLAIMER

_BY_STAGES: Final = {standard.name: standard for standard in STANDARDS}
DOUBTFUL: Final = 0.5  # a stage less probable than this is pointed out
CHECKED_FIRST: Final = 3  # bones that the conclusion names
SMALLEST_EFFECT_YEARS: Final = 0.05  # less than this does not show in a tenth of a year


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do so that a rejected film can be read."""

    english: str
    chinese: str

    def text(self, language: Language) -> str:
        """Return it in one language."""
        return self.chinese if language == "zh" else self.english


_REPEAT: Final = Advice(
    "Repeat: one left hand and wrist, postero-anterior, fingers slightly spread, palm flat, from the fingertips to 3 cm of the forearm.",
    "请重摄：左手腕后前位，单手，手指略分开，手掌平放，范围自指尖至前臂远端3厘米。",
)
_RESEND: Final = Advice(
    "Send the original image again from the modality or the archive.", "请从设备或PACS重新发送原始影像。"
)
_NOT_FOR_US: Final = Advice(
    "No repeat is needed: send only hand and wrist radiographs to this service.", "无需重摄：本服务仅接收手腕部X线片。"
)
ADVICE: Final = {
    "no-hand": _NOT_FOR_US,
    "not-a-hand": _NOT_FOR_US,
    "wrong-body-part": _NOT_FOR_US,
    "wrong-modality": _NOT_FOR_US,
    "colour": _NOT_FOR_US,
    "adult": Advice("No repeat is needed: the skeleton is mature.", "无需重摄：骨骼已成熟。"),
    "two-hands": _REPEAT,
    "cast": Advice(
        "Repeat once the cast or splint is off, or send a film of the other hand.",
        "请于拆除石膏或支具后重摄，或改摄对侧手。",
    ),
    "missing-regions": _REPEAT,
    "cropped": _REPEAT,
    "rotated": _REPEAT,
    "oblique": _REPEAT,
    "low-confidence": _REPEAT,
    "low-contrast": Advice("Repeat with the exposure for a child's hand.", "请按儿童手部曝光条件重摄。"),
    "no-pixel-data": _RESEND,
    "undecodable": _RESEND,
    "truncated": _RESEND,
    "unsupported-transfer-syntax": Advice(
        "Send the image uncompressed or with lossless compression.", "请以无压缩或无损压缩格式重新发送。"
    ),
    "too-small": _RESEND,
    "too-large": _RESEND,
    "multi-frame": Advice("Send the film as a single-frame image.", "请以单帧影像发送。"),
}
DEFAULT_ADVICE: Final = Advice(
    "Check the film; repeat it if it does not show one whole hand and wrist.",
    "请核对影像；如未完整显示单手及腕部，请重摄。",
)


def conclusion(
    reading: Reading, language: Language, amendment: Amendment | None = None, history: Sequence[str] = ()
) -> str:
    """Write the conclusion of the report: what a person corrected, one line a method, age, agreement, remarks, disclaimer.

    Parameters
    ----------
    history
        From `history_sentences`.
    """
    lines = [] if amendment is None else correction_sentences(amendment, reading, language)
    lines += [method_sentence(method, language) for method in in_order(reading)]
    lines += filter(None, (age_sentence(reading, language), agreement_sentence(reading, language)))
    lines += history
    lines += filter(None, (said(reading, language) for said in (no_position_sentence, check_sentence, side_sentence)))
    if reading.sex is None:
        lines.append(
            "性别未知：以上分别按男、女标准给出。"
            if language == "zh"
            else "The sex is unknown: results are given on the curves of both sexes."
        )
    lines += [remark_sentence(reason, language) for reason in reading.verdict.reasons]
    lines.append(f"{made_by(reading, language, amendment)}{'' if language == 'zh' else ' '}{disclaimer(language)}")
    return "\n".join(lines)


def history_sentences(reading: Reading, priors: Sequence[Prior], date: dt.date | None, language: Language) -> list[str]:
    """Say how far the default method's bone age advanced since the latest comparable film, else why none is comparable."""
    zh = language == "zh"
    lines = []
    for velocity in velocities(reading, priors, date):
        if velocity.method.name != in_order(reading)[0].name or velocity.prior.study_date is None:
            continue
        name, curve = (
            method_name(velocity.method.name, language),
            codes.CURVES[velocity.method.sex].code(language).meaning,
        )
        name += "" if reading.sex else f"（{curve}）" if zh else f", {curve.lower()}"
        day, before, now = velocity.prior.study_date, velocity.prior.bone_age_years, velocity.method.bone_age_years
        pace, elapsed = velocity.per_year, velocity.elapsed_years
        again = velocity.prior.remark == "reread"
        if zh:
            how = "，既往影像经当前版本重新判读" if again else ""
            lines.append(
                f"与{day}相比（{name}{how}）：骨龄由{before:.1f}岁变为{now:.1f}岁，历时{elapsed:.1f}年，每年{signed(pace)}岁。"
            )
        else:
            how = ", that film read again by the present version" if again else ""
            lines.append(
                f"Since {day} ({name}{how}): bone age {before:.1f} to {now:.1f} years in {elapsed:.1f} years,"
                f" {signed(pace)} years per year."
            )
    latest = priors[-1] if priors else None  # they stand in the order of their dates
    if lines or latest is None or latest.comparable:
        return lines
    why = codes.COMPARABILITIES[latest.remark].code(language).meaning
    name, age = method_name(latest.method, language), years(latest.bone_age_years, language)
    if zh:
        return [f"既往骨龄（{latest.study_date or '日期不明'}，{name}）{age}：{why}。"]
    return [f"Earlier bone age of {latest.study_date or 'unknown date'} ({name}) {age}: {why[0].lower()}{why[1:]}."]


def correction_sentences(amendment: Amendment, reading: Reading, language: Language) -> list[str]:
    """Say who corrected what, and the default method's bone age before it."""
    zh = language == "zh"
    who = amendment.shown_observer
    if amendment.organisation:
        who += f"（{amendment.organisation}）" if zh else f" ({amendment.organisation})"
    changes = corrections(amendment, language)
    lines = [f"{who}修改：{'；'.join(changes)}。" if zh else f"Corrected by {who}: {'; '.join(changes)}."]
    for method in in_order(reading):
        before = amendment.before(method)
        if method.name == reading.default_method and before is not None and before.bone_age_years is not None:
            name, own = method_name(method.name, language), years(before.bone_age_years, language)
            curve = "" if reading.sex else codes.CURVES[method.sex].code(language).meaning
            curve = f"{'，' if zh else ', '}{curve if zh else curve.lower()}" if curve else ""
            lines.append(f"修改前自动判读：{name}{curve} {own}。" if zh else f"Before correction: {name}{curve} {own}.")
    return lines


def corrections(amendment: Amendment, language: Language) -> list[str]:
    """Return one phrase a correction: "MC5 stage 6 -> 7", "MP3 rejected"."""
    zh = language == "zh"
    said = []
    for name, label in amendment.stages.items():
        bone, before = bone_name(name, language), amendment.stage_before(name)
        if before == label:
            said.append(f"{bone} {label}期予以确认" if zh else f"{bone} stage {label} confirmed")
        elif before is None:
            said.append(f"{bone}定为{label}期" if zh else f"{bone} given stage {label}")
        else:
            said.append(f"{bone}由{before}期改为{label}期" if zh else f"{bone} stage {before} -> {label}")
    for name in amendment.rejected:
        bone = bone_name(name, language)
        said.append(f"{bone}区域不予采用" if zh else f"{bone} rejected")
    return said


def rejection(reasons: Sequence[Reason], language: Language) -> str:
    """Write why a film was not read and what to repeat."""
    zh = language == "zh"
    lines = ["未判读骨龄。" if zh else "The bone age was not read."]
    for reason in reasons:
        lines.append(("原因：" if zh else "Reason: ") + reason_sentence(reason, language))
    advice = dict.fromkeys(
        ADVICE.get(codes.canonical(reason.code), DEFAULT_ADVICE).text(language) for reason in reasons
    )
    lines += list(advice) or [DEFAULT_ADVICE.text(language)]
    lines.append(disclaimer(language))
    return "\n".join(lines)


def disclaimer(language: Language) -> str:
    """Return the disclaimer as a sentence."""
    return DISCLAIMER[language] + ("。" if language == "zh" else ".")


def plain(text: str, language: Language) -> str:
    """Return a text from elsewhere as this report may hold it: English reports are ASCII, so that any character set holds them."""
    return text if language == "zh" else text.encode("ascii", "replace").decode("ascii")


def detail(text: str, language: Language) -> str:
    """Return what another step has said, in the language of the report where it can be said in it."""
    return phrases.chinese(text) if language == "zh" else plain(phrases.english(text), language)


def in_order(reading: Reading) -> list[MethodResult]:
    """Return the methods, the default one first, else as read."""
    return sorted(reading.methods, key=lambda method: method.name != reading.default_method)


def method_name(name: str, language: Language) -> str:
    """Return what people call a method."""
    known = {
        "region-xgboost": ("Regression (regions)", "区域回归"),
        "rsna-cnn": ("Regression (whole hand)", "全手回归"),
        "regression": ("Regression", "回归"),
        "zh05": ("Regression (ZH05-DL)", "深度学习（ZH05-DL）"),
    }
    english, chinese = known.get(name, (name, name))
    return chinese if language == "zh" else english


def curve(sex: Sex, language: Language) -> str:
    """Return whose curve a method was read on, within a sentence."""
    meaning = codes.CURVES[sex].code(language).meaning
    return meaning if language == "zh" else meaning.lower()


def years(value: float, language: Language, *, signed: bool = False) -> str:
    """Return an age or a difference of ages, to a tenth of a year."""
    return f"{value:{'+' if signed else ''}.1f}{'岁' if language == 'zh' else ' years'}"


def years_and_months(value: float, language: Language) -> str:
    """Return an age as people say it: "8 y 6 mo", "8岁6个月"; of an infant the months alone."""
    years_, months = divmod(round(12 * value), 12)
    if language == "zh":
        return f"{years_}岁{months}个月" if years_ else f"{months}个月"
    return f"{years_} y {months} mo" if years_ else f"{months} mo"


def signed(value: float) -> str:
    """Return a difference to one place with its sign; "0.0" has none."""
    rounded = round(value, 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}"


def age_with_interval(method: MethodResult, language: Language) -> str:
    """Return "10.3 years (9.6 to 11.0, 90 %)", that the interval was not measured, or why there is no age."""
    zh = language == "zh"
    if method.bone_age_years is None:
        if (
            method.qualifier in codes.QUALIFIERS
        ):  # the reason names the age at which the standard ends; a row of a table has room for that
            said = detail(method.reason or "", language).partition("; ")[0].replace(" of the standard", "")
            return said or codes.QUALIFIERS[method.qualifier].code(language).meaning
        return ("无结果：" if zh else "no result: ") + (
            detail(method.reason or "", language) or ("原因不明" if zh else "no reason given")
        )
    shown = years(method.bone_age_years, language)
    if method.interval_years is not None:
        low, high = method.interval_years
        shown += f"（90%区间 {low:.1f}～{high:.1f}）" if zh else f" ({low:.1f} to {high:.1f}, 90 %)"
    else:
        shown += f"（90%区间{no_interval(language)}）" if zh else f" (90 % interval {no_interval(language)})"
    if method.qualifier in codes.QUALIFIERS:
        shown += ("，{}" if zh else "; {}").format(codes.QUALIFIERS[method.qualifier].code(language).meaning)
    return shown


def no_interval(language: Language) -> str:
    """Say that nobody has measured how far the method errs on real films: a bundle of drawn films alone has no intervals."""
    return "未测定" if language == "zh" else "not measured"


def method_sentence(method: MethodResult, language: Language) -> str:
    """Return one method's result as a sentence."""
    zh = language == "zh"
    curve = codes.CURVES[method.sex].code(language).meaning
    name = method_name(method.name, language)
    sentence = f"{name}（{curve}）：" if zh else f"{name}, {curve.lower()}: "
    sentence += age_with_interval(method, language)
    if method.score is not None:
        sentence += f"，总分{method.score:.0f}" if zh else f"; total score {method.score:.0f}"
    if method.sds is not None:
        place = [] if method.percentile is None else [percentile(method.percentile)]
        beside = [*place, *([detail(method.reference, language)] if method.reference else [])]
        sentence += f"，SDS {signed(method.sds)}" if zh else f"; SDS {signed(method.sds)}"
        if beside:
            sentence += f"（{'，'.join(beside)}）" if zh else f" ({', '.join(beside)})"
    return sentence + ("。" if zh else ".")


def percentile(value: float) -> str:
    """Return "P89"; beyond the first and the ninety-ninth only on which side."""
    return "<P1" if value < 1 else ">P99" if value > 99 else f"P{value:.0f}"


def position_sentence(reading: Reading, language: Language) -> str:
    """Say the standard deviation score of each method that has one, with its reference."""
    parts = []
    for method in in_order(reading):
        if method.sds is not None:
            name, reference = method_name(method.name, language), detail(method.reference or "", language)
            if reading.sex is None:
                on = curve(method.sex, language)
                name += f"（{on}）" if language == "zh" else f", {on}"
            beside = [*([] if method.percentile is None else [percentile(method.percentile)]), reference]
            if language == "zh":
                parts.append(f"{name}：SDS {signed(method.sds)}（{'，'.join(filter(None, beside))}）。")
            else:
                parts.append(f"{name}: SDS {signed(method.sds)} ({', '.join(filter(None, beside))}).")
    return ("" if language == "zh" else " ").join(parts)


def no_position(method: MethodResult, reading: Reading) -> Concept | None:
    """Say why a bone age has no standard deviation score; None where it has one, or there is no bone age."""
    if method.sds is not None or method.bone_age_years is None:
        return None
    if reading.chronological_age_years is None:
        return codes.AGE_UNKNOWN
    return codes.NO_REFERENCE if method.name in _BY_STAGES else codes.OUTSIDE_REFERENCE


def no_position_sentence(reading: Reading, language: Language) -> str:
    """Name the methods without a standard deviation score, and why; the age alone is said elsewhere."""
    zh, sentences = language == "zh", []
    for why in (codes.NO_REFERENCE, codes.OUTSIDE_REFERENCE):
        names = [method_name(m.name, language) for m in in_order(reading) if no_position(m, reading) == why]
        if names:
            listed = ("、" if zh else ", ").join(dict.fromkeys(names))
            meaning = why.code(language).meaning
            sentences.append(f"{listed}不给出SDS：{meaning}。" if zh else f"No SDS for {listed}: {meaning.lower()}.")
    return ("" if zh else " ").join(sentences)


def changes(bone: BoneScore) -> str:
    """Return what one stage less and one stage more would change, in years: "-0.3 / +0.1"."""
    shown = ["-" if c is None else signed(c) for c in (bone.one_stage_down_years, bone.one_stage_up_years)]
    return " / ".join(shown)


def neighbours(method: MethodResult, bone: str) -> tuple[str | None, str | None]:
    """Return the stages below and above the one a bone has in a method's own table; None where there is none."""
    levels, stage = _BY_STAGES[method.name].levels(bone), method.per_bone[bone].stage
    if stage not in levels:  # a Reading kept since another version of the tables
        return None, None
    place = levels.index(stage)
    return levels[place - 1] if place else None, levels[place + 1] if place + 1 < len(levels) else None


def one_stage_sentence(method: MethodResult, bone: str, language: Language) -> str:
    """Say what one stage more and one stage less of a bone would change: "MC5 F->G adds 0.4 y, F->E subtracts 0.3 y"."""
    if method.name not in _BY_STAGES or bone not in method.per_bone:
        return ""
    zh, scored = language == "zh", method.per_bone[bone]
    below, above = neighbours(method, bone)
    parts = []
    moves = (("升至", above, scored.one_stage_up_years), ("降至", below, scored.one_stage_down_years))
    for move, other, change in moves:
        if other is None or change is None:
            continue
        if abs(change) < SMALLEST_EFFECT_YEARS:
            parts.append(f"{move}{other}期骨龄不变" if zh else f"{scored.stage}->{other} changes nothing")
        elif zh:
            parts.append(f"{move}{other}期骨龄{signed(change)}岁")
        else:
            parts.append(f"{scored.stage}->{other} {'adds' if change > 0 else 'subtracts'} {abs(change):.1f} y")
    if not parts:
        return ""
    name = bone_name(bone, language)
    return (
        f"{name}{scored.stage}期，{'，'.join(parts)}（{method.name}）"
        if zh
        else f"{name} {', '.join(parts)} ({method.name})"
    )


def bone_name(bone: str, language: Language) -> str:
    """Return the short name of a region that a reader uses: MC5, or its Chinese name."""
    named = codes.BONES.get(bone)
    return named.chinese if named is not None and language == "zh" else bone.upper()


def bone_label(bone: str, language: Language) -> str:
    """Return what names a region in a table: in Chinese with the short name that stands on the film."""
    return f"{bone_name(bone, language)} {bone.upper()}" if language == "zh" else bone_name(bone, language)


def check_sentence(reading: Reading, language: Language) -> str:
    """Name the bones whose stage is worth a look: those that the others contradict, then those in doubt or hard to stage.

    Of either the one that weighs most on the age comes first.
    """
    method = next((m for m in in_order(reading) if m.per_bone and m.name in _BY_STAGES), None)
    if method is None:
        return ""
    weights: dict[str, tuple[bool, float]] = {}
    for bone, scored in method.per_bone.items():
        region = reading.region(bone)
        if region is None or region.stage is None:
            continue
        contradicted, probability = CONTRADICTED in region.flags, region.stage.probability
        if not contradicted and probability >= DOUBTFUL and bone not in codes.HARD_BONES:
            continue
        effect = max(abs(scored.one_stage_down_years or 0.0), abs(scored.one_stage_up_years or 0.0))
        if effect >= SMALLEST_EFFECT_YEARS:
            weights[bone] = contradicted, effect * (1 if contradicted else 1 - probability)
    first = sorted(weights, key=lambda bone: weights[bone], reverse=True)[:CHECKED_FIRST]
    sentences = [sentence for bone in first if (sentence := one_stage_sentence(method, bone, language))]
    if not sentences:
        return ""
    return f"请重点核对：{'；'.join(sentences)}。" if language == "zh" else f"Check first: {'; '.join(sentences)}."


def marks_note(language: Language) -> str:
    """Explain the marks beside the bones that are hard to stage or that the others contradict, and the red probabilities."""
    if language == "zh":
        return "* 阅片者间易有分歧（Wang 2022）。! 与其余各骨不符。概率低于50%者为红色。"
    return "* Readers often differ (Wang 2022). ! The other bones contradict it. Below 50 % is red."


def age_sentence(reading: Reading, language: Language) -> str:
    """Say the chronological age and how far the default method's bone age lies from it."""
    age, zh = reading.chronological_age_years, language == "zh"
    if age is None:
        return "生活年龄未知。" if zh else "The chronological age is unknown."
    shown = years_and_months(age, language)
    sentence = (
        f"生活年龄{years(age, language)}（{shown}）" if zh else f"Chronological age {years(age, language)} ({shown})"
    )
    methods = in_order(reading)
    if reading.sex is not None and methods and methods[0].bone_age_years is not None:
        name, bone_age = method_name(methods[0].name, language), methods[0].bone_age_years
        difference, shown = bone_age - age, years_and_months(bone_age, language)
        size = years(abs(difference), language)
        if round(12 * bone_age) == round(12 * age):
            where = "与之相符" if zh else "equals it"
        elif zh:
            where = f"较生活年龄{'提前' if difference > 0 else '落后'}{size}"
        else:
            where = f"is {size} {'ahead of' if difference > 0 else 'behind'} it"
        sentence += f"；骨龄（{name}）{shown}，{where}" if zh else f"; bone age ({name}) {shown} {where}"
    return sentence + ("。" if zh else ".")


def side_sentence(reading: Reading, language: Language) -> str:
    """Say of a right hand that the standards know left ones; nothing of a left one, or of a side that nobody knows."""
    if (reading.image.laterality or reading.image.laterality_declared) != "R":
        return ""
    return (
        "右手片：各标准均依据左手制定。" if language == "zh" else "Right hand: the standards were made from left hands."
    )


def agreement_sentence(reading: Reading, language: Language) -> str:
    """Say whether the methods agree, with the spread and the limit."""
    agreement, zh = reading.agreement, language == "zh"
    if agreement.spread_years is None:
        return ""
    spread = years(agreement.spread_years, language)
    limit = "" if agreement.threshold_years is None else years(agreement.threshold_years, language)
    if agreement.alarm:
        sentence = f"各方法结果不一致（极差{spread}" if zh else f"The methods disagree: spread {spread}"
    else:
        sentence = f"各方法结果一致（极差{spread}" if zh else f"The methods agree: spread {spread}"
    sentence += (f"，阈值{limit}" if zh else f", limit {limit}") if limit else ""
    sentence += "）" if zh else ""
    if agreement.alarm:
        sentence += "，请人工复核" if zh else "; review the film"
    return sentence + ("。" if zh else ".")


def reason_sentence(reason: Reason, language: Language) -> str:
    """Return a reason in words: the coded meaning, and what was measured where it is known."""
    known = codes.REASONS.get(codes.canonical(reason.code))
    measured = detail(reason.text.strip().rstrip("."), language)
    if language == "zh":
        meaning = known.chinese if known else codes.OTHER_REASON.chinese
        return f"{meaning}（{measured}）。" if measured else f"{meaning}。"
    meaning = known.english if known else measured or codes.OTHER_REASON.english
    return f"{meaning}: {measured}." if known and measured else f"{meaning}."


def remark_sentence(reason: Reason, language: Language) -> str:
    """Return what was remarked on a film that was read all the same."""
    return ("提示：" if language == "zh" else "Note: ") + reason_sentence(reason, language)


def made_by(reading: Reading, language: Language, amendment: Amendment | None = None) -> str:
    """Say what made the reading, and whether a person has verified it."""
    bundle = f"{reading.bundle.name} {reading.bundle.version} ({reading.bundle.sha256[:12]})"
    zh = language == "zh"
    if amendment is None:
        by = "由Carpus自动判读" if zh else "Read automatically by Carpus"
    else:
        by = "由Carpus自动判读后经人工修改" if zh else "Read automatically by Carpus, then corrected by a person"
    if amendment is not None and amendment.verified:
        checked = f"经{amendment.shown_observer}审核" if zh else f"verified by {amendment.shown_observer}"
    else:
        checked = "未经医师审核" if zh else "not verified by a radiologist"
    if zh:
        return f"{by}，模型 {bundle}，{checked}。"
    return f"{by}, models {bundle}; {checked}."
