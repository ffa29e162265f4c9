"""Say what one PACS gets: which objects, in which language and report class, under which series numbers and descriptions.

A profile is data: a built-in one by its name, or one of the site under `profiles` in the settings. Which profile a destination
uses can be changed while the service runs (`service.profiles`).
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from service.conformance import ResultKind

__all__ = ["BUILT_IN", "SERIES", "Language", "ReportClass", "ResultKind", "ResultProfile", "SeriesLabel"]
Language = Literal["en", "zh"]
ReportClass = Literal["Comprehensive 3D", "Comprehensive", "Enhanced"]  # the names of `conformance.SR_CLASSES`
# Series Description is LO, 64 characters (PS3.5 6.2); the disclaimer after it takes 37 of them.
SeriesDescription = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=27)]


class SeriesLabel(BaseModel):
    """How the series of one kind of object is numbered and called in the study list of a viewer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1, le=2**31 - 1)  # IS, PS3.5 6.2
    english: SeriesDescription
    chinese: SeriesDescription

    @field_validator("english")
    @classmethod
    def _ascii(cls, value: str) -> str:
        if not value.isascii():
            raise ValueError("the English description must be ASCII: it stands beside names in any character set")
        return value


SERIES: Final[Mapping[ResultKind, SeriesLabel]] = {
    "SR": SeriesLabel(number=9601, english="Bone age report", chinese="骨龄报告"),
    "SC": SeriesLabel(number=9602, english="Bone age overview", chinese="骨龄总览图"),
    "GSPS": SeriesLabel(number=9603, english="Bone age regions", chinese="骨龄判读区域"),
    "SEG": SeriesLabel(number=9604, english="Radius and ulna", chinese="桡骨尺骨分割"),
    "PDF": SeriesLabel(number=9605, english="Bone age report (PDF)", chinese="骨龄报告（PDF）"),
    "KOS": SeriesLabel(number=9606, english="Bone age key images", chinese="骨龄关键影像"),
}


class ResultProfile(BaseModel):
    """What one PACS gets.

    Parameters
    ----------
    objects
        In the order they are sent. SR: Structured Report; SC: picture; GSPS: presentation state; SEG: radius and ulna;
        PDF: one-page report; KOS: key object note on the film and the picture.
    language
        Of every text in them.
    report_classes
        The SOP classes the report may be written in, the best first; it gets the first one the PACS accepts.
    picture_modality
        Modality of the Secondary Capture: OT, or that of the film (some viewers hide OT from a hanging protocol).
    series
        What differs from the built-in series numbers and descriptions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objects: tuple[ResultKind, ...] = ("SR", "SC", "GSPS", "SEG")
    language: Language = "en"
    report_classes: tuple[ReportClass, ...] = ("Comprehensive 3D", "Comprehensive", "Enhanced")
    picture_modality: Literal["OT", "film"] = "OT"
    series: Mapping[ResultKind, SeriesLabel] = Field(default_factory=dict)

    @field_validator("objects", "report_classes")
    @classmethod
    def _some_and_each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("is empty; at least one entry is needed")
        if len(set(value)) != len(value):
            raise ValueError(f"names one entry twice: {', '.join(value)}")
        return value

    @property
    def fingerprint(self) -> str:
        """A digest of everything in it; part of every derived UID, for another profile makes other objects."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def labels(self) -> Mapping[ResultKind, SeriesLabel]:
        """Return the number and description of every kind of series."""
        return {**SERIES, **self.series}


BUILT_IN: Final[Mapping[str, ResultProfile]] = {
    "default": ResultProfile(),
    "everything": ResultProfile(objects=("SR", "SC", "GSPS", "SEG", "PDF", "KOS")),
    "report": ResultProfile(objects=("SR",)),
    "pictures": ResultProfile(objects=("SC", "PDF")),
    "default-zh": ResultProfile(language="zh"),
    "everything-zh": ResultProfile(objects=("SR", "SC", "GSPS", "SEG", "PDF", "KOS"), language="zh"),
    "report-zh": ResultProfile(objects=("SR",), language="zh"),
    "pictures-zh": ResultProfile(objects=("SC", "PDF"), language="zh"),
}
