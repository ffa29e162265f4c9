"""Read what `carpus read FOLDER --json` wrote: one JSON line a film, its Reading or why it has none."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.datasets.documents import read_text
from models.datasets.faults import BadData
from models.reading import Reading


@dataclass(frozen=True, slots=True)
class Line:
    """One film's line of the file; `values` is what it holds."""

    path: Path
    number: int
    values: dict[str, Any]

    @property
    def error(self) -> str | None:
        """Why the film was not read, or None."""
        found = self.values.get("error")
        return None if found is None else str(found)

    def reading(self) -> Reading:
        """Return the Reading.

        Raises
        ------
        BadData
            When the line holds none, or one of another version.
        """
        try:
            return Reading.from_dict({name: value for name, value in self.values.items() if name != "file"})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"is no reading of this version ({type(error).__name__}: {error}); read the films again"
            raise BadData(self.path, self.number, self.values["file"], reason) from error


def read(path: Path) -> dict[str, Line]:
    """Return the lines by the film's file.

    Raises
    ------
    BadData
        A file that cannot be read, a line that is no JSON or names no film, a film that has two lines.
    """
    found: dict[str, Line] = {}
    for number, text in enumerate(read_text(path).splitlines(), 1):
        try:
            values = json.loads(text)
            film = values["file"]
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise BadData(path, number, text[:40], "is no line of `carpus read FOLDER --json`") from error
        if not isinstance(film, str):
            raise BadData(path, number, film, "is no name of a film")
        if film in found:
            raise BadData(path, number, film, f"has a reading already, in line {found[film].number}")
        found[film] = Line(path, number, values)
    return found
