r"""Which bones are staged too far ahead or behind on films that carry a bone age, and whether a simple correction helps.

    python -m models.grading.consistency --films ../crops/films --tuning ../runs/aged --json benchmarks/accuracy/grading_bones.json

The stages are those of graders tuned without the film (`models.grading.tune`). What a bone's stage implies alone is the age at
which that maturity is usual (`models.standards.harmony`); its distance from the film's bone age is the bone's error. Two
corrections are tried, each fitted on the other folds and judged on films it has not seen: a shift of each bone's maturity, and a
prior that the bones of a hand belong together.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models import refusal
from models.calibration import FOLDS, folds
from models.engine import git_commit
from models.grading import measure, tuned
from models.grading.ages import SEXES, sexes_of
from models.grading.films import Films
from models.grading.network import COUNTS, WIDEST
from models.metrics.ages import by_year
from models.metrics.bootstrap import estimate
from models.regions import RUS
from models.standards import harmony

Array = NDArray[np.float64]
STRENGTHS: Final = tuple(harmony.HandPrior(*pair) for pair in ((0.5, 0.8), (1.0, 0.8), (1.0, 1.5)))
GROSS_MONTHS: Final = 24
_MIDDLES: Final = np.minimum(np.arange(WIDEST)[None, :], np.array(COUNTS)[:, None] - 1) + 0.5


def main(argv: Sequence[str] | None = None) -> None:
    """Analyse, try the corrections, write the results."""
    tuned.main(__doc__, report, argv)


def report(chances: Array, films: Films, _: NDArray[np.int64]) -> dict[str, Any]:
    """Return the errors of each bone and what the corrections do, from stage probabilities of graders tuned without the film.

    The corrections are judged across folds of their own, by patient.
    """
    fold = folds(films.patient.tolist(), 0)
    variants = {"as it is": chances}
    shifted = np.empty_like(chances)
    for number in range(FOLDS):
        held = fold == number
        shifted[held] = moved(chances[held], offsets(chances[~held], films.subset(~held)))
    variants["shift of each bone"] = shifted
    variants["prior of the hand"] = _by_prior(chances, films, fold)
    variants["shift, then prior"] = _by_prior(shifted, films, fold)
    errors = {name: _errors(own, films) for name, own in variants.items()}
    first = errors["as it is"]
    figures = {}
    for name, own in variants.items():
        off = errors[name]
        both = np.isfinite(off) & np.isfinite(first)
        pairs = np.stack((np.abs(off), np.abs(first)), 1)[both]
        patients = films.patient[both].tolist()
        figures[name] = {
            "mae_months": estimate(pairs[:, 0], lambda r: float(r.mean()), patients=patients).to_dict(),
            "less_than_as_it_is_months": estimate(
                pairs, lambda r: float((r[:, 0] - r[:, 1]).mean()), patients=patients
            ).to_dict(),
            "grossly_wrong": estimate(
                (pairs[:, 0] > GROSS_MONTHS).astype(np.float64), lambda r: float(r.mean()), patients=patients
            ).to_dict(),
            "discord": round(float(np.nanmedian(_discords(own, films, off))), 3),
        }
    return {
        "problem": "grading",
        "what": "RUS-CHN of real films by graders tuned without them: each bone's own age, and corrections across folds",
        "command": "python -m models.grading.consistency --films FILMS --tuning RUN --json RESULT",
        "commit": git_commit(),
        "data": f"{len(films)} films of RSNA with a bone age",
        "bones": by_bone(chances, films),
        "corrections": figures,
        "by_year": by_year(
            films.bone_age_years.astype(np.float64),
            films.male == 1,
            films.bone_age_years + errors["prior of the hand"] / 12,
        ),
    }


def by_bone(chances: Array, films: Films) -> list[dict[str, Any]]:
    """Return for each bone and sex how far the age its maturity implies lies from the film's, mean with interval and scatter.

    Bones that are absent or fused say only that the age is below or above a limit, and are left out.
    """
    rows = []
    for index, bone in enumerate(RUS):
        row: dict[str, Any] = {"bone": bone}
        for code, sex in enumerate(SEXES):
            own = np.flatnonzero(films.male == code)
            ages, mean, _ = harmony.usual(sex)
            course = np.maximum.accumulate(mean[:, index] + 1e-6 * np.arange(len(ages)))
            read = (chances[own, index] * _MIDDLES[index]).sum(-1)
            growing = (read > course[0] + 0.2) & (read < course[-1] - 0.3)
            off = np.interp(read, course, ages)[growing] - films.bone_age_years[own][growing]
            row[sex] = {
                "bias_years": estimate(off.astype(np.float64), lambda r: float(r.mean())).to_dict(),
                "sd_years": round(float(off.std()), 2),
            }
        rows.append(row)
    return rows


def offsets(chances: Array, films: Films) -> Array:
    """Return by how many stages each bone is read too far ahead, (13,): half the median over films of read minus usual.

    Half, because what is usual at an age is known by the phantoms' courses only.
    """
    usual = np.stack([_usual(int(m), float(a))[0] for m, a in zip(films.male, films.bone_age_years, strict=True)])
    found: Array = 0.5 * np.median((chances * _MIDDLES).sum(-1) - usual, axis=0)
    return found


def moved(chances: Array, offset: Array) -> Array:
    """Return the probabilities with each bone's maturity moved back by its offset, shared between the two nearest stages."""
    result = np.zeros_like(chances)
    for index, count in enumerate(COUNTS):
        place = np.clip(np.arange(count) - offset[index], 0, count - 1)
        low = np.floor(place).astype(int)
        for stage, (to, share) in enumerate(zip(low, place - low, strict=True)):
            result[:, index, to] += chances[:, index, stage] * (1 - share)
            if share > 0:
                result[:, index, to + 1] += chances[:, index, stage] * share
    return result


