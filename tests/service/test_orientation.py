"""Overlays land on the bones however the film lies: turned, mirrored, a right hand.

Ground truth is pixels: the box of each region and the outline of each bone as masks of the upright phantom, turned and mirrored
as arrays together with the film. What each object draws is read back from its bytes and painted as a mask of its own.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from models import overlay
from models.image import Image
from models.phantom import Phantom, draw
from models.reading import Mask, Reading, Region
from models.regions import REGIONS, RUS, SEGMENTED
from service.reporting import overview, presentation, secondary_capture, seg, source, sr
from service.reporting.results import ResultContext
from service.reporting.source import Source
from service.wrap import Patient, wrap
from tests.factories import encoded
from tests.service import truth
from tests.service.test_sr import AT, child, groups

Grey = NDArray[np.float32]
Area = NDArray[np.bool_]
CONTEXT = ResultContext("2.25.1", AT)
ENOUGH = 0.9
UPRIGHT = draw(
    5, age_years=8, rows=500, columns=400, laterality="L", rotation_degrees=0.0, furnished=False, zoom=0.8, noise=0.0
)
RIGHT = draw(
    6, age_years=11, rows=500, columns=400, laterality="R", rotation_degrees=12.0, furnished=False, zoom=0.7, noise=0.0
)
# (quarter turns counter-clockwise, mirrored before)
POSES = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)]


@dataclass(frozen=True)
class Film:
    """A phantom as it lies on the film: its reading by a perfect reader, and the truth as masks."""

    header: Source
    image: Image
    reading: Reading
    boxes: Mapping[str, Area]
    outlines: Mapping[str, Area]
    epiphyses: Mapping[str, Area]


def laid(phantom: Phantom, turns: int, *, mirrored: bool, photometric: Any = "MONOCHROME2") -> Film:
    """Lay a phantom on a film, turned and mirrored as an array."""

    def moved(array: NDArray[Any]) -> NDArray[Any]:
        flipped = array[:, ::-1] if mirrored else array
        return np.ascontiguousarray(np.rot90(flipped, turns))

    shape = phantom.image.pixels.shape
    boxes = {name: moved(painted(np.reshape(box, (2, 2)), shape)) for name, box in phantom.boxes.items()}
    outlines = {name: moved(phantom.masks[name]) for name in SEGMENTED}
    image = Image(moved(phantom.image.pixels), photometric_interpretation=photometric)
    seen = truth.reading(phantom)
    regions = tuple(dataclasses.replace(r, box=box_of(boxes[r.name])) for r in seen.regions)
    facts = dataclasses.replace(seen.image, rows=image.rows, columns=image.columns)
    masks = {name: Mask.from_array(outlines[name]) for name in SEGMENTED}
    film = wrap(image, Patient("TEST^TURNED", "T-2", phantom.sex), kind="DX", photometric_interpretation=photometric)
    return Film(
        source.normalise(dcmread(BytesIO(encoded(film)))),
        image,
        dataclasses.replace(seen, image=facts, regions=regions, masks=masks),
        boxes,
        outlines,
        {name: moved(mask) for name, mask in phantom.epiphyses.items()},
    )


def painted(corners: NDArray[np.floating[Any]], shape: tuple[int, ...]) -> Area:
    """Paint the rectangle around these (n, 2) x y points; a pixel belongs to it when its centre does."""
    (x1, y1), (x2, y2) = corners.min(axis=0), corners.max(axis=0)
    y, x = np.ogrid[0 : shape[0], 0 : shape[1]]
    return np.asarray((x + 0.5 >= x1) & (x + 0.5 < x2) & (y + 0.5 >= y1) & (y + 0.5 < y2))


def box_of(area: Area) -> tuple[float, float, float, float]:
    ys, xs = np.nonzero(area)
    return float(xs.min()), float(ys.min()), float(xs.max()) + 1, float(ys.max()) + 1


def iou(a: Area, b: Area) -> float:
    return float((a & b).sum() / (a | b).sum())


def reread(ds: Dataset) -> Dataset:
    return dcmread(BytesIO(encoded(ds)))


def of_report(film: Film) -> dict[str, Area]:
    """Paint the SCOORD of every bone's group."""
    found = groups(reread(sr.build(film.header, film.reading, CONTEXT)))
    return {
        name: painted(np.reshape(child(found[name], "111030").GraphicData, (-1, 2)), film.image.pixels.shape)
        for name in RUS
    }


def of_presentation_state(film: Film) -> dict[str, Area]:
    """Paint every outline of the presentation state under the name that stands beside it."""
    state = reread(presentation.build(film.header, film.reading, CONTEXT))
    drawn = {}
    for annotation in state.GraphicAnnotationSequence:
        for outline, label in zip(
            annotation.get("GraphicObjectSequence", ()), annotation.get("TextObjectSequence", ()), strict=False
        ):
            assert outline.GraphicAnnotationUnits == "PIXEL"
            name = label.UnformattedTextValue.split()[0].lower()
            drawn[name] = painted(np.reshape(outline.GraphicData, (-1, 2)), film.image.pixels.shape)
    return drawn


