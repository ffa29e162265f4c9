"""Say what was read from one film: a plain, frozen record that survives JSON unchanged.

The JSON form is the contract with the service, with `carpus read --json` and with every report; its keys are the
field names below.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from models.regions import REGIONS, Sex

CONTRADICTED: Final = "stage-contradicted"  # flag of a bone whose stage the other bones contradict; code of the remark
SIDES: Final[Mapping[str, str]] = {"L": "left", "R": "right"}

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the film as received; x to the right, y down


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of the film itself."""

    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float] | None
    laterality: str | None  # the side seen: L or R, by the thumb
    laterality_declared: str | None  # the side the header states
    polarity: str  # the polarity found in the pixels: "bone bright" or "bone dark"
    polarity_declared: str  # MONOCHROME1 or MONOCHROME2
    rotation_degrees: float  # counter-clockwise angle by which the middle finger deviates from pointing up
    laterality_marked: str | None = None  # the side that a marker on the film names


@dataclass(frozen=True, slots=True)
class Reason:
    """A named finding about the quality or suitability of the film; `code` is stable, `text` is for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the film can be read. `reasons` may also hold remarks on an accepted film."""

    accepted: bool
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """The maturity stage of one bone and how sure the grader is of it."""

    standard: str  # "RUS-CHN"
    label: str  # "0" where the centre is absent, else the fine label such as "5(2)"
    letter: str  # the TW3 letter that follows from it, A..I
    probability: float
    runner_up: str | None = None
    runner_up_probability: float | None = None
    probabilities: tuple[float, ...] = ()  # all stages in order, the absent centre first


@dataclass(frozen=True, slots=True)
class Region:
    """One of the 22 regions as found on the film."""

    name: str
    box: Box
    score: float
    stage: Stage | None = None
    flags: tuple[str, ...] = ()  # "order" when the anatomy contradicts it, `CONTRADICTED`

    def __post_init__(self) -> None:
        """Refuse a name outside the vocabulary."""
        if self.name not in REGIONS:
            raise ValueError(f"region {self.name!r} is not one of {', '.join(REGIONS)}")


@dataclass(frozen=True, slots=True)
class Mask:
    """A bone's outline as run lengths, row by row inside `box`, background first."""

    box: tuple[int, int, int, int]
    runs: tuple[int, ...]

    @classmethod
    def from_array(cls, mask: NDArray[np.bool_], corner: tuple[int, int] = (0, 0)) -> Self:
        """Encode a (rows, columns) mask of the film, or of the part of it whose first pixel is at `corner`, x y.

        Raises
        ------
        ValueError
            When the mask is empty: a missing bone is left out of the Reading, not encoded.
        """
        ys = np.flatnonzero(mask.any(axis=1))
        if ys.size == 0:
            raise ValueError("an empty mask cannot be encoded; leave the bone out and say why")
        y1, y2 = int(ys[0]), int(ys[-1]) + 1
        xs = np.flatnonzero(mask[y1:y2].any(axis=0))
        x1, x2 = int(xs[0]), int(xs[-1]) + 1
        flat = mask[y1:y2, x1:x2].ravel()
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        runs: list[int] = np.diff(changes, prepend=0, append=flat.size).tolist()
        x, y = corner
        return cls((x + x1, y + y1, x + x2, y + y2), tuple([0, *runs] if flat[0] else runs))

    def to_array(self, rows: int, columns: int) -> NDArray[np.bool_]:
        """Decode to a (rows, columns) mask of the whole film."""
        x1, y1, x2, y2 = self.box
        if not (0 <= x1 < x2 <= columns and 0 <= y1 < y2 <= rows):
            raise ValueError(f"mask box {self.box} lies outside a film of {rows} x {columns}")
        if sum(self.runs) != (y2 - y1) * (x2 - x1):
            raise ValueError(f"mask runs cover {sum(self.runs)} pixels, the box has {(y2 - y1) * (x2 - x1)}")
        values = np.arange(len(self.runs)) % 2 == 1
        mask = np.zeros((rows, columns), dtype=np.bool_)
        mask[y1:y2, x1:x2] = np.repeat(values, self.runs).reshape(y2 - y1, x2 - x1)
        return mask


@dataclass(frozen=True, slots=True)
class BoneScore:
    """What one bone contributes to a method's total."""

    stage: str
    score: float
    one_stage_down_years: float | None = None  # bone age minus the present one if this bone were one stage lower
    one_stage_up_years: float | None = None


