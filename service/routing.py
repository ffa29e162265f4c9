"""Decide which instances are read, and say why not for the others.

Three outcomes: *read*; *filter*: nobody expects an answer to it (our own results on their way back, a report, an overlay), so
nothing is sent; *reject*: somebody may expect one, so the reason goes back to the PACS as a report. Where the header says
nothing, the pixels decide later (`models.detection`).

The rules are one table, from the first that applies. They look at a header alone: no pixels are decoded here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from models.regions import Laterality, Sex
from service.conformance import REFUSED_TRANSFER_SYNTAXES, STORAGE_CLASSES, TRANSFER_SYNTAXES
from service.reporting.results import MANUFACTURER

# PS3.3 C.7.3.1.1.1. RG and OT occur on digitised films, XC, SC and an empty value on captured ones.
MODALITIES: Final = ("CR", "DX", "RG", "OT", "XC", "SC", "")
GREY: Final = ("MONOCHROME1", "MONOCHROME2")
# Where a body part is named, the most specific first.
BODY_PART_KEYWORDS: Final = ("BodyPartExamined", "SeriesDescription", "ProtocolName", "StudyDescription")

# Words of a body part in English and Chinese, from the values of BodyPartExamined (PS3.16 Annex L) and common descriptions.
HAND_WORDS: Final = re.compile(
    r"\b(hands?|wrists?|carp(us|al)|metacarp(us|al)s?|fingers?|thumbs?|bone ?age|handwrist|knochenalter)\b|[手腕掌指]|骨龄|骨齡",
    re.IGNORECASE,
)
OTHER_PARTS: Final[Mapping[str, re.Pattern[str]]] = {
    name: re.compile(pattern, re.IGNORECASE)
    for name, pattern in {
        "chest": r"\b(chest|thorax|lungs?|ribs?|cxr|sternum)\b|[胸肺肋]",
        "foot": r"\b(foot|feet|toes?|ankles?|calcaneus|heel)\b|[足踝趾]|脚",
        "leg": r"\b(legs?|knees?|tibia|fibula|femur|thigh|patella|lowerleg)\b|[膝腿胫腓股]",
        "pelvis": r"\b(pelvis|hips?|sacrum|coccyx)\b|[髋髖]|骨盆",
        "abdomen": r"\b(abdomen|kub|bowel)\b|腹",
        "spine": r"\b([cltw]?spine|spinal|lumbar|cervical|vertebrae?|scoliosis)\b|[脊椎]",
        "head": r"\b(skull|head|face|sinus(es)?|jaw|mandible|orbits?|teeth|tooth|dental|neck)\b|[头頭颅顱面颌牙颈]",
        "shoulder": r"\b(shoulder|clavicle|scapula|humerus|elbow|upperarm)\b|[肩肘]|锁骨|肱骨",
        "breast": r"\b(breast|mamm\w*)\b|乳",
    }.items()
}
_SEPARATORS: Final = re.compile(r"[^\w]+|_")


class Outcome(StrEnum):
    """What becomes of an instance."""

    READ = "read"
    FILTER = "filter"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Route:
    """The outcome for one instance; `code` is stable, `text` is for people and names no patient."""

    outcome: Outcome
    code: str
    text: str
    sex: Sex | None = None
    laterality: Laterality | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason not to read: `applies` returns the text that says so, or None."""

    code: str
    outcome: Outcome
    applies: Callable[[Dataset], str | None]


def _own_result(ds: Dataset) -> str | None:
    ours = str(ds.get("Manufacturer") or "").strip().casefold() == MANUFACTURER.casefold()
    return "made by this service" if ours else None


def _sop_class(ds: Dataset) -> str | None:
    uid = UID(str(ds.get("SOPClassUID") or ""))
    return None if uid in STORAGE_CLASSES else f"{uid.name or 'no SOP class'} holds no radiograph"


def _modality(ds: Dataset) -> str | None:
    modality = _word(ds, "Modality")
    return None if modality in MODALITIES else f"Modality {modality} is none of a radiograph"


