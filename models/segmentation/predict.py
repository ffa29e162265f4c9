"""Outline the radius and ulna of one film with trained weights; imports no training code."""

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from models import weights
from models.folding import folded
from models.image import Image
from models.reading import Box, Mask, Region
from models.regions import RADIUS, ULNA
from models.segmentation.crop import Array, Crop, crop_of, cut, join, normalise, reached
from models.segmentation.network import ARCHITECTURES, CLASSES, build, layout

# The crops a film is seen through, by their number: turn in degrees, scale, shift to the right and down in crop sides (`Crop.moved`).
# What the network says of a pixel depends on where the crop's edge happens to lie; the mean over three crops depends on it less.
LOOKS: Final = {1: ((0.0, 1.0, 0.0, 0.0),), 3: ((0.0, 1.0, 0.0, 0.0), (5.0, 1.08, 0.0, 0.0), (-5.0, 0.95, 0.0, 0.0))}
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
        self.size = int(self.metadata.preprocessing["size"])
        looks = self.metadata.preprocessing.get("looks", 1)
        if looks not in LOOKS:
            raise weights.WeightsRefused(folder, "looks", " or ".join(map(str, LOOKS)), looks)
        self.looks = LOOKS[looks]

    def segment(self, image: Image, regions: tuple[Region, ...]) -> dict[str, Mask]:
        """Return the outline of each of the two bones that was found, in pixels of the film."""
        masks = self.masks(image, {region.name: region.box for region in regions})
        return {bone: Mask.from_array(mask) for bone, mask in masks.items()}

    def masks(self, image: Image, boxes: dict[str, Box]) -> dict[str, NDArray[np.bool_]]:
        """Return (rows, columns) masks by bone; without the boxes of both bones there is no crop, and none is returned."""
        seen = self._seen(image, boxes)
        if seen is None:
            return {}
        where = reached(seen[0], seen[1], _NEVER, image.rows, image.columns)
        return decided(image, boxes, *join(*seen, *where)) if where is not None else {}

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


def decided(
    image: Image, boxes: dict[str, Box], placed: Array, rows: slice, columns: slice
) -> dict[str, NDArray[np.bool_]]:
    """Turn probabilities of ulna and radius in a part of the film into whole masks by bone."""
    result: dict[str, NDArray[np.bool_]] = {}
    for index, bone in enumerate(CLASSES[1:]):
        other = placed[1 - index]
        found = (placed[index] > other) & (placed[index] > 1 - placed[index] - other)
        found = tidied(found, boxes[bone], rows, columns)
        if found.any():
            mask = np.zeros((image.rows, image.columns), dtype=np.bool_)
            mask[rows, columns] = found
            result[bone] = mask
    return {bone: result[bone] for bone in (RADIUS, ULNA) if bone in result}


def tidied(found: NDArray[np.bool_], box: Box, rows: slice, columns: slice) -> NDArray[np.bool_]:
    """Keep a bone's largest piece and the largest other one inside its region's box; close small holes.

    `found` is the part of the film given by `rows` and `columns`, `box` is in pixels of the film.
    """
    places = find_objects(found.astype(np.int8))
    if not places:
        return found
    whole, where = found, places[0]
    found, rows, columns = found[where], _within(rows, where[0]), _within(columns, where[1])
    pieces, count = label(found)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest = int(sizes.argmax())
    keep = np.zeros(count + 1, dtype=np.bool_)
    keep[largest] = True
    inside = [
        (int(sizes[index]), index)
        for index, place in enumerate(find_objects(pieces), start=1)
        if index != largest and sizes[index] >= _SPECK * sizes[largest] and _centre_in(place, box, rows, columns)
    ]
    if inside:
        keep[max(inside)[1]] = True
    kept: NDArray[np.bool_] = keep[pieces]
    # Holes are the pieces of what is not bone, but for the one around it all, which a margin of one pixel joins.
    holes, number = label(np.pad(~kept, 1, constant_values=True))
    small = np.bincount(holes.ravel(), minlength=number + 1) <= _HOLE * sizes[largest]
    small[[0, holes[0, 0]]] = False
    closed = np.zeros_like(whole)
    closed[where] = kept | small[holes[1:-1, 1:-1]]
    return closed


def _within(outer: slice, inner: slice) -> slice:
    return slice(outer.start + inner.start, outer.start + inner.stop)


def _centre_in(place: tuple[slice, slice], box: Box, rows: slice, columns: slice) -> bool:
    y = rows.start + (place[0].start + place[0].stop) / 2
    x = columns.start + (place[1].start + place[1].stop) / 2
    return bool(box[0] <= x <= box[2] and box[1] <= y <= box[3])
