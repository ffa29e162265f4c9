"""Cut the training crops of real films where `carpus read FOLDER --json` found their regions.

    python -m models.grading.films --data ../films --readings readings.jsonl --out ../crops/films

The folder holds `films.csv` (`models.datasets.archive`) with bone ages; crops are kept outside the tree like those of phantoms.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models import refusal
from models.datasets import archive
from models.datasets.documents import load_film, read_array
from models.datasets.readings import read as read_lines
from models.engine import Progress
from models.grading.crops import CONTEXT, SIZE, cut, frames
from models.grading.phantoms import MARGIN, kept_size
from models.regions import RUS
from models.runs import RunRefused


@dataclass(frozen=True, slots=True)
class Films:
    """Real films as crops.

    Parameters
    ----------
    file
        (n,) names.
    patient
        (n,) pseudonyms; a patient is the unit of every split.
    pixels
        (n, 13, kept, kept) uint8; `found` (n, 13) says which regions were there, the others are dark.
    male, bone_age_years
        (n,) what the table says.
    """

    file: NDArray[np.str_]
    patient: NDArray[np.str_]
    pixels: NDArray[np.uint8]
    found: NDArray[np.bool_]
    male: NDArray[np.int64]
    bone_age_years: NDArray[np.float32]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a cache.

        Raises
        ------
        BadData
            When the folder holds none.
        """
        return cls(*(read_array(folder / f"{name}.npy", "models.grading.films") for name in cls.__slots__))

    def subset(self, chosen: NDArray[np.bool_]) -> Self:
        """Return the chosen films."""
        return type(self)(
            self.file[chosen],
            self.patient[chosen],
            self.pixels[chosen],
            self.found[chosen],
            self.male[chosen],
            self.bone_age_years[chosen],
        )

    def __len__(self) -> int:
        """Return the number of films."""
        return len(self.file)


def cut_films(folder: Path, readings: Path, out: Path, size: int = SIZE, context: float = CONTEXT) -> Films:
    """Cut the crops of every film of an archive that was read, keep them in a cache and return them; a cache that is there is used.

    Raises
    ------
    RunRefused
        When no film of the archive was read.
    BadData
        When the table, a line of the readings or a film cannot be used.
    """
    if (out / "pixels.npy").exists():
        return Films.load(out)
    read = {file: line for file, line in read_lines(readings).items() if line.error is None}
    cases = [film for film in archive.read(folder, needs=("bone_age_years",)) if film.file in read and film.sex]
    if not cases:
        raise RunRefused(f"{readings} holds no reading of a film of {folder} with a sex and a bone age")
    kept = kept_size(size)
    crops, found = np.zeros((len(cases), len(RUS), kept, kept), np.uint8), np.zeros((len(cases), len(RUS)), np.bool_)
    progress = Progress(len(cases))
    for index, case in enumerate(cases):
        reading = read[case.file].reading()
        image = load_film(case.path)
        for bone, frame in frames(reading.regions, reading.image, context).items():
            crop = cut(image, frame.widened(MARGIN), reading.image, kept)
            low, high = float(crop.min()), float(crop.max())
            crops[index, RUS.index(bone)] = np.round(255 * (crop - low) / max(high - low, 1e-6))
            found[index, RUS.index(bone)] = True
        progress.report(index + 1)
    made = Films(
        np.array([case.file for case in cases]),
        np.array([case.patient for case in cases]),
        crops,
        found,
        np.array([case.sex == "M" for case in cases], np.int64),
        np.array([case.bone_age_years for case in cases], np.float32),
    )
    out.mkdir(parents=True, exist_ok=True)
    for name in made.__slots__:
        np.save(out / f"{name}.npy", getattr(made, name))
    return made


def main() -> None:
    """Cut the crops of an archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of films with films.csv")
    parser.add_argument("--readings", type=Path, required=True, help="JSON lines of `carpus read FOLDER`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=SIZE, help="pixels of the crops the network sees")
    parser.add_argument("--context", type=float, default=CONTEXT, help="side of a crop over that of its region")
    options = parser.parse_args()
    cut_films(options.data, options.readings, options.out, options.size, options.context)


if __name__ == "__main__":
    refusal.command(main)
