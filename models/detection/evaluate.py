"""Measure a detector: python -m models.detection.evaluate --weights FOLDER --data ../shared/data/rsna --dicom ../shared/data/dicom.

Every film goes through the same door as in the service: `models.pixels.load` where it is a file, `Detector.detect` always;
thumbnails are given as they are, squashed to 100 x 100. A region that was not found counts as an error beyond any limit.
Four readings of one error are kept apart, because the sets mean different places:

- *as delivered*: the region's centre against the label, nothing corrected;
- *shifted*: the region's centre moved by the constant distance, in the frame of the hand, between the two conventions
  (taken from the template, which was measured on the training films);
- *own head*: the network's channel for that set; where weights have none of their own for it, that of `handpose`;
- *own head, closer*: that channel's point, moved by the look of that set's readers (`readers_look`), where `--look` names one. The
  service does not take this look.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models import engine, phantom, pixels, refusal, runs, transforms, weights
from models.datasets.documents import files_of, load_film, read_object
from models.detection import cast, casting, rsna, splint
from models.detection.anatomy import LIMIT_PERCENT, Template
from models.detection.conventions import CHANNEL, CHANNELS, LOOSE, REGION_OF_JOINT, Annotated, joint_of
from models.detection.held_back import opened
from models.detection.learning_cast import FOLDERS as LOOKED_AT
from models.detection.learning_cast import upright
from models.detection.phantoms import region_boxes
from models.detection.predict import Detection, Detector
from models.detection.readers_look import ReadersLook
from models.image import Image
from models.metrics import bootstrap
from models.metrics.overlap import box_iou
from models.phantom.cast import MATERIALS
from models.phantom.two_hands import ARRANGEMENTS
from models.regions import REGIONS

NOT_FOUND = 1e6
SOURCES = ("thumbnails", "fullres", "medium")
Points = Mapping[str, tuple[float, float]]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument(
        "--look", type=Path, help="weights folder of the look of each set's readers at the detector's points"
    )
    parser.add_argument("--data", type=Path, help="folder of the RSNA films")
    parser.add_argument("--dicom", type=Path, help="folder of DICOM films that are no hands")
    parser.add_argument("--split", type=Path, default=Path("models/datasets/splits/detection_rsna.csv"))
    parser.add_argument("--phantoms", type=int, default=200, help="unseen phantoms")
    parser.add_argument("--others", type=int, default=30, help="phantoms of each kind that is no hand")
    parser.add_argument("--first-seed", type=int, default=50_000_000, help="seed of the first unseen phantom")
    parser.add_argument("--folders", nargs="+", choices=SOURCES, default=SOURCES, help="annotated films to measure on")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=(*OF_REAL_FILMS, *OF_ANY),
        help="measure only these anew, e.g. unseen_phantoms latency",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/accuracy/detection.json"))
    return parser.parse_args()


def share(rows: list[list[float]], test: Callable[[NDArray[np.float64]], NDArray[np.bool_]]) -> dict[str, float | int]:
    """Share of values that pass, its 95 % interval over films, and how many there are."""
    counts = np.array([[float(test(np.array(row)).sum()), float(len(row))] for row in rows if row])
    return {**bootstrap.share(counts).to_dict(), "values": int(counts[:, 1].sum())}


def within(rows: list[list[float]]) -> dict[str, Any]:
    """Sum up errors in per cent of the hand's length."""
    flat = np.concatenate([np.array(row) for row in rows])
    return {
        "within_2.5_percent": share(rows, lambda e: e <= LIMIT_PERCENT),
        "median_percent": round(float(np.median(flat)), 3),
        "95th_percentile_percent": round(float(np.percentile(flat, 95)), 3)
        if np.percentile(flat, 95) < NOT_FOUND
        else None,
    }


