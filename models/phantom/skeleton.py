"""Place the bones of one left hand, seen from its back with the fingers up, in millimetres.

x points to the thumb side, y towards the elbow; the origin is the base of the third metacarpal. A bone's own frame starts
at the middle of its metaphyseal end: `into` points into the shaft, `lateral` to the thumb side.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.phantom.epiphysis import Shape
from models.regions import Sex

# Adult male, mm: length with epiphysis, width of the metaphysis, of the waist, of the far end. Chosen to agree in
# proportion with published mean metacarpophalangeal lengths; individuals vary about them.
_SIZES: Final = {
    "mc1": (46.0, 15.5, 11.0, 15.0), "mc2": (68.0, 14.5, 9.0, 15.5), "mc3": (66.0, 14.5, 9.0, 13.6),
    "mc4": (58.0, 13.0, 7.6, 11.6), "mc5": (54.0, 12.6, 8.4, 12.8),
    "pp1": (32.0, 14.6, 9.8, 12.5), "pp2": (41.0, 15.6, 10.0, 12.0), "pp3": (46.0, 16.2, 10.4, 12.5),
    "pp4": (42.0, 15.0, 9.5, 11.5), "pp5": (33.0, 13.2, 8.0, 9.5),
    "mp2": (25.0, 13.0, 8.4, 10.2), "mp3": (30.0, 13.6, 8.8, 10.8), "mp4": (28.5, 13.0, 8.4, 10.2),
    "mp5": (20.0, 10.8, 7.0, 8.6),
    "dp1": (23.0, 13.0, 7.4, 9.8), "dp2": (17.5, 10.4, 5.2, 8.0), "dp3": (19.0, 11.0, 5.6, 8.6),
    "dp4": (19.0, 10.6, 5.4, 8.2), "dp5": (17.0, 9.0, 4.6, 7.0),
    "radius": (190.0, 29.0, 14.5, 14.5), "ulna": (190.0, 16.5, 11.5, 12.5),
}  # fmt: skip
# Height of the ossified epiphysis over the width of its metaphysis, adult.
_HEIGHT: Final = {"mc": 0.72, "pp": 0.28, "mp": 0.20, "dp": 0.21, "ra": 0.33, "ul": 0.36}
_BASES: Final = {"1": (25.0, 13.0), "2": (14.5, 0.5), "3": (0.0, 0.0), "4": (-12.0, 2.5), "5": (-22.5, 6.5)}
_DIRECTIONS: Final = {"1": 40.0, "2": 8.0, "3": 0.0, "4": -9.0, "5": -19.0}  # degrees from up, towards the thumb
_SPREAD: Final = {"1": 0.0, "2": 6.0, "3": 0.5, "4": -5.5, "5": -13.0}  # added to the fingers by a spread of 1

# Stature of the hand relative to the adult: age in years, girls, boys.
_GROWTH: Final = (
    (0, 0.40, 0.36), (1, 0.49, 0.45), (2, 0.55, 0.51), (3, 0.60, 0.56), (4, 0.65, 0.60), (6, 0.73, 0.67),
    (8, 0.80, 0.74), (10, 0.88, 0.80), (12, 0.96, 0.87), (14, 0.99, 0.95), (16, 1.0, 0.99), (19, 1.0, 1.0),
)  # fmt: skip
JOINT_SPACE_MM: Final = 0.9


@dataclass(frozen=True, slots=True)
class Bone:
    """One tubular bone with its epiphysis in the plane of the hand; lengths in mm."""

    name: str
    origin: tuple[float, float]  # middle of the metaphyseal end
    into: tuple[float, float]  # unit vector into the shaft
    lateral: tuple[float, float]  # unit vector to the thumb side
    shaft_mm: float
    metaphysis_mm: float
    waist_mm: float
    far_mm: float
    height_mm: float  # adult height of the epiphysis at the size of this hand
    slot_mm: float  # from the metaphysis to the joint, ossified or not
    bow_mm: float
    shape: Shape | None

    def at(self, u: float, s: float) -> tuple[float, float]:
        """Return the point at `u` mm to the lateral side and `s` mm into the shaft."""
        return (
            self.origin[0] + u * self.lateral[0] + s * self.into[0],
            self.origin[1] + u * self.lateral[1] + s * self.into[1],
        )


@dataclass(frozen=True, slots=True)
class Pose:
    """How the hand lies: finger spread 0..1.4 and small deviations of every ray and joint, degrees."""

    spread: float
    thumb_degrees: float
    forearm_degrees: float
    ray_degrees: dict[str, float]
    joint_degrees: dict[str, float]

    @classmethod
    def sample(cls, rng: np.random.Generator, spread: float | None = None) -> "Pose":
        """Draw a pose as radiographers place hands: fingers slightly apart, thumb abducted."""
        bones = ("pp", "mp", "dp")
        return cls(
            spread=float(rng.uniform(-0.1, 1.4)) if spread is None else spread,
            thumb_degrees=float(rng.normal(0.0, 8.0)),
            forearm_degrees=float(rng.normal(0.0, 5.0)),
            ray_degrees={ray: float(rng.normal(0.0, 1.5)) for ray in "12345"},
            joint_degrees={f"{bone}{ray}": float(rng.normal(0.0, 2.0)) for ray in "12345" for bone in bones},
        )


def growth(age_years: float, sex: Sex) -> float:
    """Return the length of the hand's bones at an age relative to the adult man's."""
    ages, girls, boys = np.array(_GROWTH).T
    adult = 0.92 if sex == "F" else 1.0
    return adult * float(np.interp(age_years, ages, girls if sex == "F" else boys))


def _around_one(rng: np.random.Generator) -> tuple[float, float, float]:
    return float(rng.normal(1, 0.02)), float(rng.normal(1, 0.04)), float(rng.normal(1, 0.05))


def _unit(degrees: float) -> tuple[float, float]:
    radians = np.deg2rad(degrees)
    return float(np.sin(radians)), float(-np.cos(radians))


@dataclass(frozen=True, slots=True)
class Build:
    """The size of one hand: lengths and widths relative to the adult man's, and each bone's own deviation."""

    length: float
    width: float
    deviation: dict[str, tuple[float, float, float]]  # length, width, waist

    @classmethod
    def sample(cls, rng: np.random.Generator, age_years: float, sex: Sex) -> "Build":
        """Draw the build of a child; infants' bones are broader for their length."""
        size = growth(age_years, sex) * float(np.clip(rng.normal(1.0, 0.055), 0.85, 1.15))
        width = size**0.86 * float(np.clip(rng.normal(1.0, 0.05), 0.86, 1.14))
        return cls(size, width, {name: _around_one(rng) for name in _SIZES})


