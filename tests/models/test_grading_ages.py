from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models.grading import ages, harmony, tune
from models.grading.films import Films
from models.grading.network import COUNTS, LEVELS, WIDEST
from models.grading.tune import folds_of, held_out, rarity, straight
from models.regions import RUS
from models.runs import RunRefused
from models.standards import RUS_CHN

GRADER = Path(models.__file__).parent / "bundles" / "grading" / "small"
SCORES, CURVE = ages.score_table(), ages.curve_table()


def _certain(index: int) -> torch.Tensor:
    chances = torch.zeros(1, 13, WIDEST)
    for bone, count in enumerate(COUNTS):
        chances[0, bone, min(index, count - 1)] = 1.0
    return chances


@pytest.mark.parametrize("sex", ["F", "M"])
@pytest.mark.parametrize("index", [2, 5, 8])
def test_certain_stages_have_the_bone_age_of_the_standard(sex: str, index: int) -> None:
    stages = {bone: levels[min(index, len(levels) - 1)] for bone, levels in zip(RUS, LEVELS, strict=True)}
    male = int(sex == "M")
    expected = RUS_CHN.bone_age(RUS_CHN.total(stages, ages.SEXES[male]), ages.SEXES[male]).years
    found = ages.expected_age(_certain(index), torch.tensor([male]), SCORES, CURVE)
    assert found.item() == pytest.approx(expected, abs=0.02)


def test_the_curve_rises_for_both_sexes_and_ends_at_the_printed_ages() -> None:
    assert bool((CURVE.diff(dim=1) >= 0).all())
    for row, sex in enumerate(ages.SEXES):
        assert CURVE[row, -1].item() == pytest.approx(RUS_CHN.age_range(sex)[1])


def test_an_age_teaches_stages_in_its_direction() -> None:
    logits = torch.zeros(1, 13, WIDEST)
    for bone, count in enumerate(COUNTS):
        logits[0, bone, count:] = -1e4
    logits.requires_grad_()
    older = ages.age_loss(logits.softmax(-1), torch.tensor([0]), torch.tensor([16.0]), SCORES, CURVE)
    older.backward()
    assert logits.grad is not None
    # Descending the loss lowers the absent centre and raises complete fusion, of every bone.
    assert all(logits.grad[0, bone, 0] > 0 > logits.grad[0, bone, count - 1] for bone, count in enumerate(COUNTS))


def test_labels_beyond_the_curve_count_as_its_end() -> None:
    top = torch.stack([_certain(99)[0], _certain(99)[0]])
    found = ages.age_loss(top, torch.tensor([0, 0]), torch.tensor([19.0, 30.0]), SCORES, CURVE)
    assert found.item() == pytest.approx(0.0, abs=1e-3)


def _films(names: list[str]) -> Films:
    n = len(names)
    age = np.linspace(5, 15, n).astype(np.float32)
    patients = np.array([Path(name).stem for name in names])
    return Films(
        np.array(names), patients, np.zeros((n, 13, 2, 2), np.uint8), np.ones((n, 13), bool), np.arange(n) % 2, age
    )


def test_the_films_of_a_patient_stay_in_one_fold() -> None:
    films = _films([f"fullres/{i}.webp" for i in range(20)] + [f"medium/{i}.webp" for i in range(20)])
    fold = folds_of(films, 5, seed=3)
    assert np.array_equal(fold[:20], fold[20:])
    assert set(fold.tolist()) == {0, 1, 2, 3, 4}


def test_a_tuning_is_not_gone_on_with_when_the_table_of_films_has_changed(tmp_path: Path) -> None:
    table = tmp_path / "films.csv"
    words = ["--data", str(tmp_path), "--start", str(GRADER), "--phantoms", "phantoms:1", "--terms", "internal"]
    words += ["--out", str(tmp_path / "run"), "--source", "films of a test"]
    for text in ("file,sex,bone_age_years\na.png,F,9\n", "file,sex,bone_age_years\na.png,F,10\n"):
        table.write_text(text)
        with pytest.raises(RunRefused, match="--readings says where" if "9" in text else "run with table_sha256"):
            tune.main(words)


def test_the_straight_line_never_sees_the_fold_it_judges() -> None:
    films = _films([f"{i}.png" for i in range(24)])
    before = films.bone_age_years.astype(np.float64) * 2 + 1
    fold = folds_of(films, 4, seed=1)
    np.testing.assert_allclose(straight(before, films, fold), films.bone_age_years, atol=1e-4)
    spoilt = before.copy()
    spoilt[fold == 0] += 5  # (2 a + 1 + 5) maps to a + 2.5 by the line of the other folds
    np.testing.assert_allclose(
        straight(spoilt, films, fold)[fold == 0], films.bone_age_years[fold == 0] + 2.5, atol=1e-4
    )


def test_a_film_held_out_is_held_out_under_every_name() -> None:
    films = _films(["fullres/1.webp", "medium/1.webp", "medium/2.webp", "validation/3.webp"])
    assert held_out(films, "fullres/").tolist() == [True, True, False, False]
    assert not held_out(films, "").any()
    assert films.subset(held_out(films, "fullres/")).file.tolist() == ["fullres/1.webp", "medium/1.webp"]


def _usual(sex: int, age: float, shift: float = 0.0) -> torch.Tensor:
    """Certain stages: those that hold the maturity usual at an age, moved by whole stages."""
    mean, _ = harmony.expected()
    row = mean[sex, int((age - 0.5) / 0.5)]
    chances = torch.zeros(1, 13, WIDEST)
    for bone, count in enumerate(COUNTS):
        chances[0, bone, int(min(max(float(row[bone]) + shift, 0), count - 1))] = 1.0
    return chances


def test_usual_maturity_rises_with_age_and_girls_come_first() -> None:
    mean, spread = harmony.expected()
    assert bool((mean.diff(dim=1) > -0.3).all())  # a mean of forty hands wavers by its own error
    assert bool((mean[0, 10:28] > mean[1, 10:28]).all())  # from 5.5 to 14 years
    assert bool((spread >= 0).all())


@pytest.mark.parametrize("sex", [0, 1])
def test_stages_usual_at_an_age_agree_and_one_bone_out_of_line_is_pulled_back(sex: int) -> None:
    age = torch.tensor([10.0])
    usual = _usual(sex, 10.0)
    assert harmony.deviations(usual, torch.tensor([sex]), age).abs().max() < 1.7
    logits = (usual * 8).clone().requires_grad_()
    with torch.no_grad():
        high = _usual(sex, 10.0, 4.0)
        logits[0, 0] = high[0, 0] * 8  # the radius four stages too high
    loss = harmony.loss(logits.softmax(-1), torch.tensor([sex]), age)
    loss.backward()
    assert loss > harmony.loss(usual, torch.tensor([sex]), age)
    assert logits.grad is not None
    stage = int(high[0, 0].argmax())
    assert logits.grad[0, 0, stage] > 0 > logits.grad[0, 0, stage - 4]


def test_few_films_of_an_age_are_drawn_more_often() -> None:
    years = np.array([10.0, 10.5, 10.9, 17.0, 10.0], np.float32)
    male = np.array([0, 0, 0, 0, 1])
    np.testing.assert_allclose(rarity(years, male), [1 / 3, 1 / 3, 1 / 3, 1.0, 1.0])
