"""Look closely at each point as the readers of one annotation set mean it: a regression says how far their point lies from the head's.

The sets mean different places by one name (`conventions`), and each has its own channels in the detector's network, which sees a hand of
192 pixels. This look takes two upright views about each of these points, a close and a wide one, in each of them where which edges
run, in the close one also where strokes of a learned bank lie, and where all the other points were found; a linear map of its own for
every point, fitted by `learning_readers_look`, moves it.
It serves measurements against a set and whoever wants points in a set's convention: a call of its own, and no part of `Detector.detect`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models import transforms, weights
from models.detection.anatomy import Template
from models.detection.closer import normalised
from models.detection.conventions import CHANNEL, JOINTS, LOOSE, SPOTS, TIGHT
from models.detection.predict import Detection
from models.image import Image

ARCHITECTURE: Final = "readers-look-strokes"
SETS: Final = {
    "handpose": JOINTS,
    "epiphyses21": LOOSE,
    "ossification16": (*TIGHT, "radius", "ulna", "carpus"),
    "joints13": SPOTS,
}
PLACES: Final = (*JOINTS, *LOOSE, *TIGHT, *SPOTS, "radius", "ulna", "carpus")  # no name in two sets
PLACE: Final = {name: index for index, name in enumerate(PLACES)}
# Only points that a set has a channel of its own for say where the others lie: those of the regions are moved by the closer look on
# films that have the pixels for it, and left alone on others.
TOLD: Final = len(JOINTS) + len(LOOSE) + len(TIGHT) + len(SPOTS)
SIDE: Final = 24  # pixels of a view
CLOSE: Final = 0.25  # side of the close view over the hand's length
WIDE: Final = 0.75  # and of the wide one
CELL: Final = 4  # pixels of a view, over which edges and grey levels are averaged
STROKE: Final = 5  # pixels of a view, the side of a stroke
STROKES: Final = 48
FEATURES: Final = (2 * 5 + 2 * STROKES) * (SIDE // CELL) ** 2 + 2 * TOLD
# How much each kind of feature weighs beside the others where the regression is held back.
EDGES: Final = 6.0
GREY: Final = 0.3
MARKS: Final = 5.5
FAINT: Final = 0.8  # a stroke's answer that counts as none
UNIT: Final = 0.04  # of the hand's length, in which it is told where the other points lie
PERCENT: Final = 0.01  # of the hand's length, in which it answers
LEARNED_PIXELS: Final = 74.0  # of the hand's length on the films learned from, their median
Array = NDArray[np.float64]


def views(films: Tensor, uprights: Tensor, middles: Tensor, part: float, hand_length: float) -> Tensor:
    """Sample a view of each film about its point: (n, 1, SIDE, SIDE), upright, 0 beyond the film.

    Parameters
    ----------
    films
        (n, 1, rows, columns), bone bright, in 0..1.
    uprights
        (n, 2, 3) from fractions of the canonical view to a film's pixels.
    middles
        (n, 2) in fractions of the canonical view.
    part
        Side of the view over the hand's length.
    """
    rows, columns = films.shape[2:]
    line = ((torch.arange(SIDE) + 0.5) / SIDE - 0.5) * part * hand_length
    square = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=2).reshape(1, -1, 2)
    place = (square + middles[:, None]) @ uprights[:, :, :2].mT + uprights[:, None, :, 2]
    grid = ((2 * place + 1) / torch.tensor([columns, rows]) - 1).view(len(films), SIDE, SIDE, 2)
    inside = (grid.abs() <= 1).all(dim=3)[:, None]
    return functional.grid_sample(films, grid, mode="bilinear", padding_mode="border", align_corners=False) * inside


def described(seen: Tensor) -> Tensor:
    """Return (n, 5 (SIDE / CELL)²): how strong edges to the right, left, down and up are in each cell of a view, and its grey level."""
    seen = normalised(seen)
    smooth = functional.avg_pool2d(functional.pad(seen, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    across = smooth[:, :, 1:-1, 2:] - smooth[:, :, 1:-1, :-2]
    down = smooth[:, :, 2:, 1:-1] - smooth[:, :, :-2, 1:-1]
    edges = torch.cat([edge.clamp_min(0) for edge in (across, -across, down, -down)], dim=1)
    cells = functional.avg_pool2d(functional.pad(edges, (1, 1, 1, 1)), CELL).flatten(1)
    cells = EDGES * cells / (cells.norm(dim=1, keepdim=True) + 0.5)
    return torch.cat([cells, GREY * functional.avg_pool2d(smooth, CELL).flatten(1)], dim=1)


@dataclass(frozen=True, slots=True)
class Bank:
    """Small strokes, learned from views without any label, and where they lie.

    Parameters
    ----------
    filters
        (STROKES, 1, STROKE, STROKE), each of mean 0.
    level
        (STROKES,) what a filter answers to the mean patch.
    contrast
        (), added to a patch's standard deviation, by which it is divided.
    """

    filters: Tensor
    level: Tensor
    contrast: Tensor

    def __call__(self, seen: Tensor) -> Tensor:
        """Return (n, 2 STROKES (SIDE / CELL)²): how strong each stroke, bright and then dark, is in each cell of a view."""
        padded = functional.pad(normalised(seen), (STROKE // 2,) * 4, mode="replicate")
        mean, square = (functional.avg_pool2d(each, STROKE, stride=1) for each in (padded, padded.square()))
        deviation = ((square - mean.square()).clamp_min(0) * (STROKE**2 / (STROKE**2 - 1))).sqrt()
        answer = functional.conv2d(padded, self.filters) / (deviation + self.contrast) - self.level[:, None, None]
        cells = [functional.avg_pool2d((each - FAINT).clamp_min(0), CELL) for each in (answer, -answer)]
        marks = torch.cat(cells, dim=1).flatten(1)
        scaled: Tensor = MARKS * marks / (marks.norm(dim=1, keepdim=True) + 0.5)
        return scaled


def told(places: Tensor, seen: Tensor, template: Template) -> Tensor:
    """Return (n, 2 TOLD): how far the points of each hand lie from those of the mean hand; one that was not found tells nothing.

    Parameters
    ----------
    places
        (n, PLACES, 2) in fractions of the canonical view.
    seen
        (n, PLACES) whether a point was found.
    """
    mean = torch.from_numpy(template.points[[CHANNEL[name] for name in PLACES[:TOLD]]]).float()
    away = torch.where(seen[:, :TOLD, None], places[:, :TOLD] - mean, torch.zeros(()))
    return (away / (UNIT * template.hand_length)).flatten(1)


def features(
    films: Tensor, uprights: Tensor, places: Tensor, seen: Tensor, chosen: Tensor, template: Template, bank: Bank
) -> Tensor:
    """Return (n, FEATURES): what the regression is given of the chosen point of each hand."""
    middles, length = places[torch.arange(len(places)), chosen], template.hand_length
    close, wide = (views(films, uprights, middles, part, length) for part in (CLOSE, WIDE))
    return torch.cat([told(places, seen, template), described(close), described(wide), bank(close)], dim=1)


@dataclass(frozen=True, slots=True)
class Hand:
    """A hand that was found, as this look is given it.

    Parameters
    ----------
    pixels
        (rows, columns), stretched, bone bright.
    upright
        (2, 3) from fractions of the canonical view to those pixels.
    places
        (PLACES, 2) where the network's channel for a point says it lies, in fractions of the canonical view.
    seen
        (PLACES) whether it says so.
    """

    pixels: NDArray[np.float32]
    upright: transforms.Matrix
    places: Array
    seen: NDArray[np.bool_]

    @classmethod
    def of(cls, image: Image, found: Detection, template: Template) -> Self | None:
        """Take it from what the detector found on a film; None where it found no hand."""
        if found.upright is None or not found.points:
            return None
        pixels = transforms.stretch(image.pixels)
        places = template.points[[CHANNEL[name] for name in PLACES]]
        seen = np.array([name in found.points for name in PLACES])
        on_film = np.array([found.points[name] for name in PLACES if name in found.points])
        places[seen] = transforms.apply(transforms.invert(found.upright), on_film)
        return cls(1 - pixels if found.facts.polarity == "bone dark" else pixels, found.upright, places, seen)

    def thinned(self, template: Template) -> "list[Hand]":
        """Return the hand at about as many pixels as those learned from have: itself, or four nearest-neighbour thinnings of it.

        Each of these takes other pixels of a sharp film, as the films learned from were once thinned.
        """
        length = template.hand_length * np.sqrt(abs(np.linalg.det(self.upright[:, :2])))
        step = round(float(length / LEARNED_PIXELS))
        if step < 2:
            return [self]
        starts = (step // 4, step // 4 + step // 2)
        return [
            replace(
                self,
                pixels=np.ascontiguousarray(self.pixels[row::step, column::step]),
                upright=(self.upright - [[0, 0, column], [0, 0, row]]) / step,
            )
            for row in starts
            for column in starts
        ]


class ReadersLook:
    """The look of one weights folder, for the detector whose points it learned to move."""

    def __init__(self, folder: Path, detector: Path) -> None:
        """Load and verify the weights; `detector` is the weights folder of that detector.

        Raises
        ------
        models.weights.WeightsRefused
            When the folder holds something else, not what was saved, or a look that learned from another detector's points.
        """
        state, metadata = weights.load(folder, problem="detection", architectures=(ARCHITECTURE,))
        expected, given = metadata.preprocessing["detector_sha256"], weights.digest(detector)
        if given != expected:
            raise weights.WeightsRefused(folder, "sha256 of the detector", expected, given)
        self.weight, self.bias = state["weight"], state["bias"]  # (PLACES, FEATURES, 2), (PLACES, 2)
        self.bank = Bank(state["filters"], state["level"], state["contrast"])
        self.template = Template.load()

    def points(self, image: Image, found: Detection) -> dict[str, dict[str, tuple[float, float]]]:
        """Return by set and channel, in pixels of the film, where its readers would set each point that the detector found."""
        hand = Hand.of(image, found, self.template)
        if hand is None:
            return {}
        places = np.mean([self._moved(each) for each in hand.thinned(self.template)], axis=0)
        on_film = transforms.apply(hand.upright, places)
        return {
            origin: {
                name: (float(on_film[PLACE[name], 0]), float(on_film[PLACE[name], 1]))
                for name in names
                if hand.seen[PLACE[name]]
            }
            for origin, names in SETS.items()
        }

    @torch.inference_mode()
    def _moved(self, hand: Hand) -> Array:
        """Return the (PLACES, 2) places of one hand as the readers mean them."""
        every = torch.arange(len(PLACES))
        places, seen = torch.from_numpy(hand.places).float(), torch.from_numpy(hand.seen)
        given = features(
            torch.from_numpy(hand.pixels)[None, None].expand(len(PLACES), 1, -1, -1),
            torch.from_numpy(hand.upright).float()[None].expand(len(PLACES), 2, 3),
            places[None].expand(len(PLACES), -1, -1),
            seen[None].expand(len(PLACES), -1),
            every,
            self.template,
            self.bank,
        )
        said = torch.einsum("nf,nfk->nk", given, self.weight) + self.bias
        moved: Array = (places + said * PERCENT * self.template.hand_length).double().numpy()
        return moved
