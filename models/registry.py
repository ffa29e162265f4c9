"""Find the shipped bundles, verify what they name, and build the Reader that runs on one of them.

A *bundle* is a JSON file that names one weights folder for each problem, relative to itself, with the rules that turn their
output into a Reading. Its sha256 covers the file and, through their metadata, every byte of the weights. Its terms are the
terms of its parts. A hospital's own bundle is the same file anywhere on disk, given by its path.
"""

import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models import weights
from models.calibration import SiteCalibration
from models.metrics.conformal import Intervals
from models.reader import Reader
from models.reading import Bundle
from models.refusal import Refusal
from models.regions import Sex
from models.scoring import BY_STAGES, LateEnd, Scoring
from models.standards import Classic, Top2, TopN, Weighting
from models.standards.harmony import Contradiction, HandPrior
from models.weights import Metadata

FOLDER: Final = Path(__file__).parent / "bundles"
FORMAT_VERSION: Final = 1
THRESHOLDS: Final = ("agreement_threshold_years", "discord_threshold")
KEYS: Final = frozenset(
    {
        "format_version", "name", "version", "intended_use", *weights.PROBLEMS, "weighting", "hand_prior", "default_method",
        "late_end", "contradiction", "intervals", "site_calibration", *THRESHOLDS,
    }
)  # fmt: skip
# Where each problem's predictor lives; imported only when a bundle has weights for it.
_PREDICTORS: Final = {
    "detection": ("models.detection.predict", "Detector"),
    "segmentation": ("models.segmentation.predict", "Segmenter"),
    "grading": ("models.grading.predict", "Grader"),
    "regression": ("models.regression.predict", "Regressor"),
}
# Architectures that have a predictor of their own; each class names in `architectures` those it can run.
_OF_ARCHITECTURE: Final = {"region-xgboost": ("models.regression.boosted", "RegionRegressor")}


