"""Measure the score of how unlike the training films a film is: what it tells apart, and how often it calls a hand unlike.

    python -m benchmarks.novelty --data ../shared/data/rsna --json benchmarks/accuracy/novelty.json

Hands are thumbnails of the test part, the films with pixels (none of either trained on) and drawn hands; beside them drawn feet,
chests and casts, and hands spoiled in stated ways. The film goes to the score as it is: no detector refuses it before.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter

from models import phantom, refusal, registry
from models.engine import git_commit
from models.image import Image
from models.metrics.bootstrap import estimate
from models.regression.data import divided
from models.regression.predict import Regressor

FIRST_SEED: Final = 34_000_000
ROWS: Final = 500
COLUMNS: Final = 400
Film = NDArray[np.float32]


def spoiled(film: Film, rng: np.random.Generator) -> dict[str, Film]:
    """Return a film changed in each of the ways that are measured."""
    side = min(film.shape)
    half = np.arange(film.shape[0])[:, None] > film.shape[0] // 2
    changed = {
        "inverted, told to be as it should": 1 - film,
        "other physics: levels folded about the middle": np.abs(2 * film - 1),
        "noise of 0.15 of the range": film + rng.normal(0, 0.15, film.shape),
        "noise of 0.4 of the range": film + rng.normal(0, 0.4, film.shape),
        "blurred by 1 % of the film": gaussian_filter(film, 0.01 * side),
        "blurred by 3 % of the film": gaussian_filter(film, 0.03 * side),
        "lower half black": np.where(half, film.min(), film),
        "upside down, told to be upright": film[::-1],
    }
    return {name: np.ascontiguousarray(np.clip(values, 0, 1), np.float32) for name, values in changed.items()}


def auroc(hands: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the probability that another film scores higher than a hand; ties count half."""
    return float((others[:, None] > hands).mean() + 0.5 * (others[:, None] == hands).mean())


def compared(hands: NDArray[np.float64], others: NDArray[np.float64], draws: int = 1000) -> dict[str, float | int]:
    """Return the AUROC with its 95 % interval, films of both kinds drawn anew, and the number of other films."""
    rng = np.random.default_rng(0)
    found = [auroc(rng.choice(hands, len(hands)), rng.choice(others, len(others))) for _ in range(draws)]
    low, high = np.quantile(found, (0.025, 0.975))
    return {
        "value": round(auroc(hands, others), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "n": len(others),
    }


def films_with_pixels(data: Path) -> Iterator[Film]:
    """Read the films of the three folders, thinned to some 400 pixels by leaving pixels out."""
    with (data / "images.csv").open(newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            with Picture.open(data / row["file"]) as picture:
                pixels = np.asarray(picture.convert("L"))
            step = max(1, min(pixels.shape) // 400)
            yield np.divide(pixels[::step, ::step], 255, dtype=np.float32)


def main() -> None:
    """Draw, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the RSNA films")
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--films", type=int, default=60, help="drawn films of each kind")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    description = registry.describe(options.bundle)
    place = next(place for problem, place, _ in description.parts if problem == "regression")
    regressor = Regressor(place)
    spent: list[float] = []

    def score(film: Film) -> float:
        begun = time.process_time()
        found = regressor.novelty(Image(pixels=np.ascontiguousarray(film)))
        spent.append(1000 * (time.process_time() - begun))
        if found.score is None:
            raise SystemExit(f"bundle {options.bundle} measures no novelty")
        return found.score

    def drawn(make: Callable[[int], Film]) -> NDArray[np.float64]:
        return np.array([score(make(FIRST_SEED + number)) for number in range(options.films)])

    if regressor.yardstick is None:
        raise SystemExit(f"bundle {options.bundle} measures no novelty")
    limit = regressor.yardstick.limit
    thumbnails, parts = divided(options.data)
    test = thumbnails.take(parts == "test")
    hands = {
        "thumbnails of the test part": np.array([score(film.astype(np.float32)) for film in test.films[:600]]),
        "films with pixels": np.array([score(film) for film in films_with_pixels(options.data)]),
        "drawn hands": drawn(lambda seed: phantom.draw(seed, rows=ROWS, columns=COLUMNS).image.pixels),
    }
    others = {
        "drawn feet": drawn(lambda seed: phantom.draw_other("foot", seed, rows=ROWS, columns=COLUMNS).pixels),
        "drawn chests": drawn(lambda seed: phantom.draw_other("chest", seed, rows=ROWS, columns=COLUMNS).pixels),
        "drawn hands in plaster": drawn(
            lambda seed: phantom.draw(seed, cast="plaster", rows=ROWS, columns=COLUMNS).image.pixels
        ),
        "drawn hands in fibreglass": drawn(
            lambda seed: phantom.draw(seed, cast="fibreglass", rows=ROWS, columns=COLUMNS).image.pixels
        ),
    }
    rng = np.random.default_rng(0)
    changed: dict[str, list[float]] = {}
    for number, film in enumerate(films_with_pixels(options.data)):
        if 25 <= number < 25 + options.films:
            for name, values in spoiled(film, rng).items():
                changed.setdefault(f"real hands, {name}", []).append(score(values))
    others |= {name: np.array(values) for name, values in changed.items()}
    real = hands["films with pixels"]
    result: dict[str, Any] = {
        "benchmark": "novelty",
        "data": f"{len(hands['thumbnails of the test part'])} thumbnails of the test part, {len(real)} films with pixels, "
        f"{options.films} drawn films of each kind, seeds from {FIRST_SEED}",
        "bundle": {"name": description.name, "version": description.version, "sha256": description.sha256},
        "commit": git_commit(),
        "command": f"python -m benchmarks.novelty --data DATA --bundle {options.bundle} --films {options.films}",
        "limit": round(limit, 3),
        "false_alarms_by_choice": regressor.yardstick.false_alarms,
        "called_unlike": {name: _share(scores, limit) for name, scores in (hands | others).items()},
        "auroc_against_real_hands": {name: compared(real, scores) for name, scores in others.items()},
        "auroc_against_drawn_hands": {
            name: compared(hands["drawn hands"], scores) for name, scores in others.items() if name.startswith("drawn")
        },
        "cpu_milliseconds_a_film": round(float(np.median(spent)), 2),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def _share(scores: NDArray[np.float64], limit: float) -> dict[str, Any]:
    return estimate((scores > limit).astype(np.float64), lambda rows: float(rows.mean())).to_dict()


if __name__ == "__main__":
    refusal.command(main)
