r"""Measure many trained segmenters on the same unseen phantoms: the table of P1 and P3.

    python -m models.segmentation.compare --runs ../runs/table --json benchmarks/accuracy/segmentation_architectures.json \
        --plot benchmarks/segmentation_fcn_losses.png

`--runs` is what `models.segmentation.table` filled; each group of rows is measured at the largest number of steps all its runs had. What
the last round brought is measured film by film on the same phantoms: a network has levelled off where that is surely little. Precision,
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

from models import refusal
from models import runs as run_files
from models.datasets import documents
from models.engine import git_commit
from models.metrics.bootstrap import estimate
from models.phantom import Phantom, draw
from models.reading import Box
from models.regions import SEGMENTED
from models.segmentation.evaluate import cases, jittered, seen
from models.segmentation.network import CLASSICAL
from models.segmentation.predict import Segmenter, decided, on_film
from models.segmentation.table import DEFAULT, groups, kept
from models.segmentation.train import CURVE_FILE
from models.weights import digest

BOTH: Final = "loss-compound"  # the default's row beside its other losses and fewer films
LEVEL: Final = 0.005  # IoU, mean of both bones: a network has levelled off where the last round surely brought less
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
        found = {} if chances is None else on_film(decided(boxes, *chances), phantom.image, *chances[1:])
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


def common(out: Path, names: Sequence[str]) -> list[int]:
    """Return the budgets, in steps, that every one of these runs has had, the largest last.

    Raises
    ------
    RunRefused
        When there is none: a table of unequal budgets ranks nothing.
    """
    had = [{int(path.name.removeprefix("done-")) for path in (out / name).glob("done-*")} for name in names]
    shared = set.intersection(*had) if had else set()
    if not shared:
        lacking = [name for name, steps in zip(names, had, strict=True) if not steps]
        raise run_files.RunRefused(f"{out}: no budget that all runs had; not trained: {', '.join(lacking) or 'none'}")
    return sorted(shared)


def rows(out: Path) -> Iterator[tuple[str, Path, int, int | None]]:
    """Yield the rows of the table: name, folder of the run, its budget, that of the round before where there was one."""
    for group, names in groups().items():
        *earlier, steps = common(out, names)
        before = earlier[-1] if earlier else None
        for name in names:
            shown = BOTH if group == "default" and name == DEFAULT else name
            yield shown, out / name, steps, None if name in CLASSICAL or group == "default" else before


def gained(now: list[dict[str, float]], then: list[dict[str, float]]) -> dict[str, Any]:
    """Return what the IoU (mean of both bones) rose by between two rounds, film by film, and whether it still rises."""
    before = {(row["seed"], row["bone"]): row["iou"] for row in then}
    rise = np.array([row["iou"] - before[row["seed"], row["bone"]] for row in now])
    found = estimate(rise, _mean, patients=[row["seed"] for row in now], resamples=500)
    state = "levelled off" if found.high < LEVEL else "still rising" if found.low > 0 else "not told"
    return {**found.to_dict(), "limit": LEVEL, "state": state}


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
    before = documents.read_object(options.json) if options.json.exists() else {}
    runs: dict[str, Any] = {}
    result = {
        "what": "architectures of P1 and P3 on the same unseen phantoms, after the same number of films",
        "command": f"python -m models.segmentation.compare --runs RUNS --films {options.films} --first-seed "
        f"{options.first_seed} --jitter {options.jitter}",
        "commit": git_commit(),
        "hardware": f"{platform.machine()}, {options.threads} thread(s); processor time, other work beside it",
        "runs": runs,
    }
    films = {seed: draw(seed) for seed in range(options.first_seed, options.first_seed + options.films)}
    for name, folder, steps, earlier in rows(options.runs):
        own = {"budget_steps": steps, "round_before": earlier, "weights_sha256": digest(folder / kept(steps))}
        known = before.get("runs", {}).get(name, {})
        if own.items() <= known.items() and known["films"] == options.films:
            runs[name] = known  # measured before
        else:
            runs[name] = own | _row(folder, steps, earlier, films, options.jitter)
        print(name, runs[name]["iou_ulna"]["value"], runs[name]["iou_radius"]["value"], flush=True)  # noqa: T201 - a script
        # Rows of before that are still to come stay until they are measured: an interrupted run loses nothing.
        whole = {**result, "runs": {**before.get("runs", {}), **runs}}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        plot_losses(runs, options.plot)


def _row(folder: Path, steps: int, earlier: int | None, films: Mapping[int, Phantom], jitter: float) -> dict[str, Any]:
    weights, curve = folder / kept(steps), folder / CURVE_FILE
    segmenter = Segmenter(weights)
    trained = documents.read_object(weights / run_files.CONFIG_FILE, "batch", "rate", "loss")
    validation = segmenter.metadata.metrics["validation"]
    cases_now = measured(segmenter, films, jitter)
    row: dict[str, Any] = {
        "architecture": segmenter.metadata.architecture,
        "films": len(films),
        "parameters": segmenter.parameters,
        "crop": segmenter.size,
        "batch": trained["batch"],
        "rate": trained["rate"],
        "loss": trained["loss"],
        "steps": validation["step"],
        "films_seen": validation["step"] * trained["batch"],
        "processor_seconds": round(validation.get("processor_seconds", 0)),
        **summed(cases_now),
    }
    if earlier is not None:
        row["gain_of_the_last_round"] = gained(cases_now, measured(Segmenter(folder / kept(earlier)), films, jitter))
    if curve.exists():
        drawn = documents.read_object(curve, "loss", "steps_a_point")
        # A later round may have gone on: the curve of this row ends where its budget does.
        row["loss_curve"] = {**drawn, "loss": drawn["loss"][: steps // drawn["steps_a_point"]]}
    return row


if __name__ == "__main__":
    refusal.command(main)
