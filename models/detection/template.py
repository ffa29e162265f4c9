"""Measure the mean hand: python -m models.detection.template --data ../shared/data/rsna.

Annotated films of the training split are laid over one another by similarities (generalised Procrustes analysis with
missing points: no set states all 89). Sets that name joints by another convention are laid by them as if it were that of
`handpose`, and measured as their own. The result, proportions alone, ships as `template.json`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import refusal, transforms
from models.datasets.rsna import TILE
from models.detection import rsna
from models.detection.conventions import CHANNEL, CHANNELS, joint_of

ROUNDS = 8
OUTLIER = 0.14  # of the hand's length, root mean square: such a film is annotated beside its hand
SHARE_OF_VIEW = 0.80  # of the canonical view that the mean hand fills


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the RSNA films")
    parser.add_argument("--split", type=Path, default=Path("models/datasets/splits/detection_rsna.csv"))
    parser.add_argument("--out", type=Path, default=Path("models/detection/template.json"))
    return parser.parse_args()


def upright(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn points so that the tip of the middle finger stands over the wrist, one hand's length above."""
    wrist, along = points[CHANNEL["wrist"]], points[CHANNEL["tip3"]] - points[CHANNEL["wrist"]]
    turn = -np.pi / 2 - np.arctan2(along[1], along[0])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned: NDArray[np.float64] = (points - wrist) @ rotation.T / np.hypot(*along)
    return turned


def _by_joints(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points in which any set's joint stands in for that of `handpose`."""
    filled = points.copy()
    for channel, name in enumerate(CHANNELS):
        joint = joint_of(name)
        if joint is not None and np.isnan(filled[CHANNEL[joint], 0]):
            filled[CHANNEL[joint]] = points[channel]
    return filled


def measure(films: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and spread of (89, 2) points with gaps; the first film, a left hand, must state tip and wrist."""
    mean, spread = upright(films[0]), np.zeros(len(CHANNELS))
    for _ in range(ROUNDS):
        laid: list[list[NDArray[np.float64]]] = [[] for _ in CHANNELS]
        for points in films:
            known = _by_joints(points)
            shared = ~np.isnan(known[:, 0]) & ~np.isnan(mean[:, 0])
            if shared.sum() < 8:
                continue
            fit = transforms.Similarity.fit(known[shared], mean[shared]).matrix
            away = transforms.apply(fit, known[shared]) - mean[shared]
            if np.sqrt(np.mean(np.sum(away**2, axis=1))) > OUTLIER:
                continue
            placed = transforms.apply(fit, points)
            for channel in np.flatnonzero(~np.isnan(points[:, 0])):
                laid[channel].append(placed[channel])
        mean = np.array([np.median(p, axis=0) if p else np.full(2, np.nan) for p in laid])
        spread = np.array(
            [
                np.sqrt(np.mean(np.sum((np.array(p) - m) ** 2, axis=1))) if p else np.nan
                for p, m in zip(laid, mean, strict=True)
            ]
        )
        length = np.hypot(*(mean[CHANNEL["tip3"]] - mean[CHANNEL["wrist"]]))
        mean, spread = upright(mean), spread / length
    return mean, spread


def main() -> None:
    """Measure and write."""
    args = arguments()
    nothing = np.zeros((TILE, TILE), np.uint8)
    chosen = [(sets, rsna.merge(sets, nothing)) for sets in rsna.of_part(args.data, args.split, "train").values()]
    chosen.sort(key=lambda pair: "handpose" not in pair[0])  # complete films first
    films = [film.points * np.array([film.aspect, 1.0]) for _, film in chosen]
    mean, spread = measure(films)
    if mean[CHANNEL["tip1"], 0] < mean[CHANNEL["tip5"], 0]:
        mean[:, 0] *= -1
    low, high = mean.min(axis=0), mean.max(axis=0)
    scale = SHARE_OF_VIEW / (high - low).max()
    mean, spread = (mean - (low + high) / 2) * scale + 0.5, spread * scale
    text = json.dumps(
        {
            "points": {name: [round(float(v), 4) for v in mean[i]] for i, name in enumerate(CHANNELS)},
            "spread": {name: round(float(spread[i]), 4) for i, name in enumerate(CHANNELS)},
        },
        indent=1,
    )
    args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    refusal.command(main)
