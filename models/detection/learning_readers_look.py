r"""Fit the look of each set's readers (`readers_look`) to the annotated films.

    python -m models.detection.learning_readers_look --detector models/bundles/detection/handnet-sets --data ../shared/data/rsna \
        --out ../runs/readers-look

It learns on the training part of the split alone. First a bank of strokes, from patches of the close views, whitened, by rounds of
k-means on directions, whatever a reader said; then a ridge regression a point, in closed form. How far it is held
back is one number for all points, taken from `--ridge` by five folds of these films: the one that misses least, every set counting
the same. What ships is then fitted to all of them. It takes two minutes, once the detector has looked at them.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models import pixels, refusal, transforms, weights
from models.datasets import splits
from models.datasets.faults import BadData
from models.detection import rsna
from models.detection.anatomy import LIMIT_PERCENT, Template
from models.detection.closer import normalised
from models.detection.conventions import CHANNEL
from models.detection.predict import ARCHITECTURES, Detector
from models.detection.readers import laid, share
from models.detection.readers_look import (
    ARCHITECTURE,
    CLOSE,
    FEATURES,
    PERCENT,
    PLACE,
    PLACES,
    SETS,
    SIDE,
    STROKE,
    STROKES,
    Bank,
    Hand,
    features,
    views,
)
from models.engine import git_commit
from models.image import Image

FOLDS: Final = 5
RIDGE: Final = (10.0, 20.0, 40.0, 80.0)
FARTHEST: Final = (
    5.0  # per cent of the hand's length; a reader's point farther from the others' teaches as if it lay there
)
SEED: Final = 0
PATCHES: Final = 100_000  # of which the mean patch and the whitening are taken
SORTED: Final = 40_000  # of them, among which the strokes are looked for
ROUNDS: Final = 8
WHITENING: Final = 0.05  # added to the variances before whitening
Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Stated:
    """Every point that a reader stated and the detector found on the training films.

    Parameters
    ----------
    films, uprights, places, seen
        (films, 1, rows, columns), (films, 2, 3), (films, PLACES, 2) and (films, PLACES), as `readers_look` has them.
    film, place
        (n,) which film a point lies on and which it is.
    target
        (n, 2) where the reader set it, in fractions of the canonical view.
    measure
        (n, 2, 2) from such fractions to per cent of the hand's length, on the film as it was before it was squashed.
    origin, fold
        (n,) number of the set; of the fold of the film.
    missed
        (sets,) points that a reader stated and the detector did not find.
    """

    films: Tensor
    uprights: Tensor
    places: Tensor
    seen: Tensor
    film: Tensor
    place: Tensor
    target: Tensor
    measure: Tensor
    origin: Tensor
    fold: Tensor
    missed: Tensor


def stated(detector: Detector, data: Path, split: Path) -> Stated:
    """Look at the annotated training films with the detector whose points are to be moved."""
    thumbnails = rsna.read_thumbnails(data)
    hands: list[Hand] = []
    rows: list[tuple[int, int, Array, Array, int, int]] = []
    missed = np.zeros(len(SETS))
    for number, records in sorted(rsna.of_part(data, split, "train").items()):
        if number not in thumbnails:
            continue
        image = Image(pixels=pixels.scale(thumbnails[number]))
        hand = Hand.of(image, detector.detect(image), detector.template)
        for origin, names in enumerate(SETS.values()):
            record = records.get(list(SETS)[origin])
            if record is None:
                continue
            true, fit = laid(detector.template, record)
            known = [name for name in names if not np.isnan(true[CHANNEL[name], 0])]
            missed[origin] += sum(hand is None or not hand.seen[PLACE[name]] for name in known)
            if hand is None:
                continue
            plane = np.array([record.aspect, 1.0]) / (image.columns, image.rows)
            upright = np.linalg.inv(fit.matrix[:, :2]) / detector.template.hand_length * 100
            measure = upright @ np.diag(plane) @ hand.upright[:, :2]
            back = transforms.invert(hand.upright)
            for name in known:
                if hand.seen[PLACE[name]]:
                    target = transforms.apply(back, (true[CHANNEL[name]] / plane - 0.5)[None])[0]
                    rows.append((len(hands), PLACE[name], target, measure, origin, len(hands) % FOLDS))
        if hand is not None:
            hands.append(hand)
    if not hands:
        raise BadData(data, None, data.name, "the detector finds no hand on any annotated thumbnail")
    columns = [torch.from_numpy(np.array(column)) for column in zip(*rows, strict=True)]
    return Stated(
        films=torch.from_numpy(np.stack([hand.pixels for hand in hands]))[:, None],
        uprights=torch.from_numpy(np.stack([hand.upright for hand in hands])).float(),
        places=torch.from_numpy(np.stack([hand.places for hand in hands])).float(),
        seen=torch.from_numpy(np.stack([hand.seen for hand in hands])),
        film=columns[0],
        place=columns[1],
        target=columns[2].float(),
        measure=columns[3].float(),
        origin=columns[4],
        fold=columns[5],
        missed=torch.from_numpy(missed),
    )


def cached(options: argparse.Namespace) -> Stated:
    """Return what the detector sees of the training films, looked at once where there is a folder to keep it in."""
    digests = weights.digest(options.detector), splits.digest(options.split)
    path = options.cache / f"readers-{digests[0][:12]}-{digests[1][:12]}.npz" if options.cache else None
    if path is not None and path.exists():
        with np.load(path, allow_pickle=False) as kept:
            return Stated(**{name: torch.from_numpy(value) for name, value in kept.items()})
    found = stated(Detector(options.detector), options.data, options.split)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{each.name: getattr(found, each.name).numpy() for each in dataclasses.fields(found)})
    return found


def strokes(patches: Tensor, generator: torch.Generator, count: int = STROKES) -> Bank:
    """Learn a bank from (n, STROKE²) patches: directions, of either sign, about which whitened patches gather."""
    patches = patches - patches.mean(dim=1, keepdim=True)
    contrast = patches.std(dim=1).median() / 2
    patches = patches / (patches.std(dim=1, keepdim=True) + contrast)
    middle = patches.mean(dim=0)
    away = patches - middle
    variances, axes = torch.linalg.eigh(away.mT @ away / len(away))
    whitening = (axes * (variances + WHITENING).rsqrt()) @ axes.mT
    white = away @ whitening
    found = functional.normalize(white[torch.randperm(len(white), generator=generator)[:count]])
    white = white[:SORTED]
    for _ in range(ROUNDS):
        answers = white @ found.mT
        nearest = answers.abs().argmax(dim=1)
        sign = answers.gather(1, nearest[:, None]).sign()
        gathered = torch.zeros_like(found).index_add_(0, nearest, white * sign)
        found = torch.where(gathered.norm(dim=1, keepdim=True) > 0, functional.normalize(gathered), found)
    filters = found @ whitening
    level = filters @ middle
    filters = filters - filters.mean(dim=1, keepdim=True)  # a patch's own mean says nothing
    return Bank(filters.view(-1, 1, STROKE, STROKE), level, contrast)


def bank(found: Stated, template: Template) -> Bank:
    """Learn the strokes from patches of the close views of every fourth point stated."""
    chosen = torch.arange(0, len(found.film), 4)
    film = found.film[chosen]
    middles = found.places[film, found.place[chosen]]
    seen = normalised(views(found.films[film], found.uprights[film], middles, CLOSE, template.hand_length))
    generator = torch.Generator().manual_seed(SEED)
    last = SIDE - STROKE + 1
    one, row, column = (
        torch.randint(limit, (PATCHES,), generator=generator)[:, None, None] for limit in (len(seen), last, last)
    )
    line = torch.arange(STROKE)
    patches = seen[one, 0, row + line[None, :, None], column + line[None, None, :]].flatten(1)
    return strokes(patches, generator)


def given(found: Stated, template: Template, marks: Bank) -> Tensor:
    """Return the (n, FEATURES) features of every point stated."""
    parts = []
    for first in range(0, len(found.film), 1024):
        chosen = torch.arange(first, min(first + 1024, len(found.film)))
        film = found.film[chosen]
        parts.append(
            features(
                found.films[film],
                found.uprights[film],
                found.places[film],
                found.seen[film],
                found.place[chosen],
                template,
                marks,
            )
        )
    return torch.cat(parts)


def fit(seen: Tensor, wanted: Tensor, ridges: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Return for each ridge weight (features, 2) and bias (2,) of one point's regression; answers far from their median are drawn near."""
    seen, wanted = seen.double(), wanted.double()
    middle = wanted.median(dim=0).values
    near = middle + (wanted - middle).clamp(-FARTHEST, FARTHEST)
    mean, level = seen.mean(dim=0), near.mean(dim=0)
    away, left = seen - mean, near - level
    # With fewer films than features the system of the films is the smaller one, and gives the same weights.
    gram, one = away @ away.mT, torch.eye(len(away), dtype=torch.float64)
    found = [away.mT @ torch.linalg.solve(gram + ridge * one, left) for ridge in ridges]
    return [(weight.float(), (level - mean @ weight).float()) for weight in found]


