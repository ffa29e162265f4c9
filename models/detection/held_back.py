"""Measure a detector on a hospital's own boxes, on the films that were held back from its training.

    python -m models.detection.held_back boxes --weights runs/detection-own/weights

`boxes` is what `carpus train detection --annotations` takes; its `split.csv` says which films are the part `test`. Every region
that has a box counts: one that was not found, and every one of a film that was refused, as a miss and as IoU 0.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from models import refusal, transforms, weights
from models.datasets import splits
from models.datasets.faults import BadData
from models.detection.anatomy import LIMIT_PERCENT, Template
from models.detection.annotated import Boxed, boxed
from models.detection.conventions import CHANNEL
from models.detection.predict import ARCHITECTURES, Detection, Detector
from models.image import Image
from models.metrics import bootstrap
from models.metrics.overlap import box_iou
from models.reading import Box


class Detecting(Protocol):
    """What is measured."""

    def detect(self, image: Image) -> Detection:
        """Return the regions of a film."""


def cases(detector: Detecting, template: Template, film: Boxed) -> list[tuple[str, float, float]]:
    """Return of each region with a box: its name, the error of its middle in per cent of the hand's length, and its IoU."""
    found = detector.detect(film.load())
    drawn = {name: _from_edge(box, film.middle) for name, box in film.boxes.items()}
    seen = {region.name: _from_edge(region.box, 0.5) for region in found.regions} if found.verdict.accepted else {}
    fit = transforms.Similarity.fit(
        template.points[[CHANNEL[name] for name in drawn]], np.array([_middle(box) for box in drawn.values()])
    )
    length = fit.scale * template.hand_length
    rows = []
    for name, box in drawn.items():
        error, overlap = np.inf, 0.0
        if name in seen:
            error = float(np.hypot(*(np.array(_middle(seen[name])) - _middle(box)))) / length * 100
            overlap = box_iou(seen[name], box)
        rows.append((name, error, overlap))
    return rows


def _from_edge(box: Box, middle: float) -> Box:
    x1, y1, x2, y2 = box
    return (x1 + middle, y1 + middle, x2 + middle, y2 + middle)


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def measure(detector: Detecting, films: Sequence[Boxed]) -> dict[str, Any]:
    """Measure a detector on films with boxes; intervals are 95 % over films."""
    template = Template.load()
    measured = [cases(detector, template, film) for film in films]
    near = np.array([[sum(error <= LIMIT_PERCENT for _, error, _ in rows), len(rows)] for rows in measured], np.float64)
    overlaps = np.array([np.mean([overlap for *_, overlap in rows]) for rows in measured])
    every = [row for rows in measured for row in rows]
    misses: dict[str, int] = {}
    for name, error, _ in every:
        misses[name] = misses.get(name, 0) + int(error > LIMIT_PERCENT)
    return {
        "films": len(films),
        "regions": len(every),
        "within_2.5_percent": bootstrap.share(near).to_dict(),
        "mean_iou": bootstrap.estimate(overlaps, lambda values: float(values.mean())).to_dict(),
        "not_found": sum(not np.isfinite(error) for _, error, _ in every),
        "misses_by_region": {name: count for name, count in misses.items() if count},
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boxes", type=Path, help="a folder of labelImg files or a COCO file, and split.csv")
    parser.add_argument("--weights", type=Path, required=True, help="weights folder of the detector")
    parser.add_argument("--part", choices=splits.PARTS, default="test")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    films = boxed(options.boxes)[options.part]
    if not films:
        raise BadData(options.boxes, None, options.part, "no film with boxes stands in this part")
    detector = opened(options.weights)
    found = {"part": options.part, "weights_sha256": weights.digest(options.weights), **measure(detector, films)}
    print(json.dumps(found))  # noqa: T201 - a script


def opened(folder: Path) -> Detecting:
    """Return the detector of a weights folder, whichever of the architectures it is.

    Raises
    ------
    WeightsRefused
        When the weights are of another problem or architecture, or not the bytes that were saved.
    """
    if weights.Metadata.read(folder).architecture in ARCHITECTURES:
        return Detector(folder)
    from models.detection import rcnn  # torchvision's detectors are loaded only for weights that are theirs

    weights.verify(folder, problem="detection", architectures=(*ARCHITECTURES, rcnn.ARCHITECTURE))
    return rcnn.RcnnDetector(folder)


if __name__ == "__main__":
    refusal.command(main)
