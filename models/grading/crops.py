"""Cut the 13 RUS regions out of a film: every bone upright and of one scale, equalised, with its edges enhanced (P5, section 3.2).

The neighbouring regions of a ray say where its bone points; the thumb side says whether the film must be mirrored. So every
crop shows its bone as on an upright left hand seen from the back, whatever the film's rotation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.image import Image
from models.reading import ImageFacts, Region
from models.regions import RUS

CONTEXT: Final = 1.2  # side of the crop over the side of the region, whose box is about 1.8 times as wide as its bone
SIZE: Final = 112  # pixels of a crop
LEVELS: Final = 256  # grey levels of the equalisation

# From which regions to which a bone's axis runs, proximal to distal, each end the mean of the regions named: the phalanx that
# carries the epiphysis, else the nearest stretch of the same ray. The first line whose regions were all found is used.
_FOREARM: Final = (("radius ulna", "mc2 mc3 mc4 mc5"), ("radius ulna", "mc3"), ("radius", "mc2"), ("ulna", "mc5"))
_AXES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "radius": _FOREARM,
    "ulna": _FOREARM,
    "mc1": (("mc1", "pp1"), ("mc1", "dp1")),
    "mc3": (("carpus", "mc3"), ("radius", "mc3"), ("mc3", "mp3")),
    "mc5": (("carpus", "mc5"), ("ulna", "mc5"), ("mc5", "mp5")),
    "pp1": (("pp1", "dp1"), ("mc1", "dp1")),
    "pp3": (("pp3", "mp3"), ("mc3", "mp3"), ("pp3", "dp3")),
    "pp5": (("pp5", "mp5"), ("mc5", "mp5"), ("pp5", "dp5")),
    "mp3": (("mp3", "dp3"), ("pp3", "dp3"), ("pp3", "mp3")),
    "mp5": (("mp5", "dp5"), ("pp5", "dp5"), ("pp5", "mp5")),
    "dp1": (("pp1", "dp1"), ("mc1", "dp1")),
    "dp3": (("mp3", "dp3"), ("pp3", "dp3")),
    "dp5": (("mp5", "dp5"), ("pp5", "dp5")),
}
_THUMB_SIDE: Final = ("radius", "mc1", "pp1", "dp1", "mc2", "pp2")
_LITTLE_SIDE: Final = ("ulna", "mc5", "pp5", "mp5", "dp5")


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a crop lies on the film.

    Parameters
    ----------
    x, y
        Centre in pixels of the film.
    side
        Length of the crop's side in pixels of the film.
    angle
        Direction of the bone in radians, 0 pointing up, positive toward the right of the film.
    mirrored
        Whether the film shows the thumb on the left of an upright hand.
    """

    x: float
    y: float
    side: float
    angle: float
    mirrored: bool

    def widened(self, factor: float) -> "Frame":
        """Return the frame with its side multiplied."""
        return Frame(self.x, self.y, self.side * factor, self.angle, self.mirrored)


def frames(regions: tuple[Region, ...], facts: ImageFacts, context: float = CONTEXT) -> dict[str, Frame]:
    """Return the frame of each RUS bone whose region was found; its side is `context` times that of the region."""
    centres = {region.name: _centre(region) for region in regions}
    default = -np.deg2rad(facts.rotation_degrees)
    mirrored = _mirrored(centres, default, facts)
    found = {region.name: region for region in regions}
    return {
        bone: Frame(
            *centres[bone],
            side=context * _side(found[bone]),
            angle=_angle(bone, centres, default),
            mirrored=mirrored,
        )
        for bone in RUS
        if bone in found
    }


