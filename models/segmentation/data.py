r"""Keep the DRU crops of phantoms with their outlines in a cache outside the tree; real films: `models.segmentation.outlined`.

    python -m models.segmentation.data --out ../cache/whole/train --films 2000
    python -m models.segmentation.data --out ../cache/96/train --smaller ../cache/whole/train --size 96

Crops are kept `MARGIN` times wider than the network sees them, so that training can turn, shift and scale them.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from models import refusal, runs
from models.datasets.documents import read_array, read_object
from models.datasets.faults import BadData
from models.engine import Progress
from models.phantom import draw
from models.segmentation.crop import Crop, crop_of, cut

SIZE: Final = 224  # side of the crop the network sees, pixels
MARGIN: Final = 1.3
KEPT: Final = 288  # side of the crop in the cache: close to SIZE * MARGIN, so that the grain of the film survives
FIRST_SEED: Final = {"train": 10_000_000, "validation": 20_000_000}
Levels = NDArray[np.float32]
BLOCK: Final = 50  # films written at once; a run that was interrupted goes on after the last block


@dataclass(frozen=True, slots=True)
class Crops:
    """A cache of crops.

    `films` (n, kept, kept) uint8, stretched between percentiles; `masks` (n, 2, kept, kept) uint8, ulna and radius, 255
    where the pixel lies wholly in the bone; `inside` (n, kept, kept), whether it lies on the film.
    """

    films: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    first_seed: int

    @classmethod
    def open(cls, folder: Path) -> "Crops":
        """Open a finished or growing cache.

        Raises
        ------
        BadData
            When the folder holds none.
        """
        if not (folder / "cache.json").is_file():
            raise BadData(folder, None, folder.name, "holds no crops; make them with models.segmentation.data")
        state = read_object(folder / "cache.json", "films", "first_seed")
        done = int(state["films"])
        arrays = [
            read_array(folder / f"{name}.npy", "models.segmentation.data", mapped=True)[:done]
            for name in ("films", "masks", "inside")
        ]
        return cls(arrays[0], arrays[1], arrays[2], int(state["first_seed"]))


def one(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the crop of one phantom, its two outlines and which of it lies on the film."""
    rng = np.random.default_rng((seed, 7))
    rows = int(rng.integers(700, 1150))
    phantom = draw(seed, rows=rows, columns=int(rows * rng.uniform(0.72, 0.9)), low_contrast=bool(rng.random() < 0.1))
    crop = crop_of(phantom.boxes)
    if crop is None:
        raise ValueError(f"phantom {seed} has no radius or ulna box")
    bones = {bone: phantom.masks[bone] for bone in ("ulna", "radius") if bone in phantom.masks}
    return keep(phantom.image.pixels, bones, crop)


