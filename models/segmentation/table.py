r"""Train every architecture of P1 and P3 with the same budget, the losses, and the default on fewer films.

    python -m models.segmentation.data --out ../cache/whole/train --films 2000
    python -m models.segmentation.data --out ../cache/whole/validation --films 100 --first-seed 20000000
    python -m models.segmentation.data --out ../cache/96/train --smaller ../cache/whole/train --size 96
    python -m models.segmentation.data --out ../cache/96/validation --smaller ../cache/whole/validation --size 96
    python -m models.segmentation.table --data ../cache/96 --out ../runs/table --rounds 60 120 240
    python -m models.segmentation.compare --runs ../runs/table --json benchmarks/accuracy/segmentation_architectures.json

The budget of a run is processor time, one thread: what the machine does beside it changes nothing. It is given in rounds; each round
prolongs every run to the same number of seconds and keeps its weights (`weights-SECONDS`), so that a table can be made after any
whole round. The learning rate stays constant for that, and the moving average of the weights is what is kept. Interrupted, it goes
on where it was by the same command. Networks from five million parameters learn at a third of the rate of the small ones.
"""

import argparse
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from models.runs import RunRefused
from models.segmentation import train
from models.segmentation.network import ARCHITECTURES, CLASSICAL

DEFAULT: Final = "unet"
RATE, LARGE_RATE, LARGE = 3e-3, 1e-3, ("fcn", "segnet", "deeplabv3+", "vnet")
LOSSES: Final = ("cross-entropy", "dice", "focal")  # beside the default, both together
FILMS: Final = (25, 100, 400, 1600)
CLASSICAL_FILMS: Final = "400"


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


def kept(seconds: int) -> str:
    """Return the name of the weights folder after so many seconds."""
    return f"weights-{seconds}"


def todo(out: Path, rounds: Sequence[int], names: Sequence[str]) -> Iterator[tuple[str, int, int | None]]:
    """Yield each run that is not done: name, its budget in seconds, that of the round before it."""
    before: int | None = None
    for seconds in rounds:
        for name in names:
            if not (out / name / f"done-{seconds}").exists():
                yield name, seconds, before
        before = seconds


def run(name: str, seconds: int, before: int | None, options: argparse.Namespace) -> None:
    """Prolong one run to `seconds`; where no look was better than those of the round before, its weights stay."""
    folder = options.out / name
    weights = folder / kept(seconds)
    train.main(
        [
            *plan()[name],
            *("--data", str(options.data), "--out", str(folder), "--weights", str(weights)),
            *("--size", str(options.size), "--batch", str(options.batch), "--steps", "1000000", "--every", "200"),
            *("--schedule", "constant", "--processor-seconds", str(seconds)),
        ]
    )
    if before is not None and not weights.exists():
        shutil.copytree(folder / kept(before), weights)
    (folder / f"done-{seconds}").touch()


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not trained yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and validation/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, outside the tree")
    parser.add_argument("--rounds", type=int, nargs="+", default=[60, 120, 240], help="processor seconds of each run")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", nargs="+", default=list(plan()), help="names of runs")
    options = parser.parse_args(argv)
    unknown = [name for name in options.only if name not in plan()]
    if unknown:
        raise RunRefused(f"no run {unknown[0]!r} in the table; there are {', '.join(plan())}")
    for name, seconds, before in todo(options.out, sorted(options.rounds), options.only):
        start = time.monotonic()
        run(name, seconds, before, options)
        print(f"{name}: {seconds} s of the processor, {time.monotonic() - start:.0f} s in all", flush=True)  # noqa: T201 - a script


if __name__ == "__main__":
    main()