def set_errors(
    template: Template, record: Annotated, image: Image, found: Detection, closer: Points | None = None
) -> dict[str, list[float]]:
    """Errors of one film against one set, in per cent of the hand's length; `closer` is what the look of its readers says."""
    true = record.points * np.array([record.aspect, 1.0])
    stated = [i for i in range(len(CHANNELS)) if not np.isnan(true[i, 0])]
    fit = transforms.Similarity.fit(template.points[stated], true[stated])
    length = fit.scale * template.hand_length
    plane = np.array([record.aspect, 1.0]) / (image.columns, image.rows)
    regions = {r.name: (np.array([r.box[0] + r.box[2], r.box[1] + r.box[3]]) / 2 + 0.5) * plane for r in found.regions}
    points = {name: (np.array(xy) + 0.5) * plane for name, xy in (found.points or {}).items()}
    meant = {name: (np.array(xy) + 0.5) * plane for name, xy in (closer or {}).items()}
    errors: dict[str, list[float]] = {"as delivered": [], "shifted": [], "own head": [], "own head, closer": []}
    for i in stated:
        name = CHANNELS[i]
        joint = joint_of(name)
        region = REGION_OF_JOINT.get(joint) if joint else name.removeprefix("loose ") if name in LOOSE else None
        if record.origin == "ossification16" and name in ("radius", "ulna", "carpus"):
            region = name
        if region is None:
            continue
        shift = fit.scale * _turned(fit, template.points[i] - template.points[CHANNEL[region]])
        for kind, place in (
            ("as delivered", regions.get(region)),
            ("shifted", regions[region] + shift if region in regions else None),
            ("own head", points.get(name, points.get(joint) if joint else None)),
            ("own head, closer", meant.get(name)),
        ):
            if kind == "own head, closer" and closer is None:
                continue
            if kind == "own head" and found.points is not None and not found.points:
                continue  # a detector that knows regions alone
            errors[kind].append(NOT_FOUND if place is None else float(np.hypot(*(place - true[i])) / length * 100))
    return {kind: values for kind, values in errors.items() if values}


def _turned(fit: transforms.Similarity, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    turned: NDArray[np.float64] = fit.matrix[:, :2] @ vector / fit.scale
    return turned


def annotated(detector: Detector, args: argparse.Namespace) -> dict[str, Any]:
    """Every set on the films that were not trained on: thumbnails, and the originals where they are there."""
    thumbnails = rsna.read_thumbnails(args.data)
    found = rsna.of_part(args.data, args.split, "validation")
    look = None if args.look is None else ReadersLook(args.look, args.weights)
    results: dict[str, Any] = {}
    for source in args.folders:
        rows: dict[tuple[str, str], list[list[float]]] = {}
        for film, records in found.items():
            path = args.data / source / f"{film}.webp"
            if source != "thumbnails" and not path.exists():
                continue
            image = _thumbnail(thumbnails[film]) if source == "thumbnails" else load_film(path)
            seen = detector.detect(image)
            moved = None if look is None else look.points(image, seen)
            for record in records.values():
                closer = None if moved is None else moved.get(record.origin, {})
                for kind, errors in set_errors(detector.template, record, image, seen, closer).items():
                    rows.setdefault((record.origin, kind), []).append(errors)
        for (origin, kind), errors_of_films in rows.items():
            results.setdefault(f"{origin} on {source}", {})[kind] = within(errors_of_films)
    return results


def _thumbnail(film: NDArray[np.uint8]) -> Image:
    return Image(pixels=pixels.scale(film))


def whole_films(detector: Detector, args: argparse.Namespace) -> dict[str, Any]:
    """All real films: accepted or why not, 22 regions in anatomical order."""
    results: dict[str, Any] = {}
    for folder in ("fullres", "validation", "medium"):
        rows, bare, refused = [], [], {}
        for path in files_of(args.data / folder, ".webp"):
            found = detector.detect(load_film(path))
            said = _codes(found)
            rows.append([float(found.verdict.accepted), float(_in_order(found)), float("two-hands" not in said)])
            if not (folder in LOOKED_AT and int(path.stem) % 2):
                bare.append([float("cast" not in said)])
            if not found.verdict.accepted:
                refused[path.stem] = [reason.text for reason in found.verdict.reasons]
        results[folder] = {
            "accepted": share([[row[0]] for row in rows], lambda v: v > 0),
            "22_regions_in_order": share([[row[1]] for row in rows], lambda v: v > 0),
            "one_hand_not_taken_for_two": share([[row[2]] for row in rows], lambda v: v > 0),
            "no_cast_seen_on_films_not_trained_on": share(bare, lambda v: v > 0),
            "refused": refused,
        }
    return results


def _codes(found: Detection) -> set[str]:
    return {reason.code for reason in found.verdict.reasons}


def _in_order(found: Detection) -> bool:
    return len(found.regions) == len(REGIONS) and not any(region.flags for region in found.regions)


def unseen_phantoms(detector: Detector, args: argparse.Namespace) -> dict[str, Any]:
    """Exact boxes: precision, centres, side and rotation."""
    overlaps: dict[str, list[float]] = {name: [] for name in REGIONS}
    scores: dict[str, list[float]] = {name: [] for name in REGIONS}
    centres, sides, turns = [], [], []
    for k in range(args.phantoms):
        drawn = phantom.draw(args.first_seed + k)
        result = detector.detect(drawn.image)
        found = {region.name: region for region in result.regions}
        true = region_boxes(drawn)
        length = float(np.hypot(*(_middle(true["dp3"]) - _middle(true["radius"]))))
        row = []
        for name in REGIONS:
            region = found.get(name)
            overlaps[name].append(box_iou(region.box, true[name]) if region else 0.0)
            scores[name].append(region.score if region else 0.0)
            away = np.hypot(*(_middle(region.box) - _middle(true[name]))) if region else NOT_FOUND
            row.append(float(away / length * 100))
        centres.append(row)
        sides.append([float(result.facts.laterality == drawn.laterality)])
        turns.append([abs((result.facts.rotation_degrees - drawn.rotation_degrees + 180) % 360 - 180)])
    levels = np.arange(0.5, 1.0, 0.05)
    precision = [[average_precision(scores[name], overlaps[name], level) for level in levels] for name in REGIONS]
    return {
        "n": args.phantoms,
        "mAP50": round(float(np.mean([p[0] for p in precision])), 4),
        "mAP50-95": round(float(np.mean(precision)), 4),
        "mAP50-95_by_region": {n: round(float(np.mean(p)), 3) for n, p in zip(REGIONS, precision, strict=True)},
        "centre": within(centres),
        "side_right": share(sides, lambda v: v > 0),
        "rotation_within_5_degrees": share(turns, lambda v: v < 5),
    }


def average_precision(scores: list[float], overlaps: list[float], level: float) -> float:
    """Area under the precision-recall curve for one true box a film and at most one prediction a film."""
    order = np.argsort(-np.array(scores), kind="stable")
    hit = (np.array(overlaps)[order] >= level) & (np.array(scores)[order] > 0)
    made = np.array(scores)[order] > 0
    if not made.any():
        return 0.0
    true = np.cumsum(hit)
    precision = true / np.maximum(np.cumsum(made), 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best * hit).sum() / len(scores))


