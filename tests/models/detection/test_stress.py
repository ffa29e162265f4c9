"""The short version of the stress table: a few films through every kind of step, and the steps themselves."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import models
from models.detection.predict import Detector
from models.detection.stress import SIDE, Subject, drawn, plot, steps

FOLDER = Path(models.__file__).parent / "bundles" / "detection" / "handnet-sets"
STEPS = {step.name: step for step in steps()}
SHORT = ("turned by 0", "turned by 90", "turned by 195", "mirrored", "inverted", "gamma 0.5", "gamma 2.0", "cropped by 10 %",
         "white border", "markers", "1/2 resolution", "1/4 resolution")  # fmt: skip


@cache
def subjects() -> list[Subject]:
    return drawn(range(76_000_000, 76_000_002))


@cache
def detector() -> Detector:
    return Detector(FOLDER)


@pytest.mark.parametrize("name", SHORT)
def test_regions_are_still_found_after_a_disturbance(name: str) -> None:
    rows = [subject.recall(detector(), STEPS[name]) for subject in subjects()]
    assert all(len(row) >= 18 for row in rows)
    assert np.mean(np.concatenate(rows)) >= 0.7


@pytest.mark.parametrize("name", list(STEPS))
def test_a_step_moves_points_with_the_pixels(name: str) -> None:
    step = STEPS[name]
    film = np.zeros((SIDE, SIDE), np.float32)
    film[296:304, 396:404] = 1  # middle (399.5, 299.5)
    changed = step.change(film)
    if name == "inverted":
        changed = 1 - changed
    if name in ("white border", "markers"):
        assert changed[300, 400] == 1
        return
    x, y = step.moves[:, :2] @ (399.5, 299.5) + step.moves[:, 2]
    rows, columns = np.indices(changed.shape)
    assert np.average(columns, weights=changed) == pytest.approx(x, abs=0.1)
    assert np.average(rows, weights=changed) == pytest.approx(y, abs=0.1)


def test_the_table_covers_what_the_field_found_wanting() -> None:
    assert [f"turned by {degrees}" in STEPS for degrees in range(0, 360, 15)] == [True] * 24
    assert {"mirrored", "inverted", "gamma 0.5", "gamma 2.0", "markers", "1/2 resolution", "1/4 resolution"} <= set(
        STEPS
    )


def test_the_plot_is_small(tmp_path: Path) -> None:
    row = {"value": 0.9, "low": 0.8, "high": 1.0}
    plot({kind: dict.fromkeys(STEPS, row) for kind in ("phantoms", "films")}, tmp_path / "plot.svg")
    assert 1_000 < (tmp_path / "plot.svg").stat().st_size < 150_000
