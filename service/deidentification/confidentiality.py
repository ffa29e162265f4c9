"""Decide by PS3.15 Annex E what happens to each attribute: the standard's table, the chosen options, and a closed rest.

A profile is a YAML file beside the table (`service/profiles`). Whatever neither of them names is settled by its value
representation, always towards removal: text, times, UIDs and bulk data leave unless a list keeps them.
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydicom.datadict import dictionary_has_tag, dictionary_keyword, dictionary_VR, tag_for_keyword

from service import yaml_file
from service.errors import InvalidConfiguration

Letter = Literal["X", "Z", "D", "U", "K", "C"]
Option = Literal[
    "clean-pixel-data",
    "clean-graphics",
    "clean-structured-content",
    "clean-descriptors",
    "retain-longitudinal-modified-dates",
    "retain-patient-characteristics",
    "retain-device-identity",
]


class Method(NamedTuple):
    """An option: its column in the table and its code in CID 7050."""

    column: str
    code: str
    meaning: str


BASIC: Final = Method("basicProfile", "113100", "Basic Application Confidentiality Profile")
CLEAN_PIXELS: Final = Method("", "113101", "Clean Pixel Data Option")
OPTIONS: Final[dict[Option, Method]] = {
    "clean-graphics": Method("cleanGraphOpt", "113103", "Clean Graphics Option"),
    "clean-structured-content": Method("cleanStructContOpt", "113104", "Clean Structured Content Option"),
    "clean-descriptors": Method("cleanDescOpt", "113105", "Clean Descriptors Option"),
    "retain-longitudinal-modified-dates": Method(
        "rtnLongModifDatesOpt", "113107", "Retain Longitudinal Temporal Information Modified Dates Option"
    ),
    "retain-patient-characteristics": Method("rtnPatCharsOpt", "113108", "Retain Patient Characteristics Option"),
    "retain-device-identity": Method("rtnDevIdOpt", "113109", "Retain Device Identity Option"),
}
EDITION_2024E: Final = "confidentiality_profile_attributes.json"
ADDED_2026C: Final = "attributes_2026c.json"
DATES: Final = frozenset({"DA", "TM", "DT"})
TEXT: Final = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
BULK: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
# Command, file meta, directory and reserved groups have no place in a data set (PS3.5 7.1); 0002 is written afresh.
FOREIGN_GROUPS: Final = frozenset({0x0000, 0x0002, 0x0004, 0x0006})


class _PrivateElement(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    creator: str = Field(min_length=1)
    group: str = Field(pattern=r"^[0-9A-Fa-f]{3}[13579BbDdFf]$")
    element: str = Field(pattern=r"^[0-9A-Fa-f]{2}$")
    VR: str = Field(pattern=r"^[A-Z]{2}$")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    edition: str
    options: tuple[Option, ...]
    pseudonyms: tuple[str, ...]
    images: tuple[str, ...]
    others: tuple[str, ...]
    keep_in_images: tuple[str, ...]
    additional: dict[str, Letter]
    closed_groups: tuple[str, ...]
    retained_text: tuple[str, ...]
    retained_bulk: tuple[str, ...]
    safe_private: tuple[_PrivateElement, ...]

    @field_validator("pseudonyms", "keep_in_images", "additional", "retained_text", "retained_bulk")
    @classmethod
    def _known(cls, value: Any) -> Any:
        unknown = [keyword for keyword in value if tag_for_keyword(keyword) is None]
        if unknown:
            raise ValueError(f"not keywords of the standard: {', '.join(unknown)}")
        return value


@dataclass(frozen=True, slots=True)
class Row:
    """One attribute of Table E.1-1."""

    tag: int
    name: str
    basic: str  # the action of the Basic Profile, possibly compound: X/Z/D
    options: dict[str, str]  # K or C by option column

    @property
    def keyword(self) -> str:
        """The keyword of the attribute."""
        return dictionary_keyword(self.tag)


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done with an attribute, and on whose word."""

    letter: Letter
    reason: str


