"""Hold every concept that our results use: one table, from which `docs/codes.md` is written.

Meanings are given in English and Chinese. The few concepts by whose meaning viewers are known to find their way through the
template (those without a Chinese meaning) are always written in English; the rest follows the language of the report. What no
public scheme holds is coded under our own, declared in the Coding Scheme Identification Sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from pydicom.sr.coding import Code

from models.reading import CONTRADICTED
from models.regions import REGIONS

Language = Literal["en", "zh"]
PRIVATE_SCHEME: Final = "99CARPUS"
PRIVATE_SCHEME_NAME: Final = "Carpus bone age concepts"
PRIVATE_SCHEME_VERSION: Final = "1"


@dataclass(frozen=True, slots=True)
class Concept:
    """One coded concept.

    Parameters
    ----------
    value, scheme
        Code Value (at most 16 characters, PS3.5 6.2 SH) and Coding Scheme Designator.
    english, chinese
        Code Meaning (at most 64 characters, LO). An empty `chinese` keeps the English one in every language.
    """

    value: str
    scheme: str
    english: str
    chinese: str = ""

    def __post_init__(self) -> None:
        """Refuse what the value representations cannot hold."""
        if not 0 < len(self.value) <= 16:
            raise ValueError(f"code value {self.value!r} has {len(self.value)} characters; 1 to 16 are allowed")
        if not 0 < len(self.english) <= 64 or len(self.chinese) > 64:
            raise ValueError(f"the meaning of {self.value} is empty or longer than 64 characters")

    def code(self, language: Language = "en") -> Code:
        """Return the code with its meaning in one language."""
        meaning = self.chinese if language == "zh" and self.chinese else self.english
        return Code(self.value, self.scheme, meaning)


def _private(value: str, english: str, chinese: str) -> Concept:
    return Concept(value, PRIVATE_SCHEME, english, chinese)


# The number itself. LOINC holds the observation and the radiographic procedure (loinc.org).
BONE_AGE: Final = Concept("85151-9", "LN", "Bone age", "骨龄")
PROCEDURE: Final = Concept("37362-1", "LN", "XR Bone age", "骨龄X线摄影")
UNCERTAINTY: Final = Concept("371884006", "SCT", "+/-, range of measurement uncertainty", "测量不确定度")
YEAR: Final = Concept("a", "UCUM", "year", "岁")
UNITY: Final = Concept("1", "UCUM", "no units", "无单位")
PERCENT: Final = Concept("%", "UCUM", "Percent", "%")
DEGREE: Final = Concept("deg", "UCUM", "degrees of plane angle", "度")
Z_SCORE: Final = Concept("121416", "DCM", "Z-Score of measurement", "标准差分值（SDS）")
PERCENTILE: Final = Concept("121415", "DCM", "Percentile Ranking of measurement", "百分位数")
REFERENCE: Final = Concept("121406", "DCM", "Reference Authority", "参考标准")

# The skeleton of TID 1500 and TID 1410 (PS3.16); highdicom writes most of it.
TITLE: Final = Concept("126000", "DCM", "Imaging Measurement Report")
# The concept of the document in an Encapsulated PDF: LOINC's radiographic bone age report.
DOCUMENT_TITLE: Final = PROCEDURE
OF_INTEREST: Final = Concept("113000", "DCM", "Of Interest")  # CID 7010, title of a key object note
FINDING: Final = Concept("121071", "DCM", "Finding")
FINDING_SITE: Final = Concept("363698007", "SCT", "Finding Site")
COMMENT: Final = Concept("121106", "DCM", "Comment", "说明")
CONCLUSIONS: Final = Concept("121076", "DCM", "Conclusions", "结论")
CONCLUSION: Final = Concept("121077", "DCM", "Conclusion", "结论")
METHOD: Final = Concept("370129005", "SCT", "Measurement Method", "测量方法")
ARTIFICIAL_INTELLIGENCE: Final = Concept("123110", "DCM", "Artificial Intelligence", "人工智能")
# What the library writes and people read. The rest of the skeleton stays English in every language: viewers look for
# "Imaging Measurements", "Measurement Group", "Finding" and the like by their meaning.
BY_THE_TEMPLATE: Final = (
    Concept("121049", "DCM", "Language of Content Item and Descendants", "语言"),
    Concept("121005", "DCM", "Observer Type", "观察者类型"),
    Concept("121006", "DCM", "Person", "人员"),
    Concept("121007", "DCM", "Device", "设备"),
    Concept("121008", "DCM", "Person Observer Name", "观察者姓名"),
    Concept("121009", "DCM", "Person Observer's Organization Name", "观察者所属机构"),
    Concept("121012", "DCM", "Device Observer UID", "设备UID"),
    Concept("121013", "DCM", "Device Observer Name", "设备名称"),
    Concept("121014", "DCM", "Device Observer Manufacturer", "设备制造商"),
    Concept("121015", "DCM", "Device Observer Model Name", "设备型号"),
    Concept("121016", "DCM", "Device Observer Serial Number", "设备序列号"),
    Concept("121058", "DCM", "Procedure reported", "检查项目"),
    Concept("121139", "DCM", "Modality", "成像方式"),
    Concept("110910", "DCM", "Pixel Data Rows", "像素行数"),
    Concept("110911", "DCM", "Pixel Data Columns", "像素列数"),
    Concept("111044", "DCM", "Patient Orientation Row", "患者方位（行）"),
    Concept("111043", "DCM", "Patient Orientation Column", "患者方位（列）"),
    Concept("111026", "DCM", "Horizontal Pixel Spacing", "水平像素间距"),
    Concept("111066", "DCM", "Vertical Pixel Spacing", "垂直像素间距"),
    Concept("272741003", "SCT", "Laterality", "侧别"),
    Concept("111000", "DCM", "Algorithm Family", "算法类别"),
    Concept("111001", "DCM", "Algorithm Name", "算法名称"),
    Concept("111002", "DCM", "Algorithm Parameters", "算法参数"),
    Concept("111003", "DCM", "Algorithm Version", "算法版本"),
    Concept("122405", "DCM", "Algorithm Manufacturer", "算法制造商"),
    Concept("113012", "DCM", "Key Object Description", "关键对象说明"),
)
ANATOMICAL_STRUCTURE: Final = Concept("91723000", "SCT", "Anatomical Structure")
HAND: Final = Concept("85562004", "SCT", "Hand", "手")
LEFT: Final = Concept("7771000", "SCT", "Left", "左")
RIGHT: Final = Concept("24028007", "SCT", "Right", "右")
LATERALITIES: Final = {"L": LEFT, "R": RIGHT}

# Where a bone lies, in SNOMED codes of the DICOM freeset; which bone it is, in the Foundational Model of Anatomy.
_DISTAL_RADIUS: Final = Concept("75129005", "SCT", "Distal radius", "桡骨远端")
_DISTAL_ULNA: Final = Concept("91238003", "SCT", "Distal ulna", "尺骨远端")
_METACARPAL: Final = Concept("36455000", "SCT", "Metacarpal", "掌骨")
_HAND_BONE: Final = Concept("24097009", "SCT", "Hand bone", "手骨")
_ORDINALS: Final = ("first", "second", "third", "fourth", "fifth")
_DIGITS: Final = ("thumb", "index finger", "middle finger", "ring finger", "little finger")
_CHINESE_ORDINALS: Final = ("一", "二", "三", "四", "五")


def _bones() -> Iterator[tuple[str, Concept]]:
    yield "radius", Concept("23463", "FMA", "Radius", "桡骨")
    yield "ulna", Concept("23466", "FMA", "Ulna", "尺骨")
    for ray in range(5):
        ordinal, digit, chinese = _ORDINALS[ray], _DIGITS[ray], _CHINESE_ORDINALS[ray]
        yield (
            f"mc{ray + 1}",
            Concept(str(23899 + ray), "FMA", f"{ordinal.capitalize()} metacarpal bone", f"第{chinese}掌骨"),
        )
        yield f"pp{ray + 1}", Concept(str(23918 + ray), "FMA", f"Proximal phalanx of {digit}", f"第{chinese}近节指骨")
        if ray:  # the thumb has no middle phalanx
            yield f"mp{ray + 1}", Concept(str(23932 + ray), "FMA", f"Middle phalanx of {digit}", f"第{chinese}中节指骨")
        yield f"dp{ray + 1}", Concept(str(23945 + ray), "FMA", f"Distal phalanx of {digit}", f"第{chinese}远节指骨")


BONES: Final = dict(_bones())
SITES: Final = {
    name: {"radius": _DISTAL_RADIUS, "ulna": _DISTAL_ULNA, "carpus": HAND}.get(
        name, _METACARPAL if name.startswith("mc") else _HAND_BONE
    )
    for name in REGIONS
}

# What was measured and how; no public scheme holds these.
METHODS: Final = {
    "RUS-CHN": _private("RUSCHN", "RUS-CHN bone age (China-05)", "RUS-CHN骨龄（中华05）"),
    "TW3-C RUS": _private("TW3CRUS", "TW3-C RUS bone age (China-05)", "TW3-C RUS骨龄（中华05）"),
    "TW3": _private("TW3RUS", "TW3 RUS bone age", "TW3 RUS骨龄"),
    "region-xgboost": _private("REGIONXGB", "Bone age by regression on region features", "区域特征回归骨龄"),
    "zh05": _private("ZH05DL", "Bone age by deep learning, China-05 (ZH05-DL)", "深度学习骨龄（中华05，ZH05-DL）"),
    "rsna-cnn": _private(
        "RSNACNN", "Greulich-Pyle bone age by regression on the hand", "全手回归骨龄（Greulich-Pyle）"
    ),
    "regression": _private("REGRESSION", "Bone age by regression", "回归骨龄"),
}
OTHER_METHOD: Final = _private(
    "OTHERMETHOD", "Bone age by another method, named in the algorithm", "其他方法骨龄（见算法名称）"
)
TOTAL_SCORE: Final = _private("TOTALSCORE", "Total skeletal maturity score", "骨成熟度总分")
BONE_SCORE: Final = _private("BONESCORE", "Skeletal maturity score of the bone", "骨成熟度得分")
CHRONOLOGICAL_AGE: Final = _private("CHRONAGE", "Chronological age", "生活年龄")
DIFFERENCE: Final = _private("AGEDIFF", "Bone age minus chronological age", "骨龄与生活年龄之差")
INTERVAL_LOW: Final = _private("INTERVALLOW", "Lower limit of the prediction interval", "预测区间下限")
INTERVAL_HIGH: Final = _private("INTERVALHIGH", "Upper limit of the prediction interval", "预测区间上限")
STAGE: Final = _private("STAGE", "Skeletal maturity stage", "骨成熟度分期")
RUNNER_UP: Final = _private("RUNNERUP", "Second most probable stage", "概率次高的分期")
STAGE_PROBABILITY: Final = _private("STAGEPROB", "Probability of the stage", "分期概率")
RUNNER_UP_PROBABILITY: Final = _private(
    "RUNNERUPPROB", "Probability of the second most probable stage", "概率次高分期的概率"
)
STAGE_DOWN: Final = _private("STAGEDOWN", "Change of bone age if one stage lower", "降一期时骨龄变化")
STAGE_UP: Final = _private("STAGEUP", "Change of bone age if one stage higher", "升一期时骨龄变化")
SEX_OF_CURVE: Final = _private("CURVESEX", "Sex of the reference curve", "参考曲线性别")
GIRLS: Final = _private("GIRLS", "Girls", "女")
BOYS: Final = _private("BOYS", "Boys", "男")
CURVES: Final = {"F": GIRLS, "M": BOYS}
RESULT_QUALIFIER: Final = _private("QUALIFIER", "Qualification of the bone age", "骨龄说明")
QUALIFIERS: Final = {
    "mature": _private("MATURE", "Skeletally mature: the method states no age", "骨骼已成熟，该方法不给出骨龄"),
    "below range": _private("BELOWRANGE", "Below the range of the method", "低于该方法的适用范围"),
    "no result": _private("NORESULT", "No result", "无结果"),
}
OUTLINED_BY: Final = _private("OUTLINEDBY", "Segment that outlines the bone", "勾画该骨的分割")
UNCALIBRATED_AGE: Final = _private("UNCALIBRATED", "Bone age before the calibration of the site", "本院校准前骨龄")
REGION_FLAG: Final = _private("REGIONFLAG", "Remark on the region", "区域提示")
REGION_FLAGGED: Final = _private("ANATOMY", "Contradicts the anatomy: check the region", "与解剖结构不符，请核对")
HARD_BONE: Final = _private(
    "HARDBONE", "Bone on which readers often differ: check the stage", "分期易有分歧的骨，请核对"
)
STAGE_DOUBTFUL: Final = _private("DOUBTFUL", "Stage of low probability: check the stage", "分期概率低，请核对")
STAGE_CONTRADICTED: Final = _private(
    "CONTRADICTED", "Stage of one bone contradicts the others", "单骨分期与其余各骨不符"
)
# What `Region.flags` may hold.
REGION_FLAGS: Final = {"order": REGION_FLAGGED, CONTRADICTED: STAGE_CONTRADICTED}
# Wang et al. 2022: the first and fifth proximal phalanx are where readers and models differ most.
HARD_BONES: Final = ("pp1", "pp5")

NO_POSITION: Final = _private("NOSDS", "Why there is no SDS", "无SDS的原因")
AGE_UNKNOWN: Final = _private("AGEUNKNOWN", "Chronological age unknown", "生活年龄未知")
NO_REFERENCE: Final = _private(
    "NOREFERENCE", "No standard deviations are published for the method", "该方法无已发表的标准差"
)
OUTSIDE_REFERENCE: Final = _private("OUTSIDEREF", "The reference holds no children of this age", "参考标准未涵盖该年龄")

# A person's correction, and the algorithm's own values beside it.
STAGE_ORIGIN: Final = _private("STAGEORIGIN", "Origin of the stage", "分期来源")
BY_OBSERVER: Final = _private("BYOBSERVER", "Given by the observer", "医师给定")
ALGORITHM_STAGE: Final = _private("AISTAGE", "Stage by the algorithm, before correction", "修改前自动分期")
ALGORITHM_STAGE_PROBABILITY: Final = _private(
    "AISTAGEPROB", "Probability of the stage by the algorithm", "修改前自动分期概率"
)
ALGORITHM_AGE: Final = _private("AIBONEAGE", "Bone age by the algorithm, before correction", "修改前自动骨龄")
ALGORITHM_SCORE: Final = _private("AISCORE", "Total score by the algorithm, before correction", "修改前自动总分")
REGION_REJECTED: Final = _private("REJECTED", "Rejected by the observer: not used", "医师否定，未采用")

# Earlier bone ages of the patient.
EARLIER_AGES: Final = _private("EARLIERAGES", "Earlier bone ages", "既往骨龄")
EARLIER_AGE: Final = _private("EARLIERAGE", "Earlier bone age", "既往骨龄值")
EARLIER_DATE: Final = Concept("111060", "DCM", "Study Date")
COMPARABILITY: Final = _private("COMPARABLE", "Comparability with the present bone age", "与本次骨龄的可比性")
COMPARABILITIES: Final = {
    "": _private("CMPSAME", "Same method and version", "方法和版本相同"),
    "reread": _private("CMPREREAD", "Earlier film read again by the present version", "既往影像经当前版本重新判读"),
    "other-bundle": _private("CMPVERSION", "Other version, not comparable", "版本不同，不可比较"),
    "other-method": _private("CMPMETHOD", "Other method, not comparable", "方法不同，不可比较"),
    "other-sex": _private("CMPSEX", "Curve of the other sex, not comparable", "参考曲线性别不同，不可比较"),
    "undated": _private("CMPUNDATED", "Undated, not comparable", "日期不明，不可比较"),
}
VELOCITY: Final = _private("AGEVELOCITY", "Growth velocity of bone age", "骨龄增长速度")
YEARS_PER_YEAR: Final = Concept("a/a", "UCUM", "years per year", "岁/年")
MONTH: Final = Concept("mo", "UCUM", "month", "个月")
ELAPSED: Final = _private("ELAPSED", "Time since the earlier film", "距既往影像的时间")

# Over the whole film.
METHOD_AGREEMENT: Final = _private("METHODAGREE", "Agreement of the methods", "各方法一致性")
SPREAD: Final = _private("SPREAD", "Spread of bone age over the methods", "各方法骨龄极差")
SPREAD_LIMIT: Final = _private("SPREADLIMIT", "Spread above which the alarm is raised", "一致性报警阈值")
AGREES: Final = _private("AGREE", "The methods agree", "各方法一致")
DISAGREES: Final = _private("DISAGREE", "The methods disagree: review the film", "各方法不一致，请复核")
NOT_COMPARED: Final = _private("NOTCOMPARED", "Fewer than two methods to compare", "可比较的方法不足两种")
IMAGE_QUALITY: Final = _private("IMAGEQUALITY", "Quality of the image", "影像质量")
FILM_READ: Final = _private("FILMREAD", "Film read", "已判读")
FILM_NOT_READ: Final = _private("FILMNOTREAD", "Film not read", "未判读")
REASON: Final = _private("REASON", "Reason", "原因")
POLARITY: Final = _private("POLARITY", "Polarity found in the pixels", "像素极性")
BONE_BRIGHT: Final = _private("BONEBRIGHT", "Bone bright", "骨为亮")
BONE_DARK: Final = _private("BONEDARK", "Bone dark: contradicts the header", "骨为暗，与文件头不符")
POLARITIES: Final = {"bone bright": BONE_BRIGHT, "bone dark": BONE_DARK}
SIDE_MARKER: Final = _private("SIDEMARKER", "Side marker on the film", "片中左右标记")
ROTATION: Final = _private("ROTATION", "Rotation of the hand, counter-clockwise", "手部旋转角度（逆时针）")

# Named findings about a film. `code` of a Reason -> concept; what no row names is coded as OTHER_REASON beside its text.
REASONS: Final = {
    "no-hand": _private("NOHAND", "No hand found on the film", "片中未见手部"),
    "not-a-hand": _private("NOTAHAND", "The film does not show a hand and wrist", "非手腕部影像"),
    "wrong-body-part": _private("WRONGBODYPART", "Body part other than hand and wrist", "检查部位不是手腕部"),
    "wrong-modality": _private("WRONGMODALITY", "Not a projection radiograph", "不是X线平片"),
    "two-hands": _private("TWOHANDS", "More than one hand on the film", "片中有多只手"),
    "cast": _private("CAST", "Cast or splint over the hand", "石膏或支具遮盖手部"),
    "missing-regions": _private("MISSINGREGIONS", "Parts of the hand are not to be seen", "手部显示不全"),
    "cropped": _private("CROPPED", "The hand or wrist is cut off", "手或腕部被截断"),
    "rotated": _private("ROTATED", "The hand is rotated on the film", "手部位置旋转"),
    "oblique": _private("OBLIQUE", "Oblique or lateral view", "斜位或侧位"),
    "polarity": _private("POLARITYDIFF", "Polarity contradicts the header", "灰度极性与文件头不符"),
    "laterality": _private("SIDEDIFF", "Side seen differs from the side stated", "所见侧别与文件头不符"),
    "side-marker": _private(
        "MARKERDIFF", "Side marker contradicts another statement of the side", "片中左右标记与其他侧别信息不符"
    ),
    "order": _private("ORDER", "The anatomy contradicts a finding", "检出位置与解剖结构不符"),
    "low-confidence": _private("LOWCONFIDENCE", "Regions found with low confidence", "区域检出置信度低"),
    "adult": _private("ADULT", "Skeleton of an adult", "成人骨骼"),
    "low-contrast": _private("LOWCONTRAST", "Too little contrast", "对比度过低"),
    "colour": _private("COLOUR", "Colour image, not a radiograph", "彩色图像，不是X线片"),
    "no-pixel-data": _private("NOPIXELDATA", "The object holds no pixel data", "文件无像素数据"),
    "undecodable": _private("UNDECODABLE", "The pixel data cannot be decoded", "像素数据无法解码"),
    "too-small": _private("TOOSMALL", "Too few pixels", "像素过少"),
    "too-large": _private("TOOLARGE", "Too many pixels", "像素过多"),
    "truncated": _private("TRUNCATED", "The pixel data are incomplete", "像素数据不完整"),
    "unsupported-transfer-syntax": _private("TRANSFERSYNTAX", "Pixel encoding not supported", "不支持的像素编码"),
    "not-outlined": _private("NOTOUTLINED", "Radius or ulna not outlined", "桡骨或尺骨未能勾画"),
    "stages-apart": _private("STAGESAPART", "The stages of the hand do not go together", "各骨分期互不协调"),
    CONTRADICTED: STAGE_CONTRADICTED,
    "near-mature": _private(
        "NEARMATURE", "Growth nearly ends: stages may be read too young", "近成熟：按分期的骨龄可能偏低"
    ),
    "unlike-training": _private("UNLIKETRAINING", "The film is unlike those learned from", "影像与训练所用影像差异大"),
    "multi-frame": _private("MULTIFRAME", "More than one frame", "多帧影像"),
}
# The same findings under the names other steps give them.
_SYNONYMS: Final = {
    "undecodable-pixels": "undecodable",
    "not-an-image": "undecodable",
    "truncated-pixels": "truncated",
    "no-transfer-syntax": "unsupported-transfer-syntax",
    "incomplete-hand": "missing-regions",
}
OTHER_REASON: Final = _private("OTHERREASON", "Other reason, given as text", "其他原因（见文字说明）")


def canonical(reason: str) -> str:
    """Return the one name under which a finding stands in the tables."""
    return _SYNONYMS.get(reason, reason)


# RUS-CHN stages (Zhang 2006): n is the TW stage as a number, (k) its subdivision; n gives the TW3 letter, 0 is A.
STAGE_LABELS: Final = (
    *("0", "1", "2", "3", "4", "4(0)", "4(2)", "5", "5(0)", "5(2)", "6", "6(0)", "6(2)"),
    *("7", "7(0)", "7(1)", "7(2)", "7(3)", "7(4)", "8", "8(0)", "8(1)", "8(2)", "8(3)", "8(4)"),
)


def _stage(label: str) -> Concept:
    letter = chr(ord("A") + int(label[0]))
    if label == "0":
        return _private(
            "RUSCHN-0", "RUS-CHN stage 0 (TW3 A): centre not visible", "RUS-CHN 0期（TW3 A期）：骨化中心未出现"
        )
    return _private(
        f"RUSCHN-{label}", f"RUS-CHN stage {label} (TW3 stage {letter})", f"RUS-CHN {label}期（TW3 {letter}期）"
    )


STAGES: Final = {label: _stage(label) for label in STAGE_LABELS}


def table() -> tuple[Concept, ...]:
    """Return every concept of this module, ours last, each once, ordered by scheme and value."""
    found: dict[tuple[str, str], Concept] = {}
    for value in globals().values():
        members = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        for member in members:
            if isinstance(member, Concept):
                other = found.setdefault((member.scheme, member.value), member)
                if other != member:
                    raise ValueError(f"code {member.value} of {member.scheme} has two meanings")
    return tuple(sorted(found.values(), key=lambda c: (c.scheme == PRIVATE_SCHEME, c.scheme, c.value)))


@cache
def translations() -> dict[tuple[str, str], Concept]:
    """Return the concepts that have a Chinese meaning, by scheme and value."""
    return {(concept.scheme, concept.value): concept for concept in table() if concept.chinese}


def markdown() -> str:
    """Write the table as `docs/codes.md` holds it; `python -m service.reporting.codes > docs/codes.md` renews the file."""
    lines = [
        "# Codes in our results",
        "",
        "Written from `service/reporting/codes.py`; a test holds this page to it. Concepts without a Chinese meaning keep the English one.",
        f"The scheme {PRIVATE_SCHEME} is ours and is declared in the Coding Scheme Identification Sequence of each object.",
        "FMA numbers come from a public part table and want a terminologist's confirmation.",
        "",
        "| Scheme | Code | English | Chinese |",
        "|---|---|---|---|",
    ]
    lines += [f"| {c.scheme} | {c.value} | {c.english} | {c.chinese} |" for c in table()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
