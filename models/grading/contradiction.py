r"""Find the limits from which on the other bones contradict the stage of a single one, and measure whom the remark finds and accuses.

    python -m models.grading.contradiction --readings readings.jsonl --films ../crops/films --tuning ../runs/aged --fold 0 \
        --seen models/grading/seen.csv --leave-out validation/1740.webp,... --phantoms ../crops/test \
        --bundle models/bundles/default.json --json benchmarks/accuracy/grading_contradiction.json

Real films carry no stages: `seen.csv` holds the TW3 letter that was seen by eye of single bones (film, bone, seen; "?" where none
could be told), read without knowing how they were graded. A remark is *right* where the letter lies two or more from the graded
one, *needless* on a film none of whose remarked bones is. How far ahead and how far behind a stage may lie are two limits: each is
the highest of `LIMITS` with which at most `NEEDLESS` of the films to choose by get a needless remark of its kind. Films of one
fold measure them, graded by a grader tuned without them; the others, as the bundle reads them, choose.

On phantoms every stage is known: which bones graded two or more stages off are found, and which of those graded exactly are accused.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from models import refusal, runs, weights
from models.datasets import documents, readings
from models.datasets.faults import BadData
from models.engine import git_commit
from models.grading import measure, tune, tuned
from models.grading.ages import SEXES
from models.grading.augment import centre
from models.grading.consistency import joined
from models.grading.films import Films
from models.grading.losses import stage_of
from models.grading.network import ARCHITECTURES, LEVELS, WIDEST, build
from models.grading.phantoms import Crops
from models.metrics.bootstrap import estimate
from models.regions import RUS
from models.standards.harmony import Contradiction, HandPrior, tails, told_by_others
from models.standards.rus import letter_of

Array = NDArray[np.float64]
SLACK_STAGES: Final = 0.8
LIMITS: Final = (0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03)
NEEDLESS: Final = 0.0125  # share of films on which a needless remark of either kind is borne
LETTERS_OFF: Final = 2
SIDES: Final = ("ahead", "behind")
UNTOLD: Final = "?"
Seen = Mapping[tuple[str, str], str]  # TW3 letter by film and bone


@dataclass(frozen=True, slots=True)
class Hands:
    """Films as they were graded and told.

    Parameters
    ----------
    likely
        (films, 13, 2) the chance that the other bones give to a stage as high, and as low, as each bone's.
    letters_off
        (films, 13) how far the letter seen lies from the graded one, 0 where none could be told, NaN where nobody looked.
    """

    likely: Array
    letters_off: Array

    @classmethod
    def of(cls, names: Sequence[str], male: NDArray[np.int64], told: Array, seen: Seen) -> Self:
        """Make them of names, sexes and stage probabilities."""
        return cls(likelihoods(told, male), letters_off(told, names, seen))


def main(argv: Sequence[str] | None = None) -> None:
    """Choose the limits, measure them, write them into the bundle and the figures into the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=Path, required=True, help="JSON lines of `carpus read` with the bundle")
    parser.add_argument("--films", type=Path, required=True, help="cache of models.grading.films")
    parser.add_argument("--tuning", type=Path, required=True, help="run of models.grading.tune")
    parser.add_argument(
        "--fold", type=int, required=True, help="fold of the run whose films measure; the others choose"
    )
    parser.add_argument("--seen", type=Path, required=True, help="table of the letters seen: film, bone, seen")
    parser.add_argument("--leave-out", default="", help="films that do neither, separated by commas")
    parser.add_argument(
        "--phantoms", type=Path, required=True, help="cache of models.grading.phantoms, seeds of its own"
    )
    parser.add_argument("--bundle", type=Path, required=True, help="bundle file to write the limits into")
    parser.add_argument("--json", type=Path, required=True, help="results file")
    options = parser.parse_args(argv)
    values = documents.read_object(options.bundle, "grading", "hand_prior")
    prior, folder = HandPrior(**values["hand_prior"]), options.bundle.parent / values["grading"]
    left = frozenset(filter(None, options.leave_out.split(",")))
    rows = documents.rows(options.seen, ("film", "bone", "seen"))
    seen = {(row["film"], row["bone"]): row["seen"] for _, row in rows}
    files, fold = fold_of(options.films, options.tuning, options.fold)
    measuring = of_the_fold(fold, tuned.fold_of(options.tuning, options.fold), left, prior, seen)
    choosing = as_read(options.readings, left | set(fold.file.tolist()), seen)
    rule = Contradiction(
        SLACK_STAGES, *(chosen(choosing.likely[..., side], choosing.letters_off) for side in range(len(SIDES)))
    )
    drawn = Crops.load(options.phantoms)
    results = {
        "problem": "grading",
        "what": "the remark on a single bone that the others contradict",
        "command": "python -m models.grading.contradiction --readings READINGS --films FILMS --tuning RUN "
        f"--fold {options.fold} --seen models/grading/seen.csv --leave-out NAMES --phantoms CROPS --bundle BUNDLE --json RESULT",
        "commit": git_commit(),
        "data": f"{len(choosing.likely)} of {files} films of RSNA choose, as the bundle reads them; {len(measuring.likely)} others "
        f"measure, graded by a grader tuned without them; {len(drawn)} phantoms, seeds from {int(drawn.seed.min())}, true boxes",
        "left_out": sorted(left),
        "contradiction": dataclasses.asdict(rule),
        "chosen_by": {
            name: {f"{one:g}": on_films(choosing.likely[..., side] < one, choosing.letters_off) for one in LIMITS}
            for side, name in enumerate(SIDES)
        },
        "as_the_bundle_reads_the_films_that_choose": by_side(rule, choosing),
        "measured": by_side(rule, measuring),
        "phantoms": on_phantoms(folder, drawn, prior, rule),
    }
    options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    values["contradiction"] = dataclasses.asdict(rule)
    options.bundle.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def fold_of(cache: Path, run: Path, number: int) -> tuple[int, Films]:
    """Return how many films a run had, and those of one of its folds."""
    films, settings = Films.load(cache), documents.read_object(run / runs.CONFIG_FILE, "folds", "seed")
    return len(films), films.subset(tune.folds_of(films, settings["folds"], settings["seed"]) == number)


