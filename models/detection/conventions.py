"""Bring each annotation set to its own channels: what one set calls a centre is not what another does.

The network predicts five families of points. *Regions* are the product's own 22: the middle of the epiphysis, a little
distal of the joint line. *Joints* are the 21 points of the `handpose` set. *Loose* are the centres of the 21 loose boxes of
`epiphyses21`, which reach far along the finger. *Tight* are the centres of the finger boxes of `ossification16`, *spots* the
points of `joints13`: both name joints too, but at the knuckles they lie 1 to 2 % of the hand's length from those of
`handpose` (measured on films with two sets, `benchmarks/accuracy/detection_readers.json`). A film supervises the channels its
own annotations state, and the regions that follow from them by anatomy.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.datasets.rsna import Annotation
from models.regions import REGIONS

Points = NDArray[np.float32]  # (channels, 2) x y; NaN where not stated

JOINTS: Final = (
    *(f"tip{ray}" for ray in range(1, 6)),
    *(f"dip{ray}" for ray in range(2, 6)),
    "ip1",
    *(f"pip{ray}" for ray in range(2, 6)),
    *(f"mcp{ray}" for ray in range(1, 6)),
    "cmc1",
    "wrist",
)
LOOSE: Final = tuple(f"loose {name}" for name in REGIONS if name != "carpus")
TIGHT: Final = tuple(f"tight {name}" for name in JOINTS if name[:3] in ("dip", "ip1", "pip", "mcp"))
SPOTS: Final = tuple(f"spot {name}" for name in JOINTS if name[:3] in ("ip1", "pip", "mcp", "cmc"))
FAMILIES: Final = {"regions": REGIONS, "joints": JOINTS, "loose": LOOSE, "tight": TIGHT, "spots": SPOTS}
CHANNELS: Final = (*REGIONS, *JOINTS, *LOOSE, *TIGHT, *SPOTS)
CHANNEL: Final = {name: index for index, name in enumerate(CHANNELS)}
FINGERS: Final = {"thumb": 1, "forefinger": 2, "middle_finger": 3, "ring_finger": 4, "pinky_finger": 5}

_HANDPOSE: Final = {
    "wrist": "wrist",
    **{
        f"{finger}{k}": f"{part}{ray}"
        for finger, ray in FINGERS.items()
        for k, part in enumerate(("cmc", "mcp", "ip", "tip") if ray == 1 else ("mcp", "pip", "dip", "tip"), start=1)
    },
}
_JOINTS13: Final = {
    "0_mcp_ip": "spot ip1", "1_pip_2": "spot pip2", "2_pip_3": "spot pip3", "3_pip_4": "spot pip4", "4_pip_5": "spot pip5",
    "5_mcp_1": "spot mcp1", "6_mcp_2": "spot mcp2", "7_mcp_3": "spot mcp3", "8_mcp_4": "spot mcp4", "9_mcp_5": "spot mcp5",
    "w1": "spot cmc1",
}  # fmt: skip
_EPIPHYSES21: Final = {
    "DistalPhalanx": ("dp1", "dp2", "dp3", "dp4", "dp5"),
    "MiddlePhalanx": ("mp2", "mp3", "mp4", "mp5"),
    "ProximalPhalanx": ("pp1", "pp2", "pp3", "pp4", "pp5"),
    "MCP": ("mc2", "mc3", "mc4", "mc5"),
    "MCPFirst": ("mc1",),
    "Radius": ("radius",),
    "Ulna": ("ulna",),
}
_OSSIFICATION16: Final = {
    "DIP": ("tight dip2", "tight dip3", "tight dip4", "tight dip5"),
    "PIP": ("tight ip1", "tight pip2", "tight pip3", "tight pip4", "tight pip5"),
    "MCP": ("tight mcp1", "tight mcp2", "tight mcp3", "tight mcp4", "tight mcp5"),
    "Radius": ("radius",),
    "Ulna": ("ulna",),
    "Wrist": ("carpus",),
}
# The middle of the epiphysis seen from the joint point, as a part of the way to the next joint: (joint, next, part).
# Readers set the points of `handpose` on the epiphysis itself rather than in the joint space (seen on enlarged originals, and
# measured against phantoms, whose boxes are exact); at the knuckles a little before it, and well past the metacarpal's head.
_REGION_FROM_JOINTS: Final = {
    "dp1": ("ip1", "tip1", 0.0),
    **{f"dp{ray}": (f"dip{ray}", f"tip{ray}", 0.0) for ray in range(2, 6)},
    **{f"mp{ray}": (f"pip{ray}", f"dip{ray}", 0.0) for ray in range(2, 6)},
    "pp1": ("mcp1", "ip1", 0.05),
    **{f"pp{ray}": (f"mcp{ray}", f"pip{ray}", 0.03) for ray in range(2, 6)},
    "mc1": ("cmc1", "mcp1", 0.0),
    **{f"mc{ray}": (f"mcp{ray}", f"pip{ray}", -0.20) for ray in range(2, 6)},
}
# Which region a joint stands for: the epiphysis just past it.
REGION_OF_JOINT: Final = {
    "ip1": "dp1", "cmc1": "mc1",
    **{f"dip{ray}": f"dp{ray}" for ray in range(2, 6)},
    **{f"pip{ray}": f"mp{ray}" for ray in range(2, 6)},
    **{f"mcp{ray}": f"pp{ray}" for ray in range(1, 6)},
}  # fmt: skip
# The other two sets agree with `handpose` at the last two joints of a finger, and state those regions alone.
_AGREED: Final = ("ip1", "dip", "pip")


@dataclass(frozen=True, slots=True)
class Annotated:
    """What one set states about one film: points and sizes as fractions of the film's columns and rows."""

    film: int
    origin: str
    aspect: float  # columns / rows of the film the annotation was made on
    points: Points  # (channels, 2)
    sizes: NDArray[np.float32]  # (22, 2) width, height of a region's box; NaN where not stated


