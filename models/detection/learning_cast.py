"""Train the look for casts (`cast`) and put it beside a detector's network.

It learns from upright views as that detector sees them, half of them with a cast laid over (`casting`).
"""

import argparse
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models import phantom, pixels, transforms, weights
from models.augment import collimate, expose, hide
from models.datasets import splits
from models.detection import casting, rsna
from models.detection.cast import CELLS, COVERS, SIDE, CastNet, halved
from models.detection.completing import Completing
from models.detection.conventions import CHANNELS
from models.detection.learning import Sources
from models.detection.predict import CAST, Detector
from models.image import Image
from models.runs import RunRefused

FIRST_SEED: Final = 35_000_000
THUMBNAILS: Final = 700  # of films that the split does not keep for measuring
COVERED_SHARE: Final = 0.5  # of the views, that get a cast
FOLDERS: Final = ("validation",)  # of real films with more pixels; `fullres` and `medium` are kept for measuring
MEASURED: Final = 4  # every so many-th film says how it goes
FEWEST: Final = 2  # films with a hand: one to learn from, one to measure on


def films(options: argparse.Namespace) -> Iterator[Image]:
    """Draw phantoms and read real films, none of them one that the published figures are measured on."""
    for seed in range(FIRST_SEED, FIRST_SEED + options.phantoms):
        yield phantom.draw(seed, rows=400, columns=320).image
    if not options.data:
        return
    split = rsna.read_split(options.split)
    thumbnails = rsna.read_thumbnails(options.data)
    chosen = [number for number in thumbnails if split.get(number) != "validation" and number % 2]
    for number in chosen[:THUMBNAILS]:
        yield Image(pixels=pixels.scale(thumbnails[number]))
    for folder in FOLDERS:
        for path in sorted((options.data / folder).glob("*.webp")):
            if int(path.stem) % 2:
                yield pixels.load(path)


def upright(detector: Detector, image: Image) -> tuple[NDArray[np.float32], NDArray[np.float64]] | None:
    """Return the upright view (2, SIDE, SIDE) and every point's place in fractions of it; None where no hand is found."""
    found = detector.detect(image)
    if found.upright is None or found.points is None:
        return None
    view = halved(detector.upright_view(image, found))
    seen = dict(found.points)
    back = transforms.invert(found.upright)
    places = detector.template.points.copy()
    for index, name in enumerate(CHANNELS):
        if name in seen:
            places[index] = transforms.apply(back, np.array([seen[name]]))[0]
    return view, places


def drawn(
    views: NDArray[np.uint8], places: NDArray[np.float64], chosen: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return (n, 2, SIDE, SIDE) views, some with a cast, and (n, CELLS, CELLS) shares of cells under it."""
    shown, covered = (
        np.empty((len(chosen), 2, SIDE, SIDE), np.float32),
        np.zeros((len(chosen), CELLS, CELLS), np.float32),
    )
    for k, index in enumerate(chosen):
        view = views[index].astype(np.float32) / 255
        if rng.random() < COVERED_SHARE:
            view, covered[k] = casting.lay(rng, view, places[index])
        shown[k] = view
    return torch.from_numpy(shown), torch.from_numpy(covered)


def error(logits: Tensor, covered: Tensor) -> Tensor:
    """Cross-entropy of the cells; those that lie under a cast in part say so by their share."""
    return functional.binary_cross_entropy_with_logits(logits, covered)


class CastLearning(Completing):
    """Learn which parts of an upright view lie under a cast."""

    architecture, look, prefix, width = "cast", "look for casts", CAST, 16

    def __init__(self, options: argparse.Namespace, sources: Sources, device: torch.device) -> None:
        """Look at the films with the detector to complete, and build the network."""
        self.complete(options, device)
        self.views, self.places = _cached(options)
        every = np.arange(len(self.views))
        self.training, measured = every[every % MEASURED != 0], every[every % MEASURED == 0]
        self.check = drawn(self.views, self.places, np.tile(measured, 2), np.random.default_rng(0))
        self.net: CastNet = CastNet(self.width).to(device)

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """Draw views, vary how they look and return their loss."""
        chosen = self.rng.choice(self.training, self.options.batch)
        shown, covered = drawn(self.views, self.places, chosen, self.rng)
        film = shown[:, 1:]
        grey = hide(expose(shown[:, :1], self.generator, dark=0.0), self.generator, chance=0.15)
        grey, _ = collimate(grey, self.generator, chance=0.1, deepest=0.2)
        varied = torch.cat((grey.clamp(0, 1) * film, film), dim=1)
        return error(self.net(varied.to(self.device)), covered.to(self.device)), {}

    @torch.inference_mode()
    def validate(self, net: nn.Module) -> dict[str, float]:
        """Measure on the films that choose nothing: cells found, and bare views without a single covered cell."""
        net.eval()
        shown, covered = self.check
        found = torch.sigmoid(net(shown)) > COVERS
        bare = covered.amax(dim=(1, 2)) == 0
        return {
            "cells_found": float(found[covered > 0.7].float().mean()),
            "bare_views_untouched": float((~found[bare].flatten(1).any(dim=1)).float().mean()),
            "loss": float(error(net(shown), covered)),
        }

    @staticmethod
    def error(metrics: dict[str, float]) -> float:
        """Return the loss on those films."""
        return metrics["loss"]

    def learned_from(self) -> str:
        """Say from which films."""
        real = f" and {len(self.views) - self.options.phantoms} real films" if self.options.data else ""
        return f"casts laid over {self.options.phantoms} phantoms{real}"

    def described(self, metadata: weights.Metadata) -> weights.Metadata:
        """Return what is said of both; real films bring their terms."""
        return dataclasses.replace(super().described(metadata), terms=metadata.terms)


def _recipe(options: argparse.Namespace) -> str:
    """Return a digest of all that the views are made from: the detector that turned them upright, and the films."""
    made = [weights.digest(options.start), f"{SIDE} {FIRST_SEED} {options.phantoms}"]
    if options.data:
        real = [options.split, *sorted((options.data / "thumbnails").iterdir())]
        for folder in FOLDERS:
            real += sorted((options.data / folder).glob("*.webp"))
        made += [f"{THUMBNAILS}", *(f"{path.name} {splits.digest(path)}" for path in real)]
    return hashlib.sha256("\n".join(made).encode()).hexdigest()[:12]


def _cached(options: argparse.Namespace) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the upright views and places of all films, looked at once where there is a folder to keep them in.

    Raises
    ------
    RunRefused
        When the detector finds a hand on too few of them to learn from some and measure on others.
    """
    path: Path | None = options.phantom_cache / f"cast-{_recipe(options)}.npz" if options.phantom_cache else None
    if path is not None and path.exists():
        with np.load(path, allow_pickle=False) as kept:
            return kept["views"], kept["places"]
    detector = Detector(options.start)
    seen = [each for each in (upright(detector, image) for image in films(options)) if each is not None]
    if len(seen) < FEWEST:
        raise RunRefused(
            f"--start {options.start}: its detector finds a hand on {len(seen)} of the films, and {FEWEST} are needed to lay casts over; "
            "train it further, or draw more --phantoms"
        )
    views = np.stack([np.round(255 * view).astype(np.uint8) for view, _ in seen])
    places = np.stack([place for _, place in seen])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, views=views, places=places)
    return views, places
