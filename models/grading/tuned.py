"""Films with a bone age beside what graders tuned without them say of their bones, and the command line of who measures by them."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.datasets.documents import read_array, read_object
from models.datasets.faults import BadData
from models.grading.films import Films
from models.grading.network import WIDEST
from models.regions import RUS

REPORT_FILE: Final = "tuning.json"
Array = NDArray[np.float64]
Report = Callable[[Array, Films, NDArray[np.int64]], Mapping[str, Any]]


def main(text: str | None, report: Report, argv: Sequence[str] | None = None) -> None:
    """Write the report of a run of `models.grading.tune`: from stage probabilities, films and folds to what JSON holds."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, required=True, help="cache of models.grading.films")
    parser.add_argument("--tuning", type=Path, required=True, help="run of models.grading.tune with its folds")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(argv)
    films, chances, fold = held(options.films, options.tuning)
    options.json.write_text(json.dumps(report(chances, films, fold), indent=1) + "\n", encoding="utf-8")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the films of a report of `models.grading.tune`, each with the fold that was tuned without it.

    Raises
    ------
    BadData
        When the report cannot be read, or no film was held back by a fold.
    """
    rows: list[dict[str, Any]] = read_object(path, "rows")["rows"]
    if not rows or "fold" not in rows[0]:
        raise BadData(path, None, len(rows), "films, and no fold of any: tune with --folds")
    return rows


def fold_of(tuning: Path, number: int) -> Array:
    """Return the stage probabilities of the films that one fold held back."""
    return read_array(tuning / f"fold-{number}.npy", "models.grading.tune")


def held(cache: Path, tuning: Path) -> tuple[Films, Array, NDArray[np.int64]]:
    """Return the films with all 13 bones, what a grader tuned without each says of it, (films, 13, `WIDEST`), and its fold."""
    films = Films.load(cache)
    path = tuning / REPORT_FILE
    rows = rows_of(path)
    if len(rows) != len(films):
        raise BadData(
            path, None, len(rows), f"films were tuned on, {len(films)} lie in {cache}: one is not of the other"
        )
    part = np.array([row["fold"] for row in rows], np.int64)
    chances = np.zeros((len(films), len(RUS), WIDEST))
    for number in np.unique(part):
        chances[part == number] = fold_of(tuning, number)
    whole: NDArray[np.bool_] = np.asarray(films.found.all(1))
    return films.subset(whole), chances[whole], part[whole]
