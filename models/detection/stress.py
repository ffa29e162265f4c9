r"""Disturb films as clinics do, step by step, and say how many regions are still found in their place (Santomartino 2024).

    python -m models.detection.stress --weights models/bundles/detection/handnet-sets --data ../shared/data/rsna \
        --json benchmarks/accuracy/detection_stress.json --plot benchmarks/detection_stress.svg

On phantoms the truth is the drawn region; on real films (`fullres`, none of them trained on) it is the readers' joint points
of `joints13`, against the network's own channel for them. A point is found when it lies within 2.5 % of the hand's length of
the truth, and only points that the disturbed film still shows are asked for.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models import engine, phantom, refusal, transforms, weights
from models.datasets.documents import load_film
from models.datasets.faults import BadData
from models.detection import rsna
from models.detection.anatomy import LIMIT_PERCENT
from models.detection.conventions import CHANNELS, SPOTS, joint_of
from models.detection.phantoms import region_boxes
from models.detection.predict import Detector
from models.image import Image
from models.metrics import bootstrap

SIDE: Final = 700  # pixels of the square films that are disturbed
Levels = NDArray[np.float32]
Points = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A square film, where its points lie, and the length of the hand in pixels."""

    pixels: Levels
    points: Points
    length: float
    regions: bool  # whether the points are regions, or joints

    def recall(self, detector: Detector, step: "Step") -> list[float]:
        """Return for every point that the disturbed film shows whether it was found, 1 or 0."""
        film = np.ascontiguousarray(step.change(self.pixels))
        found = detector.detect(Image(pixels=film))
        if self.regions:
            places = {r.name: np.array([r.box[0] + r.box[2], r.box[1] + r.box[3]]) / 2 for r in found.regions}
        else:
            seen = found.points or {}
            # Weights without a head of their own for this set are measured by their joints.
            named = {name: seen.get(name, seen.get(joint_of(name) or "")) for name in self.points}
            places = {name: np.array(xy) for name, xy in named.items() if xy is not None}
        scale = float(np.sqrt(abs(np.linalg.det(step.moves[:, :2]))))
        row = []
        for name, xy in self.points.items():
            true = transforms.apply(step.moves, xy[None])[0]
            if (true < 0).any() or true[0] > film.shape[1] - 1 or true[1] > film.shape[0] - 1:
                continue
            away = float(np.hypot(*(places[name] - true))) if name in places else np.inf
            row.append(float(100 * away <= LIMIT_PERCENT * scale * self.length))
        return row


@dataclass(frozen=True, slots=True)
class Step:
    """One disturbance: what it does to the pixels and where it moves a point."""

    name: str
    change: Callable[[Levels], Levels]
    moves: transforms.Matrix


_STAY: Final = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def steps(side: int = SIDE) -> Iterator[Step]:
    """Yield every step for square films of `side` pixels."""
    middle = np.full(2, (side - 1) / 2)
    for degrees in range(0, 360, 15):
        turn = np.deg2rad(degrees)
        linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = np.hstack([linear, (middle - linear @ middle)[:, None]])
        yield Step(f"turned by {degrees}", partial(_seen_through, matrix=transforms.invert(matrix)), matrix)
    yield Step("mirrored", np.fliplr, np.array([[-1.0, 0.0, side - 1.0], [0.0, 1.0, 0.0]]))
    yield Step("inverted", partial(np.subtract, np.float32(1)), _STAY)
    for gamma in (0.5, 0.7, 1.4, 2.0):
        yield Step(f"gamma {gamma}", _gamma(gamma), _STAY)
    for percent in (5, 10, 15):
        edge = round(side * percent / 100)
        yield Step(f"cropped by {percent} %", _crop(edge), np.array([[1.0, 0.0, -edge], [0.0, 1.0, -edge]]))
    yield Step("white border", _border, _STAY)
    yield Step("markers", _markers, _STAY)
    for part in (2, 4):
        shift = (1 / part - 1) / 2
        yield Step(f"1/{part} resolution", _reduce(part), np.array([[1 / part, 0.0, shift], [0.0, 1 / part, shift]]))


def _seen_through(film: Levels, matrix: transforms.Matrix) -> Levels:
    seen: Levels = transforms.sample(film, matrix, film.shape[0])[0]
    return seen


def _gamma(gamma: float) -> Callable[[Levels], Levels]:
    def raised(film: Levels) -> Levels:
        result: Levels = film ** np.float32(gamma)
        return result

    return raised


def _crop(edge: int) -> Callable[[Levels], Levels]:
    return lambda film: film[edge : film.shape[0] - edge, edge : film.shape[1] - edge]


def _border(film: Levels) -> Levels:
    """Leave the outer eighth on the left and at the bottom unexposed: white."""
    bordered = film.copy()
    edge = film.shape[0] // 8
    bordered[-edge:], bordered[:, :edge] = 1, 1
    return bordered


def _markers(film: Levels) -> Levels:
    """Lay three plates with bright strokes on the film, one of them close to the hand."""
    marked, unit = film.copy(), film.shape[0] // 50
    for row, column in ((2, 3), (40, 42), (24, 2)):
        y, x = row * unit, column * unit
        marked[y : y + 6 * unit, x : x + 5 * unit] = 0.6 * marked[y : y + 6 * unit, x : x + 5 * unit] + 0.2
        marked[y + unit : y + 5 * unit, x + unit : x + 2 * unit] = 1
        marked[y + 4 * unit : y + 5 * unit, x + unit : x + 4 * unit] = 1
    return marked


