"""Render the training crops once: phantoms drawn, cut as on a real film, kept as 8 bit arrays outside the tree.

The crops are wider than what the network sees, so that training can still turn, shift and scale them.

    python -m models.grading.phantoms --out ../crops/train --films 4000 --first-seed 1000000
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from models.engine import Progress
from models.grading.crops import SIZE, cut, frames
from models.grading.network import COUNTS
from models.phantom import Phantom, draw
from models.phantom.maturity import BONES, levels
from models.reading import ImageFacts, Region
from models.regions import RUS, Sex

MARGIN: Final = 1.4  # side of the kept crop over the side of the crop the network sees
KEPT: Final = round(SIZE * MARGIN)
CHUNK: Final = 100  # films in one file
# Training, validation and test films never share a seed.
FIRST_SEED: Final = {"train": 1_000_000, "validation": 2_000_000, "test": 3_000_000}


@dataclass(frozen=True, slots=True)
class Crops:
    """Films as crops: pixels (n, 13, `KEPT`, `KEPT`) uint8, maturity (n, 13), and each film's sex, bone age and seed."""

    pixels: NDArray[np.uint8]
    maturity: NDArray[np.float32]
    female: NDArray[np.bool_]
    bone_age_years: NDArray[np.float32]
    seed: NDArray[np.int64]

    @classmethod
    def load(cls, folder: Path, films: int | None = None) -> Self:
        """Read a cache; `films` takes only so many of it."""
        chunks = sorted(folder.glob("pixels-*.npy"))
        if not chunks:
            raise ValueError(f"no crops in {folder}; render them with `python -m models.grading.phantoms`")
        tables = [np.load(path.with_name(path.name.replace("pixels", "truth"))) for path in chunks]
        truth = np.concatenate(tables)[:films]
        pixels = np.concatenate([np.load(path) for path in chunks])[:films]
        # Rounding to 32 bits must not carry a bone over the border of its stage.
        below = np.floor(truth[:, :13]) + 1 - 1e-5
        return cls(
            pixels,
            np.minimum(truth[:, :13], below).astype(np.float32),
            truth[:, 13] > 0.5,
            truth[:, 14].astype(np.float32),
            truth[:, 15].astype(np.int64),
        )

    def __len__(self) -> int:
        """Return the number of films."""
        return len(self.seed)


def facts_of(phantom: Phantom) -> ImageFacts:
    """Return what a perfect detector would say of the film."""
    image = phantom.image
    return ImageFacts(
        image.rows,
        image.columns,
        image.pixel_spacing_mm,
        phantom.laterality,
        None,
        phantom.polarity,
        image.photometric_interpretation,
        phantom.rotation_degrees,
    )


def regions_of(phantom: Phantom) -> tuple[Region, ...]:
    """Return the regions a perfect detector would find."""
    return tuple(Region(name, box, 1.0) for name, box in phantom.boxes.items())


def drawn(seed: int, *, natural: bool = False) -> Phantom:
    """Draw the film of a seed: of any size and, unless `natural`, every third with each bone at a stage of its own."""
    rng = np.random.default_rng((seed, 77))
    rows = int(np.exp(rng.uniform(np.log(480), np.log(1300))))
    columns = int(rows * rng.uniform(0.68, 0.92))
    sex: Sex = "F" if rng.random() < 0.5 else "M"
    maturities = None
    if not natural and rng.random() < 1 / 3:
        # Every stage of every bone about equally often; in films drawn by age the early and the fused ones prevail.
        maturities = {bone: float(rng.uniform(0, len(levels(bone)))) for bone in BONES}
        for bone, count in zip(RUS, COUNTS, strict=True):
            maturities[bone] = float(rng.uniform(0, count))
    return draw(seed, sex=sex, rows=rows, columns=columns, maturities=maturities)


def render(seed: int, *, natural: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return one film's crops, (13, `KEPT`, `KEPT`), and its truth, (16,): 13 maturities, female, bone age, seed."""
    phantom = drawn(seed, natural=natural)
    facts = facts_of(phantom)
    found = frames(regions_of(phantom), facts)
    crops = np.stack([cut(phantom.image, found[bone].widened(MARGIN), facts, KEPT) for bone in RUS])
    # The film's grey levels fill few steps where it is low in contrast: stretch each crop before rounding.
    low, high = crops.min((1, 2), keepdims=True), crops.max((1, 2), keepdims=True)
    pixels = np.round(255 * (crops - low) / np.maximum(high - low, 1e-6)).astype(np.uint8)
    truth = [phantom.maturity[bone] for bone in RUS]
    return pixels, np.array([*truth, phantom.sex == "F", phantom.bone_age_years, seed], np.float64)


def _chunk(folder: Path, first: int, count: int, natural: bool) -> None:
    rendered = [render(seed, natural=natural) for seed in range(first, first + count)]
    np.save(folder / f"truth-{first}.npy", np.stack([truth for _, truth in rendered]))
    part = folder / f"part-{first}.npy"
    np.save(part, np.stack([pixels for pixels, _ in rendered]))
    part.rename(folder / f"pixels-{first}.npy")


def main() -> None:
    """Render a cache; chunks that are there are kept, so that it can be interrupted and enlarged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache, outside the tree")
    parser.add_argument("--films", type=int, default=4000)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED["train"])
    parser.add_argument("--natural", action="store_true", help="only films drawn by age, for validation and test")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {"first_seed": options.first_seed, "natural": options.natural, "kept": KEPT}
    (options.out / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    starts = range(options.first_seed, options.first_seed + options.films, CHUNK)
    todo = [first for first in starts if not (options.out / f"pixels-{first}.npy").exists()]
    progress = Progress(len(todo))
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = [pool.submit(_chunk, options.out, first, CHUNK, options.natural) for first in todo]
        for done, job in enumerate(jobs, 1):
            job.result()
            progress.report(done)


if __name__ == "__main__":
    main()
