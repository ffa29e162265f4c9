r"""Evaluate a grader on phantoms it has not seen: stages, and the bone age by classic, Top2 and TopN weighting.

    python -m models.grading.evaluate --weights models/bundles/grading/small --validation ../crops/validation \
        --test ../crops/test --tuning ../runs/tune.json --json benchmarks/accuracy/grading.json

The threshold of TopN is found on the validation films and used on the test films. Real films have no stages; what the
age-supervised signal reaches on them is taken from the report of models.grading.tune.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models import refusal, weights
from models.datasets.documents import read_object
from models.engine import git_commit
from models.grading import measure
from models.grading.ages import sexes_of
from models.grading.augment import centre
from models.grading.bound import reachable
from models.grading.losses import stage_of
from models.grading.network import ARCHITECTURES, LEVELS, build
from models.grading.phantoms import Crops, rows_of
from models.metrics.ages import by_year, compare
from models.metrics.bootstrap import estimate
from models.regions import RUS
from models.standards import RUS_CHN, TW3C_RUS, Classic, RusStandard, Top2, TopN, Weighting
from models.standards.harmony import HandPrior

THRESHOLDS: Final = tuple(round(0.3 + 0.02 * step, 2) for step in range(35))


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True, help="cache of phantoms for the threshold of TopN")
    parser.add_argument("--test", type=Path, required=True, help="cache of phantoms drawn with seeds of their own")
    parser.add_argument("--tuning", type=Path, help="report of models.grading.tune")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument(
        "--prior", type=float, nargs=2, metavar=("WEIGHT", "SLACK"), help="also with this prior of the hand of a bundle"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tensors, card = weights.load(options.weights, problem="grading", architectures=ARCHITECTURES)
    net = build(card.architecture, dict(card.hyperparameters))
    net.load_state_dict(tensors)

    def chances_of(films: Crops) -> NDArray[np.float64]:
        outputs = measure.run(net, centre(torch.from_numpy(films.pixels), int(card.preprocessing["size"])))
        found: NDArray[np.float64] = net.probabilities(outputs).detach().double().numpy()
        return found

    validation, test = Crops.load(options.validation), Crops.load(options.test)
    curve = threshold_curve(chances_of(validation), validation)
    threshold = min(curve, key=lambda value: curve[value])
    chances = chances_of(test)
    rules: dict[str, Weighting] = {"classic": Classic(), "Top2": Top2(), "TopN": TopN(threshold)}
    result: dict[str, Any] = {
        "problem": "grading",
        "architecture": card.architecture,
        "weights_sha256": card.files[weights.TENSOR_FILE],
        "terms": card.terms,
        "commit": git_commit(),
        "command": f"python -m models.grading.evaluate --weights {options.weights} --validation CROPS --test CROPS --json RESULT",
        "data": f"{len(test)} phantoms drawn by age, seeds from {int(test.seed.min())}, true boxes",
        "stages": stages(chances, test),
        "confusions": confusions(chances, test),
        "reachable": reachable(test, threshold),
        "bone_age_years": {name: age_errors(chances, test, rule) for name, rule in rules.items()},
        "bone_age_years_tw3c_rus": {name: age_errors(chances, test, rule, TW3C_RUS) for name, rule in rules.items()},
        "by_year": ages_by_year(chances, test, rules["TopN"]),
        "topn_threshold": threshold,
        "topn_threshold_curve_years": {f"{key:.2f}": round(value, 4) for key, value in curve.items()},
    }
    if options.prior:
        result["with_the_prior_of_the_hand"] = with_prior(chances, test, HandPrior(*options.prior), rules["TopN"])
    if options.tuning:
        report = read_object(options.tuning, "rows")
        result["real_films"] = {key: value for key, value in report.items() if key != "rows"}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def with_prior(chances: NDArray[np.float64], films: Crops, prior: HandPrior, rule: Weighting) -> dict[str, Any]:
    """Return stages and RUS-CHN age after each bone was told what the others say of its hand."""
    told = np.zeros_like(chances)
    for film, sex in enumerate(sexes_of((~films.female).astype(int).tolist())):
        own = {bone: chances[film, i, : len(LEVELS[i])].tolist() for i, bone in enumerate(RUS)}
        for index, shares in enumerate(prior.told(own, (sex,)).values()):
            told[film, index, : len(shares)] = shares
    return {
        "weight": prior.weight,
        "slack_stages": prior.slack_stages,
        "stages": stages(told, films),
        "bone_age_years": age_errors(told, films, rule),
    }


def threshold_curve(chances: NDArray[np.float64], films: Crops) -> dict[float, float]:
    """Return the mean absolute error in years at every threshold of TopN (P5, section 1.2)."""
    return {value: float(measure.summary(chances, films, TopN(value))["mae_years"]) for value in THRESHOLDS}


def stages(chances: NDArray[np.float64], films: Crops) -> dict[str, Any]:
    """Return shares of bones graded exactly and within one stage, with intervals by film, for all bones and each."""
    truth = stage_of(torch.from_numpy(films.maturity)).numpy()
    top = chances.argmax(-1)
    exact, near = (top == truth).astype(np.float64), (np.abs(top - truth) <= 1).astype(np.float64)
    confidence = chances.max(-1)
    edges = np.linspace(0, 1, 11)
    bins = np.clip(np.digitize(confidence, edges) - 1, 0, 9)
    share = np.bincount(bins.ravel(), minlength=10) / bins.size
    gap = [abs(exact[bins == b].mean() - confidence[bins == b].mean()) if share[b] else 0.0 for b in range(10)]
    return {
        "exact": estimate(exact.mean(1), lambda rows: float(rows.mean())).to_dict(),
        "within_one": estimate(near.mean(1), lambda rows: float(rows.mean())).to_dict(),
        "expected_calibration_error": round(float(np.dot(share, gap)), 4),
        "exact_by_bone": {bone: round(float(exact[:, i].mean()), 4) for i, bone in enumerate(RUS)},
    }


def confusions(chances: NDArray[np.float64], films: Crops) -> dict[str, Any]:
    """Return what the wrong stages have in common: how near the truth lay to a border, and how fine the film was.

    A phantom's maturity is continuous, so next to a border no reader could be sure: with an error of s stages (one standard
    deviation) in the maturity read, about 0.8 s of all stages must come out wrong.
    """
    maturity = films.maturity.astype(np.float64)
    counts = np.array([len(levels) for levels in LEVELS])
    stage = stage_of(torch.from_numpy(films.maturity)).numpy()
    top = chances.argmax(-1)
    wrong = top != stage
    below, above = maturity - stage, stage + 1 - maturity
    # The first stage has no border below it, the last none above.
    to_border = np.minimum(np.where(stage > 0, below, np.inf), np.where(stage < counts - 1, above, np.inf))
    growing = (stage > 0) & (stage < counts - 1)
    read = (chances * (np.arange(chances.shape[-1]) + 0.5)).sum(-1)
    off = (read - maturity)[growing]
    rows = np.array([rows_of(int(seed)) for seed in films.seed])
    fine = rows >= np.median(rows)
    return {
        "share_of_wrong_stages_within_a_quarter_stage_of_the_border": round(
            float((to_border[wrong] <= 0.25).mean()), 3
        ),
        "standard_deviation_of_maturity_stages": round(float(off.std()), 3),
        "exact_more_than_a_quarter_stage_from_a_border": round(float((~wrong)[to_border > 0.25].mean()), 4),
        "exact_on_the_finer_half_of_the_films": round(float((~wrong)[fine].mean()), 4),
        "exact_on_the_coarser_half_of_the_films": round(float((~wrong)[~fine].mean()), 4),
        "rows_that_divide_them": int(np.median(rows)),
        "commonest": [
            f"{RUS[bone]} {LEVELS[bone][true]} read as {LEVELS[bone][found]}: {count}"
            for count, bone, true, found in sorted(_pairs(stage, top), reverse=True)[:12]
        ],
    }


def _pairs(stage: NDArray[np.int64], top: NDArray[np.int64]) -> list[tuple[int, int, int, int]]:
    """Return how often each bone's stage was read as another: (count, bone, true, read)."""
    counted: dict[tuple[int, int, int], int] = {}
    for film, bone in np.argwhere(stage != top).tolist():
        key = (bone, int(stage[film, bone]), int(top[film, bone]))
        counted[key] = counted.get(key, 0) + 1
    return [(count, *key) for key, count in counted.items()]


