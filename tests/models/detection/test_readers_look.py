"""The look of each set's readers: where its views lie, what it is told, what it learns, and what the measurement makes of it."""

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models import phantom, transforms, weights
from models.detection import learning_readers_look
from models.detection.anatomy import Template
from models.detection.conventions import CHANNEL, CHANNELS, LOOSE, Annotated
from models.detection.evaluate import set_errors
from models.detection.learning import Sources
from models.detection.learning_readers_look import ReadersLookLearning, Stated
from models.detection.predict import Detector
from models.detection.readers_look import (
    CLOSE,
    PERCENT,
    PLACE,
    PLACES,
    SETS,
    SIDE,
    TOLD,
    UNIT,
    Hand,
    Manner,
    ReadersLook,
    others,
    views,
)
from models.image import Image
from models.runs import RunRefused

BUNDLES = Path(models.__file__).parent / "bundles" / "detection"
TEMPLATE = Template.load()
MEAN_HAND = TEMPLATE.points[[CHANNEL[name] for name in PLACES]]
ONE_PERCENT = PERCENT * TEMPLATE.hand_length
BENT = Manner(torch.tensor([0.3]), torch.tensor([0.2]), torch.tensor([[0.02, -0.01]]))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(BUNDLES / "handnet-sets")


@pytest.fixture
def look() -> ReadersLook:
    return ReadersLook(BUNDLES / "readers-look", BUNDLES / "handnet-sets")


@pytest.fixture(scope="module")
def film() -> Image:
    return phantom.draw(83_000_000, rows=400, columns=320).image


def always(x: float, y: float):  # type: ignore[no-untyped-def]
    """A network that says the same of every point."""
    return lambda close, wide, told, places: torch.tensor([[x, y]]).expand(len(close), 2)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_point_goes_where_the_networks_say_in_the_frame_of_the_hand(
    detector: Detector, look: ReadersLook, film: Image, mirrored: bool
) -> None:
    look.network = always(2.0, -1.0)  # type: ignore[assignment]
    image = dataclasses.replace(film, pixels=np.ascontiguousarray(film.pixels[:, ::-1])) if mirrored else film
    found = detector.detect(image)
    assert found.upright is not None
    assert found.points is not None
    # 2 % of the hand's length towards the thumb and 1 % towards the fingertips, on a left hand and on its mirror image.
    expected = found.upright[:, :2] @ np.array([2.0, -1.0]) * ONE_PERCENT
    moved = look.points(image, found)
    assert {name for names in moved.values() for name in names} == found.points.keys() & set(PLACES)
    for names in moved.values():
        for name, place in names.items():
            np.testing.assert_allclose(np.array(place) - found.points[name], expected, atol=1e-2)


def test_the_shipped_look_says_something_of_every_set_and_repeats_it(
    detector: Detector, look: ReadersLook, film: Image
) -> None:
    found = detector.detect(film)
    assert found.upright is not None
    assert found.points is not None
    scale = np.sqrt(abs(np.linalg.det(found.upright[:, :2]))) * ONE_PERCENT
    first, again = look.points(film, found), look.points(film, found)
    assert first == again
    for names in first.values():
        away = [float(np.hypot(*np.subtract(place, found.points[name]))) / scale for name, place in names.items()]
        assert 0.05 < np.median(away) < 2.5
        assert max(away) < 8


def test_the_shipped_look_is_for_the_shipped_detector_alone_and_carries_its_terms() -> None:
    metadata = weights.verify(BUNDLES / "readers-look", problem="detection", architectures=("readers-look",))
    assert metadata.preprocessing["detector_sha256"] == weights.digest(BUNDLES / "handnet-sets")
    assert metadata.terms == weights.RSNA_TERMS
    assert metadata.split_sha256 == weights.Metadata.read(BUNDLES / "handnet-sets").split_sha256
    assert sum(path.stat().st_size for path in (BUNDLES / "readers-look").iterdir()) < 4 * 1024**2
    with pytest.raises(weights.WeightsRefused, match="sha256 of the detector"):
        ReadersLook(BUNDLES / "readers-look", BUNDLES / "handnet-closer")
    with pytest.raises(weights.WeightsRefused, match="architecture"):
        ReadersLook(BUNDLES / "handnet-sets", BUNDLES / "handnet-sets")


