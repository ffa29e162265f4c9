r"""Train region features + XGBoost (P2): greedy search of the hyperparameters, early stopping, intervals, a weights folder.

    carpus train regression-regions --data ../cache/regions --trunk models/bundles/regression/rsna-cnn --out ../runs/regions

The cache holds the features of films by part (`models.features` makes it from thumbnails or from an archive). The search
goes through the hyperparameters in P2's order, keeps the best value of each on the validation part, and then fits once more
with a smaller learning rate. Chronological age is an option, off by default: it pulls the estimate toward the age it is given.
`--measure WEIGHTS` trains nothing and measures a booster that is there on the test part, such as after a change of the detector.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import xgboost
from numpy.typing import NDArray

from models import calibration, refusal, runs, weights
from models.calibration import Pair
from models.datasets.documents import read_array
from models.engine import git_commit
from models.metrics.ages import by_year, compare
from models.metrics.bootstrap import estimate
from models.metrics.conformal import Intervals, calibrate, measured_coverage
from models.regions import Sex
from models.regression.boosted import BOOSTER_FILE, REGION_XGBOOST, RegionRegressor, trunk_of
from models.regression.drawn_ages import drawn, pull
from models.regression.predict import INTERVALS_FILE, interval_parts
from models.regression.regions import KINDS, table

# P2, section 1.6: max_depth, min_child_weight, gamma, subsample, scale_pos_weight, in this order. The last weighs classes and
# has no effect on squared error; it is searched because P2 does, and its row says so.
GRID: Final[Mapping[str, Sequence[float]]] = {
    "max_depth": (4, 3, 5, 7),
    "min_child_weight": (4, 1, 12, 40),
    "gamma": (0.0, 0.5, 2.0),
    "subsample": (0.7, 0.5, 0.9),
    "scale_pos_weight": (1.0, 2.0),
}
FIXED: Final = {"objective": "reg:squarederror", "tree_method": "hist", "colsample_bytree": 0.3, "lambda": 2.0}
BOTH: Final[tuple[Sex, Sex]] = ("F", "M")


@dataclass(frozen=True, slots=True)
class Cache:
    """Films as features; `part` is train, validation or test."""

    name: NDArray[np.str_]
    part: NDArray[np.str_]
    features: NDArray[np.float32]  # (n, 6 * channels)
    sex: NDArray[np.int64]  # 0 girls, 1 boys
    bone_age_years: NDArray[np.float32]
    chronological_age_years: NDArray[np.float32]  # NaN where unknown

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a cache.

        Raises
        ------
        BadData
            When the folder holds none.
        """
        return cls(*(read_array(folder / f"{name}.npy", "models.features") for name in cls.__slots__))

    def save(self, folder: Path) -> None:
        """Write a cache."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.__slots__:
            np.save(folder / f"{name}.npy", getattr(self, name))

    def of(self, part: str) -> Self:
        """Return the films of one part."""
        chosen = self.part == part
        return type(self)(*(getattr(self, name)[chosen] for name in self.__slots__))

    def sexes(self) -> list[Sex]:
        """Return F or M of each film."""
        return [BOTH[int(value)] for value in self.sex]


def parser() -> argparse.ArgumentParser:
    """Return the options of a run."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="cache of region features")
    made.add_argument("--trunk", type=Path, required=True, help="weights folder whose trunk made the features")
    made.add_argument("--out", type=Path, required=True, help="folder for the search and the figures")
    made.add_argument("--weights", type=Path, help="weights folder to write; none: weights/ in --out")
    made.add_argument("--measure", type=Path, help="weights folder of a booster to measure; nothing is trained")
    made.add_argument("--chronological-age", action="store_true", help="give the trees the chronological age too")
    made.add_argument(
        "--draw-ages",
        action="store_true",
        help="draw a chronological age for films that have none, by the Brush deviations",
    )
    made.add_argument("--rate", type=float, default=0.1, help="learning rate of the search")
    made.add_argument("--final-rate", type=float, default=0.05, help="learning rate of the booster that is kept")
    made.add_argument("--rounds", type=int, default=1500, help="trees at most")
    made.add_argument("--patience", type=int, default=40, help="rounds without a better validation error")
    made.add_argument("--terms", default=weights.RSNA_TERMS)
    made.add_argument(
        "--source", default="RSNA Pediatric Bone Age Challenge 2017 at 100 x 100", help="the films, in words"
    )
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--threads", type=int, default=1)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Search, fit, calibrate, measure and write."""
    options = parser().parse_args(argv)
    if options.measure:
        shipped = RegionRegressor(options.measure)
        # Intervals that were made from these films are judged by those made without each.
        intervals = None if "test" in interval_parts(shipped.metadata) else shipped.intervals
        found = measured(shipped.booster, intervals, Cache.load(options.data).of("test"), ages=False)
        _keep_figures(options.out, found)
        print(json.dumps({"test_mae_years": found["test"]["mae_years"]}))  # noqa: T201
        return
    kept = runs.keep(options)
    cache = Cache.load(options.data)
    if options.draw_ages:
        ages_drawn = drawn(cache.bone_age_years.astype(np.float64), cache.sexes(), options.seed)
        known = np.isfinite(cache.chronological_age_years)
        cache = replace(
            cache, chronological_age_years=np.where(known, cache.chronological_age_years, ages_drawn).astype(np.float32)
        )
    train, validation, test = (cache.of(part) for part in ("train", "validation", "test"))
    ages = options.chronological_age
    fitted = {**FIXED, "nthread": options.threads, "seed": options.seed}

    grown, watched = matrix(train, ages=ages), matrix(validation, ages=ages)
    search = greedy(grown, watched, {**fitted, "learning_rate": options.rate}, options.rounds, options.patience)
    chosen = search[-1]["chosen"]
    last = {**fitted, **chosen, "learning_rate": options.final_rate}
    booster, _ = fit(grown, watched, last, options.rounds, options.patience)

    # The validation part stopped the growing of trees, so its errors are slightly too small for the intervals; coverage is
    # measured on the test part, which nothing was chosen on.
    intervals = calibrate(
        REGION_XGBOOST,
        predict(booster, validation, ages=ages).tolist(),
        validation.bone_age_years.astype(float).tolist(),
        validation.sexes(),
    )
    figures: dict[str, Any] = {
        "n": {part: len(cache.of(part).name) for part in ("train", "validation", "test")},
        **measured(booster, intervals, test, ages=ages),
        "chronological_age": ages,
        "chronological_ages_drawn": options.draw_ages,
        "trees": booster.num_boosted_rounds(),
        "search": search,
    }
    _keep_figures(options.out, figures)
    trunk, architecture = trunk_of(options.trunk)
    runs.save(
        options,
        kept,
        {f"trunk.{name}": tensor for name, tensor in trunk.state_dict().items()},
        weights.Metadata(
            problem="regression",
            architecture=REGION_XGBOOST,
            terms=options.terms,
            data=(f"{options.source}: {len(train.name)} films",),
            seed=options.seed,
            commit=git_commit(),
            metrics={"test": figures["test"]},
            preprocessing={"side": 100, "kinds": list(KINDS)},
            hyperparameters={
                "method": REGION_XGBOOST,
                "trunk": architecture,
                "chronological_age": ages,
                **{name: float(value) for name, value in chosen.items()},
            },
        ),
        {
            BOOSTER_FILE: bytes(booster.save_raw("ubj")),
            INTERVALS_FILE: json.dumps(intervals.to_dict(), indent=1).encode(),
        },
    )
    print(json.dumps({"test_mae_years": figures["test"]["mae_years"], "trees": figures["trees"], "chosen": chosen}))  # noqa: T201