def wanted(found: Stated, hand_length: float) -> Tensor:
    """Return (n, 2), how far the reader's point lies from the head's, upright, in hundredths of the hand's length."""
    return (found.target - found.places[found.film, found.place]) / (PERCENT * hand_length)


def crossed(found: Stated, seen: Tensor, answers: Tensor, ridges: Sequence[float]) -> dict[float, Tensor]:
    """Return for each ridge (n, 2): what is said of each point by a regression that has not seen its fold."""
    said = {ridge: torch.zeros_like(answers) for ridge in ridges}
    for place in sorted(set(found.place.tolist())):
        here = torch.nonzero(found.place == place).squeeze(1)
        for fold in sorted(set(found.fold[here].tolist())):
            inside, outside = here[found.fold[here] == fold], here[found.fold[here] != fold]
            fitted = fit(seen[outside], answers[outside], ridges)
            for ridge, (weight, bias) in zip(ridges, fitted, strict=True):
                said[ridge][inside] = seen[inside] @ weight + bias
    return said


def missed_by(found: Stated, said: Tensor, hand_length: float) -> Tensor:
    """Return (n,): how far from the reader's points the ones said lie, in per cent of the hand's length on the film."""
    left = said * PERCENT * hand_length - (found.target - found.places[found.film, found.place])
    away: Tensor = torch.linalg.vector_norm(torch.einsum("nij,nj->ni", found.measure, left), dim=1)
    return away


