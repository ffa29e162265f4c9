r"""Give a detector the closer look of another one, set to the boxes that phantoms are drawn with.

    python -m models.detection.borrowed --base models/bundles/detection/handnet-phantoms --lender models/bundles/detection/handnet-sets \
        --out ../runs/handnet-phantoms --version 2

A closer look learns from phantoms alone, but to place boxes where readers of real films do (`phantoms.region_boxes`). A detector
that has never seen a real film, and a grader that learned from the phantoms' own boxes, want those. The two conventions differ by a
constant of each region: it goes into the bias of the last layer, fitted on phantoms; every other tensor stays as it was.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from models import phantom, refusal, weights
from models.detection.closer import CONTEXT, Closer
from models.detection.predict import ARCHITECTURES, CLOSER, Detection, Detector
from models.engine import git_commit
from models.reading import Box
from models.regions import REGIONS
from models.runs import RunRefused

FIRST_SEED: Final = 31_000_000
SAID: Final = "closer look: "  # how the source that names its films begins
ROWS: Final = 1400
COLUMNS: Final = 1100
Array = NDArray[np.float64]


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--base", type=Path, required=True, help="weights folder of the detector to complete")
    made.add_argument("--lender", type=Path, required=True, help="weights folder that has a closer look")
    made.add_argument("--films", type=int, default=120, help="phantoms the constants are fitted on")
    made.add_argument("--out", type=Path, required=True, help="weights folder to write")
    made.add_argument("--version", default="1", help="version of the weights")
    return made


def offsets(drawn: phantom.Phantom, found: Detection) -> Array:
    """Return by how much each box found must still move and grow, (22, 4), in the closer look's units; NaN where none was found.

    Shift x, y in the plane of an upright left hand in sides of a view, logarithms of width and height.
    """
    turn = -np.deg2rad(drawn.rotation_degrees)
    upright = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    upright = upright @ np.diag([-1.0 if drawn.laterality == "R" else 1.0, 1.0])
    boxes = {region.name: region.box for region in found.regions}
    result = np.full((len(REGIONS), 4), np.nan)
    for index, name in enumerate(REGIONS):
        if name in boxes:
            (middle, size), (wanted, extent) = _parts(boxes[name]), _parts(drawn.boxes[name])
            result[index, :2] = upright.T @ (wanted - middle) / (CONTEXT * extent.mean())
            result[index, 2:] = np.log(extent / size)
    return result


def fit(detector: Detector, films: int, first_seed: int = FIRST_SEED) -> Array:
    """Return each region's constant, (22, 4): the median over phantoms on which a hand was found.

    Raises
    ------
    RunRefused
        When a region was found on none of them.
    """
    drawn = (phantom.draw(first_seed + number, rows=ROWS, columns=COLUMNS) for number in range(films))
    rows = np.array([offsets(film, detector.detect(film.image)) for film in drawn])
    if missing := [name for name, seen in zip(REGIONS, ~np.isnan(rows).all((0, 2)), strict=True) if not seen]:
        raise RunRefused(f"on none of {films} phantoms were found: {', '.join(missing)}")
    found: Array = np.nanmedian(rows, axis=0)
    return found


def learned_from(lender: weights.Metadata, folder: Path) -> str:
    """Return what the lender says its closer look learned from.

    Raises
    ------
    RunRefused
        When it has none, or one that has seen more than phantoms: its terms would travel with it.
    """
    said = [line for line in lender.data if line.startswith(SAID)]
    if "closer" not in lender.hyperparameters or not said:
        raise RunRefused(f"{folder} has no closer look to lend")
    if "phantoms" not in said[-1] or "film" in said[-1]:
        raise RunRefused(f"the closer look of {folder} learned from more than phantoms: {said[-1]!r}")
    return said[-1]


def main() -> None:
    """Join, fit, write."""
    options = parser().parse_args()
    torch.set_num_threads(1)
    tensors, base = weights.load(options.base, problem="detection", architectures=ARCHITECTURES)
    lent, lender = weights.load(options.lender, problem="detection", architectures=ARCHITECTURES)
    source = learned_from(lender, options.lender)
    width = int(lender.hyperparameters["closer"])
    look = Closer(width)
    look.load_state_dict({name.removeprefix(CLOSER): t for name, t in lent.items() if name.startswith(CLOSER)})
    look.eval().to(memory_format=torch.channels_last)
    detector = Detector(options.base)
    detector.closer = look
    with torch.no_grad():
        look.head.bias.add_(torch.from_numpy(fit(detector, options.films).reshape(-1)).float())
    left = fit(detector, max(1, options.films // 2), FIRST_SEED + options.films)
    own = {name: t for name, t in tensors.items() if not name.startswith(CLOSER)}
    weights.save(
        options.out,
        {**own, **{CLOSER + name: value.contiguous() for name, value in look.state_dict().items()}},
        dataclasses.replace(
            base,
            version=options.version,
            created="",
            commit=git_commit(),
            data=(*base.data, f"{source}; bias fitted on {options.films} phantoms"),
            metrics={
                **base.metrics,
                "closer": {
                    **lender.metrics.get("closer", {}),
                    "constant_left_percent": round(float(100 * CONTEXT * np.abs(left[:, :2]).max()), 2),
                },
            },
            hyperparameters={**base.hyperparameters, "closer": width},
        ),
        half=True,
    )


def _parts(box: Box) -> tuple[Array, Array]:
    x1, y1, x2, y2 = box
    return np.array([x1 + x2, y1 + y2]) / 2, np.array([x2 - x1, y2 - y1])


if __name__ == "__main__":
    refusal.command(main)
