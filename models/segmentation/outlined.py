r"""Keep the DRU crops of real films outlined by hand in a cache outside the tree.

    python -m models.segmentation.outlined --outlines models/datasets/outlines --images ../shared/data/rsna --out ../cache/real
    python -m models.segmentation.outlined --outlines outlines --images films --readings readings.jsonl --out ../cache/own

`--outlines` is a folder of labelme files with `split.csv` (id,part) and, where `--readings` is not given, `boxes.csv` with the boxes
that cut the crops. The outlines end at their crop: what lies outside of it counts as off the film.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from models import refusal
from models.datasets import documents, labelme, readings, splits
from models.datasets.faults import BadData
from models.image import Image
from models.reading import Box
from models.regions import CARPALS, REGIONS
from models.segmentation.crop import crop_of
from models.segmentation.data import keep

# What may be outlined beside radius and ulna; it is not learnt from.
BONES: Final = (*REGIONS, *CARPALS, "pisiform", "sesamoid")


def read_boxes(path: Path) -> dict[str, dict[str, Box]]:
    """Read which box each region has, by the film's name without its ending, in pixels of the film.

    `path` is the `boxes.csv` of a folder of outlines, or the JSON lines that `carpus read FOLDER --json` wrote.
    """
    boxes: dict[str, dict[str, Box]] = {}
    if path.suffix == ".jsonl":
        for file, line in readings.read(path).items():
            film = Path(file)
            if film.stem in boxes:
                reason = (
                    f"an outline of {film.stem} may be of this film or of another: give the files names of their own"
                )
                raise BadData(path, line.number, file, reason)
            own = boxes[film.stem] = {}
            try:
                for region in line.values.get("regions", ()):
                    x1, y1, x2, y2 = region["box"]
                    own[region["name"]] = (x1, y1, x2, y2)
            except (KeyError, TypeError, ValueError) as error:
                raise BadData(path, line.number, file, "its regions are no names with boxes") from error
        return boxes
    for at, row in documents.rows(path, ("file", "label", "x1", "y1", "x2", "y2")):
        x1, y1, x2, y2 = (documents.number(path, at, row[corner], corner) for corner in ("x1", "y1", "x2", "y2"))
        boxes.setdefault(row["file"], {})[row["label"]] = (x1, y1, x2, y2)
    return boxes


def drawn(folder: Path, images: Path, part: str) -> dict[str, labelme.Outlines]:
    """Return the outlines of one part of a folder by the film's name.

    Raises
    ------
    BadData
        When the folder lacks what the split names, or no film stands in this part.
    """
    split = folder / splits.FILE
    chosen = splits.members(splits.load(split), part)
    films = {film.image.stem: film for film in labelme.read_folder(folder, labels=BONES, images=images)}
    if not chosen:
        raise BadData(split, None, part, "no film stands in this part")
    for name in chosen:
        if name not in films:
            raise BadData(split, None, name, f"no outline in {folder} is of this film")
    return {name: films[name] for name in chosen}


def outlined(
    folder: Path, images: Path, part: str, places: Path | None = None
) -> list[tuple[str, labelme.Outlines, dict[str, Box]]]:
    """Return the films of one part of a folder of outlines: id, outlines and the boxes that cut the crop.

    Raises
    ------
    BadData
        As `drawn`; also when a film has no boxes that cut a crop.
    """
    films, places = drawn(folder, images, part), places or folder / "boxes.csv"
    boxes = read_boxes(places)
    for name in films:
        if "radius" not in boxes.get(name, {}) or "ulna" not in boxes[name]:
            raise BadData(places, None, name, "there is no box of radius and ulna of this film")
    return [(name, outline, boxes[name]) for name, outline in films.items()]


def film_of(outline: labelme.Outlines) -> Image:
    """Return the film that was outlined; one of another size than the outline says is refused."""
    film = documents.load_film(outline.image)
    if (film.rows, film.columns) != (outline.rows, outline.columns):
        size = f"{outline.columns} x {outline.rows}"
        raise BadData(outline.image, None, f"{film.columns} x {film.rows}", f"the outline was drawn on {size} pixels")
    return film


def make_outlined(folder: Path, outlines: Path, images: Path, part: str, places: Path | None = None) -> int:
    """Fill a cache with the films of one part of a folder of outlines; returns their number."""
    rows = []
    for name, outline, boxes in outlined(outlines, images, part, places):
        crop, film = crop_of(boxes), film_of(outline)
        if crop is None:
            raise BadData(places or outlines / "boxes.csv", None, name, "radius and ulna have the same box")
        bones = {bone: outline.mask(bone) for bone in ("ulna", "radius")}
        rows.append(keep(film.pixels, bones, crop, limit=crop))
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(("films", "masks", "inside")):
        np.save(folder / f"{name}.npy", np.stack([row[index] for row in rows]))
    state = {"films": len(rows), "room": len(rows), "first_seed": 0, "outlines": part}
    (folder / "cache.json").write_text(json.dumps(state), encoding="utf-8")
    return len(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Make a cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache, outside the tree")
    parser.add_argument("--outlines", type=Path, required=True, help="folder of the labelme files")
    parser.add_argument("--images", type=Path, required=True, help="folder of their films, outside the tree")
    parser.add_argument(
        "--readings", type=Path, help="JSON lines of `carpus read FOLDER`: the boxes, instead of boxes.csv"
    )
    parser.add_argument("--part", choices=splits.PARTS, default="train", help="part of their split.csv")
    options = parser.parse_args(argv)
    made = make_outlined(options.out, options.outlines, options.images, options.part, options.readings)
    print(f"{made} films")  # noqa: T201 - a script


if __name__ == "__main__":
    refusal.command(main)