@dataclass(frozen=True, slots=True)
class MethodResult:
    """The bone age by one method, on the curve of one sex.

    Where the method does not apply (`bone_age_years` is None) `reason` says why; `qualifier` is "mature" or
    "below range" where the standard states no age for the score.
    """

    name: str
    sex: Sex
    bone_age_years: float | None
    interval_years: tuple[float, float] | None = None  # 90 % unless the bundle's metadata says otherwise
    score: float | None = None
    qualifier: str | None = None
    reason: str | None = None
    per_bone: Mapping[str, BoneScore] = field(default_factory=dict)
    sds: float | None = None  # (bone age - chronological age) / SD, where a reference exists and the age is known
    percentile: float | None = None
    reference: str | None = None
    uncalibrated_years: float | None = None  # the bone age before the site's calibration, where one was applied


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the methods lie apart, and whether that is far enough to call for a look."""

    spread_years: float | None
    alarm: bool
    threshold_years: float | None = None


@dataclass(frozen=True, slots=True)
class Novelty:
    """How unlike the films that the weights learned from the film is; 1 is usual among them. None where nothing measures it."""

    score: float | None
    threshold: float | None = None
    false_alarms: float | None = None  # share of validation films that lie above the threshold

    @property
    def unlike(self) -> bool:
        """Whether the score lies above the threshold."""
        return self.score is not None and self.threshold is not None and self.score > self.threshold


@dataclass(frozen=True, slots=True)
class Bundle:
    """The weights that produced the reading."""

    name: str
    version: str
    sha256: str
    terms: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything read from one film. `sex` is None where it was unknown: then each method appears on both curves."""

    image: ImageFacts
    verdict: Verdict
    bundle: Bundle
    sex: Sex | None = None
    chronological_age_years: float | None = None
    default_method: str | None = None
    regions: tuple[Region, ...] = ()
    masks: Mapping[str, Mask] = field(default_factory=dict)
    methods: tuple[MethodResult, ...] = ()
    agreement: Agreement = Agreement(None, alarm=False)
    novelty: Novelty = Novelty(None)
    parameters: Mapping[str, str] = field(default_factory=dict)  # what the methods were run with, beside the weights
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    def marked(self, side: str | None) -> Self:
        """Return it with the side that a marker on the film names, and a remark where thumb or header say another."""
        if side is None:
            return self
        others = (
            (self.image.laterality, "the thumb lies as on a {} hand"),
            (self.image.laterality_declared, "the header says {}"),
        )
        apart = [text.format(SIDES[other]) for other, text in others if other is not None and other != side]
        reasons = self.verdict.reasons
        if apart:
            reasons += (Reason("side-marker", f"the side marker on the film says {SIDES[side]}, {', '.join(apart)}"),)
        return dataclasses.replace(
            self,
            image=dataclasses.replace(self.image, laterality_marked=side),
            verdict=dataclasses.replace(self.verdict, reasons=reasons),
        )

    @property
    def hand_share(self) -> float | None:
        """Share of the film's width that the regions span, of its height where the hand lies across; None without regions.

        A film cropped to the hand has a larger one than a film as it was taken.
        """
        if not self.regions:
            return None
        across = 45 < abs(self.image.rotation_degrees) % 180 < 135
        low, high, whole = (1, 3, self.image.rows) if across else (0, 2, self.image.columns)
        return (max(r.box[high] for r in self.regions) - min(r.box[low] for r in self.regions)) / whole

    def region(self, name: str) -> Region | None:
        """Return the region of that name, or None where it was not found."""
        return next((region for region in self.regions if region.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that JSON holds."""
        return dataclasses.asdict(self)

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the JSON text; NaN is refused, since JSON has none."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=indent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a Reading from its plain form; unknown keys raise TypeError."""
        fields = dict(data)
        image = dict(fields.pop("image"))
        image["pixel_spacing_mm"] = _pair(image.get("pixel_spacing_mm"))
        verdict = fields.pop("verdict")
        return cls(
            image=ImageFacts(**image),
            verdict=Verdict(verdict["accepted"], tuple(Reason(**reason) for reason in verdict["reasons"])),
            bundle=Bundle(**fields.pop("bundle")),
            regions=tuple(_region(region) for region in fields.pop("regions", ())),
            masks={k: Mask(tuple(m["box"]), tuple(m["runs"])) for k, m in fields.pop("masks", {}).items()},
            methods=tuple(_method(method) for method in fields.pop("methods", ())),
            agreement=Agreement(**fields.pop("agreement", {"spread_years": None, "alarm": False})),
            novelty=Novelty(**fields.pop("novelty", {"score": None})),
            **fields,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild a Reading from its JSON text."""
        return cls.from_dict(json.loads(text))


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


def _region(data: Mapping[str, Any]) -> Region:
    stage = data.get("stage")
    if stage is not None:
        stage = Stage(**{**stage, "probabilities": tuple(stage.get("probabilities", ()))})
    x1, y1, x2, y2 = data["box"]
    return Region(data["name"], (x1, y1, x2, y2), data["score"], stage, tuple(data.get("flags", ())))


def _method(data: Mapping[str, Any]) -> MethodResult:
    fields = {**data, "interval_years": _pair(data.get("interval_years"))}
    fields["per_bone"] = {name: BoneScore(**bone) for name, bone in data.get("per_bone", {}).items()}
    return MethodResult(**fields)
