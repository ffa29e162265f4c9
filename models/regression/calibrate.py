"""Join trained members into a weights folder and fit its intervals on the validation part.

`python -m models.regression.calibrate --data DATA --member RUN [--member RUN] --out models/bundles/regression/rsna-cnn`
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models import refusal, runs, weights
from models.datasets import documents
from models.datasets.faults import BadData
from models.engine import git_commit
from models.metrics.ages import compare
from models.metrics.conformal import calibrate
from models.regression.data import PARTS, Thumbnails, divided
from models.regression.network import SEXES
from models.regression.novelty import NEIGHBOURS, NOVELTY_FILE, Yardstick, features_of
from models.regression.predict import BOTH_SEXES, ENSEMBLE, INTERVALS_FILE, Ensemble
from models.runs import RunRefused

YARDSTICK_FILMS: Final = 1000  # of the training part, kept by their features in half precision: a megabyte
BEST_FILE: Final = "best.safetensors"  # of a run: the weights with the lowest validation error
PREPROCESSING: Final = {
    "side": 100,
    "sampling": "nearest neighbour at cell centres, aspect lost",
    "polarity": "bone bright",
    "views": ["as it is", "mirrored"],
}


@torch.inference_mode()
def months_of(network: Ensemble, thumbnails: Thumbnails, size: int = 64) -> list[float]:
    """Mean predicted age of each thumbnail, in months."""
    network.eval()
    months: list[float] = []
    for start in range(0, len(thumbnails), size):
        films = torch.from_numpy(thumbnails.films[start : start + size]).float()[:, None] / 255
        months += network(films, torch.from_numpy(thumbnails.sex[start : start + size])).tolist()
    return months


def best_of(run: Path) -> dict[str, Tensor]:
    """Return the weights of a run with the lowest validation error.

    Raises
    ------
    BadData
        When the folder holds none: it is no run of `models.regression.train`, or that has not looked at a film yet.
    """
    path = run / BEST_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadData(path, None, path.name, f"holds no weights of a training run: {error}") from error


def add_provenance(parser: argparse.ArgumentParser) -> None:
    """Add the options that say in the weights what they are."""
    parser.add_argument("--method", default="rsna-cnn", help="name of the method in a Reading")
    parser.add_argument("--version", default="1")
    parser.add_argument("--terms", default=weights.RSNA_TERMS)
    parser.add_argument(
        "--source", default="RSNA Pediatric Bone Age Challenge 2017, training set", help="the films, in words"
    )


def measured(network: Ensemble, thumbnails: Thumbnails, parts: NDArray[np.str_]) -> Yardstick | None:
    """Fit by the first member what is far from the training films, at most `YARDSTICK_FILMS` of them; None for too few films."""
    rows = np.flatnonzero(parts == "train")
    if len(rows) < NEIGHBOURS or not (parts == "validation").any():
        return None
    chosen = rows[:: max(1, len(rows) // YARDSTICK_FILMS)][:YARDSTICK_FILMS]
    network.eval()
    training, validation = (
        features_of(network.members[0], thumbnails.films[part]) for part in (chosen, parts == "validation")
    )
    return Yardstick.fit(training, validation)


def main(argv: Sequence[str] | None = None) -> None:
    """Build the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with thumbnails/ and images.csv, or of films with films.csv"
    )
    parser.add_argument("--member", type=Path, action="append", required=True, help="folder of a training run")
    parser.add_argument("--out", type=Path, required=True, help="the weights folder to write")
    add_provenance(parser)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    runs.limit_threads(options)
    write(options, options.member, options.out, divided(options.data))


def write(
    options: argparse.Namespace,
    members: Sequence[Path],
    out: Path,
    films: tuple[Thumbnails, NDArray[np.str_]],
) -> None:
    """Join the best weights of runs, fit the intervals on the validation films and write the weights folder.

    Parameters
    ----------
    options
        What `add_provenance` asks for.
    films
        As `divided` returns them.

    Raises
    ------
    RunRefused
        When the runs were trained on different splits of the films.
    """
    needed = ("split_sha256", "architecture", "seed")
    configs = [documents.read_object(member / runs.CONFIG_FILE, *needed) for member in members]
    splits = {config["split_sha256"] for config in configs}
    if len(splits) != 1:
        raise RunRefused(f"the members were trained on {len(splits)} different splits; all must share one")
    names = [config["architecture"] for config in configs]
    state = {
        f"members.{index}.{name}": tensor
        for index, member in enumerate(members)
        for name, tensor in best_of(member).items()
    }
    # What is calibrated is what is shipped: the weights rounded to half precision.
    state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    network = Ensemble(names)
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})

    thumbnails, parts = films
    validation = thumbnails.take(parts == "validation")
    months = months_of(network, validation)
    sexes = [BOTH_SEXES[BOTH_SEXES.index(SEXES[s])] for s in validation.sex]
    reference_years = (validation.months / 12).astype(float).tolist()
    intervals = calibrate(options.method, [m / 12 for m in months], reference_years, sexes)
    errors = compare(months, validation.months.tolist(), tolerance=12)
    counts = {part: int((parts == part).sum()) for part in PARTS}
    metadata = weights.Metadata(
        problem="regression",
        architecture=ENSEMBLE,
        terms=options.terms,
        data=(f"{options.source}: {counts['train']} films of 100 x 100",),
        seed=configs[0]["seed"],
        version=options.version,
        split_sha256=splits.pop(),
        commit=git_commit(),
        metrics={"validation": {"mae_months": errors.mae.to_dict(), "within_a_year": errors.within.to_dict()}},
        preprocessing=PREPROCESSING,
        hyperparameters={
            "method": options.method,
            "members": names,
            "training": [json.loads(runs.attached(config)[runs.CONFIG_FILE]) for config in configs],
        },
    )
    text = json.dumps(intervals.to_dict(), indent=1)
    yardstick = measured(network, thumbnails, parts)
    beside = {} if yardstick is None else {NOVELTY_FILE: yardstick.to_bytes()}
    weights.save(out, state, metadata, extra={INTERVALS_FILE: text.encode(), **beside})
    print(json.dumps({"validation_mae_months": errors.mae.to_dict(), "bands": len(intervals.bands)}))  # noqa: T201


if __name__ == "__main__":
    refusal.command(main)