def _middle(box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


def others(detector: Detector, args: argparse.Namespace) -> dict[str, Any]:
    """Films that are no hand must be refused; two hands must be noticed."""
    results: dict[str, Any] = {}
    kinds: tuple[phantom.others.Kind, ...] = ("chest", "foot", "blank")
    for kind in kinds:
        refused = [
            [float(not detector.detect(phantom.draw_other(kind, args.first_seed + k)).verdict.accepted)]
            for k in range(args.others)
        ]
        results[f"phantom {kind} refused"] = share(refused, lambda v: v > 0)
    for arrangement in ARRANGEMENTS:
        found = [detector.detect(phantom.two_hands(arrangement, args.first_seed + k)) for k in range(args.others)]
        noticed = [[float("two-hands" in _codes(each))] for each in found]
        left = [[float(each.verdict.accepted and each.facts.laterality == "L")] for each in found]
        results[f"two phantom hands {arrangement}, noticed"] = share(noticed, lambda v: v > 0)
        results[f"two phantom hands {arrangement}, the left one read"] = share(left, lambda v: v > 0)
    for path in files_of(args.dicom, "") if args.dicom else []:
        try:
            verdict = detector.detect(pixels.load(path)).verdict
            results[path.name] = [
                "accepted" if verdict.accepted else "refused",
                *(reason.text for reason in verdict.reasons),
            ]
        except pixels.UnreadablePixels as error:
            results[path.name] = ["not decoded", error.code, error.text]
    return results


def casts(detector: Detector, args: argparse.Namespace) -> dict[str, Any]:
    """Casts drawn with the phantom's physics: whether the verdict names them, and the bones that truly lie under them."""
    results: dict[str, Any] = {}
    for material in MATERIALS:
        said, refused = [], []
        for k in range(args.others):
            drawn = phantom.draw(args.first_seed + k, cast=material, rows=800, columns=640)
            found = detector.detect(drawn.image)
            said.append([float("cast" in _codes(found))])
            refused.append([float(not found.verdict.accepted)])
        results[f"phantom under {material}, cast named"] = share(said, lambda v: v > 0)
        results[f"phantom under {material}, refused"] = share(refused, lambda v: v > 0)
    results |= _splints(detector, args)
    if args.data and detector.cast is not None:
        rng, seen = np.random.default_rng(args.first_seed), []
        for path in (path for folder in ("fullres", "medium") for path in sorted((args.data / folder).glob("*.webp"))):
            shown = upright(detector, pixels.load(path))
            if shown is not None:
                view, places = shown
                seen.append(
                    [float(bool(cast.under(detector.cast, casting.lay(rng, view, places)[0], places[: len(REGIONS)])))]
                )
        results["cast laid over a real film not trained on, seen"] = share(seen, lambda v: v > 0)
    return results


def _splints(detector: Detector, args: argparse.Namespace) -> dict[str, Any]:
    """Lay a splint along one finger of phantoms and real films: whether the verdict names its bones, and those alone."""
    rng, rays, results = np.random.default_rng(args.first_seed), tuple(splint.FINGERS), {}
    films = {"phantom": [phantom.draw(args.first_seed + k, rows=800, columns=640).image for k in range(args.others)]}
    if args.data:
        films["real film not trained on"] = [
            pixels.load(path) for path in sorted((args.data / "fullres").glob("*.webp"))
        ]
    for kind, images in films.items():
        named, right, bare = [], [], []
        for k, image in enumerate(images):
            finger = splint.FINGERS[rays[k % len(rays)]]
            plain = detector.detect(image)
            boxes = {region.name: region.box for region in plain.regions}
            if any(name not in boxes for name in finger):
                continue
            dark = plain.facts.polarity == "bone dark"
            laid = casting.splint(rng, 1 - image.pixels if dark else image.pixels, boxes, finger)
            found = detector.detect(replace(image, pixels=1 - laid if dark else laid))
            lost = set(boxes) - {region.name for region in found.regions}
            named.append([float("cast" in _codes(found) and bool(lost & set(finger)))])
            right.append([float(lost <= set(finger))])
            bare.append([float("cast" not in _codes(plain))])
        results[f"{kind} with a splinted finger, named"] = share(named, lambda v: v > 0)
        results[f"{kind} with a splinted finger, no other finger named"] = share(right, lambda v: v > 0)
        results[f"{kind} without one, none seen"] = share(bare, lambda v: v > 0)
    return results


def latency(detector: Detector, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds for one film of 2000 x 1600 pixels, batch 1."""
    film = phantom.draw(args.first_seed, rows=2000, columns=1600).image
    walls, busy = [], []
    for _ in range(30):
        wall, processor = time.perf_counter(), time.process_time()
        detector.detect(film)
        walls.append(1000 * (time.perf_counter() - wall))
        busy.append(1000 * (time.process_time() - processor))
    return {
        "threads": args.threads,
        "p50_ms": round(float(np.percentile(walls, 50)), 1),
        "p95_ms": round(float(np.percentile(walls, 95)), 1),
        # On a machine that does other work the clock measures that work too; processor time does not.
        "processor_p50_ms": round(float(np.percentile(busy, 50)), 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


Part = Callable[[Detector, argparse.Namespace], dict[str, Any]]
OF_REAL_FILMS: Final[Mapping[str, Part]] = {"annotated_films_not_trained_on": annotated, "real_films": whole_films}
OF_ANY: Final[Mapping[str, Part]] = {
    "unseen_phantoms": unseen_phantoms,
    "others": others,
    "casts": casts,
    "latency": latency,
}


def main() -> None:
    """Measure everything that can be measured with what was given, and write it."""
    args = arguments()
    torch.set_num_threads(args.threads)
    metadata = weights.Metadata.read(args.weights)
    detector: Any = opened(args.weights)  # Faster R-CNN has no joints of its own; only some parts measure it
    results: dict[str, Any] = {
        "command": f"python -m models.detection.evaluate {shlex.join(sys.argv[1:])}",
        "commit": engine.git_commit(),
        "weights_sha256": weights.digest(args.weights),
        "split_sha256": metadata.split_sha256,
        "terms": metadata.terms,
        "interval": "95 % over films: bootstrap, or Wilson where one value stands for a film or all are alike",
    }
    unread = [name for name in args.parts or () if name in OF_REAL_FILMS and not args.data]
    if unread:
        raise runs.RunRefused(f"--parts {unread[0]} measures real films: --data says where they are")
    whole = {**(OF_REAL_FILMS if args.data else {}), **OF_ANY}
    parts = [(name, part) for name, part in whole.items() if not args.parts or name in args.parts]
    if args.parts and args.out.exists():  # what was measured before of the same weights stays
        before = read_object(args.out, "weights_sha256")
        if before["weights_sha256"] == results["weights_sha256"]:
            again = {f"{fact} of {name}": results[fact] for name in args.parts for fact in ("command", "commit")}
            results = {**before, **again}
    if args.look:
        results["readers_look_sha256"] = weights.digest(args.look)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name, part in parts:  # written after each, so that an interrupted run keeps what it measured
        results[name] = part(detector, args)
        if name == "unseen_phantoms":
            results |= {f"{kind} on unseen phantoms": results[name][kind] for kind in ("mAP50", "mAP50-95")}
        args.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    refusal.command(main)