def keep(
    film: Levels, bones: Mapping[str, NDArray[np.bool_]], crop: Crop, limit: Crop | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """Return what the cache keeps of a crop: film, outlines, what lies on the film; what lies outside of `limit` counts as off the film."""
    wide = crop.moved(0.0, MARGIN, 0.0, 0.0)
    levels, inside = cut(film, wide, KEPT)
    if limit is not None:
        away = (wide.film_points(KEPT) - limit.centre[:, None, None]) / limit.side
        inside &= np.abs(np.tensordot(limit.matrix.T, away, axes=1)).max(axis=0) <= 0.5
    low, high = np.percentile(levels[inside], [0.5, 99.5]) if inside.any() else (0.0, 1.0)
    levels = np.clip((levels - low) / max(float(high - low), 1e-4), 0, 1)
    masks = []
    for bone in ("ulna", "radius"):
        if bone in bones:
            covered, _ = cut(bones[bone].astype(np.float32), wide, KEPT)
            masks.append(np.where(inside, covered, 0))
        else:
            masks.append(np.zeros((KEPT, KEPT), np.float32))
    return (levels * 255 + 0.5).astype(np.uint8), (np.stack(masks) * 255 + 0.5).astype(np.uint8), inside


def make_smaller(folder: Path, source: Path, size: int) -> int:
    """Reduce a finished cache to what a network that sees crops of `size` pixels needs; returns the number of films.

    Raises
    ------
    BadData
        When the source's crops are smaller than that.
    """
    crops = Crops.open(source)
    side = round(size * MARGIN)
    if side > crops.films.shape[-1]:
        raise BadData(
            source, None, crops.films.shape[-1], f"its crops are too small; crops of {size} pixels need {side}"
        )
    made = [
        _reduced(np.concatenate((f[None], m, 255 * i[None])), side)
        for f, m, i in zip(crops.films, crops.masks, crops.inside, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    whole = np.stack(made)
    np.save(folder / "films.npy", whole[:, 0])
    np.save(folder / "masks.npy", whole[:, 1:3])
    np.save(folder / "inside.npy", whole[:, 3] > 127)
    state = {"films": len(whole), "room": len(whole), "first_seed": crops.first_seed, "size": size}
    (folder / "cache.json").write_text(json.dumps(state), encoding="utf-8")
    return len(whole)


def _reduced(planes: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    area = PIL.Image.Resampling.BOX  # the mean over what one pixel covers: shares of a bone stay shares
    return np.stack(
        [np.asarray(PIL.Image.fromarray(plane).resize((side, side), area)) for plane in planes.astype(np.uint8)]
    )


def drawn_for(data: Path, out: Path) -> Path:
    """Return the folder with train/ and validation/: `data` itself, or for "phantoms:N" one below `out` that is drawn now."""
    number = runs.phantoms(data)
    if number is None:
        return data
    for part, films in (("train", number), ("validation", max(1, min(150, number // 10)))):
        progress = Progress(films)
        for done in make(out / "crops" / part, films, FIRST_SEED[part]):
            progress.report(done)
    return out / "crops"


def _seeds(first: int, films: int) -> Iterator[list[int]]:
    for start in range(first, first + films, BLOCK):
        yield list(range(start, min(start + BLOCK, first + films)))


def make(folder: Path, films: int, first_seed: int) -> Iterator[int]:
    """Fill the cache, going on where an interrupted run stopped; yields the films done so far."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {
        "films": ((films, KEPT, KEPT), np.uint8),
        "masks": ((films, 2, KEPT, KEPT), np.uint8),
        "inside": ((films, KEPT, KEPT), np.bool_),
    }
    state = folder / "cache.json"
    done = 0
    if state.exists():
        kept = read_object(state, "films", "first_seed", "room")
        if kept["first_seed"] != first_seed or kept["room"] != films:
            raise runs.RunRefused(
                f"{folder} holds {kept['room']} films from seed {kept['first_seed']}; give another folder"
            )
        done = int(kept["films"])
    mode = "r+" if done else "w+"
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode=mode, dtype=dtype, shape=shape)
        for name, (shape, dtype) in shapes.items()
    }
    for seeds in _seeds(first_seed + done, films - done):
        for seed in seeds:
            index = seed - first_seed
            arrays["films"][index], arrays["masks"][index], arrays["inside"][index] = one(seed)
        done += len(seeds)
        for array in arrays.values():
            array.flush()
        state.write_text(json.dumps({"films": done, "room": films, "first_seed": first_seed}), encoding="utf-8")
        yield done


def main() -> None:
    """Make a cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache, outside the tree")
    parser.add_argument("--films", type=int, default=2500)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED["train"])
    parser.add_argument("--smaller", type=Path, help="cache to reduce to --size, instead of drawing phantoms")
    parser.add_argument(
        "--size", type=int, default=96, help="side of the crop the network sees, pixels; with --smaller"
    )
    options = parser.parse_args()
    if options.smaller:
        print(f"{make_smaller(options.out, options.smaller, options.size)} films")  # noqa: T201 - a script
        return
    start = time.monotonic()
    for done in make(options.out, options.films, options.first_seed):
        print(f"{done}/{options.films} films, {done / (time.monotonic() - start):.1f} films/s", flush=True)  # noqa: T201 - a script


if __name__ == "__main__":
    refusal.command(main)
