"""Know the words that identify one patient, and recognise them in text that would otherwise be kept.

PS3.15 E.3.5: what the profile removes from one attribute must not survive in the text of another. The words come from the
header itself: names of persons, identifiers, addresses, the institution, the date of birth.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

import service.character_sets  # noqa: F401 - corrects pydicom
from service.film_file import MALFORMED

# Identifiers are looked for as a whole, names of persons also by each of their parts.
IDENTIFYING: Final = frozenset(
    {
        "PatientID",
        "OtherPatientIDs",
        "IssuerOfPatientID",
        "AccessionNumber",
        "AdmissionID",
        "MedicalRecordLocator",
        "ServiceEpisodeID",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "PatientTelecomInformation",
        "PatientInsurancePlanCodeSequence",
        "PatientBirthDate",
        "InstitutionName",
        "InstitutionAddress",
        "InstitutionalDepartmentName",
        "ReferringPhysicianAddress",
        "ReferringPhysicianTelephoneNumbers",
        "PersonAddress",
        "PersonTelephoneNumbers",
        "RequestedProcedureID",
        "ScheduledProcedureStepID",
        "PerformedProcedureStepID",
        "PlacerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequest",
        "StationName",
        "DeviceSerialNumber",
        "ClinicalTrialSubjectID",
        "ClinicalTrialSubjectReadingID",
        "OrderEnteredBy",
        "OrderCallbackPhoneNumber",
        "PatientReligiousPreference",
        "RegionOfResidence",
        "CountryOfResidence",
    }
)
SHORTEST_WORD: Final = 4  # shorter Latin words ("Li", "left") say nothing by themselves
SHORTEST_IDEOGRAMS: Final = 2
SHORTEST_SUBSTRING: Final = 6  # from this length on a word is looked for inside other words as well
# Defined terms of the attributes we keep: a patient called Hand must not cost the film its body part.
DEFINED_TERMS: Final = frozenset(
    {
        "original", "derived", "primary", "secondary", "hand", "wrist", "forearm", "finger", "thumb", "elbow",
        "extremity", "left", "right", "image", "diagnostic", "projection", "radiograph", "monochrome1", "monochrome2",
        "palette", "identity", "inverse", "linear", "sigmoid", "none", "unknown", "both", "unpaired", "positive",
        "negative", "present", "removed", "modified", "processed", "posterior", "anterior", "palm", "table",
        "detector", "area", "plane",
    }
)  # fmt: skip
_WORD = re.compile(r"\w+")


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()


def _long_enough(word: str) -> bool:
    return len(word) >= (SHORTEST_WORD if word.isascii() else SHORTEST_IDEOGRAMS)


@dataclass(frozen=True, slots=True)
class Identifiers:
    """The identifying words of one header."""

    words: frozenset[str]  # matched as whole words, long ones anywhere
    phrases: frozenset[str]  # matched anywhere

    @classmethod
    def of(cls, ds: Dataset, *, retained: Callable[[int], bool] = lambda tag: False) -> Self:
        """Collect them from every level of the header, except from what is `retained` by choice."""
        words: set[str] = set()
        phrases: set[str] = set()
        for element in _strings(ds):
            if retained(int(element.tag)):
                continue
            for value in _values(element):
                whole = _plain(value).strip()
                if element.VR == "PN":
                    words.update(word for word in _WORD.findall(whole.replace("_", " ")) if _long_enough(word))
                if _long_enough(whole):
                    phrases.add(whole)
        return cls(frozenset(words - DEFINED_TERMS), frozenset(phrases - DEFINED_TERMS))

    @property
    def numbers(self) -> frozenset[str]:
        """Identifiers that could pass for a number."""
        return frozenset(phrase for phrase in self.phrases if phrase.isdecimal() and len(phrase) >= SHORTEST_SUBSTRING)

    def found_in(self, text: str) -> bool:
        """Whether the text holds one of them."""
        plain = _plain(text)
        if plain.strip() in DEFINED_TERMS:
            return False
        if any(phrase in plain for phrase in self.phrases):
            return True
        if any(word in plain for word in self.words if len(word) >= SHORTEST_SUBSTRING or not word.isascii()):
            return True
        return not self.words.isdisjoint(_WORD.findall(plain.replace("_", " ")))


def _strings(ds: Dataset) -> Iterator[DataElement]:
    for tag in list(ds.keys()):
        if tag.is_private:
            continue
        try:
            element = ds[tag]
        except MALFORMED:
            continue  # what cannot be decoded is removed, so its words need not be known
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _strings(item)
        elif element.VR == "PN" or element.keyword in IDENTIFYING:
            yield element


def _values(element: DataElement) -> Iterator[str]:
    if element.value is None or isinstance(element.value, bytes):
        return
    values = element.value if element.VM > 1 else [element.value]
    for value in values:
        yield str(value)
