"""Write what is true of a phantom as annotation tools would have it: labelImg VOC XML, labelme JSON and CSV rows."""

import json
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from skimage.measure import approximate_polygon, find_contours

from models.phantom.film import Phantom
from models.regions import RUS

CASE_COLUMNS: Final = (
    "file", "sex", "bone_age_years", "total_score", "laterality", "polarity", "rotation_degrees", "pixel_spacing_mm",
    *(f"stage_{bone}" for bone in RUS),
)  # fmt: skip
BOX_COLUMNS: Final = ("file", "label", "x1", "y1", "x2", "y2")


def case_row(file: str, phantom: Phantom) -> dict[str, str]:
    """Return one film's row of the table of cases; it works as `--cases` of `carpus read` too."""
    spacing = phantom.image.pixel_spacing_mm
    return {
        "file": file,
        "sex": phantom.sex,
        "bone_age_years": f"{phantom.bone_age_years:.3f}",
        "total_score": str(phantom.total_score),
        "laterality": phantom.laterality,
        "polarity": phantom.polarity,
        "rotation_degrees": f"{phantom.rotation_degrees:.1f}",
        "pixel_spacing_mm": f"{spacing[0]:.4f}" if spacing else "",
        **{f"stage_{bone}": phantom.stages[bone] for bone in RUS},
    }


def box_rows(file: str, phantom: Phantom) -> list[dict[str, str]]:
    """Return one row for each region's box and each text's, pixels of the film."""
    named = [*phantom.boxes.items(), *((f"text:{text.kind}", text.box) for text in phantom.text_boxes)]
    return [
        {"file": file, "label": label, **{k: f"{v:.2f}" for k, v in zip(("x1", "y1", "x2", "y2"), box, strict=True)}}
        for label, box in named
    ]


def voc(file: str, phantom: Phantom) -> str:
    """Return the boxes as labelImg writes them: whole pixels, counted from 1, inside the film."""
    rows, columns = phantom.image.rows, phantom.image.columns
    lines = [
        "<annotation>",
        f"\t<filename>{escape(file)}</filename>",
        f"\t<size><width>{columns}</width><height>{rows}</height><depth>1</depth></size>",
    ]
    for name, (x1, y1, x2, y2) in phantom.boxes.items():
        left, top = max(round(x1) + 1, 1), max(round(y1) + 1, 1)
        right, below = min(round(x2) + 1, columns), min(round(y2) + 1, rows)
        if left >= right or top >= below:
            continue  # the region lies off the film
        cut = int((left, top, right, below) != (round(x1) + 1, round(y1) + 1, round(x2) + 1, round(y2) + 1))
        lines += [
            "\t<object>",
            f"\t\t<name>{name}</name><pose>Unspecified</pose><truncated>{cut}</truncated><difficult>0</difficult>",
            f"\t\t<bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{below}</ymax></bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def labelme(file: str, phantom: Phantom) -> str:
    """Return the outlines of every bone in view as labelme polygons; a bone in several pieces shares a group."""
    shapes: list[dict[str, Any]] = []
    for group, (name, mask) in enumerate(phantom.masks.items()):
        for points in polygons(mask):
            shapes.append(
                {
                    "label": name,
                    "points": points,
                    "group_id": group,
                    "shape_type": "polygon",
                    "flags": {},
                    "description": "",
                }
            )
    document: dict[str, Any] = {
        "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": file, "imageData": None,
        "imageHeight": phantom.image.rows, "imageWidth": phantom.image.columns,
    }  # fmt: skip
    return json.dumps(document, ensure_ascii=False) + "\n"


def polygons(mask: NDArray[np.bool_], tolerance: float = 0.25) -> list[list[list[float]]]:
    """Return the outer outlines of a mask as lists of x, y; labelme's pixel (0, 0) spans 0..1."""
    padded = np.pad(mask, 1).astype(np.float32)
    found = []
    for contour in find_contours(padded, 0.5):  # type: ignore[no-untyped-call]
        line = approximate_polygon(contour, tolerance)  # type: ignore[no-untyped-call]
        if len(line) >= 4:
            found.append([[round(float(x) - 0.5, 2), round(float(y) - 0.5, 2)] for y, x in line[:-1]])
    return found


def save_png(path: Path, phantom: Phantom) -> None:
    """Write the film as PNG, 16 bit where the phantom's detector had more than 8."""
    pixels = phantom.image.pixels
    if phantom.image.bits_stored > 8:
        Picture.fromarray((pixels * 65535 + 0.5).astype(np.uint16)).save(path)
    else:
        Picture.fromarray((pixels * 255 + 0.5).astype(np.uint8)).save(path)
