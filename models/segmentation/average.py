r"""Average the weights of two runs, one of which started from the other: between them lies what both can do (Wortsman 2022).

    python -m models.segmentation.average ../runs/phantoms/weights ../runs/outlines/weights --out models/bundles/segmentation/NAME

The metadata is that of the second folder, whose terms must be the stricter ones; its own validation figures are left out.
"""

import argparse
import dataclasses
from pathlib import Path

from models import refusal, weights
from models.engine import git_commit
from models.segmentation.network import ARCHITECTURES
from models.segmentation.predict import LOOKS
from models.weights import FREE_TERMS, Metadata


def average(first: Path, second: Path, out: Path, *, version: str = "1", looks: int = 1) -> Metadata:
    """Write the mean of two weights folders of one architecture; a film is then seen through `looks` crops.

    Raises
    ------
    Refusal
        When the networks differ, or the second folder's terms are free where the first one's are not.
    """
    one, before = weights.load(first, problem="segmentation", architectures=ARCHITECTURES)
    two, after = weights.load(second, problem="segmentation", architectures=ARCHITECTURES)
    if (before.architecture, before.hyperparameters) != (after.architecture, after.hyperparameters):
        raise refusal.Refusal(f"{first} is {before.architecture} {before.hyperparameters}, {second} something else")
    if after.terms == FREE_TERMS and before.terms != FREE_TERMS:
        raise refusal.Refusal(f"{second} is free, {first} is under {before.terms!r}: give the bound one second")
    mean = {name: (one[name] + value) / 2 if value.dtype.is_floating_point else value for name, value in two.items()}
    metadata = dataclasses.replace(
        after,
        version=version,
        created="",
        commit=git_commit(),
        metrics={"mean of": [weights.digest(first), weights.digest(second)]},
        preprocessing={**after.preprocessing, "looks": looks},
    )
    return weights.save(out, mean, metadata, half=True)


def main() -> None:
    """Average two folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--version", default="1")
    parser.add_argument(
        "--looks", type=int, choices=range(1, len(LOOKS) + 1), default=1, help="crops a film is seen through"
    )
    options = parser.parse_args()
    average(options.first, options.second, options.out, version=options.version, looks=options.looks)


if __name__ == "__main__":
    refusal.command(main)
