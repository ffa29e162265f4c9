"""The outlines that ship: whole, divided by patient, none of a held-out film."""

import csv
import json
from pathlib import Path

import pytest

import models.datasets
from models.datasets import labelme, splits
from models.datasets.rsna import HELD_OUT
from models.segmentation.outlined import read_boxes

FOLDER = Path(models.datasets.__file__).parent / "outlines"
DOCUMENTS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


@pytest.fixture(scope="module")
def outlines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, labelme.Outlines]:
    images = tmp_path_factory.mktemp("films")  # the films are not in the project: empty files stand for them
    for document in DOCUMENTS.values():
        film = images / document["imagePath"]
        film.parent.mkdir(exist_ok=True)
        film.touch()
    return {film.image.stem: film for film in labelme.read_folder(FOLDER, images=images)}


def test_at_least_sixty_films_have_both_bones(outlines: dict[str, labelme.Outlines]) -> None:
    assert sum({label for label, _ in film.outlines} == {"radius", "ulna"} for film in outlines.values()) >= 60


def test_a_bone_has_at_most_shaft_and_epiphysis_and_the_two_bones_do_not_overlap(
    outlines: dict[str, labelme.Outlines],
) -> None:
    for film in outlines.values():
        labels = [label for label, _ in film.outlines]
        assert max(labels.count("radius"), labels.count("ulna")) <= 2, film.image
    for film in list(outlines.values())[::6]:
        radius, ulna = film.mask("radius"), film.mask("ulna")
        assert (radius & ulna).sum() <= 0.005 * (radius | ulna).sum(), film.image


def test_no_outline_carries_a_picture_or_belongs_to_a_held_out_film() -> None:
    assert all(document["imageData"] is None for document in DOCUMENTS.values())
    assert not {int(name) for name in DOCUMENTS} & set(HELD_OUT)


def test_every_outline_is_in_one_part_of_the_split() -> None:
    with (FOLDER / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["id"] for row in rows) == sorted(DOCUMENTS)
    assert {row["part"] for row in rows} == {"train", "test"} <= set(splits.PARTS)
    assert sum(row["part"] == "test" for row in rows) >= 30


def test_every_outlined_film_has_the_boxes_its_crop_is_cut_by() -> None:
    boxes = read_boxes(FOLDER / "boxes.csv")
    assert set(boxes) == set(DOCUMENTS)
    assert all({"radius", "ulna"} <= set(found) for found in boxes.values())