def _reduce(part: int) -> Callable[[Levels], Levels]:
    def reduced(film: Levels) -> Levels:
        rows, columns = (side // part * part for side in film.shape)
        blocks = film[:rows, :columns].reshape(rows // part, part, columns // part, part)
        result: Levels = blocks.mean(axis=(1, 3)).astype(np.float32)
        return result

    return reduced


def drawn(seeds: range) -> list[Subject]:
    """Return unseen phantoms."""
    subjects = []
    for seed in seeds:
        film = phantom.draw(seed, rows=SIDE, columns=SIDE, zoom=0.68, rotation_degrees=0.0)
        points = {n: np.array([b[0] + b[2], b[1] + b[3]]) / 2 for n, b in region_boxes(film).items()}
        # From the radius to the last joint of the middle finger: a little less than from the wrist to the tip.
        subjects.append(Subject(film.image.pixels, points, float(np.hypot(*(points["dp3"] - points["radius"]))), True))
    return subjects


def real(data: Path, split: Path, detector: Detector, number: int) -> list[Subject]:
    """Return films in full resolution with joint points, on square films that leave room to turn them."""
    subjects: list[Subject] = []
    for film, records in rsna.of_part(data, split, "validation").items():
        path = data / "fullres" / f"{film}.webp"
        if "joints13" not in records or not path.exists():
            continue
        image, record = load_film(path), records["joints13"]
        levels = 1 - image.pixels if detector.detect(image).facts.polarity == "bone dark" else image.pixels
        zoom = max(levels.shape) / (0.8 * SIDE)
        shift = (np.array(levels.shape[::-1]) - 1) / 2 - zoom * (SIDE - 1) / 2
        matrix = np.array([[zoom, 0.0, shift[0]], [0.0, zoom, shift[1]]])
        block = max(1, int(zoom))
        small, block_side = transforms.shrink(levels, max(levels.shape) // block)
        inner = np.hstack([matrix[:, :2] / block_side, (matrix[:, 2:] - (block_side - 1) / 2) / block_side])
        whole = record.points * np.array([image.columns, image.rows]) - 0.5
        back = transforms.invert(matrix)
        stated = {
            n: transforms.apply(back, whole[i][None])[0] for i, n in enumerate(CHANNELS) if not np.isnan(whole[i, 0])
        }
        known = [i for i in range(len(CHANNELS)) if not np.isnan(whole[i, 0])]
        fit = transforms.Similarity.fit(detector.template.points[known], transforms.apply(back, whole[known]))
        points = {name: xy for name, xy in stated.items() if name in SPOTS}
        seen = transforms.sample(small, inner, SIDE)[0]
        subjects.append(Subject(seen, points, fit.scale * detector.template.hand_length, False))
        if len(subjects) == number:
            break
    if not subjects:
        raise BadData(
            data / "fullres", None, "joints13", "no film in full resolution that was not trained on has points of it"
        )
    return subjects


def measured(detector: Detector, subjects: list[Subject]) -> dict[str, Any]:
    """Return the recall of each step with its interval over films."""
    results: dict[str, Any] = {}
    for step in steps():
        counts = np.array([[sum(row), len(row)] for row in (subject.recall(detector, step) for subject in subjects)])
        found = bootstrap.share(counts[counts[:, 1] > 0].astype(np.float64), resamples=1000)
        results[step.name] = {**found.to_dict(), "values": int(counts[:, 1].sum())}
    return results


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw recall by step, a line a kind of film."""
    import matplotlib as mpl  # extra `train`

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4))
    for colour, (kind, rows) in zip(("#1f5fa8", "#c4581a"), results.items(), strict=False):
        places, values = np.arange(len(rows)), [row["value"] for row in rows.values()]
        axes.plot(places, values, marker="o", markersize=3, linewidth=1, color=colour, label=kind)
        low, high = ([row[key] for row in rows.values()] for key in ("low", "high"))
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xticks(places, list(rows), rotation=90, fontsize=7)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("found within 2.5 % of the hand's length")
    axes.grid(axis="y", linewidth=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Disturb, detect, write table and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the RSNA films; without it phantoms alone are disturbed")
    parser.add_argument("--split", type=Path, default=Path("models/datasets/splits/detection_rsna.csv"))
    parser.add_argument("--films", type=int, default=20, help="films of each kind")
    parser.add_argument("--first-seed", type=int, default=51_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    detector = Detector(options.weights)
    kinds = {"unseen phantoms": drawn(range(options.first_seed, options.first_seed + options.films))}
    if options.data:
        kinds["real films, joints"] = real(options.data, options.split, detector, options.films)
    results = {kind: measured(detector, subjects) for kind, subjects in kinds.items()}
    document = {
        "what": "share of regions (phantoms) and of readers' joints (real films) found within 2.5 % of the hand's length",
        "command": f"python -m models.detection.stress --weights {options.weights} --data ../shared/data/rsna "
        f"--films {options.films}",
        "commit": engine.git_commit(),
        "weights_sha256": weights.digest(options.weights),
        "load_average": round(os.getloadavg()[0], 1),
        "stress": results,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    refusal.command(main)
