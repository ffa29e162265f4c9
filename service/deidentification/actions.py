"""Carry out the actions of PS3.15 Table E.1-1 on one attribute, and walk a header with them.

Every handler has one signature and says in its docstring what it does; docs/deidentification.md is generated from them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID

from service.deidentification import dates
from service.deidentification.confidentiality import TEXT, Profile, Rule
from service.deidentification.identifiers import Identifiers
from service.deidentification.native_pixels import PIXEL_KEYWORDS, little_endian
from service.film_file import MALFORMED
from service.trust.pseudonyms import Pseudonyms

REMOVED: Final = "removed"
# A valid value of each representation that says nothing about anybody (action D).
DUMMIES: Final[dict[str, Any]] = {
    "AE": "REMOVED", "AS": "000Y", "CS": "REMOVED", "DA": "19000101", "DS": "0", "DT": "19000101000000", "IS": "0",
    "LO": REMOVED, "LT": REMOVED, "PN": "Removed^", "SH": REMOVED, "ST": REMOVED, "TM": "000000", "UC": REMOVED,
    "UR": "urn:oid:2.25.0", "UT": REMOVED, "OB": b"\0\0", "OW": b"\0\0", "UN": b"\0\0", "FD": 0.0, "FL": 0.0, "SL": 0,
    "SS": 0, "UL": 0, "US": 0,
}  # fmt: skip
# PS3.5 6.2: the form of the values that are kept as text.
FORMS: Final = {
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9 _]{0,16}"),
    "DS": re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *"),
    "IS": re.compile(r" *[+-]?\d{1,11} *"),
}
# PS3.3 C.7.1.1, C.7.2.2, C.7.3.1, C.7.6.1, C.8.11: enumerated values; anything else in these attributes is not what they are for.
ENUMERATED: Final = {
    "PatientSex": {"F", "M", "O"},
    "PatientSexNeutered": {"ALTERED", "UNALTERED"},
    "SmokingStatus": {"YES", "NO", "UNKNOWN"},
    "Laterality": {"L", "R"},
    "ImageLaterality": {"L", "R", "U", "B"},
    "BurnedInAnnotation": {"YES", "NO"},
    "PresentationIntentType": {"FOR PRESENTATION", "FOR PROCESSING"},
    "PresentationLUTShape": {"IDENTITY", "INVERSE"},
}
DEEPEST: Final = 32  # levels of nested sequences; no object of ours has more than a dozen


@dataclass(frozen=True, slots=True)
class Action:
    """What was done to one attribute. It holds no value."""

    path: str  # e.g. RequestAttributesSequence[0].RequestedProcedureID
    letter: str
    reason: str


@dataclass(slots=True)
class Walk:
    """What the handlers know while they work through one instance."""

    profile: Profile
    pseudonyms: Pseudonyms
    identifiers: Identifiers
    patient: str
    image: bool
    big_endian: bool = False
    actions: list[Action] = field(default_factory=list)
    depth: int = 0

    @property
    def shift(self) -> timedelta:
        """By how much the dates of this patient move."""
        return self.pseudonyms.date_shift(self.patient)

    def level(self, ds: Dataset, path: str = "") -> Dataset:
        """Return one level of the header with every rule carried out."""
        out = Dataset()
        for tag in sorted(ds.keys()):
            keyword = keyword_for_tag(tag)
            if keyword == "SpecificCharacterSet" or keyword in PIXEL_KEYWORDS:
                continue  # written afresh: text as UTF-8, pixels as plain samples
            place = f"{path}{keyword or str(tag)}"
            rule = self._rule(tag, ds)
            element = None if rule.letter == "X" else _decoded(ds, tag)
            if element is None and rule.letter != "X":
                rule = Rule("X", "cannot be decoded")
            new = None if element is None else HANDLERS[rule.letter](element, ds, place, self)
            if new is None and rule.letter != "X":
                rule = Rule("X", f"holds an identifying word or has a form the standard does not know ({rule.letter})")
            unchanged = rule.letter == "U" and new == element  # a UID that DICOM registers
            if not unchanged and (rule.letter != "K" or rule.reason.startswith(("retain-", "safe"))):
                self.actions.append(Action(place, rule.letter, rule.reason))
            if new is not None:
                out.add(new)
        return out

    def _rule(self, tag: BaseTag, ds: Dataset) -> Rule:
        if not tag.is_private:
            return self.profile.rule(int(tag), image=self.image)
        if tag.is_private_creator:
            element = _decoded(ds, tag)
            creator = str(element.value) if element is not None else ""
            safe = any(entry[:2] == (creator, tag.group) for entry in self.profile.safe_private)
            return Rule("K", "safe private creator") if safe else Rule("X", "private")
        element = _decoded(ds, tag)
        if element is not None:
            entry = (element.private_creator or "", tag.group, tag.element & 0xFF, element.VR)
            if entry in self.profile.safe_private:
                return Rule("K", "safe private attribute")
        return Rule("X", "private")


def _decoded(ds: Dataset, tag: BaseTag) -> DataElement | None:
    """Return the element, or None when its value or representation is not what the dictionary says."""
    try:
        element = ds[tag]
    except MALFORMED:
        return None
    if tag.is_private or not dictionary_has_tag(tag) or element.VR in dictionary_VR(tag).split(" or "):
        return element
    # An empty element of the right representation, for the actions that do not look at the value.
    return DataElement(tag, dictionary_VR(tag).split(" or ")[0], None)


def texts(element: DataElement) -> list[str]:
    """Return the values of an element as text, without padding; an empty element has none."""
    if element.value is None or isinstance(element.value, bytes) or element.VR == "SQ":
        return []
    values = element.value if element.VM > 1 else [element.value]
    return [text for value in values if (text := str(value).strip(" \0"))]


def _items(element: DataElement, place: str, walk: Walk) -> DataElement | None:
    if walk.depth >= DEEPEST:
        return None
    walk.depth += 1
    cleaned = [walk.level(item, f"{place}[{index}].") for index, item in enumerate(element.value or ())]
    walk.depth -= 1
    return DataElement(element.tag, "SQ", Sequence(cleaned))


# An element, the level of the header it stands in, its path: what is to stand in its place, or nothing.
Handler = Callable[[DataElement, Dataset, str, Walk], DataElement | None]


def remove(element: DataElement, level: Dataset, place: str, walk: Walk) -> DataElement | None:
    """Remove the attribute."""
    return None


def empty(element: DataElement, level: Dataset, place: str, walk: Walk) -> DataElement | None:
    """Leave the attribute empty; PatientID, PatientName, StudyID and AccessionNumber get a keyed pseudonym instead."""
    if element.tag not in walk.profile.pseudonyms:
        return DataElement(element.tag, element.VR, [] if element.VR == "SQ" else None)
    if element.keyword in ("PatientID", "PatientName"):
        return DataElement(element.tag, element.VR, walk.pseudonyms.patient(walk.patient))
    text = "\\".join(texts(element))
    return DataElement(element.tag, element.VR, walk.pseudonyms.label(element.keyword, text) if text else None)


def dummy(element: DataElement, level: Dataset, place: str, walk: Walk) -> DataElement | None:
    """Put a fixed value of the same representation; a sequence of codes gets one dummy code, another is kept and cleaned."""
    if element.VR == "UI":
        return map_uid(element, level, place, walk)
    if element.VR != "SQ":
        return DataElement(element.tag, element.VR, DUMMIES[element.VR]) if element.VR in DUMMIES else None
    if element.keyword.endswith("CodeSequence"):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "REMOVED", "99CARPUS", "Removed"
        return DataElement(element.tag, "SQ", Sequence([code]))
    return _items(element, place, walk)


def map_uid(element: DataElement, level: Dataset, place: str, walk: Walk) -> DataElement | None:
    """Replace a UID by its HMAC-SHA256 under 2.25; UIDs that DICOM itself registers stay, sequences are kept and cleaned."""
    if element.VR == "SQ":
        return _items(element, place, walk)
    mapped = [uid if UID(uid).name != uid else walk.pseudonyms.uid(uid) for uid in texts(element)]
    return DataElement(element.tag, "UI", mapped[0] if len(mapped) == 1 else mapped or None)


def clean(element: DataElement, level: Dataset, place: str, walk: Walk) -> DataElement | None:
    """Move a date or time by the patient's keyed shift; a sequence is kept with every item cleaned."""
    if element.VR == "SQ":
        return _items(element, place, walk)
    partner = _partner(element, level)
    moved = [dates.shifted(text, element.VR, partner, walk.shift) for text in texts(element)]
    if not moved or None in moved:  # not a date we can read, so not one we can move
        return DataElement(element.tag, element.VR, None)
    return DataElement(element.tag, element.VR, moved[0] if len(moved) == 1 else moved)