def cut(image: Image, frame: Frame, facts: ImageFacts, size: int = SIZE) -> NDArray[np.float32]:
    """Return one crop, (size, size) in 0..1, bone bright, the bone pointing up, thumb side to the right.

    Beyond the film's edge its border is repeated, so that no step appears. Where the film is finer than the crop it is averaged first.
    """
    reach = frame.side * 0.75 + 2  # half the diagonal of the crop, and a margin for interpolation
    x1, y1 = max(0, int(frame.x - reach)), max(0, int(frame.y - reach))
    x2, y2 = min(image.columns, int(frame.x + reach) + 1), min(image.rows, int(frame.y + reach) + 1)
    if x2 - x1 < 2 or y2 - y1 < 2:
        return np.zeros((size, size), np.float32)
    patch = torch.from_numpy(np.ascontiguousarray(image.pixels[y1:y2, x1:x2]))[None, None]
    if facts.polarity == "bone dark":
        patch = 1 - patch
    factor = max(1, round(frame.side / size))
    if factor > 1:
        patch = functional.avg_pool2d(patch, factor, ceil_mode=True, count_include_pad=False)
    steps = (torch.arange(size, dtype=torch.float32) + 0.5) / size - 0.5
    right, down = steps[None, :] * frame.side, steps[:, None] * frame.side
    if frame.mirrored:
        right = -right
    cosine, sine = float(np.cos(frame.angle)), float(np.sin(frame.angle))
    x = (frame.x + cosine * right - sine * down - x1) / factor
    y = (frame.y + sine * right + cosine * down - y1) / factor
    grid = torch.stack((2 * x / patch.shape[3] - 1, 2 * y / patch.shape[2] - 1), dim=-1)[None]
    crop = functional.grid_sample(patch, grid, mode="bilinear", padding_mode="border", align_corners=False)
    cropped: NDArray[np.float32] = crop[0, 0].numpy()
    return cropped


def shrunk(crops: Tensor, seen: int | None) -> Tensor:
    """Average crops down to `seen` pixels; None or their own size leaves them as they are."""
    if seen is None or seen == crops.shape[-1]:
        return crops
    return functional.interpolate(crops, size=(seen, seen), mode="area")


def enhance(crops: Tensor) -> Tensor:
    """Equalise the histogram of each crop and enhance its edges.

    Parameters
    ----------
    crops
        (n, 1, rows, columns) grey levels; any monotone change of them gives the same result, up to `LEVELS` steps.

    Returns
    -------
    Tensor
        (n, 2, rows, columns): the equalised crop in -1..1, and its edges: what an unsharp mask of 7 x 7 pixels would add.
    """
    n = crops.shape[0]
    flat = crops.reshape(n, -1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    levels = ((flat - low) / (high - low).clamp_min(1e-6) * (LEVELS - 1)).round().long()
    counts = torch.zeros((n, LEVELS), dtype=flat.dtype, device=flat.device)
    counts.scatter_add_(1, levels, torch.ones_like(flat))
    # The middle of each level's share, so that a flat crop becomes grey and not black or white.
    ranks = (counts.cumsum(1) - 0.5 * counts) / flat.shape[1]
    equalised = (2 * ranks.gather(1, levels) - 1).reshape(crops.shape)
    blurred = functional.avg_pool2d(functional.pad(equalised, (3, 3, 3, 3), mode="replicate"), 7, stride=1)
    return torch.cat((equalised, equalised - blurred), dim=1)


def _centre(region: Region) -> tuple[float, float]:
    x1, y1, x2, y2 = region.box
    return (x1 + x2) / 2, (y1 + y2) / 2


def _side(region: Region) -> float:
    x1, y1, x2, y2 = region.box
    return float(np.sqrt(max(x2 - x1, 1.0) * max(y2 - y1, 1.0)))


def _angle(bone: str, centres: Mapping[str, tuple[float, float]], default: float) -> float:
    for start, end in _AXES[bone]:
        if all(name in centres for name in (start + " " + end).split()):
            x1, y1 = np.mean([centres[name] for name in start.split()], axis=0)
            x2, y2 = np.mean([centres[name] for name in end.split()], axis=0)
            return float(np.arctan2(x2 - x1, y1 - y2))
    return default


def _mirrored(centres: Mapping[str, tuple[float, float]], angle: float, facts: ImageFacts) -> bool:
    """Whether the thumb lies on the left of the upright hand, which makes it a right hand seen from the back."""
    thumb = [centres[name] for name in _THUMB_SIDE if name in centres]
    little = [centres[name] for name in _LITTLE_SIDE if name in centres]
    if not thumb or not little:
        return facts.laterality == "R"
    across = np.mean(thumb, axis=0) - np.mean(little, axis=0)
    return bool(across @ np.array((np.cos(angle), np.sin(angle))) < 0)
