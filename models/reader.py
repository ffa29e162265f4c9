"""Read one film: detection, then segmentation, grading and regression, every method side by side, nothing blended.

The reader runs whatever fits the protocols below, so that each problem can be replaced and tested on its own. Sex unknown:
both curves are given. The chronological age enters no method; it only says how far the bone age lies from it.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from models.image import Image
from models.reading import (
    Bundle,
    ImageFacts,
    Mask,
    MethodResult,
    Novelty,
    Reading,
    Reason,
    Region,
    Stage,
    Verdict,
)
from models.regions import REGIONS, SEGMENTED, Sex
from models.scoring import SEXES, Scoring, agreement
from models.standards import STANDARDS

# Side of a joint's region, pixels of the film, below which its stage is a guess: on six films of `fullres` made smaller step by
# step the RUS-CHN age stays within 0.6 years of itself down to 23 pixels; at 20 and less it is off by up to 2.4, at 9 by 9 years.
# (The film as a whole is read down to 8: within 0.8 years.)
STAGED_FROM: Final = 22
_JOINTS: Final = ("pp3", "mp3", "dp3")
UNLIKE: Final = "unlike-training"  # code of the remark that the film is unlike those the weights learned from
REGRESSION: Final = "regression"  # the name of the method while no regressor is there to give its own


class Detected(Protocol):
    """What a detector returns for one film."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions found, in pixels of the film as received."""

    @property
    def facts(self) -> ImageFacts:
        """Size, side, polarity and rotation of the film."""

    @property
    def verdict(self) -> Verdict:
        """Whether the film can be read, and why not."""


class Detector(Protocol):
    """Finds the 22 regions and judges the film."""

    def detect(self, image: Image) -> Detected:
        """Look at one film."""


class Segmenter(Protocol):
    """Outlines the distal radius and ulna."""

    def segment(self, image: Image, regions: tuple[Region, ...]) -> Mapping[str, Mask]:
        """Return a mask for each bone that was found."""


class Grader(Protocol):
    """Stages the 13 RUS bones."""

    def grade(self, image: Image, regions: tuple[Region, ...], facts: ImageFacts) -> Mapping[str, Stage]:
        """Return a stage for each bone whose region was found."""


class Regressor(Protocol):
    """Estimates the bone age from the film as a whole."""

    def estimate(
        self, image: Image, sex: Sex | None, facts: ImageFacts, regions: tuple[Region, ...]
    ) -> tuple[MethodResult, ...]:
        """Return one result for the given sex, or one for each sex where it is unknown."""