def _no_pixels(ds: Dataset) -> str | None:
    missing = [name for name in ("Rows", "Columns", "PixelData") if name not in ds]
    return f"the instance holds no image: {', '.join(missing)} is missing" if missing else None


def _empty_image(ds: Dataset) -> str | None:
    rows, columns = ds.get("Rows") or 0, ds.get("Columns") or 0
    return None if rows and columns else f"the image is {rows} x {columns} pixels"


def _transfer_syntax(ds: Dataset) -> str | None:
    meta = getattr(ds, "file_meta", None)
    uid = meta.get("TransferSyntaxUID") if meta else None
    if uid is None or uid in TRANSFER_SYNTAXES:
        return None
    why = REFUSED_TRANSFER_SYNTAXES.get(uid)
    return f"{UID(uid).name} cannot be decoded" + (f": {why}" if why else "")


def _frames(ds: Dataset) -> str | None:
    value = _word(ds, "NumberOfFrames") or "1"
    return None if value == "1" else f"{value} frames; a film is one"


def _colour(ds: Dataset) -> str | None:
    samples = _word(ds, "SamplesPerPixel") or "1"
    photometric = _word(ds, "PhotometricInterpretation")
    if samples == "1" and (photometric in GREY or not photometric):
        return None
    return f"{photometric or 'an image'} of {samples} samples a pixel is no grey film"


def _body_part(ds: Dataset) -> str | None:
    """Name another body part that the header names, unless it names the hand anywhere.

    Consoles fill BodyPartExamined with a default, and studies hold films of several parts: where the words disagree, or none
    names a part, the pixels decide.
    """
    words = {keyword: _SEPARATORS.sub(" ", str(ds.get(keyword) or "")) for keyword in BODY_PART_KEYWORDS}
    if any(HAND_WORDS.search(text) for text in words.values()):
        return None
    for keyword, text in words.items():
        for part, pattern in OTHER_PARTS.items():
            if pattern.search(text):
                return f"{keyword} says {part}, not hand"
    return None


RULES: Final[tuple[Rule, ...]] = (
    Rule("own-result", Outcome.FILTER, _own_result),
    Rule("sop-class", Outcome.FILTER, _sop_class),
    Rule("wrong-modality", Outcome.FILTER, _modality),
    Rule("no-pixel-data", Outcome.REJECT, _no_pixels),
    Rule("too-small", Outcome.REJECT, _empty_image),
    Rule("undecodable", Outcome.REJECT, _transfer_syntax),
    Rule("multi-frame", Outcome.REJECT, _frames),
    Rule("colour", Outcome.REJECT, _colour),
    Rule("wrong-body-part", Outcome.REJECT, _body_part),
)


def route(ds: Dataset) -> Route:
    """Return what becomes of an instance, from its header."""
    sex, side = _sex(ds), _laterality(ds)
    for rule in RULES:
        text = rule.applies(ds)
        if text is not None:
            return Route(rule.outcome, rule.code, text, sex, side)
    return Route(Outcome.READ, "hand-film", "to be read", sex, side)


def _word(ds: Dataset, keyword: str) -> str:
    """Return a short value as it may stand in a text: nothing that a terminal acts on, and no longer than a CS may be (PS3.5 6.2)."""
    text = "".join(character for character in str(ds.get(keyword) or "") if character.isprintable())
    return text.strip().upper()[:16]


def _sex(ds: Dataset) -> Sex | None:
    """Return F or M; what is missing, O or anything else stays unknown and is read on both curves."""
    value = _word(ds, "PatientSex")
    return "F" if value == "F" else "M" if value == "M" else None


def _laterality(ds: Dataset) -> Laterality | None:
    """Return the side the header states: ImageLaterality (DX) before Laterality (CR)."""
    for keyword in ("ImageLaterality", "Laterality"):
        value = _word(ds, keyword)
        if value in ("L", "R"):
            return "L" if value == "L" else "R"
    return None
