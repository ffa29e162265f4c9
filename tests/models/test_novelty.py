"""How unlike the training films a film is: a yardstick whose answers are arithmetic, and the shipped one through its door."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.novelty import auroc
from models import phantom, registry, weights
from models.reader import UNLIKE
from models.reading import Novelty, Reading
from models.regression.novelty import NEIGHBOURS, NOVELTY_FILE, Yardstick


def _fan(degrees: list[float]) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack((np.cos(radians), np.sin(radians)), axis=1).astype(np.float32)


def test_the_score_is_the_distance_to_the_tenth_nearest_in_medians_of_the_validation_films() -> None:
    # Ten films in one direction: the tenth nearest is any of them. Validation films at 2, 4, 6 degrees have chords
    # 2 sin(1), 2 sin(2), 2 sin(3) degrees; the median is that of 4. A film at 90 degrees has the chord 2 sin(45).
    yardstick = Yardstick.fit(_fan([0.0] * NEIGHBOURS), 7 * _fan([2.0, 4.0, 6.0]), false_alarms=0.0)
    unit = 2 * np.sin(np.deg2rad(2))
    assert yardstick.usual == pytest.approx(unit, rel=1e-3)
    assert yardstick.limit == pytest.approx(2 * np.sin(np.deg2rad(3)) / unit, rel=1e-3)
    assert yardstick.scores(3 * _fan([90.0]))[0] == pytest.approx(2 * np.sin(np.deg2rad(45)) / unit, rel=1e-3)
    assert yardstick.judge(_fan([90.0])).unlike
    assert not yardstick.judge(_fan([5.0])).unlike


def test_the_limit_leaves_the_stated_share_of_validation_films_above_it() -> None:
    rng = np.random.default_rng(3)
    training, validation = rng.normal(1, 0.3, (50, 8)), rng.normal(1, 0.3, (400, 8))
    yardstick = Yardstick.fit(training.astype(np.float32), validation.astype(np.float32), false_alarms=0.05)
    assert (yardstick.scores(validation.astype(np.float32)) > yardstick.limit).mean() == pytest.approx(0.05, abs=0.0026)


def test_a_bank_without_a_tenth_neighbour_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 10 films"):
        Yardstick(_fan([0.0, 1.0]))


def test_a_yardstick_of_other_tensors_is_refused_with_those_expected_and_found(tmp_path: Path) -> None:
    from safetensors.numpy import save

    card = weights.Metadata("regression", "maturity-ensemble", "terms", ("films",), 1)
    weights.save(tmp_path, None, card, extra={NOVELTY_FILE: save({"bank": np.zeros((10, 2), np.float16)})})
    with pytest.raises(weights.WeightsRefused, match="expected bank, usual, limit, false_alarms, found bank"):
        Yardstick.of(tmp_path)


def test_auroc_counts_pairs_and_ties_half() -> None:
    # (2, 1), (2, 2): one and a half; (3, 1), (3, 2): two; of four pairs.
    assert auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == 3.5 / 4


def test_the_default_bundle_scores_a_film_and_the_score_survives_json() -> None:
    reader = registry.load("default")
    film = phantom.draw(900_002, age_years=9.0, rows=700, columns=560, low_contrast=False, furnished=False).image
    reading = reader.read(film, "F")
    assert reading.novelty.score is not None
    assert reading.novelty.threshold is not None
    assert Reading.from_json(reading.to_json()) == reading
    assert (UNLIKE in {reason.code for reason in reading.verdict.reasons}) == reading.novelty.unlike


def test_a_film_above_the_limit_is_remarked_with_both_figures() -> None:
    class New:
        def novelty(self, image: object, facts: object) -> Novelty:
            del image, facts
            return Novelty(2.5, 1.75, 0.01)

    from dataclasses import replace

    film = phantom.draw(900_002, age_years=9.0, rows=700, columns=560, low_contrast=False, furnished=False).image
    reading = replace(registry.load("phantom"), newness=New()).read(film, "F")
    (remark,) = (reason.text for reason in reading.verdict.reasons if reason.code == UNLIKE)
    assert "distance 2.50 from the films learned from" in remark
    assert "99% stay below 1.75" in remark


def test_a_bundle_without_a_regressor_states_no_novelty() -> None:
    assert registry.load("phantom").newness is None
    assert Novelty(None).unlike is False
