"""Readings as the models would return them, for tests of what is made of a Reading."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import standards
from models.image import Image
from models.reading import (
    Agreement,
    BoneScore,
    Bundle,
    ImageFacts,
    Mask,
    MethodResult,
    Reading,
    Reason,
    Region,
    Stage,
    Verdict,
)
from models.regions import REGIONS, RUS
from models.scoring import Scoring
from models.standards import RUS_CHN, STANDARDS

ROWS, COLUMNS = 600, 450
# Centre of each region as a fraction of (columns, rows), for a left hand, palm down: the thumb to the right.
_RAYS = {1: (0.80, 0.52), 2: (0.66, 0.30), 3: (0.52, 0.24), 4: (0.38, 0.28), 5: (0.24, 0.38)}
_BASE = (0.50, 0.74)
_STAGES = {
    **{"radius": "6", "ulna": "5(2)", "mc1": "6(0)", "mc3": "5", "mc5": "5", "pp1": "6(0)", "pp3": "5(2)"},
    **{"pp5": "5(0)", "mp3": "5(0)", "mp5": "4(0)", "dp1": "6(2)", "dp3": "5(0)", "dp5": "4"},
}
BUNDLE = Bundle("default", "0.1", "3f" * 32, "for tests")


def box(name: str) -> tuple[float, float, float, float]:
    """Return the box of a region on the film of this module."""
    if name in ("radius", "ulna", "carpus"):
        x, y = {"radius": (0.57, 0.86), "ulna": (0.42, 0.87), "carpus": (0.50, 0.77)}[name]
    else:
        tip, ray = _RAYS[int(name[2])], int(name[2])
        along = {"mc": 0.25, "pp": 0.5, "mp": 0.72, "dp": 0.95}[name[:2]]
        if ray == 1:
            along = {"mc": 0.35, "pp": 0.65, "dp": 0.95}[name[:2]]
        x, y = (_BASE[i] + along * (tip[i] - _BASE[i]) for i in (0, 1))
    half_x, half_y = (0.075, 0.05) if name in ("radius", "ulna", "carpus") else (0.045, 0.035)
    return (
        round((x - half_x) * COLUMNS, 1),
        round((y - half_y) * ROWS, 1),
        round((x + half_x) * COLUMNS, 1),
        round((y + half_y) * ROWS, 1),
    )


def mask(name: str) -> NDArray[np.bool_]:
    """Return a bone-like mask inside the region: an ellipse that touches three sides of its box."""
    x1, y1, x2, y2 = box(name)
    y, x = np.mgrid[0:ROWS, 0:COLUMNS] + 0.5
    inside = ((x - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2 + ((y - y2) / (y2 - y1)) ** 2 <= 1
    return np.asarray(inside & (y <= y2), dtype=np.bool_)


def facts(*, rows: int = ROWS, columns: int = COLUMNS) -> ImageFacts:
    """Return what is known of a film of this size."""
    return ImageFacts(rows, columns, (0.3, 0.3), "L", "L", "bone bright", "MONOCHROME2", 3.5)


def image() -> Image:
    """Return a film with a grey level of its own in each region."""
    pixels = np.full((ROWS, COLUMNS), 0.1, dtype=np.float32)
    for index, name in enumerate(REGIONS):
        x1, y1, x2, y2 = (round(v) for v in box(name))
        pixels[y1:y2, x1:x2] = 0.4 + 0.02 * index
    return Image(pixels, pixel_spacing_mm=(0.3, 0.3))


def stage(label: str) -> Stage:
    """Return a stage with its runner-up."""
    return Stage("RUS-CHN", label, chr(ord("A") + int(label[0])), 0.7123, "6" if label[0] == "5" else "5", 0.2034)


def _method(name: str, sex: Any, age: float, *, scored: bool, score: float | None = None) -> MethodResult:
    standard = next((each for each in STANDARDS if each.name == name), RUS_CHN)
    bones = {
        bone: BoneScore(
            standard.level_of(bone, _STAGES[bone]), 20.0 + 3 * i, -0.1 - 0.02 * i, None if i == 3 else 0.15 + 0.0123 * i
        )
        for i, bone in enumerate(RUS)
    }
    return MethodResult(
        name,
        sex,
        age,
        (age - 0.7, age + 0.81),
        score,
        per_bone=bones if scored else {},
        sds=1.24 if scored else None,
        percentile=89.3 if scored else None,
        reference="China-05" if scored else None,
    )


def reading(*, sex: Any = "F", alarm: bool = False, reasons: tuple[Reason, ...] = (), **changes: Any) -> Reading:
    """Return a reading of 22 regions with stages, two masks and four methods (on both curves when the sex is unknown)."""
    methods = [
        method
        for curve in ([sex] if sex else ["F", "M"])
        for method in (
            _method("RUS-CHN", curve, 10.5312345, scored=True, score=512.4),
            _method("TW3-C RUS", curve, 10.31, scored=True, score=488.0),
            _method("TW3", curve, 10.02, scored=True, score=488.0),
            _method("region-xgboost", curve, 10.77, scored=False),
            MethodResult("zh05", curve, None, reason="the bundle holds no weights for this method"),
        )
    ]
    fields: dict[str, Any] = {
        "image": facts(),
        "verdict": Verdict(True, reasons),
        "bundle": BUNDLE,
        "sex": sex,
        "chronological_age_years": 9.61,
        "default_method": "RUS-CHN",
        "regions": tuple(
            Region(name, box(name), 0.95, stage(_STAGES[name]) if name in _STAGES else None) for name in REGIONS
        ),
        "masks": {name: Mask.from_array(mask(name)) for name in ("radius", "ulna")},
        "methods": tuple(methods),
        "agreement": Agreement(1.9 if alarm else 0.75, alarm, 1.0),
    }
    return Reading(**{**fields, **changes})


def short() -> Reading:
    """Return the reading with two regions and no outlines: what is made of it is small."""
    return dataclasses.replace(reading(), regions=reading().regions[:2], masks={})


def staged(*, sex: Any = "F", **changes: Any) -> Reading:
    """Return a reading whose methods by stages come from the tables: a middle stage in each bone, a regression beside them."""
    base = reading(sex=sex)
    stages = {bone: _graded(bone, middle(bone)) for bone in RUS}
    sexes = (sex,) if sex else ("F", "M")
    by_film = tuple(MethodResult("rsna-cnn", s, 9.5, (8.1, 10.9)) for s in sexes)
    methods = Scoring().by_stages(stages, sexes) + by_film
    regions = tuple(Region(r.name, r.box, r.score, stages.get(r.name)) for r in base.regions)
    return dataclasses.replace(base, regions=regions, methods=methods, **changes)


def middle(bone: str) -> str:
    """Return the stage in the middle of a bone's levels: the total then lies inside every table."""
    levels = standards.fine_levels(bone)
    return levels[len(levels) // 2]


def _graded(bone: str, label: str) -> Stage:
    levels = standards.fine_levels(bone)
    chances = tuple(0.9 if level == label else 0.1 / (len(levels) - 1) for level in levels)
    runner_up = levels[levels.index(label) + 1]
    return Stage("RUS-CHN", label, standards.letter_of(bone, label), 0.9, runner_up, chances[-1], chances)
