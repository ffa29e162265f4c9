r"""Compare classic, Top2 and TopN (P5) on real films, by stage probabilities of graders tuned without the film.

    python -m models.grading.weightings --films ../crops/films --tuning ../runs/aged --json benchmarks/accuracy/grading_weightings.json

TopN's threshold is the one with the lowest error on the films of the other folds, as P5 finds it on validation data; the rules read
the same probabilities of the same films, so differences are paired. The error is that of the film's bone age, within a year as in P5.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models import refusal
from models.engine import git_commit
from models.grading import measure, tuned
from models.grading.ages import sexes_of
from models.grading.compare import PAIRS
from models.grading.films import Films
from models.metrics.ages import by_year
from models.metrics.bootstrap import estimate
from models.standards import RUS_CHN, TW3_RUS, TW3C_RUS, Classic, RusStandard, Top2, TopN

Array = NDArray[np.float64]
STANDARDS: Final = (TW3C_RUS, RUS_CHN, TW3_RUS)
THRESHOLDS: Final = tuple(round(0.3 + 0.02 * step, 2) for step in range(35))


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the rules and write the results."""
    tuned.main(__doc__, report, argv)


def report(chances: Array, films: Films, fold: NDArray[np.int64]) -> dict[str, Any]:
    """Return the errors of each standard, rule and sex, their paired differences and the thresholds, from (films, 13, stages)."""
    return {
        "problem": "grading",
        "paper": "P5 TopN TW3-C RUS with CSP-ResNeXt50",
        "command": "python -m models.grading.weightings --films FILMS --tuning RUN --json RESULT",
        "commit": git_commit(),
        "data": f"{len(films)} films of RSNA with a bone age ({int((films.male == 0).sum())} girls)",
        "what": "real films by graders tuned without them, TopN's threshold found on the other folds",
        "rules": {standard.name: _of(standard, chances, films, fold) for standard in STANDARDS},
    }


def _of(standard: RusStandard, chances: Array, films: Films, fold: NDArray[np.int64]) -> dict[str, Any]:
    sexes = sexes_of(films.male.tolist())

    def errors(rule: Classic | Top2 | TopN) -> Array:
        found: Array = np.abs(measure.ages(chances, sexes, rule, standard) - films.bone_age_years)
        return found

    tried = {threshold: errors(TopN(threshold)) for threshold in THRESHOLDS}
    chosen, thresholds = across_folds(tried, fold)
    error = {"classic": errors(Classic()), "Top2": errors(Top2()), "TopN": chosen}
    known = np.isfinite(np.stack(list(error.values()))).all(0)
    groups = {"all": known, "F": known & (films.male == 0), "M": known & (films.male == 1)}

    def shown(values: Array, group: NDArray[np.bool_]) -> dict[str, float | int]:
        mean = estimate(values[group], lambda rows: float(rows.mean()), patients=films.patient[group].tolist())
        return mean.to_dict()

    return {
        **{
            name: {
                "mae_years": {rule: shown(error[rule], group) for rule in error},
                "within_one_year": {rule: shown((error[rule] <= 1).astype(float), group) for rule in error},
                "difference_years": {f"{a} - {b}": shown(error[a] - error[b], group) for a, b in PAIRS},
            }
            for name, group in groups.items()
        },
        "topn_thresholds": thresholds,
        "topn_threshold_curve_years": {
            f"{threshold:g}": round(float(np.nanmean(off)), 4) for threshold, off in tried.items()
        },
        "by_year": by_year(
            films.bone_age_years.astype(np.float64), films.male == 1, films.bone_age_years + error["TopN"]
        ),
    }


def across_folds(tried: Mapping[float, Array], fold: NDArray[np.int64]) -> tuple[Array, list[float]]:
    """Return each film's error by the threshold that errs least on the other folds, and the threshold of each fold."""
    error = np.full(len(fold), np.nan)
    thresholds = []
    for number in np.unique(fold):
        best = min(tried, key=lambda threshold: float(np.nanmean(tried[threshold][fold != number])))
        error[fold == number] = tried[best][fold == number]
        thresholds.append(best)
    return error, thresholds


if __name__ == "__main__":
    refusal.command(main)
