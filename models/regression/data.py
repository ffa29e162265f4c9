"""Read the training thumbnails, split them by patient, draw and augment batches."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.datasets import archive, documents, rsna
from models.datasets.rsna import HELD_OUT
from models.regression.appearance import thumbnail
from models.regression.network import SEXES
from models.runs import RunRefused

Part = Literal["train", "validation", "test"]
PARTS: Final = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Films in the appearance of training, one row each."""

    ids: NDArray[np.int64]  # (n,)
    films: NDArray[np.uint8]  # (n, 100, 100)
    months: NDArray[np.float32]  # (n,) bone age
    sex: NDArray[np.int64]  # (n,) index into SEXES

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> "Thumbnails":
        """Return the chosen rows."""
        return Thumbnails(self.ids[chosen], self.films[chosen], self.months[chosen], self.sex[chosen])


def load(root: Path) -> Thumbnails:
    """Read `thumbnails/` of a data folder: sheets of tiles in the order of `index.csv`."""
    tiles, films = rsna.thumbnails(root)
    return Thumbnails(
        ids=np.array([int(film.id) for film in films]),
        films=tiles,
        months=np.array([film.bone_age_years * 12 for film in films], dtype=np.float32),
        sex=np.array([SEXES.index(film.sex) for film in films]),
    )


def whole_films(root: Path) -> frozenset[int]:
    """Ids of the films that also exist at higher resolution: kept for testing the whole chain, never trained on."""
    return frozenset(int(row["id"]) for _, row in documents.rows(root / "images.csv", ("id",)))


def part_of(identifier: int, whole: frozenset[int]) -> Part:
    """Assign a patient to a part: one tenth each to validation and test by a hash of the id, whole films to test."""
    if identifier in HELD_OUT:
        raise ValueError(f"id {identifier} is held out ({HELD_OUT.start}..{HELD_OUT.stop - 1}); it belongs to no part")
    if identifier in whole:
        return "test"
    tenth = hashlib.sha256(f"carpus-split-1:{identifier}".encode()).digest()[0] % 10
    return "test" if tenth == 0 else "validation" if tenth == 1 else "train"


def divided(root: Path) -> tuple[Thumbnails, NDArray[np.str_]]:
    """Return the films of a data folder and the part of each: RSNA's thumbnails, or a hospital's folder with `films.csv`.

    A hospital's films are brought to the thumbnails' appearance as they are when they are read; their ids are their places in
    the table, their parts those of their patients.
    """
    if not (root / archive.TABLE).is_file():
        films, whole = load(root), whole_films(root)
        return films, np.array([part_of(int(i), whole) for i in films.ids])
    rows = archive.read(root, needs=("bone_age_years",))
    kept = [
        (place, film) for place, film in enumerate(rows) if film.sex is not None and film.bone_age_years is not None
    ]
    pixels = [_bytes(thumbnail(documents.load_film(film.path).pixels)) for _, film in kept]
    if not kept:
        raise RunRefused(f"{root / archive.TABLE} has no film with a sex and a bone age")
    films = Thumbnails(
        ids=np.array([place for place, _ in kept]),
        films=np.stack(pixels),
        months=np.array([12 * (film.bone_age_years or 0.0) for _, film in kept], dtype=np.float32),
        sex=np.array([SEXES.index(film.sex) for _, film in kept if film.sex]),
    )
    return films, np.array([film.part for _, film in kept])


def _bytes(film: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Round grey levels to 8 bit as the thumbnails have them; what their range was does not matter to the network."""
    levels = film.astype(np.float32)
    low, high = float(levels.min()), float(levels.max())
    return np.round(255 * (levels - low) / max(high - low, 1e-6)).astype(np.uint8)


def split_of(ids: NDArray[np.int64], parts: NDArray[np.str_]) -> bytes:
    """Return the table of ids and parts as CSV."""
    lines = ["id,part", *(f"{ids[i]},{parts[i]}" for i in np.argsort(ids, kind="stable"))]
    return ("\n".join(lines) + "\n").encode()


def augment(films: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, scale, shear, shift and mirror thumbnails, and change their brightness curve.

    Parameters
    ----------
    films
        (n, 1, side, side) float32 in 0..1.
    generator
        Source of randomness.

    Returns
    -------
    Tensor
        Films of the same shape. Three batches in four are sampled nearest-neighbour, which keeps them as aliased as the
        films that are served; one in four bilinear, so that a source smoothed before it came here is not foreign.
    """
    n = len(films)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    def normal(sd: float) -> Tensor:
        return torch.randn(n, generator=generator) * sd

    angle = torch.deg2rad(normal(6) + torch.where(uniform(0, 1) < 0.06, uniform(-30, 30), torch.zeros(n)))
    # Below 1 the hand fills more of the film: some archives hold films cropped to the hand, each side by its own amount.
    tight = uniform(0, 1) < 0.25
    zoom_x, zoom_y = (torch.where(tight, uniform(0.66, 0.95), uniform(0.9, 1.14)) for _ in range(2))
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    shear = normal(0.05)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        (
            torch.stack((cos * zoom_x * mirror, -sin * zoom_x + shear, normal(0.07)), dim=1),
            torch.stack((sin * zoom_y * mirror, cos * zoom_y, normal(0.07)), dim=1),
        ),
        dim=1,
    )
    mode = "nearest" if torch.rand(1, generator=generator).item() < 0.75 else "bilinear"
    grid = functional.affine_grid(theta, list(films.shape), align_corners=False)
    moved = functional.grid_sample(films, grid, mode=mode, padding_mode="border", align_corners=False)
    gamma = torch.exp(normal(0.25))[:, None, None, None]
    moved = moved.clamp(1e-4, 1) ** gamma
    noise = (uniform(0, 0.03) * (uniform(0, 1) < 0.3))[:, None, None, None]
    return moved + noise * torch.randn(moved.shape, generator=generator)


def batches(thumbnails: Thumbnails, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield augmented (films, sex, months) in a new order; the incomplete last batch is dropped."""
    order = torch.randperm(len(thumbnails), generator=generator).numpy()
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        films = torch.from_numpy(thumbnails.films[chosen]).float()[:, None] / 255
        yield (
            augment(films, generator),
            torch.from_numpy(thumbnails.sex[chosen]),
            torch.from_numpy(thumbnails.months[chosen]),
        )
