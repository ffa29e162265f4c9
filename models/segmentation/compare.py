r"""Measure many trained segmenters on the same unseen phantoms: the table of P1 and P3.

    python -m models.segmentation.compare --runs ../runs/table --films 40 --json benchmarks/accuracy/segmentation_architectures.json

`--runs` holds one folder a run of models.segmentation.train, each with `weights/` and, for networks, `curve.json`. Precision,
recall, IoU, Dice and the 95th percentile of the distance of the outlines are means over films and both bones, beside the IoU of
each bone; the area under the curve (AUC) and the accuracy are of single pixels inside the crop, bone against everything else.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from models.engine import git_commit
from models.metrics.bootstrap import estimate
from models.phantom import draw
from models.reading import Box
from models.regions import SEGMENTED
from models.segmentation.evaluate import cases, jittered, seen
from models.segmentation.predict import Segmenter, decided
from models.weights import digest

_PIXELS: Final = 4000  # drawn from each film for the AUC
_MEASURES: Final = ("precision", "recall", "iou", "dice", "hausdorff_95_mm")


def area_under_curve(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Return the chance that a pixel of bone scores higher than one that is not (Mann-Whitney); 1 without both kinds."""
    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        return 1.0
    ranks = rankdata(scores)
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def measured(segmenter: Segmenter, seeds: range, jitter: float) -> list[dict[str, float]]:
    """Return a row a film and bone, and what the film took."""
    rows: list[dict[str, float]] = []
    for seed in seeds:
        phantom = draw(seed)
        boxes: dict[str, Box] = jittered(phantom.boxes, np.random.default_rng((seed, 11)), jitter)
        busy = time.process_time()
        chances = segmenter.chances(phantom.image, boxes)
        found = decided(phantom.image, boxes, *chances) if chances is not None else {}
        film = {"seed": float(seed), "processor_ms": 1000 * (time.process_time() - busy)}
        window = seen(phantom, boxes)
        bone = np.zeros_like(window)
        score = np.zeros(window.shape, np.float32)
        for name in SEGMENTED:
            if name in phantom.masks:
                bone |= phantom.masks[name]
        if chances is not None:
            score[chances[1], chances[2]] = chances[0].sum(axis=0)
        drawn = np.random.default_rng((seed, 13)).choice(np.flatnonzero(window), _PIXELS)
        film["auc"] = area_under_curve(score.ravel()[drawn].astype(np.float64), bone.ravel()[drawn])
        film["accuracy"] = float(np.mean((score[window] > 0.5) == bone[window]))
        rows += [{**case, **film, "bone": float(SEGMENTED.index(name))} for name, case in cases(phantom, boxes, found)]
    return rows


def summed(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Return mean and interval of each measure over films, both bones of a film drawn together."""
    films = [row["seed"] for row in rows]

    def mean(name: str, chosen: list[dict[str, float]]) -> dict[str, float | int]:
        values = np.array([row[name] for row in chosen])
        return estimate(values, _mean, patients=[row["seed"] for row in chosen], resamples=500).to_dict()

    result: dict[str, Any] = {name: mean(name, rows) for name in _MEASURES}
    for index, bone in enumerate(SEGMENTED):
        result[f"iou_{bone}"] = mean("iou", [row for row in rows if row["bone"] == index])
    once = [next(row for row in rows if row["seed"] == film) for film in dict.fromkeys(films)]
    result |= {name: mean(name, once) for name in ("auc", "accuracy")}
    result["processor_ms_p50"] = round(float(np.median([row["processor_ms"] for row in once])), 1)
    return result


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())


def main() -> None:
    """Measure every run and write one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--films", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=41_000_000)
    parser.add_argument("--jitter", type=float, default=0.03)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", default="", help="what each run was given, in words")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
    result |= {
        "what": "architectures of P1 and P3 on the same unseen phantoms, one small budget each",
        "command": f"python -m models.segmentation.compare --runs RUNS --films {options.films} --first-seed "
        f"{options.first_seed} --jitter {options.jitter}",
        "commit": git_commit(),
        "budget": options.budget,
        "hardware": f"{platform.machine()}, {options.threads} thread(s); processor time, other work beside it",
    }
    runs: dict[str, Any] = result.setdefault("runs", {})
    for folder in sorted(path.parent for path in options.runs.glob("*/weights")):
        sha = digest(folder / "weights")
        if runs.get(folder.name, {}).get("weights_sha256") == sha and runs[folder.name]["films"] == options.films:
            continue  # measured before
        segmenter = Segmenter(folder / "weights")
        seeds = range(options.first_seed, options.first_seed + options.films)
        row: dict[str, Any] = {
            "architecture": segmenter.metadata.architecture,
            "films": options.films,
            "parameters": sum(p.numel() for p in segmenter.net.parameters()),
            "crop": segmenter.size,
            "weights_sha256": sha,
            **summed(measured(segmenter, seeds, options.jitter)),
        }
        curve = folder / "curve.json"
        if curve.exists():
            row["loss_curve"] = json.loads(curve.read_text(encoding="utf-8"))
        runs[folder.name] = row
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(folder.name, row["iou_ulna"]["value"], row["iou_radius"]["value"], flush=True)  # noqa: T201 - a script


if __name__ == "__main__":
    main()