@dataclass(frozen=True, slots=True)
class Profile:
    """The table of the standard, the chosen options and what the installation adds."""

    name: str
    edition: str
    options: tuple[Option, ...]
    rows: dict[int, Row]
    pseudonyms: frozenset[int]
    images: frozenset[str]
    others: frozenset[str]
    keep_in_images: frozenset[int]
    additional: dict[int, Letter]
    closed_groups: frozenset[int]
    retained_text: frozenset[int]
    retained_bulk: frozenset[int]
    safe_private: frozenset[tuple[str, int, int, str]]

    def with_options(self, *options: Option) -> Self:
        """Return the profile with further options."""
        return replace(self, options=(*self.options, *(option for option in options if option not in self.options)))

    @property
    def cleans_pixels(self) -> bool:
        """Whether text is taken out of the pixels."""
        return "clean-pixel-data" in self.options

    @property
    def methods(self) -> tuple[Method, ...]:
        """The codes of CID 7050 that describe this profile."""
        return (BASIC, *(method for option, method in OPTIONS.items() if option in self.options))

    def rule(self, tag: int, *, image: bool) -> Rule:
        """Return what is done with a standard attribute.

        Parameters
        ----------
        image
            Whether the instance is of a class in which a compound action may take its strictest letter.
        """
        group = tag >> 16
        if group in FOREIGN_GROUPS:
            return Rule("X", "no place in a data set")
        if 0x5000 <= group <= 0x50FF:
            return Rule("X", "curve (50xx)")
        if 0x6000 <= group <= 0x60FF:
            return Rule("X", "overlay (60xx)")
        if not dictionary_has_tag(tag):
            return Rule("X", "not in the data dictionary")
        if tag in self.rows:
            return self._listed(self.rows[tag], image=image)
        if tag in self.additional:
            return Rule(self.additional[tag], "added by the profile")
        if group in self.closed_groups:
            return Rule("X", f"unlisted in group {group:04X}")
        return self._unlisted(tag, dictionary_VR(tag), image=image)

    def _listed(self, row: Row, *, image: bool) -> Rule:
        vr = dictionary_VR(row.tag)
        chosen = {option: row.options.get(OPTIONS[option].column) for option in self.options if option in OPTIONS}
        # Modified dates come before retained device dates: a calibration date is a date all the same.
        if vr in DATES and chosen.get("retain-longitudinal-modified-dates"):
            return Rule("C", "retain-longitudinal-modified-dates")
        retained: tuple[Option, ...] = ("retain-patient-characteristics", "retain-device-identity")
        for option in retained:
            if (
                chosen.get(option) == "K"
            ):  # C marks free text; it is not cleaned but removed, so the basic action stands
                return Rule("K", option)
        cleaned: tuple[Option, ...] = ("clean-structured-content", "clean-graphics")
        for option in cleaned:
            if chosen.get(option) == "C" and vr == "SQ":
                return Rule("C", option)
        letters = row.basic.replace("*", "").split("/")
        if "U" in letters:
            return Rule("U", f"E.1-1 {row.basic}")
        strict = image and row.tag not in self.keep_in_images
        letter = letters[0] if strict else letters[-1] if not image else next(x for x in letters if x != "X")
        return Rule(_letter(letter), f"E.1-1 {row.basic}")

    def _unlisted(self, tag: int, vr: str, *, image: bool) -> Rule:
        optional: Letter = "X" if image else "D"
        if tag in self.retained_text or tag in self.retained_bulk:
            return Rule("K", "retained by the profile")
        if vr == "UI":
            return Rule("U", "unlisted UID")
        if vr in DATES:
            if "retain-longitudinal-modified-dates" in self.options:
                return Rule("C", "unlisted date or time")
            return Rule(optional, "unlisted date or time")
        if vr in TEXT:
            return Rule(optional, "unlisted text")
        if vr in BULK or set(vr.split(" or ")) & BULK:
            return Rule("X", "unlisted bulk data")
        return Rule("K", "unlisted code or number")


def _letter(text: str) -> Letter:
    match text:
        case "X" | "Z" | "D" | "U" | "K" | "C":
            return text
        case _:
            raise InvalidConfiguration(f"the table holds the unknown action {text!r}")


@cache
def listed(file: str) -> tuple[dict[str, str], ...]:
    """Return the rows of one list of attributes (`profiles/`): id, name, basicProfile and the columns of options."""
    text = (files("service.deidentification") / "profiles" / file).read_text(encoding="utf-8")
    return tuple(json.loads(text))


@cache
def table() -> dict[int, Row]:
    """Return Table E.1-1 by tag; its three rows for repeating and private groups are rules of `Profile.rule`.

    The options are those of edition 2024e (`EDITION_2024E`); what edition 2026c adds comes from a list that knows the Basic Profile
    alone (`ADDED_2026C`), so no option keeps it. Attributes the data dictionary does not know yet need no row: they are removed.
    """
    newer = [row for row in listed(ADDED_2026C) if dictionary_has_tag(int(row["id"], 16))]
    rows = {}
    data = [*listed(EDITION_2024E), *newer]
    for entry in data:
        if len(entry["id"]) == 8 and "x" not in entry["id"]:
            tag = int(entry["id"], 16)
            options = {key: value for key, value in entry.items() if key.endswith("Opt")}
            rows[tag] = Row(tag, entry["name"], entry["basicProfile"], options)
    return rows


@cache
def load(path: Path | None = None) -> Profile:
    """Load a profile from a file, or the one that ships with the service.

    Raises
    ------
    InvalidConfiguration
        When the file is missing or malformed; every fault is named.
    """
    shipped = Path(str(files("service.deidentification"))) / "profiles" / "export.yaml"
    try:
        file = _File.model_validate(yaml_file.read(path or shipped))
    except ValidationError as error:
        raise InvalidConfiguration(f"confidentiality profile {path or 'export'}: {error}") from error
    return Profile(
        name=file.name,
        edition=file.edition,
        options=file.options,
        rows=table(),
        pseudonyms=_tags(file.pseudonyms),
        images=frozenset(file.images),
        others=frozenset(file.others),
        keep_in_images=_tags(file.keep_in_images),
        additional={tag: letter for keyword, letter in file.additional.items() for tag in _tags((keyword,))},
        closed_groups=frozenset(int(group, 16) for group in file.closed_groups),
        retained_text=_tags(file.retained_text),
        retained_bulk=_tags(file.retained_bulk),
        safe_private=frozenset((e.creator, int(e.group, 16), int(e.element, 16), e.VR) for e in file.safe_private),
    )


def _tags(keywords: tuple[str, ...]) -> frozenset[int]:
    return frozenset(tag for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None)
