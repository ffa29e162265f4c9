"""Features of 17 regions, pooled to six kinds, as P2 has them: a trunk's maps averaged within each box.

The trunk is that of a trained `maturity-net`; it sees the film as the thumbnail it was trained on. P2 takes 2,048 numbers a
region from the backbone of its detector; here they are the maps of the trunk's last three stages, 448 numbers at the width
that ships. The mean over the regions of one kind is weighted by the detector's score; a kind without a region is NaN, which
trees take as missing.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from models.reading import Region
from models.regions import CARPUS, METACARPALS, RADIUS, REGION_FEATURES, ULNA
from models.regression.appearance import SIDE, channels
from models.regression.network import MaturityNet

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "carpus": (CARPUS,),
    "radius": (RADIUS,),
    "ulna": (ULNA,),
    "metacarpals": METACARPALS[1:],
    "proximal phalanges": tuple(name for name in REGION_FEATURES if name.startswith("pp")),
    "distal phalanges": tuple(name for name in REGION_FEATURES if name.startswith("dp")),
}
STAGES: Final = 3  # the last so many stages of the trunk give features
CELLS: Final = 2  # a box is averaged over so many cells a side, then over the cells
CONTEXT: Final = 1.3  # side of the box that is averaged over that of the region


def maps(network: MaturityNet, films: Tensor) -> list[Tensor]:
    """Return the trunk's maps of the last stages: (n, 1, 100, 100) grey levels -> (n, channels, rows, columns) each."""
    x = channels(films).contiguous(memory_format=torch.channels_last)
    kept: list[Tensor] = []
    for layer in network.trunk:
        before = x.shape[-1]
        x = layer(x)
        # A map that has just been halved closes the stage before it.
        if kept and x.shape[-1] == before:
            kept[-1] = x
        else:
            kept.append(x)
    return [kept_map.float() for kept_map in kept[-STAGES:]]


def boxes_on_thumbnail(
    regions: Sequence[Region], rows: int, columns: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the 17 boxes on the thumbnail, (17, 4) x1 y1 x2 y2 in its pixels, and their scores, 0 where a region is missing."""
    boxes, scores = np.zeros((len(REGION_FEATURES), 4), np.float32), np.zeros(len(REGION_FEATURES), np.float32)
    scale = np.array([SIDE / columns, SIDE / rows])
    for region in regions:
        if region.name not in REGION_FEATURES:
            continue
        x1, y1, x2, y2 = region.box
        middle, half = np.array([x1 + x2, y1 + y2]) / 2, np.array([x2 - x1, y2 - y1]) / 2 * CONTEXT
        index = REGION_FEATURES.index(region.name)
        boxes[index] = np.concatenate([(middle - half) * scale, (middle + half) * scale])
        scores[index] = max(region.score, 1e-3)
    return boxes, scores


@torch.inference_mode()
def pooled(
    network: MaturityNet, films: Tensor, boxes: NDArray[np.float32], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the features of each film, (n, 6 * channels), NaN for kinds without a region.

    Parameters
    ----------
    films
        (n, 1, 100, 100) grey levels.
    boxes, scores
        (n, 17, 4) and (n, 17), from `boxes_on_thumbnail`.
    """
    n, regions = scores.shape
    index = np.repeat(np.arange(n, dtype=np.float32), regions)[:, None]
    rois = torch.from_numpy(np.hstack([index, boxes.reshape(-1, 4)]))
    parts = []
    for level in maps(network, films):
        cells = roi_align(level, rois, CELLS, spatial_scale=level.shape[-1] / SIDE, sampling_ratio=2, aligned=True)
        parts.append(cells.mean((2, 3)).numpy())
    features = np.concatenate(parts, axis=1).reshape(n, regions, -1)
    kinds = []
    for names in KINDS.values():
        chosen = [REGION_FEATURES.index(name) for name in names]
        weight = scores[:, chosen]
        total = weight.sum(1, keepdims=True)
        mean = (features[:, chosen] * weight[..., None]).sum(1) / np.where(total > 0, total, np.nan)
        kinds.append(mean)
    return np.concatenate(kinds, axis=1).astype(np.float32)


def table(
    features: NDArray[np.float32], sex: NDArray[np.int64], age_years: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Return the rows the trees see: features, sex (1 for boys) and, where asked for, the chronological age."""
    columns = [features, sex[:, None].astype(np.float32)]
    if age_years is not None:
        columns.append(age_years[:, None].astype(np.float32))
    return np.hstack(columns)