class Newness(Protocol):
    """Says how unlike the films that the weights learned from a film is."""

    def novelty(self, image: Image, facts: ImageFacts) -> Novelty:
        """Measure one film."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The chain of one bundle.

    Parameters
    ----------
    detector
        Required: without regions there is nothing to read.
    segmenter, grader, regressors
        None or empty where the bundle has none; the Reading then says so by `absences`.
    scoring
        The rules from stages to bone ages.
    absences
        Problem name -> why its weights are not there.
    """

    detector: Detector
    bundle: Bundle
    segmenter: Segmenter | None = None
    grader: Grader | None = None
    regressors: tuple[Regressor, ...] = ()
    scoring: Scoring = field(default_factory=Scoring)
    default_method: str | None = None
    absences: Mapping[str, str] = field(default_factory=dict)
    newness: Newness | None = None

    def read(self, image: Image, sex: Sex | None, chronological_age: float | None = None) -> Reading:
        """Read one film.

        Parameters
        ----------
        sex
            F, M, or None where it is missing or O: then every method appears on both curves.
        chronological_age
            In years; no method sees it.
        """
        timings: dict[str, float] = {}
        with _timed(timings, "total"):
            with _timed(timings, "detection"):
                detected = self.detector.detect(image)
            reading = Reading(
                image=detected.facts,
                verdict=detected.verdict,
                bundle=self.bundle,
                sex=sex,
                chronological_age_years=chronological_age,
                default_method=self.default_method,
                regions=detected.regions,
                parameters=self.scoring.parameters(),
            )
            if detected.verdict.accepted:
                reading = self._read(image, reading, timings)
        return dataclasses.replace(reading, timings_ms={name: round(value, 2) for name, value in timings.items()})

    def warm_up(self) -> None:
        """Take a blank film through every step: no film should wait for what the libraries and tables set up at first use.

        The detector turns it away, so what comes after is shown regions that nobody found, in rows of eight.
        """
        rows, columns = 640, 480
        image = Image(np.linspace(0, 1, rows * columns, dtype=np.float32).reshape(rows, columns))
        self.detector.detect(image)
        corners = [(20.0 + 55 * (place % 8), 60.0 + 150 * (place // 8)) for place in range(len(REGIONS))]
        regions = tuple(
            Region(name, (x, y, x + 50, y + 50), 1.0) for name, (x, y) in zip(REGIONS, corners, strict=True)
        )
        facts = ImageFacts(rows, columns, None, "L", None, "bone bright", "MONOCHROME2", 0.0)
        self._read(image, Reading(facts, Verdict(accepted=True), self.bundle, regions=regions), {})

    def _read(self, image: Image, reading: Reading, timings: dict[str, float]) -> Reading:
        sexes: tuple[Sex, ...] = SEXES if reading.sex is None else (reading.sex,)
        with _timed(timings, "segmentation"):
            masks = {} if self.segmenter is None else dict(self.segmenter.segment(image, reading.regions))
        with _timed(timings, "grading"):
            coarse = _too_coarse(reading.regions)
            staged = self.grader is not None and coarse is None
            graded = self.grader.grade(image, reading.regions, reading.image) if self.grader and staged else {}
        with _timed(timings, "standards"):
            stages = self.scoring.told(graded, sexes)
            results = self._by_stages(stages, sexes, coarse)
        with _timed(timings, "regression"):
            results += self._by_film(image, reading, sexes)
        with _timed(timings, "novelty"):
            novelty = self.newness.novelty(image, reading.image) if self.newness else Novelty(None)
        age, share = reading.chronological_age_years, reading.hand_share
        results = tuple(self.scoring.complete(result, age, share) for result in results)
        return dataclasses.replace(
            reading,
            verdict=self.scoring.remarked(self._remarked(reading, masks, coarse, novelty), stages, results),
            regions=self.scoring.staged(reading.regions, stages, sexes),
            masks=masks,
            methods=results,
            agreement=agreement(results, self.scoring.threshold_years),
            novelty=novelty,
        )

    def _by_stages(
        self, stages: Mapping[str, Stage], sexes: Sequence[Sex], coarse: str | None
    ) -> tuple[MethodResult, ...]:
        if self.grader is None or coarse is not None:
            reason = coarse or self.absences.get("grading", "the bundle holds no weights for grading")
            return tuple(_not_applicable(standard.name, sex, reason) for standard in STANDARDS for sex in sexes)
        return self.scoring.by_stages(stages, sexes)

    def _by_film(self, image: Image, reading: Reading, sexes: Sequence[Sex]) -> tuple[MethodResult, ...]:
        if not self.regressors:
            reason = self.absences.get("regression", "the bundle holds no weights for regression")
            return tuple(_not_applicable(REGRESSION, sex, reason) for sex in sexes)
        return tuple(
            result
            for regressor in self.regressors
            for result in regressor.estimate(image, reading.sex, reading.image, reading.regions)
        )

    def _remarked(self, reading: Reading, masks: Mapping[str, Mask], coarse: str | None, novelty: Novelty) -> Verdict:
        """Add to the verdict what could not be outlined or staged, and why, and that the film is unlike those learned from."""
        remarks = [] if coarse is None else [Reason("too-small", coarse)]
        if novelty.unlike:
            limit = "the limit is" if novelty.false_alarms is None else f"{1 - novelty.false_alarms:.0%} stay below"
            measured = f"distance {novelty.score:.2f} from the films learned from, where 1 is usual and"
            remarks.append(Reason(UNLIKE, f"{measured} {limit} {novelty.threshold:.2f}"))
        missing = [bone for bone in SEGMENTED if bone not in masks]
        if missing:
            why = "the bone was not found in its region"
            if self.segmenter is None:
                why = self.absences.get("segmentation", "the bundle holds no weights for segmentation")
            remarks.append(Reason("not-outlined", f"no outline of {' and '.join(missing)}: {why}"))
        return Verdict(reading.verdict.accepted, (*reading.verdict.reasons, *remarks))


def _too_coarse(regions: Sequence[Region]) -> str | None:
    """Say why the film has too few pixels for stages; None where it has enough."""
    sides = [(r.box[2] - r.box[0] + r.box[3] - r.box[1]) / 2 for r in regions if r.name in _JOINTS]
    side = sum(sides) / len(sides) if sides else float(STAGED_FROM)
    if side >= STAGED_FROM:
        return None
    return f"the joints of the middle finger are {side:.1f} pixels wide; stages need at least {STAGED_FROM}"


def _not_applicable(name: str, sex: Sex, reason: str) -> MethodResult:
    return MethodResult(name=name, sex=sex, bone_age_years=None, reason=reason)


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[name] = 1000 * (time.perf_counter() - start)