def keep(element: DataElement, level: Dataset, place: str, walk: Walk) -> DataElement | None:
    """Keep the value if it has the form of its representation and holds no identifying word."""
    if element.VR == "SQ":
        return _items(element, place, walk)
    words = texts(element)
    form = FORMS.get(element.VR)
    terms = ENUMERATED.get(element.keyword)
    if (form and not all(form.fullmatch(word) for word in words)) or (terms and not terms.issuperset(words)):
        return _refused(element, walk)
    if element.VR in TEXT or element.VR == "CS":
        if any(walk.identifiers.found_in(word) for word in words):
            return dummy(element, level, place, walk) if element.VR in TEXT else _refused(element, walk)
    elif any(word in walk.identifiers.numbers for word in words):
        return _refused(element, walk)
    value = element.value
    if walk.big_endian and isinstance(value, bytes):
        value = little_endian(value, element.VR)
    return DataElement(element.tag, element.VR, value)


def _refused(element: DataElement, walk: Walk) -> DataElement | None:
    """Return what stands for a value that must not be kept: nothing, or an empty value where the table would have left one."""
    row = walk.profile.rows.get(int(element.tag))
    return DataElement(element.tag, element.VR, None) if row is not None and "Z" in row.basic else None


def _partner(element: DataElement, level: Dataset) -> str:
    """Return the value that completes a date or a time to a moment: StudyTime for StudyDate and the reverse."""
    here, there = ("Date", "Time") if element.VR == "DA" else ("Time", "Date")
    other = element.keyword[: -len(here)] + there if element.keyword.endswith(here) else ""
    try:
        return str(level.get(other) or "") if other else ""
    except MALFORMED:
        return ""


HANDLERS: Final[dict[str, Handler]] = {"X": remove, "Z": empty, "D": dummy, "U": map_uid, "C": clean, "K": keep}
