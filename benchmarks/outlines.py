"""Measure the whole way, detector then segmenter, on the self-annotated outlines of real films.

    python -m benchmarks.outlines --images ../shared/data/rsna --json benchmarks/accuracy/segmentation_real.json

The reference ends at the crop that the detector of the time of drawing gave (`boxes.csv` beside the outlines): inside of it
the outlines are whole. What the segmenter finds outside of it is not counted. A bone that is not found counts as IoU 0, a
film without a crop as two bones not found. `--boxes FILE` writes the boxes of this detector on all outlined films and ends.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import torch

from models import pixels, refusal, registry
from models.datasets import labelme, splits
from models.detection.predict import Detector
from models.engine import git_commit
from models.segmentation.held_back import MEASURES, Case, overlaps, summed
from models.segmentation.outlined import film_of, outlined
from models.segmentation.predict import Segmenter
from models.weights import digest

OUTLINES = Path("models/datasets/outlines")
BUNDLES = Path(registry.__file__).parent / "bundles"
KEPT = ("radius", "ulna", "carpus", "mc2", "mc3", "mc4", "mc5")  # what `crop_of` looks at


def main() -> None:
    """Detect, outline, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--outlines", type=Path, default=OUTLINES)
    parser.add_argument("--part", choices=splits.PARTS, default="test")
    parser.add_argument("--detector", type=Path, default=BUNDLES / "detection" / "handnet-sets")
    parser.add_argument("--segmenter", type=Path, default=BUNDLES / "segmentation" / "unet-outlines")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--boxes", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    detector = Detector(options.detector)
    if options.boxes:
        write_boxes(options, detector)
        return
    segmenter = Segmenter(options.segmenter)
    cases: dict[str, Case] = {}
    for name, film, boxes in outlined(options.outlines, options.images, options.part):
        image = film_of(film)
        found = segmenter.masks(image, {region.name: region.box for region in detector.detect(image).regions})
        cases[name] = overlaps(found, film, boxes)
    result: dict[str, Any] = {
        "what": f"segmentation of radius and ulna on real films, {options.part} part of the self-annotated outlines, with the "
        "detector's own boxes",
        "command": f"python -m benchmarks.outlines --images ../shared/data/rsna --part {options.part}",
        "commit": git_commit(),
        "reference": "outlines drawn by the developers, no radiologists, from proposals of a network of this kind",
        "detector_sha256": digest(options.detector),
        "segmenter_sha256": digest(options.segmenter),
        "split_sha256": splits.digest(options.outlines / "split.csv"),
    }
    result |= summed(list(cases.values()))
    result["cases"] = [
        {"id": name, **{bone: {key: round(getattr(own, key), 4) for key in MEASURES} for bone, own in case.items()}}
        for name, case in cases.items()
    ]
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "cases"}))


def write_boxes(options: argparse.Namespace, detector: Detector) -> None:
    """Write the boxes the crop is cut by, of every outlined film."""
    with options.boxes.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file", "label", "x1", "y1", "x2", "y2"))
        for film in labelme.read_folder(options.outlines, images=options.images):
            for region in detector.detect(pixels.load(film.image)).regions:
                if region.name in KEPT:
                    table.writerow((film.image.stem, region.name, *(f"{v:.1f}" for v in region.box)))


if __name__ == "__main__":
    refusal.command(main)
