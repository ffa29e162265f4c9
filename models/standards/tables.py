"""Read the printed tables from their data files."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from models.regions import Sex


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """A range of scores in which a printed value had to be corrected or could not be confirmed."""

    sex: Sex
    score_from: float
    score_to: float
    text: str

    def touches(self, sex: Sex, score: float) -> bool:
        """Tell whether an age read at this score rests on the doubtful value."""
        return sex == self.sex and self.score_from < score < self.score_to


@cache
def table(name: str) -> dict[str, Any]:
    """Return the content of `data/<name>.json`; treat it as read-only."""
    content: dict[str, Any] = json.loads((files("models.standards") / "data" / f"{name}.json").read_text("utf-8"))
    return content


def uncertainties(name: str) -> tuple[Uncertainty, ...]:
    """Return the doubtful score ranges that a table declares."""
    return tuple(Uncertainty(**entry) for entry in table(name)["uncertain"])
