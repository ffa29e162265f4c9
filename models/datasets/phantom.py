"""Phantom films for training: drawn one after another, or once into a cache folder outside the tree."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.datasets.documents import number, rows
from models.datasets.faults import BadData
from models.phantom import Phantom, draw
from models.phantom.annotations import BOX_COLUMNS, CASE_COLUMNS, box_rows, case_row, save_png
from models.reading import Box
from models.regions import REGIONS, RUS, Sex


def generate(first_seed: int, number: int, **options: Any) -> Iterator[tuple[int, Phantom]]:
    """Draw phantoms with consecutive seeds; `options` go to `models.phantom.draw`."""
    for seed in range(first_seed, first_seed + number):
        yield seed, draw(seed, **options)


@dataclass(frozen=True, slots=True)
class Case:
    """One film of a cache."""

    path: Path
    sex: Sex
    bone_age_years: float
    stages: dict[str, str]
    boxes: dict[str, Box]


def render(folder: Path, first_seed: int, number: int, **options: Any) -> None:
    """Draw films into a cache folder as PNG with `cases.csv` and `boxes.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "cases.csv").open("w", encoding="utf-8", newline="") as cases_file,
        (folder / "boxes.csv").open("w", encoding="utf-8", newline="") as boxes_file,
    ):
        cases, boxes = csv.DictWriter(cases_file, CASE_COLUMNS), csv.DictWriter(boxes_file, BOX_COLUMNS)
        cases.writeheader()
        boxes.writeheader()
        for seed, phantom in generate(first_seed, number, **options):
            name = f"phantom-{seed:08d}.png"
            save_png(folder / name, phantom)
            cases.writerow(case_row(name, phantom))
            boxes.writerows(box_rows(name, phantom))


def load(folder: Path) -> list[Case]:
    """Read a cache folder.

    Raises
    ------
    BadData
        A missing table or column, a film that is listed and not there, an unknown sex or label, an age or corner that is none.
    """
    boxes: dict[str, dict[str, Box]] = {}
    path = folder / "boxes.csv"
    for line, row in rows(path, BOX_COLUMNS):
        label = row["label"]
        if label.startswith("text:"):
            continue
        if label not in REGIONS:
            raise BadData(path, line, label, "is not a region")
        x1, y1, x2, y2 = (number(path, line, row[corner], corner) for corner in ("x1", "y1", "x2", "y2"))
        boxes.setdefault(row["file"], {})[label] = (x1, y1, x2, y2)
    found = []
    path = folder / "cases.csv"
    for line, row in rows(path, CASE_COLUMNS):
        if not (folder / row["file"]).is_file():
            raise BadData(path, line, row["file"], "the film is not in the folder")
        if row["sex"] not in ("F", "M"):
            raise BadData(path, line, row["sex"], "sex is F or M")
        sex: Sex = "F" if row["sex"] == "F" else "M"
        stages = {bone: row[f"stage_{bone}"] for bone in RUS}
        years = number(path, line, row["bone_age_years"], "bone_age_years", 0, 25)
        found.append(Case(folder / row["file"], sex, years, stages, boxes.get(row["file"], {})))
    return found
