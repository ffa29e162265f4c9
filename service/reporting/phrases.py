"""Say in Chinese what another step has said in English: reasons, remarks and references, as patterns with their values.

The models and the codecs know no language but English. What no pattern matches stays as it came: a foreign text beside the coded
Chinese meaning is better than a measured value lost.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Final

from models.regions import REGIONS
from service.reporting import codes

_SIDES: Final = {"left": "左", "right": "右"}
_PLACES: Final = {"above": "上方", "below": "下方", "beside": "旁侧"}
_PROBLEMS: Final = {"grading": "分期", "regression": "骨龄回归", "segmentation": "分割", "detection": "检测"}
_KINDS: Final = {"mc": "metacarpal", "pp": "proximal phalanx", "mp": "middle phalanx", "dp": "distal phalanx"}
_CODED: Final = re.compile(r"\b(mc|pp|mp|dp)([1-5])\b")
_BONE_WORDS: Final = re.compile(r"\b(" + "|".join(sorted(REGIONS, key=len, reverse=True)) + r")\b")


def _bones(text: str) -> str:
    """Name the regions of a list in Chinese."""
    named = _BONE_WORDS.sub(lambda found: _region(found.group(1)), text)
    return re.sub(r"\s*(?:,|\band\b)\s*", "、", named)


def _region(name: str) -> str:
    return "腕骨区" if name == "carpus" else codes.BONES[name].chinese


def _side(text: str) -> str:
    return _SIDES.get(text, text)


def _range(text: str) -> str:
    return text.replace(" to ", "～")


def _problem(text: str) -> str:
    return _PROBLEMS.get(text, text)


# (English, Chinese, what becomes of each group); the groups of a pattern are the values.
_PATTERNS: Final[tuple[tuple[str, str, tuple[Callable[[str], str], ...]], ...]] = (
    # the detector's verdict
    (r"not (?:seen )?on the film: ([^;]+)", "未见{}", (_bones,)),
    (
        r"a cast or splint lies over the hand; the bones under it were not judged",
        "石膏或支具遮盖手部，其下的骨未予判读",
        (),
    ),
    (r"under a cast or splint: ([^;]+)", "{}位于石膏或支具下", (_bones,)),
    (
        r"distance ([\d.]+) from the films learned from, where 1 is usual and (\d+)% stay below ([\d.]+)",
        "与训练影像的距离为{}，通常为1，{}%低于{}",
        (str, str, str),
    ),
    (
        r"distance ([\d.]+) from the films learned from, where 1 is usual and the limit is ([\d.]+)",
        "与训练影像的距离为{}，通常为1，阈值{}",
        (str, str),
    ),
    (r"covered or burnt out, one grey level there: ([^;]+)", "{}被遮盖或曝光溢出，仅有单一灰度", (_bones,)),
    (r"covered, nothing but grain there: ([^;]+)", "{}被遮盖，仅见颗粒噪声", (_bones,)),
    (r"not told apart from a neighbour: ([^;]+)", "{}与相邻骨无法区分", (_bones,)),
    (r"not made out with certainty: ([^;]+)", "{}未能可靠辨认", (_bones,)),
    (r"at most (\d+) may be missing, the radius not", "最多可缺{}处，且不得缺桡骨", (str,)),
    (r"more than one hand on the film; the left one was read", "片中不止一只手，已判读左手", ()),
    (r"more than one hand on the film", "片中不止一只手", ()),
    (r"the left one was read", "已判读左手", ()),
    (r"no whole left one was made out, the right one was read", "未辨认出完整的左手，已判读右手", ()),
    (r"both lie as (left|right) hands, one of them was read", "两手拇指位置均示为{}手，已判读其中一只", (_side,)),
    (r"the other one lies (above|below|beside) it", "另一只手位于其{}", (_PLACES.__getitem__,)),
    (r"(\d+) hands found(?:; one is needed)?", "检出{}只手，需为单手", (str,)),
    (
        r"bone is dark where (\w+) promises it bright; the film was read inverted",
        "{}应为骨亮，实为骨暗；已反转灰度后判读",
        (str,),
    ),
    (
        r"the side marker on the film says (\w+), the thumb lies as on a (\w+) hand, the header says (\w+)",
        "片中标记为{}，拇指位置示为{}手，文件头标注为{}手",
        (_side, _side, _side),
    ),
    (
        r"the side marker on the film says (\w+), the thumb lies as on a (\w+) hand",
        "片中标记为{}，拇指位置示为{}手",
        (_side, _side),
    ),
    (
        r"the side marker on the film says (\w+), the header says (\w+)",
        "片中标记为{}，文件头标注为{}手",
        (_side, _side),
    ),
    (r"the thumb lies as on a (\w+) hand, the header says (\w+)", "拇指位置示为{}手，文件头标注为{}手", (_side, _side)),
    (
        r"the hand is turned by (-?\d+) degrees \(limit of the remark: (\d+)\)",
        "手部旋转{}度，提示阈值{}度",
        (str, str),
    ),
    (r"the place of (.+) contradicts the anatomy of a hand", "{}的位置与手部解剖不符", (_bones,)),
    (r"the film is blank: every pixel has the same grey level", "空白影像：全部像素灰度相同", ()),
    (r"no hand was seen \(probability ([\d.]+); the limit is ([\d.]+)\)", "未见手部，概率{}，阈值{}", (str, str)),
    (
        r"(\d+) of (\d+) regions of a hand were seen; at least (\d+) are needed",
        "仅见手部{}/{}个区域，至少需{}个",
        (str, str, str),
    ),
    (
        r"what was seen does not lie as in a hand \((\d+) % of the points fit; the limit is (\d+) %\)",
        "所见结构的排列不似手部，{}%的点相符，阈值{}%",
        (str, str),
    ),
    (r"no hand could be pieced together from what was seen", "所见结构无法组成手部", ()),
    # the reader
    (
        r"the joints of the middle finger are ([\d.]+) pixels wide; stages need at least (\d+)",
        "中指各关节区仅宽{}像素，分期至少需{}像素",
        (str, str),
    ),
    (r"no outline of (.+): the bone was not found in its region", "{}未能勾画：区域内未找到该骨", (_bones,)),
    (
        r"no outline of (.+): (?:the )?bundle ?(.*) holds no weights for segmentation",
        "{}未能勾画：模型包{}不含分割模型",
        (_bones, str),
    ),
    (r"(?:the )?bundle ?(.*) holds no weights for (\w+)", "模型包{}不含{}模型", (str, _problem)),
    (
        r"not applicable: no stage for (.+); the total needs all (\d+) bones",
        "不适用：{}无分期，总分需全部{}块骨",
        (_bones, str),
    ),
    (r"mature: at least ([\d.]+) years; the standard ends there", "已成熟：至少{}岁，该标准至此为止", (str,)),
    (r"below the range of the standard: less than ([\d.]+) years?", "低于该标准范围：小于{}岁", (str,)),
    # references
    (r"Brush Foundation, centred on chronological age", "Brush基金会标准差，以生活年龄为中心", ()),
    (
        r"(girls|boys), ([\d.]+) to ([\d.]+) years: the printed score at ([\d.]+) years \((\d+)\) is impossible; (\d+) is assumed"
        r"(?:, uncertain by \d+ points)?",
        "{}{}～{}岁：印刷表中{}岁得分（{}）有误，按{}计",
        (lambda word: "女" if word == "girls" else "男", str, str, str, str, str),
    ),
    (r"site calibration (.+) of ([\d-]+): ([\d.]+) years before it", "本院校准（{}，{}）；校准前{}岁", (str, str, str)),
    (
        r"the stages lie ([\d.]+) standard deviations apart, usual are up to ([\d.]+); furthest from the others: (.+)",
        "各骨分期相差{}个标准差，通常不超过{}；偏离最大：{}",
        (str, str, _bones),
    ),
    (
        r"(\w+) is graded (\S+) \(TW3 ([A-I])\) where the other bones let expect (.+) \(TW3 ([A-I to]+)\), look at it",
        "{}判为{}期（TW3 {}期），据其余各骨应为{}期（TW3 {}期），请核对",
        (_bones, str, str, _range, _range),
    ),
    (
        r"of (\d+) (girls|boys) given ([\d.]+) years or more by (.+), (\d+)% were read more than a year too young; "
        r"compare the whole-hand regression",
        "{}名{}判读为{}岁及以上（{}）者中，{}%被低估一岁以上；请对照整片回归法",
        (str, lambda word: "女童" if word == "girls" else "男童", str, str, str),
    ),
    # headers and pixels
    (r"the instance holds no pixel data", "文件不含像素数据", ()),
    (r"the instance holds no image: (.+) is missing", "文件不含影像：缺{}", (str,)),
    (r"the image is (\d+) x (\d+) pixels", "影像为{} x {}像素", (str, str)),
    (r"(\d+) x (\d+) pixels; the limit is (\d+)", "{} x {}像素，上限为{}像素", (str, str, str)),
    (
        r"(\d+) x (\d+) pixels; the shorter side must be at least (\d+)",
        "{} x {}像素，短边至少需{}像素",
        (str, str, str),
    ),
    (r"more frames are encapsulated than the (\d+) of the header", "像素数据的帧数多于文件头所示的{}帧", (str,)),
    (r"the frame holds no code stream that states its size", "帧内无标明尺寸的码流", ()),
    (r"the code stream has (\d+) frame headers; one is needed", "码流含{}个帧头，应为一个", (str,)),
    (r"the code stream has (\d+) scans and (\d+) segments or more", "码流含{}次扫描和{}个以上标记段", (str, str)),
    (r"the code stream is cut into precincts of (\d+) x (\d+) pixels", "码流分区仅为{} x {}像素", (str, str)),
    (r"the code stream says (\d+) samples a pixel, the header (\d+)", "码流每像素{}个采样，文件头为{}个", (str, str)),
    (r"(\d+) frames; a film is one", "共{}帧，平片应为单帧", (str,)),
    (r"the instance holds (\d+) frames; one film an instance is read", "共{}帧，每个文件仅判读一帧", (str,)),
    (r"(.+) of (\d+) samples a pixel is no grey film", "{}，每像素{}个采样，不是灰度影像", (str, str)),
    (
        r"PhotometricInterpretation (.+) with (\d+) samples a pixel; only MONOCHROME1 and 2 with one are read",
        "光度解释为{}，每像素{}个采样；仅判读MONOCHROME1或2单采样影像",
        (str, str),
    ),
    (
        r"PhotometricInterpretation is missing; MONOCHROME1 or MONOCHROME2 is needed",
        "缺光度解释，需为MONOCHROME1或2",
        (),
    ),
    (
        r"BitsStored (\d+) in BitsAllocated (\d+); 1 to 32 bits are read",
        "存储位数{}、分配位数{}，仅支持1至32位",
        (str, str),
    ),
    (r"(\w+) says (.+), not hand", "{}标注为{}，不是手部", (str, str)),
    (r"(\d+) bytes of pixel data; (\d+) x (\d+) need (\d+)", "像素数据{}字节，{} x {}需{}字节", (str, str, str, str)),
    (r"pixel data of (\d+) bytes; the header asks for (\d+)", "像素数据{}字节，应为{}字节", (str, str)),
    (r"the encapsulated pixel data hold no complete frame: .*", "压缩像素数据不含完整的一帧", ()),
    (r"no decoder for transfer syntax (\S+) \(.*\)", "无传输语法{}的解码器", (str,)),
    (r"no codec installed for transfer syntax (\S+) \(.*\)", "未安装传输语法{}的解码器", (str,)),
    (r"(.+) \((\S+)\) could not be decoded: .*", "{}（{}）解码失败", (str, str)),
    (r"the pixel data in (.+) cannot be decoded", "{}像素数据解码失败", (str,)),
    (r"(.+) cannot be decoded(?:: .*)?", "{}无法解码", (str,)),
    (r"the instance states no transfer syntax", "文件未注明传输语法", ()),
    (
        r"the code stream says (\d+) x (\d+) pixels, the header (\d+) x (\d+)",
        "码流为{} x {}像素，文件头为{} x {}",
        (str, str, str, str),
    ),
    (
        r"(.+) with (\d+) bit samples; the installed codecs decode it up to 8 bit",
        "{}为{}位采样，现有解码器仅支持8位",
        (str, str),
    ),
    (r"(\w+) is not one whole number", "{}不是整数", (str,)),
    (r"the modality LUT cannot be applied: .*", "模态LUT无法应用", ()),
)


@cache
def _compiled() -> tuple[tuple[re.Pattern[str], str, tuple[Callable[[str], str], ...]], ...]:
    return tuple((re.compile(pattern), chinese, values) for pattern, chinese, values in _PATTERNS)


def english(text: str) -> str:
    """Return a text with the regions of the tubular bones as a radiologist writes them: dp5 is distal phalanx 5."""
    return _CODED.sub(lambda found: f"{_KINDS[found.group(1)]} {found.group(2)}", text)


def chinese(text: str) -> str:
    """Return a text in Chinese where a pattern knows it; sentences joined by "; " are taken one by one, else as it came."""
    whole = _one(text)
    if whole is not None:
        return whole
    return "；".join(_one(part) or part for part in text.split("; "))


def _one(text: str) -> str | None:
    for pattern, sentence, values in _compiled():
        if found := pattern.fullmatch(text.strip()):
            return sentence.format(*(value(group) for value, group in zip(values, found.groups(), strict=True)))
    return None