def annotated(film: int, stated: Sequence[Annotation]) -> list[Annotated]:
    """Return what each set states about one film; a set whose labels are incomplete there is left out."""
    sets: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in stated:
        sets[annotation.source].append(annotation)
    records = (_record(origin, film, sets[origin]) for origin in sorted(sets))
    return [record for record in records if record is not None]


def _record(origin: str, film: int, group: Sequence[Annotation]) -> Annotated | None:
    columns, rows = group[0].columns, group[0].rows
    found: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for annotation in group:
        x1, y1, x2, y2 = annotation.box
        found[annotation.label].append(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1))
    named = {"handpose": _one_each, "joints13": _one_each}.get(origin, _by_geometry)(origin, found)
    if named is None:
        return None
    points = np.full((len(CHANNELS), 2), np.nan, np.float32)
    sizes = np.full((len(REGIONS), 2), np.nan, np.float32)
    for name, (x, y, width, height) in named.items():
        points[CHANNEL[name]] = x / columns, y / rows
        if name in REGIONS:
            sizes[CHANNEL[name]] = width / columns, height / rows
    regions_from_joints(points)
    return Annotated(film, origin, columns / rows, points, sizes)


def joint_of(channel: str) -> str | None:
    """Return the joint that a channel names in the convention of any set; None for regions and loose boxes."""
    joint = channel.removeprefix("tight ").removeprefix("spot ")
    return joint if joint in JOINTS else None


def regions_from_joints(points: Points) -> None:
    """Fill, in place, the regions that follow from stated joints and are not stated themselves."""
    for region, (joint, following, part) in _REGION_FROM_JOINTS.items():
        start, end = points[CHANNEL[joint]], points[CHANNEL[following]]
        if np.isnan(points[CHANNEL[region], 0]) and not np.isnan(start[0] + end[0]):
            points[CHANNEL[region]] = start + part * (end - start)
    for region, (joint, _, _) in _REGION_FROM_JOINTS.items():
        for family in ("tight", "spot") if joint[:3] in _AGREED else ():
            stated = points[CHANNEL[name]] if (name := f"{family} {joint}") in CHANNEL else None
            if stated is not None and np.isnan(points[CHANNEL[region], 0]) and not np.isnan(stated[0]):
                points[CHANNEL[region]] = stated


def _one_each(
    origin: str, found: Mapping[str, list[tuple[float, float, float, float]]]
) -> dict[str, tuple[float, float, float, float]] | None:
    names = _HANDPOSE if origin == "handpose" else _JOINTS13
    if any(len(found.get(label, ())) != 1 for label in names):
        return None
    return {name: found[label][0] for label, name in names.items()}


def _by_geometry(
    origin: str, found: Mapping[str, list[tuple[float, float, float, float]]]
) -> dict[str, tuple[float, float, float, float]] | None:
    """Name the fingers of boxes that carry only the kind of bone: by their order around the palm, thumb first."""
    kinds = _EPIPHYSES21 if origin == "epiphyses21" else _OSSIFICATION16
    if any(len(found.get(label, ())) != len(names) for label, names in kinds.items()):
        return None
    wrist = np.mean([found["Radius"][0][:2], found["Ulna"][0][:2]], axis=0)
    knuckles = np.mean([box[:2] for box in found["MCP"]], axis=0)
    axis = (knuckles - wrist) / np.hypot(*(knuckles - wrist))
    # Fingers are ordered by the angle of their box about a point between wrist and knuckles, where no two lines of sight cross.
    pivot = wrist + 0.35 * (knuckles - wrist)

    def angle(box: tuple[float, float, float, float]) -> float:
        x, y = np.array(box[:2]) - pivot
        return float(np.arctan2(axis[0] * y - axis[1] * x, axis[0] * x + axis[1] * y))

    # The radius lies on the thumb's side of the ulna; its angle about the hand's axis is measured backwards from the pivot.
    radius, ulna = np.array(found["Radius"][0][:2]), np.array(found["Ulna"][0][:2])
    across = radius - ulna
    side = 1.0 if axis[0] * across[1] - axis[1] * across[0] > 0 else -1.0
    prefix = "loose " if origin == "epiphyses21" else ""
    named = {}
    for label, names in kinds.items():
        ordered = sorted(found[label], key=lambda box: -side * angle(box)) if len(names) > 1 else list(found[label])
        named.update({prefix + name: box for name, box in zip(names, ordered, strict=True)})
    return named
