"""Seed a header with an identifier in every attribute it can hold, and find what is left of them in bytes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import config, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

# Nothing can be searched for in two or four bytes of a number: these are checked by their presence instead.
UNSEARCHABLE = frozenset({"AS", "AT", "FD", "FL", "OF", "OD", "SL", "SS", "SV", "UL", "US", "UV"})


@dataclass
class Seeds:
    """Markers by the tag they stand in; every marker is unique."""

    markers: dict[int, list[bytes]] = field(default_factory=dict)
    count: int = 0

    def value(self, tag: int, vr: str) -> Any:
        """Return a valid value of the representation that holds a fresh marker."""
        self.count += 1
        number = self.count
        text = f"SEED{number:05d}"
        value: Any
        match vr:
            case "DA":
                value = text = f"{1910 + number // 336}{number // 28 % 12 + 1:02d}{number % 28 + 1:02d}"
            case "TM":
                value = text = f"112233.{number:06d}"
            case "DT":
                value = text = f"20010203112233.{number:06d}"
            case "DS" | "IS":
                value = text = f"{73_000_000 + number}"
            case "UI":
                value = text = f"1.2.826.0.1.3680043.{number}.4711"
            case "PN":
                value = f"{text}^Given"
            case "UR":
                value = f"http://{text}"
            case "AS":
                return "011Y"
            case "AT":
                return 0x00100010
            case "FD" | "FL":
                return 7.5
            case "SL" | "SS" | "UL" | "US":
                return 7
            case "OB" | "OW" | "UN" | "OV" | "OL" | "OD" | "OF":
                value = text.encode().ljust(16, b"\0")
            case "SQ":
                item = Dataset()
                item.PatientName = text
                item.add_new(0x00091001, "LO", text)
                item.TextValue = f"spoken by {text}"
                value = Sequence([item])
            case _:
                value = text
        self.markers.setdefault(tag, []).append(text.encode())
        return value

    def left_in(self, data: bytes, *, besides: Iterable[int] = ()) -> dict[int, bytes]:
        """Return the markers found in the bytes, by their tag."""
        passed = set(besides)
        return {
            tag: marker
            for tag, markers in self.markers.items()
            if tag not in passed
            for marker in markers
            if marker in data
        }


def seed(ds: Dataset, tags: Iterable[int], seeds: Seeds, *, without: Iterable[int] = ()) -> None:
    """Put a marker into each attribute, replacing what is there."""
    kept = set(without)
    with config.disable_value_validation():
        for tag in tags:
            if tag not in kept:
                vr = dictionary_VR(tag).split(" or ")[0]
                ds[tag] = DataElement(tag, vr, seeds.value(tag, vr))


def to_bytes(ds: Dataset) -> bytes:
    """Return the file an instance makes."""
    buffer = BytesIO()
    with config.disable_value_validation():
        ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def from_bytes(data: bytes) -> Dataset:
    """Read a file back, as every instance reaches us."""
    return dcmread(BytesIO(data))


def elements(ds: Dataset) -> Mapping[int, DataElement]:
    """Return the elements of the top level by tag."""
    return {int(element.tag): element for element in ds}