def test_the_measurement_holds_the_moved_point_against_the_readers(
    detector: Detector, look: ReadersLook, film: Image
) -> None:
    """A reader who sets every point where the look does is missed by nothing, and by the head as far as the look moved it."""
    look.network = always(3.0, 4.0)  # type: ignore[assignment]
    found = detector.detect(film)
    points = np.full((len(CHANNELS), 2), np.nan, np.float32)
    for name, place in look.points(film, found)["epiphyses21"].items():
        points[CHANNEL[name]] = (np.array(place) + 0.5) / (film.columns, film.rows)
    record = Annotated(1, "epiphyses21", film.columns / film.rows, points, np.full((22, 2), np.nan, np.float32))
    errors = set_errors(detector, record, film, look)
    assert len(errors["own head, closer"]) == len(LOOSE)
    assert max(errors["own head, closer"]) < 0.01
    np.testing.assert_allclose(
        errors["own head"], 5.0, rtol=0.1
    )  # 3, 4, 5; the reader's hand is not quite the detector's
    assert "own head, closer" not in set_errors(detector, record, film)


def test_what_a_view_shows_lies_where_its_manner_says() -> None:
    """One bright spot beside the middle of a bent view is seen where the manner's own inverse puts it."""
    upright = torch.tensor([[[-190.0, 40.0, 180.0], [40.0, 190.0, 20.0]]])  # mirrored and turned
    middle, spot = torch.tensor([[0.5, 0.4]]), torch.tensor([0.53, 0.42])
    place = upright[0, :, :2] @ spot + upright[0, :, 2]
    grid = torch.stack(torch.meshgrid(torch.arange(220.0), torch.arange(260.0), indexing="xy"), dim=2)
    film = torch.exp(-(grid - place).square().sum(dim=2) / (2 * 2.5**2))[None, None]
    close, wide = views(film, upright, middle, BENT, TEMPLATE.hand_length)
    wanted = torch.linalg.inv(BENT.linear)[0] @ (spot - middle[0] - BENT.shift[0] * TEMPLATE.hand_length)
    line = ((torch.arange(SIDE) + 0.5) / SIDE - 0.5) * CLOSE * TEMPLATE.hand_length
    share = close[0, 0] / close.sum()
    seen = torch.stack([(share.sum(dim=0) * line).sum(), (share.sum(dim=1) * line).sum()])
    torch.testing.assert_close(seen, wanted, atol=float(line[1] - line[0]) / 4, rtol=0)
    assert wide.shape == (1, 1, SIDE, SIDE)


