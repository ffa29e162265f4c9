"""Where each printed table comes from, how sure it is, what in it is doubtful and what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from models.standards.tables import table

TABLES: Final = ("rus_chn", "tw3_rus", "tw3_age", "tw3c_age", "carpal", "greulich_pyle", "height", "harmony")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a data file says of itself; every field but the first two may be empty."""

    name: str
    title: str
    sources: tuple[str, ...]
    confidence: tuple[str, ...]
    doubtful: tuple[str, ...]
    missing: tuple[str, ...]


def provenance() -> tuple[Provenance, ...]:
    """Return it for every table of the standards."""
    return tuple(_of(name, table(name)) for name in TABLES)


def _of(name: str, content: Mapping[str, Any]) -> Provenance:
    # A file of several references (height) has a source and a confidence for each.
    parts = [content, *(part for part in content.values() if isinstance(part, Mapping))]
    return Provenance(
        name,
        str(content["title"]),
        _texts(*(part.get(key) for part in parts for key in ("source", "reference"))),
        _texts(*(part.get("confidence") for part in parts)),
        _texts([entry["text"] for entry in content.get("uncertain", [])], *(part.get("warning") for part in parts)),
        _texts(content.get("missing")),
    )


def _texts(*values: object) -> tuple[str, ...]:
    found: list[str] = []
    for value in values:
        if isinstance(value, Mapping):
            found += [f"{key}: {text}" for key, text in value.items() if isinstance(text, str)]
        elif isinstance(value, list):
            found += [str(text) for text in value]
        elif value:
            found.append(str(value))
    return tuple(found)