def figures(found: Stated, away: Tensor) -> dict[str, Any]:
    """Return each set's share of points within the limit, its interval over films; one that was not found counts as missed."""
    result = {}
    for number, origin in enumerate(SETS):
        here = found.origin == number
        films = [away[here & (found.film == film)].tolist() for film in sorted(set(found.film[here].tolist()))]
        lost = int(found.missed[number])
        result[origin] = share([*films, *([[LIMIT_PERCENT * 2] * lost] if lost else [])])
    return result


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--detector", type=Path, required=True, help="weights folder of the detector whose points are moved"
    )
    made.add_argument("--data", type=Path, required=True, help="folder of the RSNA films")
    made.add_argument("--split", type=Path, default=Path("models/datasets/splits/detection_rsna.csv"), help="id,split")
    made.add_argument("--ridge", type=float, nargs="+", default=RIDGE, help="how far to hold back: the best is taken")
    made.add_argument("--cache", type=Path, help="folder in which is kept what the detector sees of the films")
    made.add_argument("--out", type=Path, required=True, help="weights folder to write")
    made.add_argument("--version", default="1", help="version of the weights")
    made.add_argument("--threads", type=int, default=1)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Look, choose by folds, fit to all training films, write."""
    options = parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    template = Template.load()
    _, base = weights.load(options.detector, problem="detection", architectures=ARCHITECTURES)
    found = cached(options)
    marks = bank(found, template)
    seen, answers = given(found, template, marks), wanted(found, template.hand_length)
    tried = {
        ridge: figures(found, missed_by(found, said, template.hand_length))
        for ridge, said in crossed(found, seen, answers, options.ridge).items()
    }
    chosen = min(tried, key=lambda ridge: -sum(each["value"] for each in tried[ridge].values()))
    weight, bias = torch.zeros(len(PLACES), FEATURES, 2), torch.zeros(len(PLACES), 2)
    for place in sorted(set(found.place.tolist())):
        here = found.place == place
        [(weight[place], bias[place])] = fit(seen[here], answers[here], [chosen])
    before = figures(found, missed_by(found, torch.zeros_like(answers), template.hand_length))
    metadata = weights.Metadata(
        problem="detection",
        architecture=ARCHITECTURE,
        terms=weights.RSNA_TERMS,
        data=(
            f"{len(answers)} points that the readers of four annotation sets stated on {len(found.films)} films of the RSNA "
            "Pediatric Bone Age Challenge at 100 x 100 pixels",
            f"the points it moves are of a detector that learned from: {'; '.join(base.data)}",
        ),
        seed=SEED,
        version=options.version,
        split_sha256=splits.digest(options.split),
        commit=git_commit(),
        metrics={
            "training films, five folds, before": before,
            **{f"training films, five folds, ridge {ridge:g}": result for ridge, result in tried.items()},
        },
        preprocessing={
            "detector_sha256": weights.digest(options.detector),
            "percentiles": list(transforms.PERCENTILES),
        },
        hyperparameters={"ridge": chosen},
    )
    tensors = {
        "filters": marks.filters,
        "level": marks.level,
        "contrast": marks.contrast,
        "weight": weight,
        "bias": bias,
    }
    weights.save(options.out, tensors, metadata, half=True)
    sys.stderr.write(json.dumps(metadata.metrics, indent=1) + "\n")


if __name__ == "__main__":
    refusal.command(main)
