"""Compare boxes and masks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.reading import Box


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2; 0 where both are empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (first, second))
    return shared / (areas - shared) if areas > shared else float(shared > 0)


@dataclass(frozen=True, slots=True)
class MaskOverlap:
    """Overlap of a predicted mask with the reference. Two empty masks agree fully; one empty mask agrees not at all."""

    iou: float
    dice: float
    precision: float
    recall: float


def mask_overlap(predicted: NDArray[np.bool_], reference: NDArray[np.bool_]) -> MaskOverlap:
    """Compare two (rows, columns) masks.

    Raises
    ------
    ValueError
        When their shapes differ: a mask of another film must not be measured.
    """
    if predicted.shape != reference.shape:
        raise ValueError(f"mask of {predicted.shape} does not match the reference of {reference.shape}")
    shared = float(np.count_nonzero(predicted & reference))
    found, wanted = float(np.count_nonzero(predicted)), float(np.count_nonzero(reference))
    if found == 0 and wanted == 0:
        return MaskOverlap(1.0, 1.0, 1.0, 1.0)
    return MaskOverlap(
        iou=shared / (found + wanted - shared),
        dice=2 * shared / (found + wanted),
        precision=shared / found if found else 0.0,
        recall=shared / wanted if wanted else 0.0,
    )
