"""Set a bone age beside the earlier ones of the same patient: what may be compared, and how fast it advanced.

Ages of two methods, or of one method by two sets of weights, differ for reasons that lie in no skeleton; only equals are
compared, the others are shown with the reason why not.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from models.reading import MethodResult, Reading
from models.regions import Sex
from service.errors import InvalidInstance
from service.reporting.source import Source, shown

DAYS_PER_YEAR: Final = 365.25
# Over a shorter time the reading error of two films (about a year each) outweighs any growth.
SHORTEST_INTERVAL_YEARS: Final = 0.25

# Why an earlier bone age is not compared, or how it came to be comparable.
Remark = Literal["", "reread", "other-bundle", "other-method", "other-sex", "undated"]


@dataclass(frozen=True, slots=True)
class Prior:
    """One earlier bone age.

    Parameters
    ----------
    study_date
        Of the earlier film, None where its report states none.
    method, sex
        As in a `MethodResult`.
    bundle_sha256
        The weights that read it; empty where its report names none.
    comparable
        Whether method, curve and weights are those of the present reading.
    remark
        Why it is not comparable, or "reread" where the earlier film was read once more by the present weights.
    """

    study_date: dt.date | None
    method: str
    sex: Sex
    bone_age_years: float
    chronological_age_years: float | None
    bundle_sha256: str
    comparable: bool
    remark: Remark
    SOPClassUID: str
    SOPInstanceUID: str
    SeriesInstanceUID: str
    StudyInstanceUID: str

    def __post_init__(self) -> None:
        """Refuse what no skeleton has; such a report is not ours, or damaged."""
        if not 0 <= self.bone_age_years <= 30:
            raise InvalidInstance(
                f"an earlier bone age is {self.bone_age_years:g} years; 0 to 30 are possible", code="invalid-prior"
            )


@dataclass(frozen=True, slots=True)
class Velocity:
    """How far the bone age advanced since one earlier film, on one method and curve."""

    prior: Prior
    method: MethodResult
    elapsed_years: float
    change_years: float

    @property
    def per_year(self) -> float:
        """Years of bone age per year of time."""
        return self.change_years / self.elapsed_years


def velocities(reading: Reading, priors: Sequence[Prior], study_date: dt.date | None) -> tuple[Velocity, ...]:
    """Return the velocity of each method on each curve since the latest comparable film, in the order of the methods."""
    if study_date is None:
        return ()
    found = []
    for method in reading.methods:
        earlier = [
            (prior.study_date, prior)
            for prior in priors
            if prior.comparable
            and prior.study_date is not None
            and (prior.method, prior.sex) == (method.name, method.sex)
            and (study_date - prior.study_date).days >= SHORTEST_INTERVAL_YEARS * DAYS_PER_YEAR
        ]
        if method.bone_age_years is None or not earlier:
            continue
        date, prior = max(earlier, key=lambda pair: pair[0])
        elapsed = (study_date - date).days / DAYS_PER_YEAR
        found.append(Velocity(prior, method, elapsed, method.bone_age_years - prior.bone_age_years))
    return tuple(found)


def study_date(film: Source) -> dt.date | None:
    """Return when a film was made, None where its header does not say."""
    return parse_date(shown(film, "StudyDate")[0])


def parse_date(text: str) -> dt.date | None:
    """Return a value of VR DA as a date, None for anything else."""
    try:
        return dt.datetime.strptime(text.strip(), "%Y%m%d").replace(tzinfo=dt.UTC).date()
    except ValueError:
        return None