class BundleRefused(Refusal):
    """A bundle that cannot be used; the text says which one, what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a bundle consists of.

    Parameters
    ----------
    scoring
        The rules from stages to bone ages; they need none of the weights.
    parts
        (problem, folder, metadata) of every weights folder it names; a problem may have several (regression).
    absent
        Problems it names no weights for.
    """

    name: str
    version: str
    path: Path
    sha256: str
    terms: str
    default_method: str | None
    scoring: Scoring
    intended_use: str
    parts: tuple[tuple[str, Path, Metadata], ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def identity(self) -> Bundle:
        """The form that stands in a Reading."""
        return Bundle(self.name, self.version, self.sha256, self.terms)


def names(folder: Path = FOLDER) -> tuple[str, ...]:
    """Return the names of the shipped bundles."""
    return tuple(sorted(path.stem for path in folder.glob("*.json")))


def describe(bundle: str = "default", *, folder: Path = FOLDER, sha256: str = "") -> Description:
    """Read a bundle by name or path and verify every byte it names.

    Parameters
    ----------
    sha256
        Of the only bundle that may be used; empty where none was approved by its hash.

    Raises
    ------
    BundleRefused
        When there is no such bundle, its file is not one, or it is not the approved one.
    WeightsRefused
        When weights it names are missing, changed, or for another problem.
    """
    path = Path(bundle) if bundle.endswith(".json") else folder / f"{bundle}.json"
    values = _values(path, folder)
    parts, absent = [], []
    for problem in weights.PROBLEMS:
        named = values.get(problem) or []
        for relative in [named] if isinstance(named, str) else named:
            place = path.parent / relative
            parts.append((problem, place, weights.verify(place, problem=problem)))
        if not named:
            absent.append(problem)
    digest = hashlib.sha256(path.read_bytes())
    for _, place, _ in parts:
        digest.update(bytes.fromhex(weights.digest(place)))
    if sha256 and digest.hexdigest() != sha256:
        raise BundleRefused(
            f"bundle {path} is not the one approved: expected sha256 {sha256}, found {digest.hexdigest()}"
        )
    try:
        weighting = parse_weighting(values.get("weighting", "TopN"))
    except ValueError as error:
        raise BundleRefused(f"bundle {path}: {error}") from error
    try:
        prior = values.get("hand_prior")
        hand_prior = None if prior is None else HandPrior(**prior)
    except (TypeError, ValueError) as error:
        raise BundleRefused(f"bundle {path}: hand_prior: {error}") from error
    try:
        site = values.get("site_calibration")
        calibration = None if site is None else SiteCalibration.from_dict(site)
    except (KeyError, TypeError) as error:
        raise BundleRefused(f"bundle {path}: site_calibration: {error}") from error
    return Description(
        name=str(values["name"]),
        version=str(values["version"]),
        path=path,
        sha256=digest.hexdigest(),
        terms="; ".join(sorted({metadata.terms for _, _, metadata in parts})),
        default_method=values.get("default_method"),
        scoring=Scoring(
            weighting,
            _intervals(values, path),
            values.get("agreement_threshold_years"),
            calibration,
            values.get("discord_threshold"),
            hand_prior,
            _late_end(values, path),
            _contradiction(values, path),
        ),
        intended_use=str(values.get("intended_use", "")),
        parts=tuple(parts),
        absent=tuple(absent),
    )


def check_runnable(description: Description) -> None:
    """Ask the predictors whether they know the architectures of a bundle, without loading a weight.

    Raises
    ------
    WeightsRefused
        When one does not.
    BundleRefused
        When its default method is none of its methods.
    """
    check_method(description.default_method, description)
    for problem, place, card in description.parts:
        known = _predictor(problem, card).architectures
        if card.architecture not in known:
            raise weights.WeightsRefused(place, "architecture", " or ".join(sorted(known)), card.architecture)


def _predictor(problem: str, card: Metadata) -> Any:
    module, name = _OF_ARCHITECTURE.get(card.architecture, _PREDICTORS[problem])
    return getattr(importlib.import_module(module), name)


def load(
    bundle: str = "default", *, folder: Path = FOLDER, sha256: str = "", default_method: str | None = None
) -> Reader:
    """Return the Reader of a bundle, its weights verified and in memory.

    Parameters
    ----------
    sha256
        As in `describe`.
    default_method
        A site's own choice; None keeps the bundle's.

    Raises
    ------
    BundleRefused, WeightsRefused
        As in `describe`; also when a predictor does not know the architecture, or there is no detection to begin with.
    """
    description = describe(bundle, folder=folder, sha256=sha256)
    if "detection" in description.absent:
        raise BundleRefused(f"bundle {description.path} names no weights for detection; nothing can be read without")
    check_method(default_method or description.default_method, description)
    built: dict[str, list[Any]] = {problem: [] for problem in weights.PROBLEMS}
    for problem, place, card in description.parts:
        built[problem].append(_predictor(problem, card)(place))
    return Reader(
        detector=built["detection"][0],
        bundle=description.identity,
        segmenter=next(iter(built["segmentation"]), None),
        grader=next(iter(built["grading"]), None),
        regressors=tuple(built["regression"]),
        scoring=description.scoring,
        default_method=default_method or description.default_method,
        newness=next((one for one in built["regression"] if hasattr(one, "novelty")), None),
        absences={
            problem: f"bundle {description.name} {description.version} holds no weights for {problem}"
            for problem in description.absent
        },
    )


def parse_weighting(text: str) -> Weighting:
    """Read "classic", "Top2", "TopN" or "TopN:0.58"."""
    rule, _, threshold = text.partition(":")
    if rule == "TopN":
        return TopN(float(threshold)) if threshold else TopN()
    rules: dict[str, Weighting] = {"classic": Classic(), "Top2": Top2()}
    if threshold or rule not in rules:
        raise ValueError(f"weighting {text!r} is not classic, Top2, TopN or TopN:<threshold>")
    return rules[rule]


def _values(path: Path, folder: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(names(folder)) or "none"
        raise BundleRefused(f"bundle {path} cannot be read: {error.strerror}; shipped bundles: {known}") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # besides: no UTF-8, a number of thousands of digits, nested without end
        raise BundleRefused(f"bundle {path} is not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        found = values.get("format_version") if isinstance(values, dict) else type(values).__name__
        raise BundleRefused(f"bundle {path}: format version: expected {FORMAT_VERSION}, found {found}")
    missing = [key for key in ("name", "version") if not values.get(key)]
    if missing:
        raise BundleRefused(f"bundle {path}: no {' and no '.join(missing)}")
    # A misspelt rule would be left out without a word, and the bone ages would be others.
    unknown = sorted(set(values) - KEYS)
    if unknown:
        raise BundleRefused(f"bundle {path}: key {', '.join(unknown)}: known are {', '.join(sorted(KEYS))}")
    for key in THRESHOLDS:
        value = values.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise BundleRefused(f"bundle {path}: {key} is {value!r}; a number above 0 is expected")
    return values


def _intervals(values: dict[str, Any], path: Path) -> Intervals | None:
    try:
        return Intervals.from_dict(values["intervals"]) if values.get("intervals") else None
    except (KeyError, TypeError, ValueError) as error:
        raise BundleRefused(f"bundle {path}: intervals: {type(error).__name__}: {error}") from error


def _late_end(values: dict[str, Any], path: Path) -> dict[Sex, LateEnd]:
    sexes: tuple[Sex, Sex] = ("F", "M")
    try:
        given = dict(values.get("late_end") or {})
        found = {sex: LateEnd(**given.pop(sex)) for sex in sexes if sex in given}
    except (TypeError, ValueError) as error:
        raise BundleRefused(f"bundle {path}: late_end: {error}") from error
    if given:
        raise BundleRefused(f"bundle {path}: late_end: {', '.join(given)} is no sex; F and M are")
    return found


def _contradiction(values: dict[str, Any], path: Path) -> Contradiction | None:
    try:
        given = values.get("contradiction")
        return None if given is None else Contradiction(**given)
    except (TypeError, ValueError) as error:
        raise BundleRefused(f"bundle {path}: contradiction: {error}") from error


def check_method(name: str | None, description: Description) -> None:
    """Refuse a default method that the bundle does not have.

    Raises
    ------
    BundleRefused
        Naming the methods it has.
    """
    by_film = [
        str(card.hyperparameters.get("method", "")) for problem, _, card in description.parts if problem == "regression"
    ]
    known = [*BY_STAGES, *filter(None, by_film)]
    if name and name not in known:
        raise BundleRefused(f"bundle {description.path}: default method {name!r} is not one of {', '.join(known)}")