def joined(chances: Array, male: NDArray[np.int64], prior: harmony.HandPrior) -> Array:
    """Return the probabilities after each bone was told what the others say of the hand's age."""
    result = np.zeros_like(chances)
    for film, code in enumerate(male.tolist()):
        own = {bone: chances[film, i, : COUNTS[i]].tolist() for i, bone in enumerate(RUS)}
        for i, told in enumerate(prior.told(own, (SEXES[code],)).values()):
            result[film, i, : COUNTS[i]] = told
    return result


def _by_prior(chances: Array, films: Films, fold: NDArray[np.int64]) -> Array:
    """Return the probabilities with the prior of whichever strength errs least on the other folds."""
    tried = [joined(chances, films.male, prior) for prior in STRENGTHS]
    off = [np.abs(_errors(own, films)) for own in tried]
    result = np.empty_like(chances)
    for number in range(FOLDS):
        best = int(np.argmin([np.nanmean(one[fold != number]) for one in off]))
        result[fold == number] = tried[best][fold == number]
    return result


def _errors(chances: Array, films: Films) -> Array:
    """Return the RUS-CHN bone age minus the film's, in months; NaN without an age."""
    off: Array = 12 * (measure.ages(chances, sexes_of(films.male.tolist())) - films.bone_age_years)
    return off


def _discords(chances: Array, films: Films, error_months: Array) -> Array:
    """Return how far the stages of each film lie apart at the age they give."""
    found = np.full(len(chances), np.nan)
    for i, sex in enumerate(sexes_of(films.male.tolist())):
        if np.isfinite(error_months[i]):
            by_bone = {bone: chances[i, j, : COUNTS[j]].tolist() for j, bone in enumerate(RUS)}
            years = float(films.bone_age_years[i] + error_months[i] / 12)
            found[i] = harmony.discord(by_bone, years, sex) or np.nan
    return found


def _usual(male: int, age_years: float) -> tuple[Array, Array]:
    """Return mean and scatter of each bone's maturity at an age, each (13,)."""
    ages, mean, spread = harmony.usual(SEXES[male])
    return (
        np.array([np.interp(age_years, ages, mean[:, j]) for j in range(len(RUS))]),
        np.array([np.interp(age_years, ages, spread[:, j]) for j in range(len(RUS))]),
    )


if __name__ == "__main__":
    refusal.command(main)