def age_errors(
    chances: NDArray[np.float64], films: Crops, rule: Weighting, standard: RusStandard = RUS_CHN
) -> dict[str, Any]:
    """Return the error of a standard's bone age against the age of the true stages, for all films and each sex."""
    sexes = sexes_of((~films.female).astype(int).tolist())
    exact = np.eye(chances.shape[-1])[stage_of(torch.from_numpy(films.maturity)).numpy()]
    true, found = measure.ages(exact, sexes, Classic(), standard), measure.ages(chances, sexes, rule, standard)
    aged = np.isfinite(true)
    figures: dict[str, Any] = {"films_whose_stages_have_no_age": int((~aged).sum())}
    for name, chosen in (("all", aged), ("F", aged & films.female), ("M", aged & ~films.female)):
        predicted = [None if np.isnan(value) else float(value) for value in found[chosen]]
        errors = compare(predicted, true[chosen].tolist(), tolerance=1.0)
        figures[name] = {
            "mae": errors.mae.to_dict(),
            "within_one_year": errors.within.to_dict(),
            "missed": errors.missed,
        }
    return figures


def ages_by_year(chances: NDArray[np.float64], films: Crops, rule: Weighting) -> list[dict[str, Any]]:
    """Return the RUS-CHN age's error by year of the age of the true stages and by sex; films whose stages have no age are left out."""
    sexes = sexes_of((~films.female).astype(int).tolist())
    exact = np.eye(chances.shape[-1])[stage_of(torch.from_numpy(films.maturity)).numpy()]
    true, found = measure.ages(exact, sexes, Classic()), measure.ages(chances, sexes, rule)
    aged = np.isfinite(true)
    return by_year(true[aged], ~films.female[aged], found[aged])


if __name__ == "__main__":
    refusal.command(main)
