"""Outline the radius and ulna of one film with trained weights; imports no training code."""

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from models import weights
from models.folding import folded
from models.image import Image
from models.reading import Box, Mask, Region
from models.regions import RADIUS, ULNA
from models.segmentation.crop import Array, Crop, crop_of, cut, join, normalise, reached
from models.segmentation.network import ARCHITECTURES, CLASSES, UNet, build, layout
from models.segmentation.served import ServedUNet

# The crops a film is seen through, so many as its weights ask for: turn in degrees, scale, shift to the right and down in crop sides
# (`Crop.moved`). What the network says of a pixel depends on where the crop's edge happens to lie; the mean over several depends on
# it less.
LOOKS: Final = ((0.0, 1.0, 0.0, 0.0), (5.0, 1.08, 0.0, 0.0), (-5.0, 0.95, 0.0, 0.0))
# A pixel is bone where that is likelier than the other bone and than background: never where all crops say less than a third.
_NEVER: Final = 0.33
# A bone shows as at most two pieces, shaft and epiphysis; a second piece smaller than this share of the first is a speck.
_SPECK: Final = 0.003
# Bone has no holes on a film; larger ones are left, for the growth plate may be enclosed at its two ends.
_HOLE: Final = 0.01


class Segmenter:
    """The segmentation network of one weights folder.

    Raises
    ------
    WeightsRefused
        When the folder is not a segmenter this version can run.
    """

    architectures: ClassVar[Collection[str]] = ARCHITECTURES

    def __init__(self, folder: Path) -> None:
        """Load and verify the weights."""
        tensors, self.metadata = weights.load(folder, problem="segmentation", architectures=self.architectures)
        self.net = build(self.metadata.architecture, self.metadata.hyperparameters)
        self.net.load_state_dict(tensors)
        self.parameters = sum(parameter.numel() for parameter in self.net.parameters())
        self.net = folded(self.net).to(memory_format=layout(self.net))
        if isinstance(self.net, UNet):
            self.net = ServedUNet(self.net)
        self.size = int(self.metadata.preprocessing["size"])
        looks = self.metadata.preprocessing.get("looks", 1)
        if looks not in range(1, len(LOOKS) + 1):
            raise weights.WeightsRefused(folder, "looks", f"1 to {len(LOOKS)}", looks)
        self.looks = LOOKS[:looks]

    def segment(self, image: Image, regions: tuple[Region, ...]) -> dict[str, Mask]:
        """Return the outline of each of the two bones that was found, in pixels of the film."""
        found, rows, columns = self._found(image, {region.name: region.box for region in regions})
        corner = (columns.start, rows.start)
        return {bone: Mask.from_array(mask, corner) for bone, mask in found.items()}

    def masks(self, image: Image, boxes: dict[str, Box]) -> dict[str, NDArray[np.bool_]]:
        """Return (rows, columns) masks by bone; without the boxes of both bones there is no crop, and none is returned."""
        found, rows, columns = self._found(image, boxes)
        return on_film(found, image, rows, columns)

    def _found(self, image: Image, boxes: dict[str, Box]) -> tuple[dict[str, NDArray[np.bool_]], slice, slice]:
        """Return the masks within a part of the film, and which rows and columns that are."""
        seen = self._seen(image, boxes)
        where = None if seen is None else reached(seen[0], seen[1], _NEVER, image.rows, image.columns)
        if seen is None or where is None:
            return {}, slice(0, 0), slice(0, 0)
        placed, rows, columns = join(*seen, *where)
        return decided(boxes, placed, rows, columns), rows, columns

    def chances(self, image: Image, boxes: dict[str, Box]) -> tuple[Array, slice, slice] | None:
        """Return the probability of ulna and of radius, (2, rows, columns), in the part of the film that the crops cover.

        It is the mean over the crops that cover a pixel.
        """
        seen = self._seen(image, boxes)
        return join(*seen, image.rows, image.columns) if seen is not None else None

    def _seen(self, image: Image, boxes: dict[str, Box]) -> tuple[Array, list[Crop]] | None:
        """Return the probability of ulna and of radius in each crop, (crops, 2, size, size), and the crops."""
        crop = crop_of(boxes)
        if crop is None:
            return None
        crops = [crop.moved(*look) for look in self.looks]
        views = [normalise(*cut(image.pixels, seen, self.size)) for seen in crops]
        return self.probabilities(np.stack(views))[:, 1:], crops

    @torch.inference_mode()
    def probabilities(self, crops: Array) -> Array:
        """Map normalised crops (n, size, size) to the probability of each class, (n, 3, size, size)."""
        scores = self.net(torch.from_numpy(crops)[:, None].to(memory_format=layout(self.net)))
        chances: Array = scores.float().softmax(dim=1).numpy()
        return chances


