r"""Measure many trained segmenters on the same unseen phantoms: the table of P1 and P3.

    python -m models.segmentation.compare --runs ../runs/table --json benchmarks/accuracy/segmentation_architectures.json \
        --plot benchmarks/segmentation_fcn_losses.png

`--runs` is what `models.segmentation.table` filled; each group of rows is measured at the largest budget all its runs had. Precision,
recall, IoU, Dice and the 95th percentile of the distance of the outlines are means over films and both bones, beside the IoU of
each bone; the area under the curve (AUC) and the accuracy are of single pixels inside the crop, bone against everything else.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from models import runs as run_files
from models.engine import git_commit
from models.metrics.bootstrap import estimate
from models.phantom import Phantom, draw
from models.reading import Box
from models.regions import SEGMENTED
from models.segmentation.evaluate import cases, jittered, seen
from models.segmentation.predict import Segmenter, decided
from models.segmentation.table import DEFAULT, kept, plan
from models.segmentation.train import CURVE_FILE
from models.weights import digest

BOTH: Final = "loss-compound"  # the default's row beside its other losses and fewer films
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


def measured(segmenter: Segmenter, films: Mapping[int, Phantom], jitter: float) -> list[dict[str, float]]:
    """Return a row a film and bone, and what the film took; `films` by their seeds."""
    rows: list[dict[str, float]] = []
    for seed, phantom in films.items():
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


def plot_losses(runs: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Draw the loss curves of the five networks of P1."""
    import matplotlib as mpl  # extra `train`

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), dpi=110)
    for name in ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s"):
        if name in runs and "loss_curve" in runs[name]:
            curve = runs[name]["loss_curve"]
            steps = curve["steps_a_point"] * (np.arange(len(curve["loss"])) + 1)
            axes.plot(steps, curve["loss"], linewidth=1, label=name)
    axes.set_xlabel("step (8 crops each)")
    axes.set_ylabel("loss (cross-entropy and Dice)")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(linewidth=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def common(out: Path, names: Sequence[str]) -> int:
    """Return the largest budget, in seconds of the processor, that every one of these runs has had.

    Raises
    ------
    RunRefused
        When there is none: a table of unequal budgets ranks nothing.
    """
    had = [{int(path.name.removeprefix("done-")) for path in (out / name).glob("done-*")} for name in names]
    shared = set.intersection(*had) if had else set()
    if not shared:
        lacking = [name for name, seconds in zip(names, had, strict=True) if not seconds]
        raise run_files.RunRefused(f"{out}: no budget that all runs had; not trained: {', '.join(lacking) or 'none'}")
    return max(shared)


def rows(out: Path) -> Iterator[tuple[str, Path, int]]:
    """Yield the rows of the table: name, folder of the run, its budget. Losses and numbers of films share one budget."""
    others = [name for name in plan() if name.startswith(("loss-", "films-"))]
    networks = [name for name in plan() if name not in others]
    seconds = common(out, networks)
    yield from ((name, out / name, seconds) for name in networks)
    seconds = common(out, [*others, DEFAULT])
    yield from ((name, out / name, seconds) for name in others)
    yield BOTH, out / DEFAULT, seconds


def main() -> None:
    """Measure every run and write one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder that models.segmentation.table filled")
    parser.add_argument("--films", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=41_000_000)
    parser.add_argument("--jitter", type=float, default=0.03)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path, help="where to draw the loss curves of P1's five networks (PNG)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    before: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
    runs: dict[str, Any] = {}
    result = {
        "what": "architectures of P1 and P3 on the same unseen phantoms, after the same processor time",
        "command": f"python -m models.segmentation.compare --runs RUNS --films {options.films} --first-seed "
        f"{options.first_seed} --jitter {options.jitter}",
        "commit": git_commit(),
        "hardware": f"{platform.machine()}, {options.threads} thread(s); processor time, other work beside it",
        "runs": runs,
    }
    films = {seed: draw(seed) for seed in range(options.first_seed, options.first_seed + options.films)}
    for name, folder, seconds in rows(options.runs):
        weights = folder / kept(seconds)
        sha, known = digest(weights), before.get("runs", {}).get(name, {})
        if known.get("weights_sha256") == sha and known["films"] == options.films:
            runs[name] = {**known, "seconds": seconds}  # measured before
        else:
            runs[name] = _row(weights, folder / CURVE_FILE, films, options.jitter) | {"seconds": seconds}
        print(name, runs[name]["iou_ulna"]["value"], runs[name]["iou_radius"]["value"], flush=True)  # noqa: T201 - a script
        # Rows of before that are still to come stay until they are measured: an interrupted run loses nothing.
        whole = {**result, "runs": {**before.get("runs", {}), **runs}}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        plot_losses(runs, options.plot)


def _row(weights: Path, curve: Path, films: Mapping[int, Phantom], jitter: float) -> dict[str, Any]:
    segmenter = Segmenter(weights)
    trained = json.loads((weights / run_files.CONFIG_FILE).read_text(encoding="utf-8"))
    row: dict[str, Any] = {
        "architecture": segmenter.metadata.architecture,
        "films": len(films),
        "parameters": sum(p.numel() for p in segmenter.net.parameters()),
        "crop": segmenter.size,
        "batch": trained["batch"],
        "rate": trained["rate"],
        "loss": trained["loss"],
        "steps": segmenter.metadata.metrics["validation"]["step"],
        "weights_sha256": digest(weights),
        **summed(measured(segmenter, films, jitter)),
    }
    if curve.exists():
        drawn = json.loads(curve.read_text(encoding="utf-8"))
        # A later round may have gone on: the curve of this row ends where its weights do.
        row["loss_curve"] = {**drawn, "loss": drawn["loss"][: row["steps"] // drawn["steps_a_point"]]}
    return row


if __name__ == "__main__":
    main()
