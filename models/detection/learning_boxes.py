"""Train Faster R-CNN (`rcnn`) on films with boxes.

P2 trains at a shorter side of 800 pixels, two films a step, a rate of 1e-3 that falls tenfold every 20,000 steps, with flips and
rotations, by SGD. Here the side is an option, small by default: the network is the paper's, the training a CPU's. No real film
states the product's boxes, so a trained detector gives them, moved to the readers' points where those state the region.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import engine, pixels, transforms, weights
from models.detection.anatomy import Template
from models.detection.data import Film
from models.detection.learning import Learning, Sources
from models.detection.predict import Detector
from models.detection.rcnn import ARCHITECTURE, best_boxes, build, film_tensor, losses
from models.image import Image
from models.regions import REGIONS

SIDE: Final = 256
CHECKED: Final = 40  # validation films looked at: a look costs about a second a film
NEAR_PERCENT: Final = 2.5


def sample(film: Film, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a film and its boxes, mirrored or turned by a right angle now and then (P2: flips and rotations)."""
    rows, columns = film.pixels.shape
    grey: NDArray[np.float32] = film.pixels.astype(np.float32) / np.float32(255)
    middles = film.points[: len(REGIONS)] * np.array([columns, rows], np.float32)
    halves = film.sizes * np.array([columns, rows], np.float32) / 2
    if rng.random() < 0.5:
        grey = np.fliplr(grey)
        middles = np.stack((columns - middles[:, 0], middles[:, 1]), axis=1)
    for _ in range(int(rng.integers(4)) if rng.random() < 0.3 else 0):
        rows, columns = grey.shape
        grey = np.rot90(grey)  # counter-clockwise: (x, y) goes to (y, columns - x)
        middles = np.stack((middles[:, 1], columns - middles[:, 0]), axis=1)
        halves = halves[:, ::-1]
    boxes = np.concatenate((middles - halves, middles + halves), axis=1)
    boxes = np.clip(boxes, 0, np.array([*grey.shape[::-1], *grey.shape[::-1]], np.float32))
    shown = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) > 2
    labels = torch.arange(1, len(REGIONS) + 1)[torch.from_numpy(shown)]
    target = {"boxes": torch.from_numpy(boxes[shown].astype(np.float32)), "labels": labels}
    return film_tensor(grey), target


def taught(films: Sequence[Film], teacher: Detector) -> list[Film]:
    """Return the films on which the teacher sees all regions, with its boxes about the readers' points where they are stated."""
    found = []
    for film in films:
        rows, columns = film.pixels.shape
        regions = {r.name: r.box for r in teacher.detect(Image(pixels.scale(film.pixels))).regions}
        if len(regions) < len(REGIONS):
            continue
        boxes = np.array([regions[name] for name in REGIONS])
        points = film.points.copy()
        own = points[: len(REGIONS)]
        middles = ((boxes[:, :2] + boxes[:, 2:]) / 2 + 0.5) / (columns, rows)
        points[: len(REGIONS)] = np.where(np.isnan(own), middles, own)
        sizes = ((boxes[:, 2:] - boxes[:, :2]) / (columns, rows)).astype(np.float32)
        found.append(replace(film, points=points, sizes=sizes))
    return found


class BoxLearning(Learning):
    """Learn boxes from whole films."""

    architecture = ARCHITECTURE

    def __init__(self, options: argparse.Namespace, sources: Sources, device: torch.device) -> None:
        """Build the network; films without boxes get them from the teacher, or are left out where there is none."""
        self.options, self.sources, self.device = options, sources, device
        self.hyperparameters = {"backbone": options.backbone, "side": options.size or SIDE}
        self.preprocessing = {"percentiles": list(transforms.PERCENTILES)}
        self.net = build(self.hyperparameters).to(device)
        if options.start:
            state, _ = weights.load(options.start, problem="detection", architectures=(ARCHITECTURE,))
            self.net.load_state_dict(state)
        self.drawn = [film for film in sources.phantoms if film.hand]
        self.films = [film for film in sources.films if not np.isnan(film.sizes).any()]
        if options.teacher and sources.films:
            unboxed = [film for film in sources.films if np.isnan(film.sizes).any()]
            self.films += taught(unboxed, Detector(options.teacher))
        self.rng = np.random.default_rng(options.seed)

    def begin(self, step: int) -> None:
        """Draw from another place of the stream when a run goes on."""
        self.rng = np.random.default_rng((self.options.seed, step))

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """Draw films and return their loss."""
        chosen = []
        for _ in range(self.options.batch):
            real = bool(self.films) and self.rng.random() >= self.options.phantom_share
            films = self.films if real else self.drawn
            chosen.append(sample(films[self.rng.integers(len(films))], self.rng))
        seen = [film.to(self.device) for film, _ in chosen]
        wanted = [{name: value.to(self.device) for name, value in target.items()} for _, target in chosen]
        with engine.mixed_precision(self.device, enabled=self.options.precision == "bf16"):
            parts = losses(self.net, seen, wanted)
        return cast("Tensor", sum(parts.values())), {name: float(value.detach()) for name, value in parts.items()}

    @torch.no_grad()
    def validate(self, net: nn.Module) -> dict[str, float]:
        """Measure how many stated regions have the middle of their best box within 2.5 % of the hand's length."""
        net.eval()
        template, errors = Template.load(), []
        for film in [film for film in self.sources.validation if film.hand][:CHECKED]:
            rows, columns = film.pixels.shape
            true = film.points * np.array([film.aspect, 1.0])
            known = ~np.isnan(true[:, 0])
            length = template.hand_length * transforms.Similarity.fit(template.points[known], true[known]).scale
            grey = transforms.stretch(film.pixels.astype(np.float32))
            found = best_boxes(net([film_tensor(grey).to(self.device)])[0])
            for index in np.flatnonzero(known[: len(REGIONS)]):
                box = found.get(REGIONS[index])
                if box is None:
                    errors.append(np.inf)
                    continue
                middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2 / (columns, rows) * (film.aspect, 1.0)
                errors.append(100 * float(np.hypot(*(middle - true[index]))) / length)
        seen = np.array(errors)
        found_errors = seen[np.isfinite(seen)]
        return {
            "regions_median": float(np.median(found_errors)) if len(found_errors) else float("nan"),
            "regions_within": float(np.mean(seen <= NEAR_PERCENT)),
        }

    @staticmethod
    def error(metrics: dict[str, float]) -> float:
        """Return the share of regions missed."""
        return 1 - metrics["regions_within"]