def measured(booster: xgboost.Booster, intervals: Intervals | None, test: Cache, *, ages: bool) -> dict[str, Any]:
    """Return the errors of a booster on films it has not seen, all and by year and sex, and what its intervals hold.

    Without `intervals` each film is judged by those that the films of the other folds give.
    """
    found = predict(booster, test, ages=ages).tolist()
    truth = test.bone_age_years.astype(np.float64)
    patients = test.name.tolist()
    errors = compare(found, truth.tolist(), tolerance=1.0, patients=patients)
    if intervals is None:
        pairs = [Pair(*row) for row in zip(patients, test.sexes(), found, truth.tolist(), strict=True)]
        _, inside = calibration.intervals(REGION_XGBOOST, pairs, found)
    else:
        inside = measured_coverage(intervals, REGION_XGBOOST, found, truth.tolist(), test.sexes())
    off = np.abs(np.array(found) - truth)
    figures = {
        "mae_years": errors.mae.to_dict(),
        **{
            f"mae_years_{label}": estimate(off[test.sex == sex], lambda rows: float(rows.mean())).to_dict()
            for sex, label in enumerate(("girls", "boys"))
            if (test.sex == sex).any()
        },
        "within_one_year": errors.within.to_dict(),
        "bias_years": round(errors.bland_altman.bias, 4),
        "coverage": estimate(inside, lambda rows: float(rows.mean())).to_dict(),
        **{
            f"coverage_{label}": estimate(inside[test.sex == sex], lambda rows: float(rows.mean())).to_dict()
            for sex, label in enumerate(("girls", "boys"))
            if (test.sex == sex).any()
        },
    }
    if np.isfinite(test.chronological_age_years).all():
        own = test.chronological_age_years.astype(np.float64)
        figures["pull_to_chronological_age"] = pull(np.array(found), truth, own, patients).to_dict()
    return {"test": figures, "by_year": by_year(truth, test.sex == 1, np.array(found))}