def _bone(
    name: str,
    start: tuple[float, float],
    degrees: float,
    shape: Shape | None,
    build: Build,
    bow: float,
    *,
    distal_plate: bool,
) -> Bone:
    """Build the bone whose proximal end lies at `start` and which points `degrees` from up."""
    length, metaphysis, waist, far = _SIZES[name]
    longer, wider, slimmer = build.deviation[name]
    metaphysis, waist, far = (build.width * wider * mm for mm in (metaphysis, waist, far))
    far *= 1.0 - 0.7 * max(0.0, 0.75 - build.length)  # and their heads and bases are not broadened yet
    waist *= slimmer * (1.0 + 1.2 * max(0.0, 0.62 - build.length))  # infants' bones are less waisted
    height = _HEIGHT[name[:2]] * (0.50 if name == "mc1" else 1.0) * metaphysis
    gap = (1.2 if name[:2] in ("mp", "dp") else 1.7) if shape is None else shape.gap_mm
    # What has not ossified is thinner than what it becomes: bones of children lie close together.
    slot = height * (0.30 + 0.70 * (0.3 if shape is None else shape.height)) + gap * min(1.0, 0.5 + 0.7 * build.length)
    shaft = length * build.length * longer - slot
    direction = _unit(degrees)
    lateral = (-direction[1], direction[0])
    if distal_plate:
        origin = (start[0] + shaft * direction[0], start[1] + shaft * direction[1])
        into = (-direction[0], -direction[1])
    else:
        origin = (start[0] + slot * direction[0], start[1] + slot * direction[1])
        into = direction
    return Bone(name, origin, into, lateral, shaft, metaphysis, waist, far, height, slot, bow * metaphysis, shape)


