"""Join trained members into a weights folder and fit its intervals on the validation part.

`python -m models.regression.calibrate --data DATA --member RUN [--member RUN] --out models/bundles/regression/rsna-cnn`
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from models import weights
from models.engine import git_commit
from models.metrics.ages import compare
from models.metrics.conformal import calibrate
from models.regression.data import PARTS, Thumbnails, divided
from models.regression.network import SEXES
from models.regression.predict import BOTH_SEXES, ENSEMBLE, INTERVALS_FILE, Ensemble

# What a run's configuration holds of the machine it ran on.
LOCAL = ("data", "out", "start")
PREPROCESSING = {
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


def main() -> None:
    """Build the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with thumbnails/ and images.csv, or of films with films.csv"
    )
    parser.add_argument("--member", type=Path, action="append", required=True, help="folder of a training run")
    parser.add_argument("--out", type=Path, required=True, help="the weights folder to write")
    parser.add_argument("--method", default="rsna-cnn", help="name of the method in a Reading")
    parser.add_argument("--version", default="1")
    parser.add_argument("--terms", default=weights.RSNA_TERMS)
    parser.add_argument(
        "--source", default="RSNA Pediatric Bone Age Challenge 2017, training set", help="the films, in words"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    configs = [json.loads((member / "config.json").read_text()) for member in options.member]
    splits = {config["split_sha256"] for config in configs}
    if len(splits) != 1:
        parser.error(f"the members were trained on {len(splits)} different splits")
    names = [config["architecture"] for config in configs]
    state = {
        f"members.{index}.{name}": tensor
        for index, member in enumerate(options.member)
        for name, tensor in load_file(member / "best.safetensors").items()
    }
    # What is calibrated is what is shipped: the weights rounded to half precision.
    state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    network = Ensemble(names)
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})

    thumbnails, parts = divided(options.data)
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
            "training": [{k: v for k, v in config.items() if k not in LOCAL} for config in configs],
        },
    )
    text = json.dumps(intervals.to_dict(), indent=1)
    weights.save(options.out, state, metadata, extra={INTERVALS_FILE: text.encode()})
    print(json.dumps({"validation_mae_months": errors.mae.to_dict(), "bands": len(intervals.bands)}))  # noqa: T201


if __name__ == "__main__":
    main()