def _keep_figures(out: Path, figures: Mapping[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def matrix(films: Cache, *, ages: bool) -> xgboost.DMatrix:
    """Return films as XGBoost takes them; binning the features costs more than a few trees, so one search shares it."""
    rows = table(films.features, films.sex, films.chronological_age_years if ages else None)
    return xgboost.DMatrix(rows, label=films.bone_age_years)


def fit(
    train: xgboost.DMatrix, validation: xgboost.DMatrix, parameters: Mapping[str, Any], rounds: int, patience: int
) -> tuple[xgboost.Booster, float]:
    """Grow trees until the validation error has not fallen for `patience` rounds; return those up to the best, and its error."""
    booster = xgboost.train(
        dict(parameters) | {"eval_metric": "mae"},
        train,
        num_boost_round=rounds,
        evals=[(validation, "validation")],
        early_stopping_rounds=patience,
        verbose_eval=False,
    )
    return booster[: booster.best_iteration + 1], float(booster.best_score)


def predict(booster: xgboost.Booster, films: Cache, *, ages: bool) -> NDArray[np.float64]:
    """Return bone ages in years."""
    found: NDArray[np.float64] = booster.predict(matrix(films, ages=ages)).astype(np.float64)
    return found


def greedy(
    train: xgboost.DMatrix, validation: xgboost.DMatrix, parameters: Mapping[str, Any], rounds: int, patience: int
) -> list[dict[str, Any]]:
    """Go through `GRID` once; return one row a hyperparameter: the validation MAE of each value, and all that is chosen so far."""
    chosen: dict[str, float] = {name: values[0] for name, values in GRID.items()}
    errors: dict[tuple[tuple[str, float], ...], float] = {}
    rows = []
    for name, values in GRID.items():
        tried: dict[str, float] = {}
        for value in values:
            now = {**chosen, name: value}
            key = tuple(sorted(now.items()))
            if key not in errors:
                typed = {**now, "max_depth": int(now["max_depth"])}
                _, errors[key] = fit(train, validation, {**parameters, **typed}, rounds, patience)
            tried[f"{value:g}"] = round(errors[key], 5)
        best = min(values, key=lambda value: errors[tuple(sorted({**chosen, name: value}.items()))])
        chosen[name] = best
        rows.append(
            {"name": name, "validation_mae_years": tried, "chosen": {**chosen, "max_depth": int(chosen["max_depth"])}}
        )
    return rows


if __name__ == "__main__":
    refusal.command(main)