def of_the_fold(films: Films, chances: Array, left: AbstractSet[str], prior: HandPrior, seen: Seen) -> Hands:
    """Return the films of a fold with all 13 bones by what a grader tuned without them says, after the prior of the hand."""
    kept = films.found.all(1) & np.array([name not in left for name in films.file])
    films = films.subset(kept)
    told = joined(chances[kept], films.male, prior)
    return Hands.of(films.file.tolist(), films.male, told, seen)


def as_read(path: Path, left: AbstractSet[str], seen: Seen) -> Hands:
    """Return the films with all 13 stages as the bundle reads them."""
    names, male, told = [], [], []
    for file, line in readings.read(path).items():
        if line.error is not None or file in left:
            continue
        reading = line.reading()
        stages = {region.name: region.stage for region in reading.regions if region.stage is not None}
        if reading.sex is None or len(stages) < len(RUS):
            continue
        hand = np.zeros((len(RUS), WIDEST))
        for i, bone in enumerate(RUS):
            hand[i, : len(LEVELS[i])] = stages[bone].probabilities
        names.append(file)
        male.append(SEXES.index(reading.sex))
        told.append(hand)
    if not names:
        raise BadData(path, None, path.name, "holds no film with 13 stages that may choose")
    return Hands.of(names, np.array(male), np.stack(told), seen)


def by_side(rule: Contradiction, hands: Hands) -> dict[str, Any]:
    """Return what a rule does on real films, for each kind of remark, for both, and how often on which bone."""
    remarked = {
        "ahead": hands.likely[..., 0] < rule.ahead,
        "behind": hands.likely[..., 1] < rule.behind,
        "either": remarked_by(rule, hands.likely),
    }
    bones = dict(zip(RUS, remarked["either"].sum(0).tolist(), strict=True))
    return {**{name: on_films(one, hands.letters_off) for name, one in remarked.items()}, "remarks_by_bone": bones}


def likelihoods(told: Array, male: NDArray[np.int64]) -> Array:
    """Return the chance that the others give to a stage as high, and as low, as each bone's, (films, 13, 2)."""
    found = np.empty((*told.shape[:2], 2))
    for film, code in enumerate(male.tolist()):
        own = {bone: told[film, i, : len(LEVELS[i])].tolist() for i, bone in enumerate(RUS)}
        expected = told_by_others(own, (SEXES[code],), SLACK_STAGES)
        found[film] = [tails(chances, int(told[film, i].argmax())) for i, chances in enumerate(expected.values())]
    return found


