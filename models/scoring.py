"""Turn stages into bone ages by the tables of a bundle: the part of a Reader that needs no pixels and no weights.

The Reader runs it after grading; a radiologist's correction runs it again with other stages. One code path, so that a corrected
bone age differs from the first one by the correction and by nothing else.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Final, Protocol

from models.calibration import SiteCalibration
from models.reading import CONTRADICTED, Agreement, MethodResult, Reading, Reason, Region, Stage, Verdict
from models.regions import RUS, Sex
from models.standards import STANDARDS, TopN, Weighting, fine_levels, harmony, labels_of, letter_of
from models.standards import greulich_pyle as brush
from models.standards.stages import named_stage

SEXES: Final[tuple[Sex, ...]] = ("F", "M")
WEIGHTING: Final = TopN()
BY_STAGES: Final = tuple(standard.name for standard in STANDARDS)
APART: Final = "stages-apart"  # code of the remark that the stages of a hand do not go together
LATE: Final = "near-mature"  # code of the remark that the bundle reads the end of growth too late
FINE: Final = "RUS-CHN"  # the standard whose labels a Stage carries


def _values(weighting: Weighting) -> tuple[object, ...]:
    return dataclasses.astuple(weighting) if dataclasses.is_dataclass(weighting) else ()


class Intervals(Protocol):
    """Conformal intervals measured on films that were not trained on."""

    def interval(
        self, method: str, sex: Sex, bone_age_years: float, share: float | None = None
    ) -> tuple[float, float] | None:
        """Return the interval around a bone age in years, or None where it was not measured."""


@dataclass(frozen=True, slots=True)
class LateEnd:
    """How a bundle reads hands of one sex near the end of growth, measured on films it was not tuned on.

    Parameters
    ----------
    from_years
        The age by RUS-CHN from which on this was measured: the lowest that a nearly mature hand was given.
    films
        How many films were given that age or a higher one.
    too_young
        The share of them read more than a year too young, 0 to 1.
    """

    from_years: float
    films: int
    too_young: float

    def __post_init__(self) -> None:
        """Refuse what is no age, number of films or share."""
        if not (0 < self.from_years < 30 and self.films >= 1 and 0 <= self.too_young <= 1):
            raise ValueError(f"late_end: {self}: an age to 30 years, films from 1 and a share of 0 to 1 are expected")


@dataclass(frozen=True, slots=True)
class Scoring:
    """The rules of one bundle.

    Parameters
    ----------
    intervals
        None where none were measured.
    threshold_years
        Spread between methods on one curve beyond which the Reading raises its alarm.
    calibration
        A site's own; None for the bundle as it ships.
    discord_threshold
        How far apart the stages of a hand may lie (`standards.harmony.discord`) before the Reading remarks on it.
    hand_prior
        What each bone's stage is told by the other bones; None leaves the stages as they were graded.
    late_end
        Of each sex how the end of growth is read; a Reading that reaches it says so.
    contradiction
        When the other bones contradict the stage of a single one; None where that was not measured, and then nothing is remarked.
    """

    weighting: Weighting = WEIGHTING
    intervals: Intervals | None = None
    threshold_years: float | None = None
    calibration: SiteCalibration | None = None
    discord_threshold: float | None = None
    hand_prior: harmony.HandPrior | None = None
    late_end: Mapping[Sex, LateEnd] = field(default_factory=dict)
    contradiction: harmony.Contradiction | None = None

    def parameters(self) -> dict[str, str]:
        """Return in words what decides the bone ages beside the weights; a report states it, so that it can be read again."""
        named = {
            "weighting": " ".join([type(self.weighting).__name__, *map(str, _values(self.weighting))]),
            "alarm above": "never" if self.threshold_years is None else f"{self.threshold_years:g} years",
        }
        if self.hand_prior is not None:
            prior = self.hand_prior
            named["prior of the hand"] = f"weight {prior.weight:g}, {prior.slack_stages:g} stages"
        if self.calibration is not None:
            signed = self.calibration.sign_off
            named["site calibration"] = f"{self.calibration.site}, {signed.date}, {signed.films} films"
        return named

    def told(self, stages: Mapping[str, Stage], sexes: Sequence[Sex]) -> Mapping[str, Stage]:
        """Return the graded stages after the prior of the hand, where the bundle has one."""
        if self.hand_prior is None or not stages:
            return stages
        told = self.hand_prior.told({bone: stage.probabilities for bone, stage in stages.items()}, sexes)
        return {bone: named_stage(bone, chances) for bone, chances in told.items()}

    def by_stages(self, stages: Mapping[str, Stage], sexes: Sequence[Sex]) -> tuple[MethodResult, ...]:
        """Read the stages of the bones by every standard, on the curve of each sex."""
        chances = {bone: stage.probabilities for bone, stage in stages.items()}
        return tuple(
            standard.read_probabilities(chances, sex, self.weighting) for standard in STANDARDS for sex in sexes
        )

    def complete(
        self, result: MethodResult, chronological_age: float | None, share: float | None = None
    ) -> MethodResult:
        """Add the site's calibration, the interval, and where age and reference are known the standard deviation score.

        `share` is `Reading.hand_share`: how wide an interval has to be may depend on how closely the film is cropped.
        """
        if self.calibration is not None:
            result = self.calibration.applied(result)
        age = result.bone_age_years
        if age is None:
            return result
        # The bundle's intervals were measured on films as they are served; a method's own may come from other films.
        interval = None if self.intervals is None else self.intervals.interval(result.name, result.sex, age, share)
        if interval is not None:
            result = dataclasses.replace(result, interval_years=interval)
        # The Brush Foundation deviations are those of Greulich-Pyle ages; for the ages by stages no reference is at hand.
        if chronological_age is None or result.name in BY_STAGES:
            return result
        position = brush.position(12 * age, 12 * chronological_age, result.sex)
        if position is None:
            return result
        return dataclasses.replace(
            result,
            sds=round(position.sds, 2),
            percentile=round(position.percentile, 1),
            reference="; ".join(filter(None, (brush.REFERENCE, result.reference))),
        )

    def remarked(self, verdict: Verdict, stages: Mapping[str, Stage], results: Sequence[MethodResult]) -> Verdict:
        """Return the verdict with what is to be remarked on the stages.

        That is: that they do not go together, that a single one contradicts the others, that growth nearly ends. Remarks of a
        former look at the stages are left out.
        """
        kept = tuple(reason for reason in verdict.reasons if reason.code not in (APART, CONTRADICTED, LATE))
        single = self.contradicted(stages, tuple(dict.fromkeys(result.sex for result in results)))
        found = (self.apart(stages, results), *single.values(), self.nearly_mature(results))
        return Verdict(verdict.accepted, (*kept, *(reason for reason in found if reason is not None)))

    def nearly_mature(self, results: Sequence[MethodResult]) -> Reason | None:
        """Return the remark that the bundle reads hands of this age too young, on the first curve on which it does, or None."""
        for result in results:
            end = self.late_end.get(result.sex)
            years = result.uncalibrated_years or result.bone_age_years
            if result.name == FINE and end is not None and years is not None and years >= end.from_years:
                return Reason(
                    LATE,
                    f"of {end.films} {'girls' if result.sex == 'F' else 'boys'} given {end.from_years:g} years or more by {FINE}, "
                    f"{end.too_young:.0%} were read more than a year too young; compare the whole-hand regression",
                )
        return None

    def contradicted(self, stages: Mapping[str, Stage], sexes: Sequence[Sex]) -> dict[str, Reason]:
        """Return the bones whose stage the other bones contradict, each with its remark.

        A stage that a person gave is heard and not judged: whoever gave it has looked.
        """
        if self.contradiction is None:
            return {}
        chances = {bone: stage.probabilities for bone, stage in stages.items()}
        graded = {bone: stage.label for bone, stage in stages.items() if stage.runner_up is not None}
        return {
            bone: Reason(
                CONTRADICTED,
                f"{bone} is graded {graded[bone]} (TW3 {letter_of(bone, graded[bone])}) "
                f"where the other bones let expect {_from_to(low, high)} "
                f"(TW3 {_from_to(letter_of(bone, low), letter_of(bone, high))}), look at it",
            )
            for bone, (low, high) in self.contradiction.found(chances, graded, sexes).items()
        }

    def staged(
        self, regions: Sequence[Region], stages: Mapping[str, Stage], sexes: Sequence[Sex]
    ) -> tuple[Region, ...]:
        """Return the regions with their stages, those flagged whose stage the other bones contradict."""
        contradicted = self.contradicted(stages, sexes)
        return tuple(
            dataclasses.replace(
                region,
                stage=stages.get(region.name),
                flags=(
                    *(flag for flag in region.flags if flag != CONTRADICTED),
                    *((CONTRADICTED,) if region.name in contradicted else ()),
                ),
            )
            for region in regions
        )

    def apart(self, stages: Mapping[str, Stage], results: Sequence[MethodResult]) -> Reason | None:
        """Return the remark that the stages of the hand do not go together on any curve read, or None."""
        chances = {bone: stage.probabilities for bone, stage in stages.items()}
        # By the tables themselves: a site's calibration moves the age, not the stages that are usual at a score.
        apart = {
            result.sex: harmony.deviations(chances, result.uncalibrated_years or result.bone_age_years, result.sex)
            for result in results
            if result.name == FINE and result.bone_age_years is not None
        }
        if self.discord_threshold is None or not any(apart.values()):
            return None
        sizes = {sex: sqrt(sum(z * z for z in found.values()) / len(found)) for sex, found in apart.items()}
        sex = min(sizes, key=lambda one: sizes[one])
        if sizes[sex] <= self.discord_threshold:
            return None
        furthest = sorted(apart[sex], key=lambda bone: -abs(apart[sex][bone]))[:3]
        return Reason(
            "stages-apart",
            f"the stages lie {sizes[sex]:.1f} standard deviations apart, usual are up to {self.discord_threshold:g}; "
            f"furthest from the others: {', '.join(furthest)}",
        )

    def restage(self, reading: Reading, stages: Mapping[str, str], rejected: Collection[str] = ()) -> Reading:
        """Return the Reading as it would be with these stages given and these regions rejected by a person.

        The methods by stages are read again; those that look at the film itself stay as they are. A stage that was given has
        probability 1. A rejected region is no longer in the Reading, nor is its outline, and its bone counts as missing.

        Parameters
        ----------
        stages
            Region -> RUS-CHN label, or a TW3 letter that stands for one label only.

        Raises
        ------
        ValueError
            When the Reading is of a film that was not read; when a name is no region found on the film, a bone has no such
            stage, or a region is both staged and rejected. The text names value and limit.
        """
        if not reading.verdict.accepted:
            raise ValueError("the film was not read; there is nothing to correct")
        for name in (*stages, *rejected):
            if reading.region(name) is None:
                found = ", ".join(region.name for region in reading.regions) or "none"
                raise ValueError(f"region {name!r} is not on this film; found were {found}")
        if both := sorted(set(stages) & set(rejected)):
            raise ValueError(f"{', '.join(both)}: either a stage is given or the region is rejected, not both")
        given = {name: _given(name, label) for name, label in stages.items()}
        regions = tuple(r for r in reading.regions if r.name not in rejected)
        sexes: tuple[Sex, ...] = SEXES if reading.sex is None else (reading.sex,)
        known = {region.name: given.get(region.name, region.stage) for region in regions}
        staged = {name: stage for name, stage in known.items() if stage is not None}
        results = (
            *(
                self.complete(r, reading.chronological_age_years, reading.hand_share)
                for r in self.by_stages(staged, sexes)
            ),
            *(method for method in reading.methods if method.name not in BY_STAGES),
        )
        return dataclasses.replace(
            reading,
            verdict=self.remarked(reading.verdict, staged, results),
            regions=self.staged(regions, staged, sexes),
            masks={name: mask for name, mask in reading.masks.items() if name not in rejected},
            methods=results,
            agreement=agreement(results, self.threshold_years),
        )


def agreement(results: Sequence[MethodResult], threshold_years: float | None) -> Agreement:
    """Return the widest spread between the methods on one curve; two methods that give an age are needed."""
    spreads = []
    for sex in SEXES:
        ages = [r.bone_age_years for r in results if r.sex == sex and r.bone_age_years is not None]
        if len(ages) > 1:
            spreads.append(max(ages) - min(ages))
    if not spreads:
        return Agreement(None, alarm=False, threshold_years=threshold_years)
    spread = round(max(spreads), 3)
    return Agreement(spread, threshold_years is not None and spread > threshold_years, threshold_years)


def _from_to(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _given(bone: str, label: str) -> Stage:
    """Return the stage a person gave, certain and without a runner-up."""
    if bone not in RUS:
        raise ValueError(f"region {bone!r} carries no stage; the staged bones are {', '.join(RUS)}")
    levels = fine_levels(bone)
    fine = label
    if label not in levels and label.upper() in "ABCDEFGHI" and len(label) == 1:
        labels = labels_of(bone, label.upper())
        if len(labels) > 1:
            raise ValueError(f"{bone}={label}: TW3 stage {label.upper()} is {' or '.join(labels)} in {FINE}; name one")
        fine = labels[0]
    letter = letter_of(bone, fine)  # refuses an unknown label with those there are
    return Stage(FINE, fine, letter, 1.0, probabilities=tuple(1.0 if level == fine else 0.0 for level in levels))
