"""Annotation files written here, in the layout of the real one."""

import csv
from pathlib import Path

import numpy as np
import pytest

from models.datasets import rsna
from models.detection import anatomy
from models.detection.conventions import CHANNEL, CHANNELS, JOINTS, Annotated, annotated, regions_from_joints

TEMPLATE = anatomy.Template.load()
LABELS = {
    "dp": "DistalPhalanx",
    "mp": "MiddlePhalanx",
    "pp": "ProximalPhalanx",
    "mc": "MCP",
    "ra": "Radius",
    "ul": "Ulna",
}


def read(folder: Path, rows: list[tuple[object, ...]]) -> list[Annotated]:
    with (folder / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "set", "kind", "label", "x1", "y1", "x2", "y2", "original_columns", "original_rows"))
        writer.writerows(rows)
    return [record for film, stated in rsna.annotations(folder).items() for record in annotated(int(film), stated)]


def loose_boxes(mirrored: bool, turned: float) -> list[tuple[object, ...]]:
    """The template's loose boxes as an epiphyses21 film of 1000 x 2000 pixels, in an order that says nothing."""
    rows = []
    cosine, sine = np.cos(turned), np.sin(turned)
    for name in sorted(n for n in CHANNELS if n.startswith("loose")):
        x, y = TEMPLATE.points[CHANNEL[name]] - 0.5
        x = -x if mirrored else x
        x, y = 700 * (cosine * x - sine * y) + 500, 700 * (sine * x + cosine * y) + 1000
        bone = name.removeprefix("loose ")
        label = "MCPFirst" if bone == "mc1" else LABELS[bone[:2]]
        rows.append((7, "epiphyses21", "box", label, x - 20, y - 30, x + 20, y + 30, 1000, 2000))
    return rows


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turned", [0.0, 0.6, np.pi, -1.9])
def test_boxes_without_finger_names_are_named_by_geometry(mirrored: bool, turned: float, tmp_path: Path) -> None:
    (record,) = read(tmp_path, loose_boxes(mirrored, turned))
    loose = [index for index, name in enumerate(CHANNELS) if name.startswith("loose")]
    found = record.points[loose] * (1000, 2000) - (500, 1000)
    found = found @ np.array([[np.cos(turned), np.sin(turned)], [-np.sin(turned), np.cos(turned)]]).T / 700
    wanted = (TEMPLATE.points[loose] - 0.5) * (-1 if mirrored else 1, 1)
    assert np.allclose(found, wanted, atol=1e-5)


def test_a_film_with_a_label_too_few_is_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, loose_boxes(False, 0.0)[1:]) == []


def test_regions_follow_from_joints_a_little_past_them() -> None:
    points = np.full((len(CHANNELS), 2), np.nan, np.float32)
    joints = [CHANNEL[name] for name in JOINTS]
    points[joints] = TEMPLATE.points[joints]
    regions_from_joints(points)
    start, end, pp3 = (points[CHANNEL[name]] for name in ("mcp3", "pip3", "pp3"))
    assert np.allclose(pp3, start + 0.03 * (end - start))
    assert np.isnan(points[CHANNEL["radius"]]).all()  # no joint states it
