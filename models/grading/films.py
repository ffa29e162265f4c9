"""Cut the training crops of real films where `carpus read FOLDER --json` found their regions.

    python -m models.grading.films --folder ../films --cases cases.csv --readings readings.jsonl --out ../crops/films

`cases.csv` has the columns `file,sex,bone_age_years`; the crops are kept outside the tree like those of phantoms.
"""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models import pixels
from models.engine import Progress
from models.grading.crops import cut, frames
from models.grading.phantoms import KEPT, MARGIN
from models.reading import Reading
from models.regions import RUS


@dataclass(frozen=True, slots=True)
class Films:
    """Real films as crops.

    Parameters
    ----------
    file
        (n,) names; a film is the unit of every split.
    pixels
        (n, 13, kept, kept) uint8; `found` (n, 13) says which regions were there, the others are dark.
    male, bone_age_years
        (n,) what the table says.
    """

    file: NDArray[np.str_]
    pixels: NDArray[np.uint8]
    found: NDArray[np.bool_]
    male: NDArray[np.int64]
    bone_age_years: NDArray[np.float32]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a cache."""
        names = ("file", "pixels", "found", "male", "bone_age_years")
        return cls(*(np.load(folder / f"{name}.npy") for name in names))

    def subset(self, chosen: NDArray[np.bool_]) -> Self:
        """Return the chosen films."""
        return type(self)(
            self.file[chosen],
            self.pixels[chosen],
            self.found[chosen],
            self.male[chosen],
            self.bone_age_years[chosen],
        )

    def __len__(self) -> int:
        """Return the number of films."""
        return len(self.file)


def main() -> None:
    """Cut the crops of every film of the table that was read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cases", type=Path, required=True, help="columns file, sex, bone_age_years")
    parser.add_argument("--readings", type=Path, required=True, help="JSON lines of `carpus read FOLDER`")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with options.readings.open(encoding="utf-8") as lines:
        read = {line["file"]: line for line in map(json.loads, lines) if "error" not in line}
    with options.cases.open(encoding="utf-8-sig", newline="") as table:
        cases = [row for row in csv.DictReader(table) if row["file"] in read and row["sex"] in ("F", "M")]
    crops, found = np.zeros((len(cases), len(RUS), KEPT, KEPT), np.uint8), np.zeros((len(cases), len(RUS)), np.bool_)
    progress = Progress(len(cases))
    for index, case in enumerate(cases):
        reading = Reading.from_dict({name: value for name, value in read[case["file"]].items() if name != "file"})
        image = pixels.load(options.folder / case["file"])
        for bone, frame in frames(reading.regions, reading.image).items():
            crop = cut(image, frame.widened(MARGIN), reading.image, KEPT)
            low, high = float(crop.min()), float(crop.max())
            crops[index, RUS.index(bone)] = np.round(255 * (crop - low) / max(high - low, 1e-6))
            found[index, RUS.index(bone)] = True
        progress.report(index + 1)
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "file.npy", np.array([case["file"] for case in cases]))
    np.save(options.out / "pixels.npy", crops)
    np.save(options.out / "found.npy", found)
    np.save(options.out / "male.npy", np.array([case["sex"] == "M" for case in cases], np.int64))
    np.save(options.out / "bone_age_years.npy", np.array([float(case["bone_age_years"]) for case in cases], np.float32))


if __name__ == "__main__":
    main()
