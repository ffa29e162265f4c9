"""The metrics: cases whose answer is arithmetic, written beside them."""

import math

import numpy as np
import pytest

from models.metrics import ages, bootstrap, conformal, overlap


def test_errors_of_three_ages():
    # Differences 3, -4 and 0: MAE 7/3, RMSE 5/sqrt(3), within 3: two of three.
    result = ages.compare([13, 6, 7], [10, 10, 7], tolerance=3)
    assert result.mae.value == pytest.approx(7 / 3)
    assert result.rmse.value == pytest.approx(5 / math.sqrt(3))
    assert result.within.value == pytest.approx(2 / 3)
    assert (result.n, result.missed) == (3, 0)


def test_a_missed_case_is_counted_and_lies_outside_every_tolerance():
    result = ages.compare([10, None, 12], [10, 10, 10], tolerance=2)
    assert result.within.value == pytest.approx(2 / 3)
    assert result.mae.value == pytest.approx(1)
    assert (result.n, result.missed, result.mae.n) == (3, 1, 2)
    with pytest.raises(ValueError, match="none of 1"):
        ages.compare([None], [10], tolerance=2)


def test_bland_altman_of_two_differences():
    # Differences 1 and 3: bias 2, standard deviation sqrt(2), limits 2 -+ 1.96 sqrt(2).
    result = ages.bland_altman(np.array([1.0, 3.0]))
    assert result.bias == 2
    assert result.low == pytest.approx(2 - 1.96 * math.sqrt(2))
    assert result.high == pytest.approx(2 + 1.96 * math.sqrt(2))


def test_correlation_is_one_on_a_line():
    assert ages.compare([1, 2, 3], [10, 20, 30], tolerance=1).correlation == pytest.approx(1)
    assert ages.compare([3, 2, 1], [10, 20, 30], tolerance=1).correlation == pytest.approx(-1)


def test_lengths_must_match():
    with pytest.raises(ValueError, match="2 predictions"):
        ages.compare([1, 2], [1], tolerance=1)
    with pytest.raises(ValueError, match="1 patients"):
        bootstrap.estimate(np.zeros(2), np.mean, patients=["a"])
    with pytest.raises(ValueError, match="no rows"):
        bootstrap.estimate(np.zeros(0), np.mean)


def test_the_films_of_one_patient_are_drawn_together():
    # One patient alone: every resample is the same, so the interval has no width.
    rows = np.arange(10.0)
    together = bootstrap.estimate(rows, np.mean, patients=["a"] * 10)
    assert (together.value, together.low, together.high, together.n) == (4.5, 4.5, 4.5, 1)
    apart = bootstrap.estimate(rows, np.mean)
    assert apart.low < 4.5 < apart.high
    assert apart.n == 10


def test_bootstrap_interval_of_a_mean_is_close_to_the_normal_one():
    rows = np.random.default_rng(1).normal(0, 1, 400)
    result = bootstrap.estimate(rows, np.mean, resamples=4000)
    assert (result.high - result.low) == pytest.approx(2 * 1.96 * rows.std() / 20, rel=0.05)


def test_a_share_of_all_has_an_interval_with_a_width():
    # Wilson (1927): n / (n + z^2) below, where all of n passed; 12 of 12 leave room down to 0.757.
    all_of_twelve = bootstrap.share(np.array([[1.0, 1.0]] * 12))
    assert (all_of_twelve.value, all_of_twelve.high, all_of_twelve.n) == (1.0, 1.0, 12)
    assert all_of_twelve.low == pytest.approx(12 / (12 + 1.959964**2), abs=1e-6)
    assert bootstrap.wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    one_film = bootstrap.share(np.array([[9.0, 15.0]]))  # its fifteen points are not fifteen films
    assert one_film.low < 0.2
    assert one_film.high > 0.9


def test_a_share_of_films_with_many_values_is_resampled_by_film():
    counts = np.array([[20.0, 20.0], [10.0, 20.0]] * 10)
    found = bootstrap.share(counts)
    assert found.value == 0.75
    assert 0.6 < found.low < 0.7 < 0.8 < found.high < 0.9  # single values would give 0.70 to 0.79


