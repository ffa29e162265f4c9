r"""Say where on real films a detector misses, and how far two readers of one film are apart: what can be reached, and what not.

    python -m models.detection.misses --weights models/bundles/detection/handnet-sets --look models/bundles/detection/readers-look \
        --data ../shared/data/rsna --json benchmarks/accuracy/detection_misses.json

Films are those of the validation split. The knuckles of `joints13` are also held, film by film and on its training films too, against a
channel that the readers of another set taught. Each stated point is held against the network's channel for its set (*own head*), and
against that channel's point moved by the look of the set's readers (*own head, closer*; `readers_look`), which the service does not take.
"""

import argparse
import json
import shlex
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from models import engine, pixels, refusal, weights
from models.datasets.documents import load_film
from models.detection import rsna
from models.detection.anatomy import LIMIT_PERCENT, Template
from models.detection.conventions import CHANNELS, Annotated, joint_of
from models.detection.predict import Detector
from models.detection.readers import (
    Array,
    between_readers,
    height_of_knuckles,
    judged_by_the_second,
    laid,
    offset,
    row_told,
    share,
)
from models.detection.readers_look import ReadersLook
from models.image import Image

HEAD: Final = "own head"
CLOSER: Final = "own head, closer"
GROSS_PERCENT: Final = 6.0
MANY: Final = 4  # misses on one film from which on it is named


def of_films(
    detector: Detector, look: ReadersLook | None, args: argparse.Namespace
) -> dict[str, dict[str, dict[str, dict[int, dict[str, Array]]]]]:
    """Return by kind, folder, set and film how far each stated point is missed."""
    thumbnails = rsna.read_thumbnails(args.data)
    measured = rsna.of_part(args.data, args.split, "validation")
    result: dict[str, dict[str, dict[str, dict[int, dict[str, Array]]]]] = defaultdict(dict)
    for folder in ("thumbnails", "fullres"):
        rows: dict[tuple[str, str], dict[int, dict[str, Array]]] = defaultdict(dict)
        for film, records in measured.items():
            path = args.data / folder / f"{film}.webp"
            if folder != "thumbnails" and not path.exists():
                continue
            image = load_film(path) if folder != "thumbnails" else Image(pixels=pixels.scale(thumbnails[film]))
            seen = detector.detect(image)
            closer = {} if look is None else look.points(image, seen)
            for origin, record in records.items():
                rows[HEAD, origin][film] = _errors(detector.template, record, image, seen.points or {})
                if look is not None:
                    rows[CLOSER, origin][film] = _errors(detector.template, record, image, closer.get(origin, {}))
        for (kind, origin), films in rows.items():
            result[kind].setdefault(folder, {})[origin] = films
    return dict(result)


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


def knuckles(detector: Detector, args: argparse.Namespace) -> dict[str, Any]:
    """Hold the knuckles that `joints13` states against its own channel and against that of `handpose`, film by film.

    Other films and other readers taught the second one; its constant distance from `joints13` is that of the training films. Where both
    see a film's row of knuckles at one height and its reader stated another, a habit of the reader is missed and no joint.
    """
    thumbnails, origin = rsna.read_thumbnails(args.data), "joints13"
    own: dict[int, dict[str, Array]] = {}
    other: dict[int, dict[str, Array]] = {}
    groups: dict[str, list[int]] = defaultdict(list)
    for part in rsna.PARTS:
        for film, records in rsna.of_part(args.data, args.split, part).items():
            if origin not in records:
                continue
            image = Image(pixels=pixels.scale(thumbnails[film]))
            seen = detector.detect(image).points or {}
            of_handpose = {name: seen[joint] for name in CHANNELS if (joint := joint_of(name)) and joint in seen}
            own[film] = _errors(detector.template, records[origin], image, seen)
            other[film] = _errors(detector.template, records[origin], image, of_handpose)
            large = (args.data / "fullres" / f"{film}.webp").exists()
            groups["training" if part == "train" else "fullres" if large else "other validation"].append(film)
    taught: dict[str, list[Array]] = defaultdict(list)
    for film in groups["training"]:
        for name, error in other[film].items():
            taught[name].append(error)
    constant = {name: np.median(errors, axis=0) for name, errors in taught.items()}
    return {
        group: {
            "within_2.5_percent": share([[float(np.hypot(*e)) for e in own[film].values()] for film in films]),
            "films": {
                str(film): {
                    "missed": sum(float(np.hypot(*e)) > LIMIT_PERCENT for e in own[film].values()),
                    "knuckles, own head": height_of_knuckles(own[film]),
                    "knuckles, channel of handpose": height_of_knuckles(
                        {name: e - constant[name] for name, e in other[film].items() if name in constant}
                    ),
                }
                for film in sorted(films)
            },
        }
        for group, films in groups.items()
        if films
    }


def _summary(films: dict[int, dict[str, Array]]) -> dict[str, Any]:
    away = {film: {name: float(np.hypot(*e)) for name, e in errors.items()} for film, errors in films.items()}
    missed = [name for errors in away.values() for name, e in errors.items() if e > LIMIT_PERCENT]
    names = dict.fromkeys(name for errors in away.values() for name in errors)
    biases = {n: np.median([e[n] for e in films.values() if n in e and np.isfinite(e[n][0])], axis=0) for n in names}
    many = {film: sorted(n for n, e in errors.items() if e > LIMIT_PERCENT) for film, errors in away.items()}
    return {
        "within_2.5_percent": share([list(errors.values()) for errors in away.values()]),
        "within 2.5 percent, the height of the knuckles taken from the other knuckles": share(
            [list(row_told(errors).values()) for errors in films.values()]
        ),
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
    parser.add_argument(
        "--look", type=Path, help="weights folder of the look of each set's readers at the detector's points"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the RSNA films")
    parser.add_argument("--split", type=Path, default=Path("models/datasets/splits/detection_rsna.csv"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    detector, found = Detector(options.weights), rsna.by_film(options.data)
    look = None if options.look is None else ReadersLook(options.look, options.weights)
    errors = of_films(detector, look, options)
    judged = {
        f"misses before a second reader, thumbnails{kind.removeprefix(HEAD)}": judged_by_the_second(
            detector.template, found, folders["thumbnails"]
        )
        for kind, folders in errors.items()
    }
    summed = {
        kind: {f"{o} on {folder}": _summary(f) for folder, sets in folders.items() for o, f in sets.items()}
        for kind, folders in errors.items()
    }
    document = {
        "what": "where the detector misses on real films not trained on, and how far two readers are apart",
        "command": f"python -m models.detection.misses {shlex.join(sys.argv[1:])}",
        "commit": engine.git_commit(),
        "weights_sha256": weights.digest(options.weights),
        **({} if options.look is None else {"readers_look_sha256": weights.digest(options.look)}),
        "interval": "95 %, bootstrap over films",
        "two readers of one film": between_readers(detector.template, found),
        "joints13 on thumbnails, by group of films": knuckles(detector, options),
        **judged,
        **summed,
        "labels left out of training, looked at": {name: sorted(films) for name, films in rsna.MISPLACED.items()},
    }
    options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    refusal.command(main)
