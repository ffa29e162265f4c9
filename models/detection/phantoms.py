"""Bring phantoms into training form: hands with their exact boxes, and pictures of something else."""

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models import phantom
from models.detection.conventions import CHANNELS
from models.detection.data import Film
from models.phantom.film import BOX_SHIFT, BOX_SIDE
from models.reading import Box
from models.regions import REGIONS

ROWS: Final = 400
COLUMNS: Final = 320
# How far the middle of a region lies from that of the phantom's box, away from the joint, in widths of the metaphysis: readers
# of real films set their points nearer the growth plate. Chosen so that on 53 real films the closer look, which learns from
# phantoms alone, does not move the boxes of the network trained on readers' points in the median (`models/phantom/README.md`).
TOWARDS_SHAFT: Final = {
    "radius": 0.17, "ulna": 0.32, "mc1": 0.12, **{f"mc{ray}": 0.19 for ray in range(2, 6)},
    **{f"pp{ray}": 0.17 for ray in range(1, 6)}, **{f"mp{ray}": 0.12 for ray in range(2, 6)},
    "dp1": 0.15, **{f"dp{ray}": 0.12 for ray in range(2, 6)},
}  # fmt: skip
OTHERS: Final[tuple[phantom.others.Kind, ...]] = ("chest", "foot", "blank")
OTHER_SHARE: Final = 0.12  # pictures of something else for each hand
YOUNG_SHARE: Final = 5  # one of so many hands is that of a child under three, whose centres are mostly not there yet


def region_boxes(drawn: phantom.Phantom) -> dict[str, Box]:
    """Return a phantom's boxes in the convention of the regions, which is that of the readers of real films."""
    boxes = dict(drawn.boxes)
    for name, part in TOWARDS_SHAFT.items():
        (x1, y1, x2, y2), (dx, dy) = boxes[name], drawn.axes[name]
        boxes[name] = (x1 - part * dx, y1 - part * dy, x2 - part * dx, y2 - part * dy)
    return boxes


def film(seed: int, *, young: bool = False) -> Film:
    """Draw one hand, of a child under three when asked; its regions are stated, its joints are not."""
    rng = np.random.default_rng((seed, 22))
    low_contrast, age = bool(rng.random() < 0.2), float(rng.uniform(0, 3))
    drawn = phantom.draw(seed, rows=ROWS, columns=COLUMNS, low_contrast=low_contrast, age_years=age if young else None)
    stated = region_boxes(drawn)
    boxes = np.array([stated[name] for name in REGIONS])
    points = np.full((len(CHANNELS), 2), np.nan, np.float32)
    # Pixel edges: the middle of pixel 0 is at 0.5 of a pixel from the film's edge.
    points[: len(REGIONS)] = ((boxes[:, :2] + boxes[:, 2:]) / 2 + 0.5) / (COLUMNS, ROWS)
    sizes = ((boxes[:, 2:] - boxes[:, :2]) / (COLUMNS, ROWS)).astype(np.float32)
    return Film(_bytes(drawn.image.pixels), COLUMNS / ROWS, points, sizes, name=f"phantom {seed}")


def other(seed: int) -> Film:
    """Draw something that is no hand."""
    kind = OTHERS[seed % len(OTHERS)]
    drawn = phantom.draw_other(kind, seed, rows=ROWS, columns=COLUMNS)
    nothing = np.full((len(CHANNELS), 2), np.nan, np.float32)
    sizes = np.full((len(REGIONS), 2), np.nan, np.float32)
    return Film(_bytes(drawn.pixels), COLUMNS / ROWS, nothing, sizes, hand=False, name=f"{kind} {seed}")


def films(count: int, seed: int, cache: Path | None) -> list[Film]:
    """Draw `count` hands and a share of other pictures, from consecutive seeds; keep them in a folder when one is given."""
    kept = None
    if cache is not None and count:
        recipe = f"{count} {seed} {ROWS} {COLUMNS} {OTHER_SHARE} {sorted(BOX_SHIFT.items())} {sorted(BOX_SIDE.items())}"
        recipe += f" {sorted(TOWARDS_SHAFT.items())} {YOUNG_SHARE}"
        kept = cache / f"phantoms-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.npz"
        if kept.exists():
            return _read(kept)
    drawn = [film(seed * 10_000 + k, young=k % YOUNG_SHARE == 0) for k in range(count)]
    drawn += [other(seed * 10_000 + k) for k in range(int(OTHER_SHARE * count))]
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            kept,
            pixels=np.stack([f.pixels for f in drawn]),
            points=np.stack([f.points for f in drawn]),
            sizes=np.stack([f.sizes for f in drawn]),
            hand=np.array([f.hand for f in drawn]),
            name=np.array([f.name for f in drawn]),
        )
    return drawn


def _read(path: Path) -> list[Film]:
    with np.load(path, allow_pickle=False) as kept:
        pixels, points, sizes, hands, names = (kept[key] for key in ("pixels", "points", "sizes", "hand", "name"))
    return [
        Film(p, COLUMNS / ROWS, xy, wh, bool(hand), str(name))
        for p, xy, wh, hand, name in zip(pixels, points, sizes, hands, names, strict=True)
    ]


def _bytes(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.round(pixels * 255).astype(np.uint8)