def test_boxes_of_five_and_five_sharing_nine_of_forty_one():
    # Two 5 x 5 boxes shifted by 2 in both directions share 3 x 3 = 9 of 25 + 25 - 9 = 41.
    assert overlap.box_iou((0, 0, 5, 5), (2, 2, 7, 7)) == pytest.approx(9 / 41)
    assert overlap.box_iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert overlap.box_iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1


def test_masks_of_four_and_two_sharing_one():
    # Shared 1, found 4, wanted 2: IoU 1/5, Dice 2/6, precision 1/4, recall 1/2.
    found, wanted = np.zeros((3, 3), bool), np.zeros((3, 3), bool)
    found[0, :3] = found[1, 0] = True
    wanted[1, :2] = True
    result = overlap.mask_overlap(found, wanted)
    assert (result.iou, result.precision, result.recall) == (pytest.approx(1 / 5), 1 / 4, 1 / 2)
    assert result.dice == pytest.approx(2 / 6)


def test_empty_masks_agree_only_with_each_other():
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert overlap.mask_overlap(empty, empty).iou == 1
    assert overlap.mask_overlap(empty, full).dice == 0
    assert overlap.mask_overlap(full, empty).precision == 0
    with pytest.raises(ValueError, match="does not match"):
        overlap.mask_overlap(empty, np.zeros((2, 3), bool))


def test_conformal_quantile_is_an_order_statistic():
    # n = 9, 90 %: rank ceil(10 * 0.9) = 9, the largest. n = 19: rank 18.
    assert conformal.half_width(np.arange(1.0, 10), 0.9) == 9
    assert conformal.half_width(np.arange(1.0, 20), 0.9) == 18
    with pytest.raises(ValueError, match="9 are needed"):
        conformal.half_width(np.arange(8.0), 0.9)


def _films(seed: int, n: int):
    generator = np.random.default_rng(seed)
    truth = generator.uniform(1, 18, n)
    sexes = generator.choice(["F", "M"], n)
    # Errors grow with age and are twice as wide in boys, so only intervals by band and sex can cover both.
    predicted = truth + generator.normal(0, 0.1 + truth / 20, n) * np.where(sexes == "M", 2, 1)
    return predicted, truth, sexes.tolist()


def test_intervals_cover_what_they_promise_in_each_sex():
    intervals = conformal.calibrate("a", *_films(1, 4000))
    predicted, truth, sexes = _films(2, 8000)
    inside = conformal.measured_coverage(intervals, "a", predicted, truth, sexes)
    for sex in ("F", "M"):
        assert 0.88 < inside[np.array(sexes) == sex].mean() < 0.92
    widths = {(band.sex, band.from_years): band.half_width_years for band in intervals.bands}
    assert widths["M", 10] > 1.5 * widths["F", 10]


def test_small_bands_are_joined_to_their_neighbours():
    predicted = [3.0] * 50 + [7.0] * 5 + [11.0] * 50 + [16.0] * 5
    intervals = conformal.calibrate("a", predicted, np.array(predicted) + 0.5, ["F"] * 110)
    assert [(band.from_years, band.to_years, band.n) for band in intervals.bands] == [(0, 4, 50), (4, 20, 60)]
    assert intervals.interval("a", "F", 16) == (pytest.approx(15.5), pytest.approx(16.5))
    assert intervals.interval("a", "F", 0.2) == (0, pytest.approx(0.7))
    assert intervals.interval("a", "M", 10) is None
    assert intervals.interval("b", "F", 10) is None
    assert intervals.interval("a", "F", 25) is None


def test_intervals_survive_json_and_join():
    first = conformal.calibrate("a", *_films(1, 500))
    assert conformal.Intervals.from_dict(first.to_dict()) == first
    joined = first + conformal.calibrate("b", *_films(2, 500))
    assert joined.interval("a", "F", 9) == first.interval("a", "F", 9)
    assert joined.interval("b", "F", 9) is not None
    with pytest.raises(ValueError, match="coverage"):
        _ = first + conformal.Intervals(0.8, ())