def decided(boxes: dict[str, Box], placed: Array, rows: slice, columns: slice) -> dict[str, NDArray[np.bool_]]:
    """Turn probabilities of ulna and radius in a part of the film into masks of that part by bone."""
    background = 1 - placed[0] - placed[1]
    result: dict[str, NDArray[np.bool_]] = {}
    for index, bone in enumerate(CLASSES[1:]):
        found = placed[index] > np.maximum(background, placed[1 - index])
        found = tidied(found, boxes[bone], rows, columns)
        if found.any():
            result[bone] = found
    return {bone: result[bone] for bone in (RADIUS, ULNA) if bone in result}


def on_film(
    found: dict[str, NDArray[np.bool_]], image: Image, rows: slice, columns: slice
) -> dict[str, NDArray[np.bool_]]:
    """Turn masks of a part of the film into masks of the film."""
    whole = {bone: np.zeros((image.rows, image.columns), dtype=np.bool_) for bone in found}
    for bone, mask in found.items():
        whole[bone][rows, columns] = mask
    return whole


def tidied(found: NDArray[np.bool_], box: Box, rows: slice, columns: slice) -> NDArray[np.bool_]:
    """Keep a bone's largest piece and the largest other one inside its region's box; close small holes.

    `found` is the part of the film given by `rows` and `columns`, `box` is in pixels of the film.
    """
    down = np.flatnonzero(found.any(axis=1))
    if not down.size:
        return found
    across = np.flatnonzero(found.any(axis=0))
    where = slice(int(down[0]), int(down[-1]) + 1), slice(int(across[0]), int(across[-1]) + 1)
    whole = np.zeros_like(found)
    kept = found[where].copy()
    rows, columns = _within(rows, where[0]), _within(columns, where[1])
    runs, sizes = pieces_of(kept)
    largest = int(sizes.argmax())
    others = [
        (int(sizes[index]), index)
        for index in np.flatnonzero(sizes >= _SPECK * sizes[largest]).tolist()
        if index != largest and _centre_in(runs[:3, runs[3] == index], box, rows, columns)
    ]
    keep = {largest, *(index for _, index in sorted(others)[-1:])}
    for row, start, stop, _ in runs[:, ~np.isin(runs[3], list(keep))].T.tolist():
        kept[row, start:stop] = False
    # Holes are the pieces of what is not bone, but for the one around it all, which a margin of one pixel joins.
    runs, holes = pieces_of(np.pad(~kept, 1, constant_values=True))
    small = holes <= _HOLE * sizes[largest]
    small[runs[3, 0]] = False
    for row, start, stop, _ in runs[:, small[runs[3]]].T.tolist():
        kept[row - 1, start - 1 : stop - 1] = True
    whole[where] = kept
    return whole


def pieces_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the pieces whose pixels touch along their sides: (4, runs) row, start, stop and piece of each run, and pieces' sizes.

    Numbered as `scipy.ndimage.label` would, from 0. A bone is a thousand runs along rows and a million pixels.
    """
    width = mask.shape[1] + 1
    flat = np.zeros(mask.shape[0] * width + 1, np.bool_)  # a pixel of nothing before every row, and one at the end
    flat[:-1].reshape(-1, width)[:, 1:] = mask
    starts, stops = np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2).T
    # The runs of the next row that lie below any pixel of a run.
    first = np.searchsorted(stops, starts + width, side="right")
    touching = np.maximum(np.searchsorted(starts, stops + width, side="left") - first, 0)
    ends = np.concatenate(([0], np.cumsum(touching)))
    below = np.arange(ends[-1]) + np.repeat(first - ends[:-1], touching)
    # What lies below one run after another is a matrix by its rows as it stands: nothing has to be sorted.
    links = csr_array(
        (np.ones(len(below)), below.astype(np.int32), ends.astype(np.int32)), shape=(len(starts), len(starts))
    )
    _, piece = connected_components(links, directed=False)
    sizes = np.bincount(piece, stops - starts).astype(np.intp)
    return np.stack((starts // width, starts % width, starts % width + stops - starts, piece)), sizes


def _within(outer: slice, inner: slice) -> slice:
    return slice(outer.start + inner.start, outer.start + inner.stop)


def _centre_in(runs: NDArray[np.intp], box: Box, rows: slice, columns: slice) -> bool:
    """Whether the middle of what these runs (3, runs) span lies in the box."""
    y = rows.start + (runs[0].min() + runs[0].max() + 1) / 2
    x = columns.start + (runs[1].min() + runs[2].max()) / 2
    return bool(box[0] <= x <= box[2] and box[1] <= y <= box[3])
