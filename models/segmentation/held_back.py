"""Measure a segmenter on a hospital's own outlines, on the films that were held back from its training.

    python -m models.segmentation.held_back films --images films --readings readings.jsonl --weights runs/own/weights

`films` holds the labelme files and `split.csv`, which says which films are the part `test`; the readings (`carpus read FOLDER --json`) say
where the detector found the bones, as it does when a film is served. Inside the crop by those boxes every pixel counts, outside of it
none: the segmenter does not see it. A bone that was not found counts as IoU 0, a film of which radius or ulna was not found as two.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models import refusal, weights
from models.datasets import labelme, splits
from models.image import Image
from models.metrics.bootstrap import estimate
from models.metrics.overlap import MaskOverlap, mask_overlap
from models.reading import Box
from models.regions import SEGMENTED
from models.segmentation.crop import crop_of, put_back
from models.segmentation.outlined import drawn, film_of, read_boxes
from models.segmentation.predict import Segmenter

MEASURES = ("iou", "dice", "precision", "recall")
LOST = MaskOverlap(0.0, 0.0, 0.0, 0.0)
Case = Mapping[str, MaskOverlap]  # by bone


class Segmenting(Protocol):
    """What is measured."""

    def masks(self, image: Image, boxes: dict[str, Box]) -> dict[str, NDArray[np.bool_]]:
        """Return the mask of each bone that was found."""


def overlaps(found: Mapping[str, NDArray[np.bool_]], outline: labelme.Outlines, boxes: Mapping[str, Box]) -> Case:
    """Compare masks with the outlines of one film, inside the crop that `boxes` cut; without a crop every bone is lost."""
    crop = crop_of(dict(boxes))
    if crop is None:
        return dict.fromkeys(SEGMENTED, LOST)
    window = np.zeros((outline.rows, outline.columns), np.bool_)
    placed, rows, columns = put_back(np.ones((1, 64, 64), np.float32), crop, outline.rows, outline.columns)
    window[rows, columns] = placed[0] > 0.99  # not the last half pixel of the crop
    return {
        bone: mask_overlap(found.get(bone, np.zeros_like(window)) & window, outline.mask(bone) & window)
        for bone in SEGMENTED
    }


def summed(cases: Sequence[Case]) -> dict[str, Any]:
    """Return the mean of every measure of each bone with its 95 % interval over films, and the median of the IoU."""
    result: dict[str, Any] = {}
    for bone in SEGMENTED:
        result[bone] = {
            measure: estimate(np.array([getattr(case[bone], measure) for case in cases]), _mean).to_dict()
            for measure in MEASURES
        }
        result[bone]["iou_median"] = round(float(np.median([case[bone].iou for case in cases])), 4)
    return result


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())


def measure(
    segmenter: Segmenting, outlines: Mapping[str, labelme.Outlines], boxes: Mapping[str, dict[str, Box]]
) -> dict[str, Any]:
    """Measure a segmenter on outlined films; `boxes` are the detector's by the film's name, those of a film may be missing."""
    cases = []
    for name, outline in outlines.items():
        image, own = film_of(outline), boxes.get(name, {})
        cases.append(overlaps(segmenter.masks(image, own) if own else {}, outline, own))
    lost = sum(case[bone] == LOST for case in cases for bone in SEGMENTED)
    return {"films": len(cases), **summed(cases), "not_found": lost}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outlines", type=Path, help="folder of the labelme files and split.csv")
    parser.add_argument("--images", type=Path, required=True, help="folder of their films")
    parser.add_argument("--readings", type=Path, required=True, help="JSON lines of `carpus read FOLDER`: the boxes")
    parser.add_argument("--weights", type=Path, required=True, help="weights folder of the segmenter")
    parser.add_argument("--part", choices=splits.PARTS, default="test")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    films = drawn(options.outlines, options.images, options.part)
    found = measure(Segmenter(options.weights), films, read_boxes(options.readings))
    print(json.dumps({"part": options.part, "weights_sha256": weights.digest(options.weights), **found}))  # noqa: T201 - a script


if __name__ == "__main__":
    refusal.command(main)
