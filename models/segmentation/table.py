r"""Train every architecture of P1 and P3 on the same number of films, the losses, and the default on fewer films.

    python -m models.segmentation.data --out ../cache/whole/train --films 2000
    python -m models.segmentation.data --out ../cache/whole/validation --films 100 --first-seed 20000000
    python -m models.segmentation.data --out ../cache/96/train --smaller ../cache/whole/train --size 96
    python -m models.segmentation.data --out ../cache/96/validation --smaller ../cache/whole/validation --size 96
    python -m models.segmentation.table --data ../cache/96 --out ../runs/table --group networks --rounds 300 450 600
    python -m models.segmentation.table --data ../cache/96 --out ../runs/table --group default --rounds 1500
    python -m models.segmentation.compare --runs ../runs/table --json benchmarks/accuracy/segmentation_architectures.json

The budget of a run is its number of steps, each of `--batch` films: every network has then seen the same films, and what the machine
does beside it changes nothing. It is given in rounds; each round prolongs every run to the same step and keeps its best weights so far
(`weights-STEPS`), so that a table can be made after any whole round, and what the last round brought tells whether a network still
learns. The learning rate stays constant for that, and the moving average of the weights is what is kept. Interrupted, it goes on where
it was by the same command. Networks from five million parameters learn at a third of the rate of the small ones.
"""

import argparse
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from models import refusal
from models.runs import RunRefused
from models.segmentation import train
from models.segmentation.network import ARCHITECTURES, CLASSICAL

DEFAULT: Final = "unet"
RATE, LARGE_RATE, LARGE = 3e-3, 1e-3, ("fcn", "segnet", "deeplabv3+", "vnet")
LOSSES: Final = ("cross-entropy", "dice", "focal")  # beside the default, both together
FILMS: Final = (25, 100, 400, 1600)
CLASSICAL_FILMS: Final = "400"
LOOK: Final = 50  # steps between looks at the validation films


def plan() -> Mapping[str, tuple[str, ...]]:
    """Return the runs by name, each with its options."""
    runs: dict[str, tuple[str, ...]] = {}
    for name in ARCHITECTURES:
        if name in CLASSICAL:
            runs[name] = ("--architecture", name, "--films", CLASSICAL_FILMS)
        else:
            rate = LARGE_RATE if name.startswith(LARGE) else RATE
            own = ("--loss", "dice") if name == "vnet" else ()  # as its paper trains it
            runs[name] = ("--architecture", name, "--rate", str(rate), *own)
    for loss in LOSSES:
        runs[f"loss-{loss}"] = ("--architecture", DEFAULT, "--rate", str(RATE), "--loss", loss)
    for films in FILMS:
        runs[f"films-{films}"] = ("--architecture", DEFAULT, "--rate", str(RATE), "--films", str(films))
    return runs


def groups() -> Mapping[str, tuple[str, ...]]:
    """Return the runs that share a budget: all architectures, and the default's losses and numbers of films beside itself."""
    others = tuple(name for name in plan() if name.startswith(("loss-", "films-")))
    return {"networks": tuple(name for name in plan() if name not in others), "default": (DEFAULT, *others)}


def kept(steps: int) -> str:
    """Return the name of the weights folder after so many steps."""
    return f"weights-{steps}"


def todo(out: Path, rounds: Sequence[int], names: Sequence[str]) -> Iterator[tuple[str, int, int | None]]:
    """Yield each run that is not done: name, its budget in steps, that of the round before it."""
    before: int | None = None
    for steps in rounds:
        for name in names:
            if not (out / name / f"done-{steps}").exists():
                yield name, steps, before
        before = steps


def run(name: str, steps: int, before: int | None, options: argparse.Namespace) -> None:
    """Prolong one run to `steps`; where no look was better than those of the round before, its weights stay."""
    folder = options.out / name
    weights = folder / kept(steps)
    train.main(
        [
            *plan()[name],
            *("--data", str(options.data), "--out", str(folder), "--weights", str(weights)),
            *("--size", str(options.size), "--batch", str(options.batch), "--every", str(LOOK)),
            *("--schedule", "constant", "--steps", str(steps)),
        ]
    )
    if before is not None and not weights.exists():
        shutil.copytree(folder / kept(before), weights)
    (folder / f"done-{steps}").touch()


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not trained yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and validation/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, outside the tree")
    parser.add_argument("--rounds", type=int, nargs="+", default=[300, 450, 600], help="steps of each run")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--group", choices=tuple(groups()), default="networks", help="runs that share a budget")
    parser.add_argument("--only", nargs="+", help="names of runs, instead of a group")
    options = parser.parse_args(argv)
    names = options.only or groups()[options.group]
    unknown = [name for name in names if name not in plan()]
    if unknown:
        raise RunRefused(f"no run {unknown[0]!r} in the table; there are {', '.join(plan())}")
    for name, steps, before in todo(options.out, sorted(options.rounds), names):
        start, busy = time.monotonic(), time.process_time()
        run(name, steps, before, options)
        took = f"{time.process_time() - busy:.0f} s of the processor, {time.monotonic() - start:.0f} s by the clock"
        print(f"{name}: {steps} steps, {took}", flush=True)  # noqa: T201 - a script


if __name__ == "__main__":
    refusal.command(main)
