r"""Say where on real films a detector misses, and how far two readers of one film are apart: what can be reached, and what not.

    python -m models.detection.misses --weights models/bundles/detection/handnet-sets --data ../shared/data/rsna \
        --json benchmarks/accuracy/detection_misses.json

Films are those of the validation split. Each stated point is held against the network's channel for its set (*own head*).
"""

import argparse
import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models import engine, pixels, transforms, weights
from models.detection import rsna
from models.detection.anatomy import Template
from models.detection.conventions import CHANNEL, CHANNELS, JOINTS, REGION_OF_JOINT, Annotated, joint_of
from models.detection.predict import Detector
from models.image import Image
from models.metrics.bootstrap import estimate

LIMIT_PERCENT: Final = 2.5  # of the hand's length, tip of the middle finger to wrist
GROSS_PERCENT: Final = 6.0
MANY: Final = 4  # misses on one film from which on it is named
Array = NDArray[np.float64]


def laid(template: Template, record: Annotated) -> tuple[Array, transforms.Similarity]:
    """Return a film's points in a plane without squash and how the template's hand lies there."""
    true: Array = record.points * np.array([record.aspect, 1.0])
    stated = ~np.isnan(true[:, 0])
    return true, transforms.Similarity.fit(template.points[stated], true[stated])


def offset(template: Template, fit: transforms.Similarity, vector: Array) -> Array:
    """Turn a vector of the film's plane upright, in per cent of the hand's length."""
    turned: Array = np.linalg.inv(fit.matrix[:, :2]) @ vector / template.hand_length * 100
    return turned


def between_readers(template: Template, found: dict[int, dict[str, Annotated]]) -> dict[str, Any]:
    """Hold two sets on the same films against each other, after the constant distance of their conventions is taken off."""
    apart: dict[str, dict[str, dict[int, Array]]] = defaultdict(lambda: defaultdict(dict))
    for film, records in found.items():
        for one, other in itertools.combinations(sorted(records), 2):
            (first, _), (second, fit) = (laid(template, records[name]) for name in (one, other))
            for joint in JOINTS:
                a, b = (_stated(points, joint) for points in (first, second))
                if a is not None and b is not None:
                    apart[f"{one} and {other}"][joint][film] = offset(template, fit, a - b)
    result: dict[str, Any] = {}
    for pair, joints in apart.items():
        errors: dict[int, list[float]] = defaultdict(list)
        for films in joints.values():
            middle = np.median(list(films.values()), axis=0)
            for film, vector in films.items():
                errors[film].append(float(np.hypot(*(vector - middle))))
        result[pair] = {
            "within 2.5 percent of each other": _share(list(errors.values())),
            "each within it of the place between them, if both err alike": _share(
                [[e / np.sqrt(2) for e in row] for row in errors.values()]
            ),
        }
    return result


def _stated(points: Array, joint: str) -> Array | None:
    for name in (joint, f"tight {joint}", f"spot {joint}", f"loose {REGION_OF_JOINT.get(joint)}"):
        if name in CHANNEL and not np.isnan(points[CHANNEL[name], 0]):
            place: Array = points[CHANNEL[name]]
            return place
    return None


def _share(rows: list[list[float]]) -> dict[str, Any]:
    counts = np.array([[sum(e <= LIMIT_PERCENT for e in row), len(row)] for row in rows], np.float64)
    return estimate(counts, lambda c: float(c[:, 0].sum() / c[:, 1].sum())).to_dict()


def of_films(detector: Detector, args: argparse.Namespace, found: dict[int, dict[str, Annotated]]) -> dict[str, Any]:
    """Return the misses of every set and folder: by channel, by film, and how many are gross."""
    split, thumbnails = rsna.read_split(args.split), rsna.read_thumbnails(args.data / "thumbnails")
    result: dict[str, Any] = {}
    for folder in ("thumbnails", "fullres"):
        rows: dict[str, dict[int, dict[str, Array]]] = defaultdict(dict)
        for film, records in found.items():
            path = args.data / folder / f"{film}.webp"
            if split[film] != "validation" or (folder != "thumbnails" and not path.exists()):
                continue
            image = pixels.load(path) if folder != "thumbnails" else Image(pixels=pixels.scale(thumbnails[film]))
            seen = detector.detect(image).points or {}
            for origin, record in records.items():
                rows[origin][film] = _errors(detector.template, record, image, seen)
        for origin, films in rows.items():
            result[f"{origin} on {folder}"] = _summary(films)
    return result


def _errors(template: Template, record: Annotated, image: Image, seen: Any) -> dict[str, Array]:
    """Return how far each stated point of a set is missed, upright, in per cent of the hand's length."""
    true, fit = laid(template, record)
    plane = np.array([record.aspect, 1.0]) / (image.columns, image.rows)
    errors = {}
    for index, name in enumerate(CHANNELS):
        own = record.origin in ("ossification16",) and name in ("radius", "ulna", "carpus")
        if np.isnan(true[index, 0]) or not (own or joint_of(name) or name.startswith("loose ")):
            continue
        place = seen.get(name, seen.get(joint_of(name) or ""))
        errors[name] = (
            np.full(2, np.inf)
            if place is None
            else offset(template, fit, (np.array(place) + 0.5) * plane - true[index])
        )
    return errors


def _summary(films: dict[int, dict[str, Array]]) -> dict[str, Any]:
    away = {film: {name: float(np.hypot(*e)) for name, e in errors.items()} for film, errors in films.items()}
    missed = [name for errors in away.values() for name, e in errors.items() if e > LIMIT_PERCENT]
    names = dict.fromkeys(name for errors in away.values() for name in errors)
    biases = {n: np.median([e[n] for e in films.values() if n in e and np.isfinite(e[n][0])], axis=0) for n in names}
    many = {film: sorted(n for n, e in errors.items() if e > LIMIT_PERCENT) for film, errors in away.items()}
    return {
        "within_2.5_percent": _share([list(errors.values()) for errors in away.values()]),
        "misses": len(missed),
        "beyond_6_percent": sum(e > GROSS_PERCENT for errors in away.values() for e in errors.values()),
        "misses_by_channel": {n: missed.count(n) for n in sorted(names, key=lambda n: -missed.count(n)) if n in missed},
        "bias_percent_thumbwards_and_down": {n: [round(float(v), 2) for v in bias] for n, bias in biases.items()},
        "films_with_many": {str(film): names for film, names in many.items() if len(names) >= MANY},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the RSNA films")
    parser.add_argument("--split", type=Path, default=Path("models/datasets/splits/detection_rsna.csv"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    detector, found = Detector(options.weights), rsna.by_film(options.data / "annotations.csv")
    document = {
        "what": "where the detector misses on real films not trained on, and how far two readers are apart",
        "command": f"python -m models.detection.misses --weights {options.weights} --data ../shared/data/rsna",
        "commit": engine.git_commit(),
        "weights_sha256": weights.digest(options.weights),
        "interval": "95 %, bootstrap over films",
        "two readers of one film": between_readers(detector.template, found),
        "own head": of_films(detector, options, found),
        "labels left out of training, looked at": {name: sorted(films) for name, films in rsna.MISPLACED.items()},
    }
    options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
