"""Which bones are staged too far ahead or behind, and the corrections tried."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.grading import consistency, weightings
from models.grading.films import Films
from models.grading.losses import soft_labels
from models.regions import RUS
from models.standards import RUS_CHN
from models.standards.harmony import HandPrior


def _films(n: int) -> tuple[Films, np.ndarray]:
    """Films whose bones are as usual at their age, and the maturities of these bones."""
    rng = np.random.default_rng(0)
    male, age = np.arange(n) % 2, rng.uniform(4, 14, n).astype(np.float32)
    maturity = np.stack([consistency._usual(int(m), float(a))[0] for m, a in zip(male, age, strict=True)])
    names = np.array([f"{i}.png" for i in range(n)])
    films = Films(names, names, np.zeros((n, 13, 2, 2), np.uint8), np.ones((n, 13), bool), male, age)
    return films, maturity


def _chances(maturity: np.ndarray) -> np.ndarray:
    return soft_labels(torch.from_numpy(maturity), 0.3).numpy().astype(np.float64)


def test_a_bone_read_too_far_ahead_is_found_and_moved_back() -> None:
    films, maturity = _films(40)
    maturity[:, RUS.index("mc3")] += 1.0
    rows = {row["bone"]: row for row in consistency.by_bone(_chances(maturity), films)}
    assert rows["mc3"]["F"]["bias_years"]["low"] > 0.5
    assert abs(rows["pp3"]["F"]["bias_years"]["value"]) < 0.4
    offsets = consistency.offsets(_chances(maturity), films)
    assert 0.3 < offsets[RUS.index("mc3")] < 0.7
    before = (_chances(maturity) * consistency._MIDDLES).sum(-1)
    after = (consistency.moved(_chances(maturity), offsets) * consistency._MIDDLES).sum(-1)
    assert np.allclose(before - after, offsets, atol=0.05)


def test_a_bone_that_contradicts_the_hand_is_drawn_to_it_and_the_others_stay() -> None:
    films, maturity = _films(6)
    maturity[:, RUS.index("dp5")] -= 3.0
    chances = _chances(maturity)
    told = consistency.joined(chances, films.male, HandPrior(1.0, 0.8))
    assert np.allclose(told.sum(-1), 1)
    moved = ((told - chances) * consistency._MIDDLES).sum(-1)
    assert (moved[:, RUS.index("dp5")] > 0).all()
    assert np.abs(moved[:, RUS.index("mc5")]).mean() < 0.2 * moved[:, RUS.index("dp5")].mean()


def test_the_corrections_are_judged_across_folds(tmp_path: Path) -> None:
    films, maturity = _films(40)
    rng = np.random.default_rng(1)
    read = _chances(maturity + 1.0 + rng.normal(0, 0.5, maturity.shape))
    run, cache, out = tmp_path / "run", tmp_path / "films", tmp_path / "result.json"
    run.mkdir()
    cache.mkdir()
    for name in films.__slots__:
        np.save(cache / f"{name}.npy", getattr(films, name))
    fold = np.arange(40) % 2
    (run / "tuning.json").write_text(json.dumps({"rows": [{"fold": int(number)} for number in fold]}))
    for number in (0, 1):
        np.save(run / f"fold-{number}.npy", read[fold == number])
    consistency.main(["--films", str(cache), "--tuning", str(run), "--json", str(out)])
    found = json.loads(out.read_text())["corrections"]
    assert found["as it is"]["less_than_as_it_is_months"]["value"] == 0
    assert found["shift of each bone"]["less_than_as_it_is_months"]["high"] < 0
    assert found["prior of the hand"]["discord"] < found["as it is"]["discord"]


def test_the_threshold_of_topn_is_never_chosen_on_the_films_it_judges() -> None:
    tried = {0.3: np.array([0.0, 0.0, 1.0, 1.0]), 0.9: np.array([1.0, 1.0, 0.0, 0.0])}
    error, thresholds = weightings.across_folds(tried, np.array([0, 0, 1, 1]))
    assert thresholds == [0.9, 0.3]  # each fold gets the one that is best on the other
    assert error.tolist() == [1.0, 1.0, 1.0, 1.0]


def test_the_rules_are_compared_on_the_same_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weightings, "THRESHOLDS", (0.5, 0.9))
    monkeypatch.setattr(weightings, "STANDARDS", (RUS_CHN,))
    films, maturity = _films(10)
    for name in Films.__slots__:
        np.save(tmp_path / f"{name}.npy", getattr(films, name))
    (tmp_path / "tuning.json").write_text(json.dumps({"rows": [{"fold": index % 2} for index in range(10)]}))
    for fold in (0, 1):
        np.save(tmp_path / f"fold-{fold}.npy", _chances(maturity)[fold::2])
    places = {"films": tmp_path, "tuning": tmp_path, "json": tmp_path / "out.json"}
    weightings.main([word for name, path in places.items() for word in (f"--{name}", str(path))])
    found = json.loads((tmp_path / "out.json").read_text())["rules"]["RUS-CHN"]
    mae = {rule: own["value"] for rule, own in found["all"]["mae_years"].items()}
    assert [found[group]["mae_years"]["TopN"]["n"] for group in ("all", "F", "M")] == [10, 5, 5]
    assert set(found["topn_thresholds"]) <= {0.5, 0.9}
    assert found["all"]["difference_years"]["TopN - classic"]["value"] == pytest.approx(
        mae["TopN"] - mae["classic"], abs=2e-4
    )
    assert len({round(value, 4) for value in mae.values()}) > 1
