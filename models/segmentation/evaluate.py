r"""Measure a segmenter on phantoms it has not seen, at the resolution of the film.

    python -m models.segmentation.evaluate --weights models/bundles/segmentation/unet-outlines --films 300 --first-seed 40000000 \
        --json benchmarks/accuracy/segmentation_phantom.json

The boxes that cut the crop are the phantom's own, shifted and scaled at random as a detector errs (`--jitter`, standard
deviation in box sides). The reference is the bone's mask inside the crop. A bone that was not found counts as IoU 0.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from models import refusal
from models.engine import git_commit
from models.metrics.bootstrap import estimate
from models.metrics.overlap import mask_overlap
from models.phantom import Phantom, draw
from models.reading import Box
from models.regions import SEGMENTED
from models.segmentation.crop import crop_of, put_back
from models.segmentation.predict import Segmenter
from models.weights import digest

SHOWS: Final = 100  # pixels of a bone inside the crop from which on it is measured
EMPTY_MM: Final = 50.0  # what the distance to an outline that was not found counts as


def jittered(boxes: dict[str, Box], rng: np.random.Generator, sigma: float) -> dict[str, Box]:
    """Return boxes as an inexact detector gives them."""
    moved: dict[str, Box] = {}
    for name, (x1, y1, x2, y2) in boxes.items():
        side = x2 - x1
        dx, dy = (float(v) for v in rng.normal(0, sigma * side, 2))
        grow = 0.5 * side * float(rng.normal(0, sigma))
        moved[name] = (x1 + dx - grow, y1 + dy - grow, x2 + dx + grow, y2 + dy + grow)
    return moved


def seen(phantom: Phantom, boxes: dict[str, Box]) -> NDArray[np.bool_]:
    """Return the pixels of the film inside the crop, without a rim of half a pixel of 64."""
    crop = crop_of(boxes)
    window = np.zeros((phantom.image.rows, phantom.image.columns), dtype=np.bool_)
    if crop is not None:
        placed, rows, columns = put_back(np.ones((1, 64, 64), np.float32), crop, *window.shape)
        window[rows, columns] = placed[0] > 0.99
    return window


def hausdorff_95(predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: float) -> float:
    """Return the 95th percentile of the distances between the two outlines, both ways, mm; infinite where one is empty."""
    if not predicted.any() or not reference.any():
        return float("inf")
    ys, xs = np.nonzero(predicted | reference)
    area = (slice(max(ys.min() - 2, 0), ys.max() + 3), slice(max(xs.min() - 2, 0), xs.max() + 3))
    edges = [mask[area] & ~binary_erosion(mask[area]) for mask in (predicted, reference)]
    far = [distance_transform_edt(~edge) for edge in edges]
    distances = np.concatenate((far[1][edges[0]], far[0][edges[1]]))
    return float(np.percentile(distances, 95)) * spacing_mm


def cases(
    phantom: Phantom, boxes: dict[str, Box], found: Mapping[str, NDArray[np.bool_]]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield what was measured of each bone that shows inside the crop."""
    window = seen(phantom, boxes)
    spacing = phantom.image.pixel_spacing_mm[0] if phantom.image.pixel_spacing_mm else 1.0
    for bone in SEGMENTED:
        if bone not in phantom.masks:
            continue
        reference = phantom.masks[bone] & window
        if reference.sum() < SHOWS:
            continue
        predicted = found[bone] & window if bone in found else np.zeros_like(reference)
        overlap = mask_overlap(predicted, reference)
        yield (
            bone,
            {
                "iou": overlap.iou, "dice": overlap.dice, "precision": overlap.precision, "recall": overlap.recall,
                "hausdorff_95_mm": min(hausdorff_95(predicted, reference, spacing), EMPTY_MM),
            },
        )  # fmt: skip


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())


def _low(values: NDArray[np.float64]) -> float:
    return float(np.percentile(values, 5))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--films", type=int, default=300)
    parser.add_argument("--first-seed", type=int, default=40_000_000)
    parser.add_argument("--jitter", type=float, default=0.03)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    segmenter = Segmenter(options.weights)
    rows: dict[str, list[dict[str, float]]] = {bone: [] for bone in SEGMENTED}
    milliseconds: list[float] = []
    processor_ms: list[float] = []  # of all threads together: what the film costs, whatever else the machine does
    for seed in range(options.first_seed, options.first_seed + options.films):
        phantom = draw(seed)
        boxes = jittered(phantom.boxes, np.random.default_rng((seed, 11)), options.jitter)
        start, busy = time.perf_counter(), time.process_time()
        found = segmenter.masks(phantom.image, boxes)
        milliseconds.append(1000 * (time.perf_counter() - start))
        processor_ms.append(1000 * (time.process_time() - busy))
        for bone, case in cases(phantom, boxes, found):
            rows[bone].append(case)
    result: dict[str, object] = {
        "what": "segmentation of radius and ulna on unseen phantoms, at film resolution",
        "command": f"python -m models.segmentation.evaluate --weights {options.weights} --films {options.films} "
        f"--first-seed {options.first_seed} --jitter {options.jitter}",
        "commit": git_commit(),
        "weights": {
            "folder": str(options.weights),
            "sha256": digest(options.weights),
            "architecture": segmenter.metadata.architecture,
        },
        "hardware": f"{platform.machine()}, {options.threads} threads",
        "load": f"{os.getloadavg()[0]:.1f} processes ran beside it on {os.cpu_count()} cores",
        "processor_ms": {"p50": round(float(np.percentile(processor_ms, 50)), 1)},
        "latency_ms": {
            "p50": round(float(np.percentile(milliseconds, 50)), 1),
            "p95": round(float(np.percentile(milliseconds, 95)), 1),
        },
    }
    for bone, measured in rows.items():
        result[bone] = {
            **{name: estimate(np.array([case[name] for case in measured]), _mean).to_dict() for name in measured[0]},
            "iou_5th_percentile": estimate(np.array([case["iou"] for case in measured]), _low).to_dict(),
        }
    text = json.dumps(result, indent=1)
    print(text)  # noqa: T201 - a script
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    refusal.command(main)
