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

from models import refusal, runs
from models.datasets.documents import read_array, read_object
from models.engine import Progress
from models.grading.crops import CONTEXT, SIZE, cut, frames
from models.grading.network import COUNTS
from models.phantom import Phantom, draw
from models.phantom.maturity import BONES, levels
from models.reading import ImageFacts, Region
from models.regions import RUS, Sex
from models.runs import RunRefused

MARGIN: Final = 1.4  # side of the kept crop over the side of the crop the network sees
CHUNK: Final = 100  # films in one file
SETTINGS_FILE: Final = "settings.json"
# Training, validation and test films never share a seed.
FIRST_SEED: Final = {"train": 1_000_000, "validation": 2_000_000, "test": 3_000_000}


@dataclass(frozen=True, slots=True)
class Crops:
    """Films as crops: pixels (n, 13, kept, kept) uint8, maturity (n, 13), and each film's sex, bone age and seed.

    `kept` is `MARGIN` times the size of the crops the network sees; `context` is theirs, as in `crops.frames`.
    """

    pixels: NDArray[np.uint8]
    maturity: NDArray[np.float32]
    female: NDArray[np.bool_]
    bone_age_years: NDArray[np.float32]
    seed: NDArray[np.int64]
    context: float = CONTEXT

    @classmethod
    def load(cls, folder: Path, films: int | None = None) -> Self:
        """Read a cache; `films` takes only so many of it."""
        chunks = sorted(folder.glob("pixels-*.npy"))
        if not chunks:
            raise RunRefused(
                f"no crops in {folder}; draw them with --data phantoms:4000 or `python -m models.grading.phantoms`"
            )
        maker = "models.grading.phantoms"
        tables = [read_array(path.with_name(path.name.replace("pixels", "truth")), maker) for path in chunks]
        truth = np.concatenate(tables)[:films]
        # Filled chunk by chunk: thousands of films are gigabytes, and joining them would hold them twice.
        shape = read_array(chunks[0], maker, mapped=True).shape
        pixels = np.empty((len(truth), *shape[1:]), np.uint8)
        for path, start in zip(chunks, np.cumsum([0, *map(len, tables)]), strict=False):
            if start < len(truth):
                own = read_array(path, maker)[: len(truth) - start]
                pixels[start : start + len(own)] = own
        # Rounding to 32 bits must not carry a bone over the border of its stage.
        below = np.floor(truth[:, :13]) + 1 - 1e-5
        return cls(
            pixels,
            np.minimum(truth[:, :13], below).astype(np.float32),
            truth[:, 13] > 0.5,
            truth[:, 14].astype(np.float32),
            truth[:, 15].astype(np.int64),
            float(read_object(folder / SETTINGS_FILE, "context")["context"]),
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


def rows_of(seed: int) -> int:
    """Return the rows of the film of a seed."""
    return _rows(np.random.default_rng((seed, 77)))


def _rows(rng: np.random.Generator) -> int:
    return int(np.exp(rng.uniform(np.log(560), np.log(1400))))


def drawn(seed: int, *, natural: bool = False) -> Phantom:
    """Draw the film of a seed: of any size and, unless `natural`, every third with each bone at a stage of its own."""
    rng = np.random.default_rng((seed, 77))
    rows = _rows(rng)
    columns = int(rows * rng.uniform(0.68, 0.92))
    sex: Sex = "F" if rng.random() < 0.5 else "M"
    maturities = None
    if not natural and rng.random() < 1 / 3:
        # Every stage of every bone about equally often; in films drawn by age the early and the fused ones prevail.
        maturities = {bone: float(rng.uniform(0, len(levels(bone)))) for bone in BONES}
        for bone, count in zip(RUS, COUNTS, strict=True):
            maturities[bone] = float(rng.uniform(0, count))
    return draw(seed, sex=sex, rows=rows, columns=columns, maturities=maturities)


def kept_size(size: int) -> int:
    """Return the side in pixels of the kept crop for crops of `size` pixels."""
    return round(size * MARGIN)


def seen_size(kept: int) -> int:
    """Return the side in pixels of the crop the network sees, out of a kept crop; the inverse of `kept_size`."""
    return round(kept / MARGIN)


def render(
    seed: int, *, natural: bool = False, size: int = SIZE, context: float = CONTEXT
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return one film's crops, (13, kept, kept), and its truth, (16,): 13 maturities, female, bone age, seed."""
    phantom = drawn(seed, natural=natural)
    facts = facts_of(phantom)
    found = frames(regions_of(phantom), facts, context)
    crops = np.stack([cut(phantom.image, found[bone].widened(MARGIN), facts, kept_size(size)) for bone in RUS])
    # The film's grey levels fill few steps where it is low in contrast: stretch each crop before rounding.
    low, high = crops.min((1, 2), keepdims=True), crops.max((1, 2), keepdims=True)
    pixels = np.round(255 * (crops - low) / np.maximum(high - low, 1e-6)).astype(np.uint8)
    truth = [phantom.maturity[bone] for bone in RUS]
    return pixels, np.array([*truth, phantom.sex == "F", phantom.bone_age_years, seed], np.float64)


def _chunk(folder: Path, first: int, count: int, natural: bool, size: int, context: float) -> None:
    rendered = [render(seed, natural=natural, size=size, context=context) for seed in range(first, first + count)]
    np.save(folder / f"truth-{first}.npy", np.stack([truth for _, truth in rendered]))
    part = folder / f"part-{first}.npy"
    np.save(part, np.stack([pixels for pixels, _ in rendered]))
    part.rename(folder / f"pixels-{first}.npy")


def render_cache(
    folder: Path,
    films: int,
    first_seed: int,
    *,
    natural: bool = False,
    size: int = SIZE,
    context: float = CONTEXT,
    processes: int = 1,
) -> None:
    """Render a cache; chunks that are there are kept, so that it can be interrupted and enlarged.

    Raises
    ------
    RunRefused
        When the folder holds crops of another kind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"first_seed": first_seed, "natural": natural, "size": size, "context": context}
    kept = folder / SETTINGS_FILE
    if kept.exists() and read_object(kept) != settings:
        raise RunRefused(f"{folder} holds crops of {kept.read_text(encoding='utf-8')}, not of {json.dumps(settings)}")
    kept.write_text(json.dumps(settings), encoding="utf-8")
    chunk = min(CHUNK, films)
    starts = range(first_seed, first_seed + films, chunk)
    todo = [first for first in starts if not (folder / f"pixels-{first}.npy").exists()]
    progress = Progress(len(todo))
    with ProcessPoolExecutor(processes) as pool:
        jobs = [pool.submit(_chunk, folder, first, chunk, natural, size, context) for first in todo]
        for done, job in enumerate(jobs, 1):
            job.result()
            progress.report(done)


def drawn_for(data: Path, out: Path) -> Path:
    """Return the folder with train/ and validation/: `data` itself, or for "phantoms:N" one below `out` that is drawn now."""
    number = runs.phantoms(data)
    if number is None:
        return data
    render_cache(out / "crops" / "train", number, FIRST_SEED["train"])
    render_cache(out / "crops" / "validation", max(1, min(200, number // 10)), FIRST_SEED["validation"], natural=True)
    return out / "crops"


def main() -> None:
    """Render a cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache, outside the tree")
    parser.add_argument("--films", type=int, default=4000)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED["train"])
    parser.add_argument("--natural", action="store_true", help="only films drawn by age, for validation and test")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels of the crops the network sees")
    parser.add_argument("--context", type=float, default=CONTEXT, help="side of a crop over that of its region")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    render_cache(
        options.out,
        options.films,
        options.first_seed,
        natural=options.natural,
        size=options.size,
        context=options.context,
        processes=options.processes,
    )


if __name__ == "__main__":
    refusal.command(main)