def remarked_by(rule: Contradiction, likely: Array) -> NDArray[np.bool_]:
    """Return which bones a rule remarks on, (films, 13)."""
    found: NDArray[np.bool_] = (likely[..., 0] < rule.ahead) | (likely[..., 1] < rule.behind)
    return found


def letters_off(told: Array, names: Sequence[str], seen: Seen) -> Array:
    """Return how many letters off each bone was graded, (films, 13); see `Hands`."""
    found = np.full(told.shape[:2], np.nan)
    for film, name in enumerate(names):
        for i, bone in enumerate(RUS):
            letter = seen.get((name, bone))
            if letter is not None:
                graded = letter_of(bone, LEVELS[i][int(told[film, i].argmax())])
                found[film, i] = 0 if letter == UNTOLD else abs(ord(letter) - ord(graded))
    return found


def chosen(likely: Array, off: Array) -> float:
    """Return the highest limit with which no more than `NEEDLESS` of the films get a needless remark; (films, 13) both."""
    fitting = [one for one in LIMITS if _needless(likely < one, off).mean() <= NEEDLESS]
    if not fitting:
        raise refusal.Refusal(f"with no limit from {LIMITS[0]:g} on are needless remarks as rare as {NEEDLESS:g}")
    return max(fitting)


def on_films(remarked: NDArray[np.bool_], off: Array) -> dict[str, Any]:
    """Return what remarks do on real films: shares of films, and of the remarked bones somebody looked at."""
    looked = off[remarked & np.isfinite(off)]
    return {
        "films_remarked": _share(_any(remarked)),
        "bones_remarked": _share(remarked.mean(1)),
        "films_remarked_needlessly": _share(_needless(remarked, off)),
        "remarks_that_are_right": _share(looked >= LETTERS_OFF) if len(looked) else None,
        "remarked_one_letter_off": int((looked == 1).sum()),
        "remarked_as_seen_or_untold": int((looked == 0).sum()),
        "remarked_that_nobody_looked_at": int((remarked & np.isnan(off)).sum()),
    }


def on_phantoms(folder: Path, films: Crops, prior: HandPrior, rule: Contradiction) -> dict[str, Any]:
    """Return which wrongly graded bones the remark finds on phantoms, and which rightly graded ones it accuses."""
    tensors, card = weights.load(folder, problem="grading", architectures=ARCHITECTURES)
    net = build(card.architecture, dict(card.hyperparameters))
    net.load_state_dict(tensors)
    outputs = measure.run(net, centre(torch.from_numpy(films.pixels), int(card.preprocessing["size"])))
    male = (~films.female).astype(np.int64)
    told = joined(net.probabilities(outputs).detach().double().numpy(), male, prior)
    off = np.abs(told.argmax(-1) - stage_of(torch.from_numpy(films.maturity)).numpy())
    remarked = remarked_by(rule, likelihoods(told, male))
    patients = np.broadcast_to(np.arange(len(films))[:, None], off.shape)
    groups = {
        "two_or_more_stages_off": off >= 2,
        "three_or_more_stages_off": off >= 3,
        "one_stage_off": off == 1,
        "graded_exactly": off == 0,
    }
    clean = (off <= 1).all(1)
    return {
        **{name: _share(remarked[own], patients[own].tolist()) if own.any() else None for name, own in groups.items()},
        "films_without_a_bone_two_stages_off": _share(_any(remarked[clean])),
    }


def _needless(remarked: NDArray[np.bool_], off: Array) -> NDArray[np.bool_]:
    """Return the films that are remarked on and of whose remarked bones none is known to be graded wrongly."""
    found: NDArray[np.bool_] = _any(remarked) & ~_any(remarked & (off >= LETTERS_OFF))
    return found


def _any(bones: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the films of which any bone is one of these."""
    found: NDArray[np.bool_] = np.asarray(bones.any(axis=1))
    return found


def _share(rows: NDArray[Any], patients: Sequence[int] | None = None) -> dict[str, float | int]:
    return estimate(rows.astype(np.float64), lambda own: float(own.mean()), patients=patients).to_dict()


if __name__ == "__main__":
    refusal.command(main)
