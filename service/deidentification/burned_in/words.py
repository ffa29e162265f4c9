"""Know what of a patient may be written on a film: name, number and dates of the header, in characters and in pinyin."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Final, Self

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

import service.character_sets  # noqa: F401 - corrects pydicom

NAMES: Final = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "ReferringPhysicianName",
)
NUMBERS: Final = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID", "RequestedProcedureID")
DATES: Final = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
SHORTEST_LATIN: Final = 3
SHORTEST_IDEOGRAMS: Final = 2
# What a recogniser takes for one another.
CONFUSED: Final = str.maketrans("oqdilszbg", "000115286")
_NOT_WRITING: Final = re.compile(r"[\W_]+")


def plain(text: str) -> str:
    """Return letters, digits and ideographs in one form: no accent, no case, and one sign for those that look alike."""
    folded = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
    return _NOT_WRITING.sub("", folded).translate(CONFUSED)


@dataclass(frozen=True, slots=True)
class Words:
    """The writings by which one patient would be recognised, each as `plain` gives it."""

    writings: frozenset[str]

    @classmethod
    def of(cls, header: Dataset) -> Self:
        """Collect them from the top level of a header."""
        found = {plain(text) for text in (*_names(header), *_values(header, NUMBERS), *_dates(header))}
        return cls(frozenset(text for text in found if _long_enough(text)))

    def found_in(self, text: str) -> bool:
        """Whether a line as read holds one of them."""
        line = plain(text)
        return any(writing in line for writing in self.writings)


def _long_enough(text: str) -> bool:
    return len(text) >= (SHORTEST_LATIN if text.isascii() else SHORTEST_IDEOGRAMS)


def _values(header: Dataset, keywords: tuple[str, ...]) -> Iterator[str]:
    for keyword in keywords:
        try:
            value = header.get(keyword)
        except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError):
            continue
        if value is None:
            continue
        yield from (str(text) for text in value) if isinstance(value, MultiValue) else (str(value),)


def _names(header: Dataset) -> Iterator[str]:
    """Yield each name whole, in both orders and by its parts; Chinese ones also in pinyin."""
    for name in _values(header, NAMES):
        for group in name.split("="):
            parts = [part for part in re.split(r"[\^\s,]+", group) if part]
            yield from parts
            yield from ("".join(parts), "".join(reversed(parts)))
            if any(not part.isascii() for part in parts):
                yield from _pinyin("".join(parts))


def _pinyin(name: str) -> Iterator[str]:
    from pypinyin import Style, lazy_pinyin, pinyin

    syllables = lazy_pinyin(name)
    yield from ("".join(syllables), "".join((*syllables[1:], syllables[0])), "".join((*syllables[2:], *syllables[:2])))
    if len(syllables) > 2:
        yield "".join(syllables[1:])
    # A character may be read in several ways; as a surname it often is (曾, 单, 仇).
    readings = pinyin(name, style=Style.NORMAL, heteronym=True)
    for first in readings[0]:
        yield first + "".join(syllables[1:])


def _dates(header: Dataset) -> Iterator[str]:
    for text in _values(header, DATES):
        digits = re.sub(r"\D", "", text)
        try:
            day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
        except ValueError:
            continue
        year, month, number = f"{day.year:04d}", f"{day.month:02d}", f"{day.day:02d}"
        yield from (year + month + number, number + month + year, month + number + year)
        yield from (f"{year}年{month}月{number}日", f"{year}年{day.month}月{day.day}日")
        yield from (f"{day:%d%b%Y}", f"{day:%d%B%Y}", f"{day:%b%d%Y}", f"{day:%B%d%Y}")