def place(rng: np.random.Generator, build: Build, pose: Pose, shapes: dict[str, Shape | None]) -> dict[str, Bone]:
    """Return the 21 tubular bones of the hand in place."""
    bones: dict[str, Bone] = {}
    spaces = JOINT_SPACE_MM * (0.7 + 0.3 * build.length) + rng.normal(0.0, 0.35, 15)
    for ray in "12345":
        base = _BASES[ray]
        start = (base[0] * build.width, base[1] * build.width)
        degrees = _DIRECTIONS[ray] + pose.ray_degrees[ray] + (pose.thumb_degrees if ray == "1" else 0.0)
        name = f"mc{ray}"
        bow = float(rng.normal(0.0, 0.02)) + (0.05 if ray in "45" else -0.04 if ray == "2" else 0.0)
        previous = bones[name] = _bone(name, start, degrees, shapes[name], build, bow, distal_plate=ray != "1")
        degrees += _SPREAD[ray] * pose.spread * 1.15 + (-_DIRECTIONS[ray] * 0.35 if ray in "45" else 0.0)
        if ray == "1":
            degrees -= 4.0
        for row in ("pp", "mp", "dp"):
            name = f"{row}{ray}"
            if name not in _SIZES:
                continue
            degrees += pose.joint_degrees[name]
            # A finger that is a little bent shows its joints overlapping, the knuckles most.
            joint = float(spaces[len(bones) % 15]) - (0.4 if row == "pp" else 0.0)
            previous = _bone(name, _end(previous, joint), degrees, shapes[name], build, 0.0, distal_plate=False)
            bones[name] = previous
    wrist = pose.forearm_degrees
    for name, x, y in (("radius", 7.0, 36.8), ("ulna", -17.6, 39.5)):
        direction = _unit(wrist + (1.5 if name == "radius" else -1.0))
        # The wrist turns about the capitate; the plate of the ulna lies a little proximal of the radius's.
        turn = np.deg2rad(wrist)
        x, y = x + float(rng.normal(0, 0.7)), y + float(rng.normal(0, 1.3))  # ulnar variance
        px, py = x * build.width, (y - 12.0) * build.width
        corner = (
            float(px * np.cos(turn) - py * np.sin(turn)),
            float(12.0 * build.width + px * np.sin(turn) + py * np.cos(turn)),
        )
        degrees = wrist + (1.5 if name == "radius" else -1.0)
        unplaced = _bone(name, (0.0, 0.0), degrees, shapes[name], build, float(rng.normal(0, 0.025)), distal_plate=True)
        # `corner` is the articular surface: step back over the slot to the metaphysis, then over the shaft to its start.
        back = unplaced.shaft_mm + unplaced.slot_mm
        start = (corner[0] - back * direction[0], corner[1] - back * direction[1])
        bones[name] = _bone(
            name, start, degrees, shapes[name], build, unplaced.bow_mm / unplaced.metaphysis_mm, distal_plate=True
        )
    return bones


def _end(bone: Bone, joint_mm: float) -> tuple[float, float]:
    """Return the point just past the distal end of `bone`, across the joint space."""
    if bone.name[:2] == "mc" and bone.name != "mc1":
        return bone.at(0.0, -(bone.slot_mm + joint_mm))
    return bone.at(0.0, bone.shaft_mm + joint_mm)
