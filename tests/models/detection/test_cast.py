"""The look for casts: what is laid over a view, what the network says, and what the verdict makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models import phantom
from models.detection import cast, casting, learning_cast, train
from models.detection.anatomy import Template
from models.detection.learning import Sources
from models.detection.predict import Detector
from models.phantom.cast import MATERIALS, Material
from models.regions import REGIONS
from models.runs import RunRefused

FOLDER = Path(models.__file__).parent / "bundles" / "detection" / "handnet-sets"
FIRST_SEED = 78_000_000


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(FOLDER)


def grey_hand() -> np.ndarray:
    """A view that is all film and of one grey level."""
    return np.stack([np.full((cast.SIDE, cast.SIDE), 0.3, np.float32), np.ones((cast.SIDE, cast.SIDE), np.float32)])


def test_a_cast_brightens_the_wrist_it_says_it_covers_and_leaves_the_fingertips() -> None:
    points = Template.load().points
    for seed in range(12):
        view, share = casting.lay(np.random.default_rng(seed), grey_hand(), points)
        assert view.shape == (2, cast.SIDE, cast.SIDE)
        assert 0 <= view.min() <= view.max() <= 1
        assert share[9, 5] > 0.5  # the carpus, at (0.49, 0.74) of the view
        assert share[:, 0].max() == 0
        covered = np.kron(share, np.ones((8, 8)))
        assert view[0][covered > 0.9].mean() > view[0][covered == 0].mean()


def test_a_region_lies_under_a_cast_by_its_cell_and_one_alone_or_none_at_the_wrist_is_not_believed() -> None:
    logits = torch.full((1, cast.CELLS, cast.CELLS), -9.0)
    net = lambda views: logits  # noqa: E731  # a network that says what the test wants
    places = np.full((len(REGIONS), 2), 0.5)  # all in the middle of the first cell
    places[REGIONS.index("radius")] = (5.5, 9.5)
    places[REGIONS.index("mc1")] = (6.5, 8.5)
    places[REGIONS.index("mc2")] = (2.5, 2.5)
    places /= cast.CELLS
    view = np.zeros((2, cast.SIDE, cast.SIDE), np.float32)

    def under(*cells: tuple[int, int]) -> set[str]:
        logits.fill_(-9.0)
        for row, column in cells:
            logits[0, row, column] = 9.0
        return set(cast.under(net, view, places))  # type: ignore[arg-type]

    assert under((9, 5), (8, 6)) == {"radius", "mc1"}
    assert under((9, 5)) == set()
    assert under((8, 6), (2, 2)) == set()


@pytest.mark.parametrize("material", MATERIALS)
def test_a_hand_in_a_cast_is_refused_and_the_covered_bones_are_named(detector: Detector, material: Material) -> None:
    drawn = phantom.draw(FIRST_SEED, age_years=9.0, rows=600, columns=480, cast=material, furnished=False)
    found = detector.detect(drawn.image)
    said = {reason.code: reason.text for reason in found.verdict.reasons}
    assert not found.verdict.accepted
    assert next(iter(said)) == "cast"  # what was seen comes before what is missing
    under = said["missing-regions"].split(";")[0]
    assert under.startswith("under a cast or splint: ")
    assert {"radius", "ulna", "carpus"} <= set(under.split(": ")[1].split(", "))
    assert "dp3" not in under
    assert "at most 3 may be missing, the radius not" in said["missing-regions"]


def test_the_same_hand_without_a_cast_is_read(detector: Detector) -> None:
    found = detector.detect(phantom.draw(FIRST_SEED, age_years=9.0, rows=600, columns=480, furnished=False).image)
    assert found.verdict.accepted
    assert len(found.regions) == len(REGIONS)


def test_a_view_is_looked_at_upright_whatever_the_turn_side_and_polarity(detector: Detector) -> None:
    plain = phantom.draw(FIRST_SEED + 1, laterality="L", rotation_degrees=0.0, furnished=False, collimated=False).image
    seen = learning_cast.upright(detector, plain)
    turned = phantom.draw(
        FIRST_SEED + 1, laterality="R", rotation_degrees=0.0, furnished=False, collimated=False, polarity="bone dark"
    ).image  # fmt: skip
    other = learning_cast.upright(detector, turned)
    assert seen is not None
    assert other is not None
    assert np.abs(seen[1] - other[1]).max() < 0.03
    assert np.corrcoef(seen[0][0].ravel(), other[0][0].ravel())[0, 1] > 0.9


def test_views_are_kept_for_the_detector_and_the_number_of_films_they_were_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    monkeypatch.setattr(learning_cast, "films", lambda options: range(options.phantoms))

    def upright(detector: Detector, number: int) -> tuple[np.ndarray, np.ndarray]:
        looked.append(number)
        return grey_hand(), detector.template.points

    monkeypatch.setattr(learning_cast, "upright", upright)

    def look(start: Path, films: int) -> int:
        words = [
            "--architecture",
            "cast",
            "--start",
            str(start),
            "--phantoms",
            str(films),
            "--out",
            str(tmp_path / "run"),
        ]
        options = train.parser().parse_args([*words, "--phantom-cache", str(tmp_path)])
        before = len(looked)
        learning_cast.CastLearning(options, Sources((), (), (), ()), torch.device("cpu"))
        return len(looked) - before

    assert [look(FOLDER, 4), look(FOLDER, 4)] == [4, 0]
    assert [look(FOLDER.with_name("handnet-phantoms"), 4), look(FOLDER, 5), look(FOLDER, 4)] == [4, 5, 0]


def test_a_detector_that_finds_no_hand_is_refused_as_the_start_of_a_look_for_casts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning_cast, "upright", lambda *_: None)
    words = ["--architecture", "cast", "--start", str(FOLDER), "--phantoms", "2", "--out", str(tmp_path / "run")]
    with pytest.raises(RunRefused, match="finds a hand on 0 of the films, and 2 are needed"):
        train.main(words)