def of_segmentation(film: Film) -> dict[str, Area]:
    """Return the mask of each segment by its tracking identifier, frame by frame as highdicom maps them to the film."""
    built = seg.build(film.header, film.reading, CONTEXT)
    assert built is not None
    read = hd.seg.segread(BytesIO(encoded(built)))
    uid = film.header.SOPInstanceUID
    masks = read.get_pixels_by_source_instance(
        [uid], assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    return {segment.TrackingID: masks[0, :, :, i] > 0 for i, segment in enumerate(read.SegmentSequence)}


def of_overview(film: Film, names: tuple[str, ...]) -> dict[str, Area]:
    """Find the rectangle that each region alone is drawn as, by its colour, and bring it back to the film's pixels."""

    def picture(*regions: Region) -> NDArray[np.uint8]:
        some = dataclasses.replace(film.reading, regions=regions, masks={})
        ds = reread(secondary_capture.build(film.header, some, CONTEXT, overview.film(film.image, some)))
        pixels: NDArray[np.uint8] = ds.pixel_array[:, : round(film.image.columns * ds.Rows / film.image.rows)]
        return pixels

    drawn, empty = {}, picture()
    for name in names:
        region = film.reading.region(name)
        assert region is not None
        alone = picture(region)
        colour = overlay.STAGE_COLOURS[region.stage.letter] if region.stage else overlay.UNGRADED
        painted_so = (alone == colour).all(axis=2)
        # Only around what the region changed: elsewhere the film may be as grey as a line.
        y, x = np.nonzero(painted_so & (alone != empty).any(axis=2))
        around = np.zeros_like(painted_so)
        around[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
        drawn[name] = rectangle(painted_so & around, film.image.pixels.shape)
    return drawn


def rectangle(painted_so: Area, shape: tuple[int, ...]) -> Area:
    """Return the outlined rectangle by its upright sides: long unbroken lines, as no letter of a label is.

    The label may lie over a part of the upper side.
    """
    runs = [longest_run(painted_so[:, x]) for x in range(painted_so.shape[1])]
    sides = [x for x, (top, bottom) in enumerate(runs) if bottom - top >= 0.9 * max(b - t for t, b in runs)]
    top, bottom = min(runs[x][0] for x in sides), max(runs[x][1] for x in sides)
    scale = shape[0] / painted_so.shape[0]
    return painted(np.array([[sides[0], top], [sides[-1] + 1, bottom]]) * scale, shape)


def longest_run(line: Area) -> tuple[int, int]:
    edges = np.diff(np.concatenate(([0], line.astype(int), [0])))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not starts.size:
        return 0, 0
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest])


@pytest.fixture(params=POSES, ids=lambda pose: f"{90 * pose[0]} degrees{' mirrored' * pose[1]}")
def pose(request: pytest.FixtureRequest) -> tuple[int, bool]:
    turns, mirrored = request.param
    return turns, mirrored


@pytest.fixture
def film(pose: tuple[int, bool]) -> Film:
    return laid(UPRIGHT, pose[0], mirrored=pose[1])


@pytest.mark.parametrize("drawn_by", [of_report, of_presentation_state])
def test_outlines_lie_on_the_true_boxes(film: Film, drawn_by: Callable[[Film], dict[str, Area]]) -> None:
    drawn = drawn_by(film)
    assert set(RUS) <= set(drawn)
    overlaps = {name: iou(area, film.boxes[name]) for name, area in drawn.items()}
    assert min(overlaps.values()) > ENOUGH, overlaps


def test_the_segmentation_is_the_true_outline(film: Film) -> None:
    masks = of_segmentation(film)
    assert set(masks) == set(SEGMENTED)
    for name, mask in masks.items():
        assert iou(mask, film.outlines[name]) > ENOUGH


def test_the_overview_draws_the_true_boxes(film: Film, pose: tuple[int, bool]) -> None:
    """A third of the regions for each pose; together the poses draw every region."""
    names = REGIONS[POSES.index(pose) % 3 :: 3]
    overlaps = {name: iou(area, film.boxes[name]) for name, area in of_overview(film, names).items()}
    assert min(overlaps.values()) > ENOUGH, overlaps


def test_each_bone_lies_in_the_box_that_bears_its_name(film: Film) -> None:
    """The middle of the true epiphysis, moved with the film, is inside what report and presentation state draw for it."""
    report, state = of_report(film), of_presentation_state(film)
    checked = 0
    for name in RUS:
        if name in film.epiphyses and film.epiphyses[name].any():
            y, x = (round(float(v.mean())) for v in np.nonzero(film.epiphyses[name]))
            assert report[name][y, x], name
            assert state[name][y, x], name
            checked += 1
    assert checked >= 10


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_right_hand_is_drawn_where_it_lies(photometric: str) -> None:
    film = laid(RIGHT, 0, mirrored=False, photometric=photometric)
    for drawn in (of_report(film), of_presentation_state(film), of_overview(film, ("radius", "mc1", "dp5"))):
        overlaps = {name: iou(area, film.boxes[name]) for name, area in drawn.items()}
        assert min(overlaps.values()) > ENOUGH, overlaps
    for name, mask in of_segmentation(film).items():
        assert iou(mask, film.outlines[name]) > ENOUGH


def test_the_measure_tells_a_mirrored_overlay_from_a_true_one() -> None:
    """A film mirrored after it was read: what the objects draw then misses the bones, and the measure says so."""
    film = laid(UPRIGHT, 0, mirrored=False)
    elsewhere = laid(UPRIGHT, 0, mirrored=True)
    assert min(iou(area, elsewhere.boxes[name]) for name, area in of_report(film).items()) < 0.5
    assert max(iou(mask, elsewhere.outlines[name]) for name, mask in of_segmentation(film).items()) < 0.5
