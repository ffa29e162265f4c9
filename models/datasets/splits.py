"""Divide patients, not films, into training, validation and test, and keep the division in a file.

    python -m models.datasets.splits FOLDER --patients films.csv

The file is CSV with the columns `id,part`; its sha256 stands in the metadata of whatever was trained with it. The command above
writes `split.csv` for the annotated films of a folder (labelImg, labelme or COCO): all films of a patient go into one part.
"""

import argparse
import csv
import hashlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from models import refusal
from models.datasets.documents import read_json, read_text, rows
from models.datasets.faults import BadData

PARTS: Final = ("train", "validation", "test")
FILE: Final = "split.csv"


def divide(
    patients: Collection[str], shares: Mapping[str, float], seed: int, *, strata: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the part of each patient.

    Parameters
    ----------
    patients
        Identifiers; each is divided once, however many films it has.
    shares
        Part -> share; the shares add up to 1.
    strata
        Patient -> group (such as sex and age band); each group is divided by the same shares.

    Raises
    ------
    ValueError
        When the shares do not add up, or name an unknown part.
    """
    unknown = [part for part in shares if part not in PARTS]
    if unknown or abs(sum(shares.values()) - 1) > 1e-9:
        raise refusal.Refusal(f"shares {dict(shares)}: parts are {', '.join(PARTS)} and their shares add up to 1")
    rng = np.random.default_rng(seed)
    groups: dict[str, list[str]] = {}
    for patient in sorted(set(patients)):
        groups.setdefault(strata[patient] if strata else "", []).append(patient)
    division: dict[str, str] = {}
    for group in sorted(groups):
        shuffled = [groups[group][i] for i in rng.permutation(len(groups[group]))]
        edges = np.round(np.cumsum([0.0, *shares.values()]) * len(shuffled)).astype(int)
        for part, start, stop in zip(shares, edges[:-1], edges[1:], strict=True):
            division |= dict.fromkeys(shuffled[start:stop], part)
    return division


def save(path: Path, division: Mapping[str, str]) -> str:
    """Write a division, sorted, and return the file's sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("id", "part"))
        table.writerows(
            (patient, division[patient]) for patient in sorted(division, key=lambda name: (len(name), name))
        )
    return digest(path)


def digest(path: Path) -> str:
    """Return the sha256 of a split file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: Path, *, held_out: Collection[str] = ()) -> dict[str, str]:
    """Read a division.

    Parameters
    ----------
    held_out
        Patients that may only stand in the test part.

    Raises
    ------
    BadData
        A file that cannot be read, a missing column, an unknown part, a patient listed twice, or a held-out patient in
        another part than test.
    """
    division: dict[str, str] = {}
    lines = _lines(path)
    _, header = next(lines, (1, []))
    if header != ["id", "part"]:
        raise BadData(path, 1, ",".join(header), "a split file begins with id,part")
    for line, row in lines:
        if len(row) != 2 or row[1] not in PARTS:
            raise BadData(path, line, ",".join(row), f"a line is id,part with a part of {', '.join(PARTS)}")
        patient, part = row
        if patient in division:
            raise BadData(path, line, patient, f"is listed twice, first as {division[patient]}")
        if patient in held_out and part != "test":
            raise BadData(path, line, patient, f"is held out and may not be in {part}")
        division[patient] = part
    return division


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table with their lines."""
    table = csv.reader(io.StringIO(read_text(path)))
    try:
        for row in table:
            yield table.line_num, row
    except csv.Error as error:
        raise BadData(path, table.line_num + 1, str(error), "the table is no CSV") from error


def members(division: Mapping[str, str], part: str) -> Sequence[str]:
    """Return the patients of one part, in the order of the file."""
    return [patient for patient, own in division.items() if own == part]


def annotated(folder: Path) -> list[str]:
    """Return the names, without their endings, of the films that the annotation files of a folder speak of.

    Raises
    ------
    BadData
        When the folder holds no annotation file, or one whose list of films is none.
    """
    names = {path.stem for path in folder.glob("*.xml")}
    for path in sorted(folder.glob("*.json")):
        document = read_json(path)[1]
        listed = document.get("images") if isinstance(document, dict) else None
        for image in listed if isinstance(listed, list) else [listed] if listed else ():
            if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
                raise BadData(path, None, image, "a film of a COCO file is to have a file_name")
            names.add(Path(image["file_name"].replace("\\", "/")).stem)
        if not listed:
            names.add(path.stem)
    if not names:
        raise BadData(folder, None, folder.name, "the folder holds no .xml and no .json file")
    return sorted(names)


def of_films(
    films: Sequence[str], patients: Mapping[str, str], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Return the part of each film by that of its patient; a film without one is its own patient."""
    whose = {film: patients.get(film) or film for film in films}
    division = divide(whose.values(), shares, seed)
    return {film: division[patient] for film, patient in whose.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the split file of a folder of annotated films; one that is there already is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the annotations")
    parser.add_argument(
        "--patients", type=Path, help="table with the columns file and patient; a film without one is its own"
    )
    parser.add_argument("--validation", type=float, default=0.1, help="share of the patients")
    parser.add_argument("--test", type=float, default=0.1, help="share of the patients")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    path, division, digest_of_it, alone = _divide(options)
    if options.patients and alone:
        films = f"{len(alone)} film{'s' * (len(alone) > 1)} without a patient in {options.patients.name}"
        count = "count as patients of their" if len(alone) > 1 else "counts as a patient of its"
        print(f"{films} {count} own: {', '.join(alone[:10])}{', …' * (len(alone) > 10)}")  # noqa: T201
    counts = ", ".join(f"{len(members(division, part))} {part}" for part in PARTS)
    print(f"{path}: {counts}; sha256 {digest_of_it}")  # noqa: T201  # what the command is for


def _patients(path: Path) -> dict[str, str]:
    """Return the patient of each film by the film's name without folder and ending, as annotations name it."""
    patients: dict[str, str] = {}
    for line, row in rows(path, ("file",)):
        film = Path(row["file"].replace("\\", "/")).stem
        patient = row.get("patient", "")
        if patients.setdefault(film, patient) != patient:
            reason = f"an annotation of {film} may be of this patient's film or of another's: give the files names of their own"
            raise BadData(path, line, row["file"], reason)
    return patients


def _divide(options: argparse.Namespace) -> tuple[Path, dict[str, str], str, list[str]]:
    """Divide the films of the folder and save the split; return its path, what it says, its hash and films without a patient."""
    path = options.folder / FILE
    if path.exists():
        raise BadData(path, None, path.name, "is there already; whoever learned by it would be judged by another one")
    films, patients = annotated(options.folder), _patients(options.patients) if options.patients else {}
    shares = {"train": 1 - options.validation - options.test, "validation": options.validation, "test": options.test}
    division = of_films(films, patients, shares, options.seed)
    return path, division, save(path, division), [film for film in films if not patients.get(film)]


if __name__ == "__main__":
    refusal.command(main)
