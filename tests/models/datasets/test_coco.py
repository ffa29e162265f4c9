"""COCO files: what is read, and that every fault names file, line and value."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.datasets import coco
from models.datasets.faults import BadData

Document = dict[str, Any]


def document() -> Document:
    return {
        "images": [{"id": 4, "file_name": "a.png", "height": 100, "width": 80}],
        "categories": [{"id": 1, "name": "radius"}, {"id": 2, "name": "tibia"}],
        "annotations": [
            {
                "id": 9,
                "image_id": 4,
                "category_id": 1,
                "bbox": [10, 20, 30, 40],
                "segmentation": [[10, 20, 40, 20, 40, 60]],
            }
        ],
    }


def written(folder: Path, content: Document) -> Path:
    (folder / "a.png").touch()
    path = folder / "films.json"
    path.write_text(json.dumps(content, indent=1))
    return path


def test_a_box_and_an_outline_are_read_in_pixels(tmp_path: Path) -> None:
    (film,) = coco.read(written(tmp_path, document()))
    assert (film.image, film.rows, film.columns) == (tmp_path / "a.png", 100, 80)
    assert film.boxes == (("radius", (10.0, 20.0, 40.0, 60.0)),)  # x, y, x + width, y + height
    ((label, points),) = film.outlines
    assert label == "radius"
    assert points.tolist() == [[10, 20], [40, 20], [40, 60]]


def spoil(key: str, value: object, part: str = "annotations") -> Callable[[Document], None]:
    def change(content: Document) -> None:
        content[part][0][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "value", "reason"),
    [
        (spoil("category_id", 2), "tibia", "is not one of the labels"),
        (spoil("category_id", 7), 7, "is the id of no category of this file"),
        (spoil("image_id", 5), 5, "is the id of no film"),
        (spoil("bbox", [60, 20, 30, 40]), (60.0, 20.0, 90.0, 60.0), "does not lie in a film of 80 x 100"),
        (spoil("bbox", [10, 20, 0, 40]), [10, 20, 0, 40], "has no area"),
        (spoil("bbox", [10, 20]), [10, 20], "is x, y, width, height"),
        (spoil("segmentation", [[1, 2, 3, 4]]), 2, "at least three points"),
        (spoil("segmentation", {"counts": "x", "size": [1, 1]}), "dict", "polygons"),
        (spoil("file_name", "b.png", "images"), "b.png", "the film is not in"),
        (spoil("file_name", "../../etc/passwd", "images"), "../../etc/passwd", "the film is not in"),
    ],
)
def test_a_fault_names_file_line_and_value(
    tmp_path: Path, change: Callable[[Document], None], value: object, reason: str
) -> None:
    content = document()
    change(content)
    path = written(tmp_path, content)
    with pytest.raises(BadData, match=reason) as caught:
        coco.read(path)
    assert caught.value.path == path
    assert caught.value.value == value
    marker = '"file_name"' if "film is not in" in reason else '"image_id"'
    lines = path.read_text().splitlines()
    assert caught.value.line == next(number for number, text in enumerate(lines, start=1) if marker in text)


def test_what_is_not_json_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "films.json"
    path.write_text('{\n"images": [\n}')
    with pytest.raises(BadData, match="is not JSON") as caught:
        coco.read(path)
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content["annotations"].append(content["annotations"][0]), "'radius': has a box already"),
        (lambda content: content["images"].append({**content["images"][0], "id": 5}), "'a.png': is there twice"),
        (
            lambda content: content["categories"].append({"id": 1, "name": "ulna"}),
            "1: is the id of two categories",
        ),
        (spoil("bbox", "1234"), "'1234': the box of radius is x, y, width, height"),
        (spoil("bbox", [1, 1, 10**400, 3]), "the box of radius is x, y, width, height"),
        (spoil("segmentation", [[1, 2, 3, 10**400, 5, 6]]), "0: the outline of radius needs at least three points"),
        (spoil("height", 10**400, "images"), "height is outside of"),
        (spoil("file_name", "x" * 300, "images"), "the film is not in"),
    ],
)
def test_what_is_there_twice_or_no_machine_holds_is_refused(
    tmp_path: Path, change: Callable[[Document], None], reason: str
) -> None:
    content = document()
    change(content)
    with pytest.raises(BadData, match=rf"films\.json:\d+: .*{reason}"):
        coco.read(written(tmp_path, content))