def test_beyond_the_film_a_view_is_black() -> None:
    upright = torch.tensor([[[100.0, 0.0, 0.0], [0.0, 100.0, 0.0]]])
    close, _ = views(torch.ones(1, 1, 100, 100), upright, torch.zeros(1, 2), Manner.plain(), TEMPLATE.hand_length)
    assert close[0, 0, : SIDE // 2 - 1].max() == 0  # all but the lowest row of the upper half lies above the film's corner
    assert close[0, 0, SIDE // 2 + 1 :, SIDE // 2 + 1 :].min() == 1


def test_a_mean_hand_has_nothing_to_tell_but_the_shift_of_the_view() -> None:
    places = torch.from_numpy(MEAN_HAND).float()[None]
    seen, chosen = torch.ones(1, len(PLACES), dtype=torch.bool), torch.tensor([3])
    template, length = places[0], TEMPLATE.hand_length
    assert float(others(places, seen, chosen, Manner.plain(), template, length).abs().max()) < 1e-5
    shifted = dataclasses.replace(Manner.plain(), shift=torch.tensor([[0.02, 0.0]]))
    told = others(places, seen, chosen, shifted, template, length).view(TOLD, 2)
    torch.testing.assert_close(told, torch.tensor([[-0.02 / UNIT, 0.0]]).expand(TOLD, 2), atol=1e-5, rtol=0)
    seen[0, 7] = False
    assert not others(places, seen, chosen, shifted, template, length).view(TOLD, 2)[7].any()


def test_a_sharp_film_is_thinned_to_the_pixels_learned_from_and_each_keeps_its_place() -> None:
    ramp = (1000 * np.arange(900)[:, None] + np.arange(700)[None, :]).astype(np.float32)
    upright = np.array([[700.0, 0.0, 10.0], [0.0, 700.0, 20.0]])
    hand = Hand(ramp, upright, MEAN_HAND, np.ones(len(PLACES), bool))
    thinned = hand.thinned(TEMPLATE)
    assert len(thinned) == 4
    assert len({float(each.pixels[0, 0]) for each in thinned}) == 4
    for each in thinned:
        assert TEMPLATE.hand_length * each.upright[0, 0] == pytest.approx(75, rel=0.1)
        column, row = transforms.apply(each.upright, np.array([0.3, 0.5]))
        value = transforms.sample(each.pixels, np.array([[1.0, 0, column], [0, 1.0, row]]), 1)[0, 0, 0]
        assert value == pytest.approx(1000 * 370 + 220, rel=1e-5)
    small = dataclasses.replace(hand, upright=upright / 7)
    assert small.thinned(TEMPLATE) == [small]


def stated(films: int, away: tuple[float, float]) -> Stated:
    """Mean hands on grey films, every point set by its reader `away` (in per cent) from the head's."""
    n = films * len(PLACES)
    origins = {name: number for number, names in enumerate(SETS.values()) for name in names}
    places = torch.from_numpy(MEAN_HAND).float()
    place = torch.arange(len(PLACES)).repeat(films)
    film = torch.arange(films).repeat_interleave(len(PLACES))
    return Stated(
        films=torch.full((films, 1, 100, 100), 0.5),
        uprights=torch.tensor([[100.0, 0.0, 0.0], [0.0, 100.0, 0.0]]).expand(films, 2, 3).contiguous(),
        places=places.expand(films, -1, -1).contiguous(),
        seen=torch.ones(films, len(PLACES), dtype=torch.bool),
        film=film,
        place=place,
        target=places[place] + ONE_PERCENT * torch.tensor(away),
        measure=(torch.eye(2) / ONE_PERCENT).expand(n, 2, 2).contiguous(),
        origin=torch.tensor([origins[PLACES[k]] for k in range(len(PLACES))]).repeat(films),
        fold=film % 2,
        missed=torch.zeros(len(SETS)),
    )


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ReadersLookLearning:
    monkeypatch.setattr(learning_readers_look, "FOLDS", 2)
    monkeypatch.setattr(learning_readers_look, "stated", lambda options, folds: stated(4, (3.0, -2.0)))
    options = argparse.Namespace(start=BUNDLES / "handnet-sets", data=tmp_path, batch=24, seed=3)
    torch.manual_seed(3)
    return ReadersLookLearning(options, Sources((), (), (), ()), torch.device("cpu"))


def test_an_untrained_look_leaves_the_head_s_figures(learning: ReadersLookLearning) -> None:
    metrics = learning.validate(learning.net)
    assert metrics["epiphyses21_within"] == 0  # sqrt(3² + 2²) = 3.6 % away
    assert metrics["handpose_median"] == pytest.approx(math.hypot(3, 2), rel=1e-3)
    learning.found = dataclasses.replace(
        learning.found, target=learning.found.places[learning.found.film, learning.found.place]
    )
    metrics = learning.validate(learning.net)
    assert metrics["epiphyses21_within"] == 1
    learning.found = dataclasses.replace(learning.found, missed=torch.tensor([0.0, 84.0, 0.0, 0.0]))
    assert learning.validate(learning.net)["epiphyses21_within"] == 0.5  # 84 of 4 x 21 were found, as many were not


def test_a_reader_s_habit_is_learned_from_the_other_fold(learning: ReadersLookLearning) -> None:
    optimizer = torch.optim.AdamW(learning.net.parameters(), lr=1e-2)
    for _ in range(40):
        learning.net.train()
        loss, _ = learning.loss()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    metrics = learning.validate(learning.net)
    assert min(metrics[f"{origin}_within"] for origin in SETS) > 0.9
    assert learning.error(metrics) < 0.1


def test_no_film_of_the_fold_it_is_judged_on_teaches_a_member(
    learning: ReadersLookLearning, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[set[int]] = []

    def kept(member: object, chosen: torch.Tensor) -> torch.Tensor:
        taught.append(set(learning.found.fold[chosen].tolist()))
        return torch.zeros(())

    monkeypatch.setattr(learning, "_loss", kept)
    learning.loss()
    assert taught == [{1}, {0}]


@pytest.mark.parametrize("missing", ["start", "data"])
def test_a_look_without_detector_or_films_is_refused(missing: str, tmp_path: Path) -> None:
    options = argparse.Namespace(**{"start": BUNDLES / "handnet-sets", "data": tmp_path, missing: None})
    with pytest.raises(RunRefused, match=f"--{missing}"):
        ReadersLookLearning(options, Sources((), (), (), ()), torch.device("cpu"))


def test_every_place_belongs_to_one_set() -> None:
    names = [name for names in SETS.values() for name in names]
    assert sorted(names) == sorted(PLACES)
    assert len(PLACE) == len(PLACES)
