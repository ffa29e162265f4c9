"""The look of each set's readers: where its views lie, what it is told, what it learns, and what the measurement makes of it."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models import phantom, transforms, weights
from models.detection.anatomy import Template
from models.detection.conventions import CHANNEL, CHANNELS, LOOSE, Annotated
from models.detection.evaluate import set_errors
from models.detection.learning_readers_look import (
    Stated,
    bank,
    crossed,
    figures,
    fit,
    given,
    missed_by,
    strokes,
    wanted,
)
from models.detection.predict import Detector
from models.detection.readers_look import (
    ARCHITECTURE,
    CELL,
    CLOSE,
    PERCENT,
    PLACE,
    PLACES,
    SETS,
    SIDE,
    STROKE,
    STROKES,
    TOLD,
    Bank,
    Hand,
    ReadersLook,
    described,
    told,
    views,
)
from models.image import Image

BUNDLES = Path(models.__file__).parent / "bundles" / "detection"
TEMPLATE = Template.load()
MEAN_HAND = TEMPLATE.points[[CHANNEL[name] for name in PLACES]]
ONE_PERCENT = PERCENT * TEMPLATE.hand_length


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(BUNDLES / "handnet-sets")


@pytest.fixture
def look() -> ReadersLook:
    return ReadersLook(BUNDLES / "readers-look", BUNDLES / "handnet-sets")


@pytest.fixture(scope="module")
def film() -> Image:
    return phantom.draw(83_000_000, rows=400, columns=320).image


def always(look: ReadersLook, x: float, y: float) -> None:
    """Let it say the same of every point."""
    look.weight, look.bias = torch.zeros_like(look.weight), torch.tensor([[x, y]]).expand(len(PLACES), 2)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_point_goes_where_the_networks_say_in_the_frame_of_the_hand(
    detector: Detector, look: ReadersLook, film: Image, mirrored: bool
) -> None:
    always(look, 2.0, -1.0)
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
    metadata = weights.verify(BUNDLES / "readers-look", problem="detection", architectures=(ARCHITECTURE,))
    assert metadata.preprocessing["detector_sha256"] == weights.digest(BUNDLES / "handnet-sets")
    assert metadata.terms == weights.RSNA_TERMS
    assert metadata.split_sha256 == weights.Metadata.read(BUNDLES / "handnet-sets").split_sha256
    assert sum(path.stat().st_size for path in (BUNDLES / "readers-look").iterdir()) < 1.5 * 1024**2
    with pytest.raises(weights.WeightsRefused, match="sha256 of the detector"):
        ReadersLook(BUNDLES / "readers-look", BUNDLES / "handnet-closer")
    with pytest.raises(weights.WeightsRefused, match="architecture"):
        ReadersLook(BUNDLES / "handnet-sets", BUNDLES / "handnet-sets")


def test_the_measurement_holds_the_moved_point_against_the_readers(
    detector: Detector, look: ReadersLook, film: Image
) -> None:
    """A reader who sets every point where the look does is missed by nothing, and by the head as far as the look moved it."""
    always(look, 3.0, 4.0)
    found = detector.detect(film)
    points = np.full((len(CHANNELS), 2), np.nan, np.float32)
    meant = look.points(film, found)["epiphyses21"]
    for name, place in meant.items():
        points[CHANNEL[name]] = (np.array(place) + 0.5) / (film.columns, film.rows)
    record = Annotated(1, "epiphyses21", film.columns / film.rows, points, np.full((22, 2), np.nan, np.float32))
    errors = set_errors(TEMPLATE, record, film, found, meant)
    assert len(errors["own head, closer"]) == len(LOOSE)
    assert max(errors["own head, closer"]) < 0.01
    np.testing.assert_allclose(
        errors["own head"], 5.0, rtol=0.1
    )  # 3, 4, 5; the reader's hand is not quite the detector's
    assert "own head, closer" not in set_errors(TEMPLATE, record, film, found)


def test_what_a_view_shows_lies_where_the_hand_s_pose_says() -> None:
    """One bright spot beside the middle of a view is seen as far from it, in the frame of an upright left hand."""
    upright = torch.tensor([[[-190.0, 40.0, 180.0], [40.0, 190.0, 20.0]]])  # mirrored and turned
    middle, spot = torch.tensor([[0.5, 0.4]]), torch.tensor([0.53, 0.42])
    place = upright[0, :, :2] @ spot + upright[0, :, 2]
    grid = torch.stack(torch.meshgrid(torch.arange(220.0), torch.arange(260.0), indexing="xy"), dim=2)
    film = torch.exp(-(grid - place).square().sum(dim=2) / (2 * 2.5**2))[None, None]
    seen = views(film, upright, middle, CLOSE, TEMPLATE.hand_length)
    assert seen.shape == (1, 1, SIDE, SIDE)
    line = ((torch.arange(SIDE) + 0.5) / SIDE - 0.5) * CLOSE * TEMPLATE.hand_length
    share = seen[0, 0] / seen.sum()
    found = torch.stack([(share.sum(dim=0) * line).sum(), (share.sum(dim=1) * line).sum()])
    torch.testing.assert_close(found, spot - middle[0], atol=float(line[1] - line[0]) / 4, rtol=0)


def test_beyond_the_film_a_view_is_black() -> None:
    upright = torch.tensor([[[100.0, 0.0, 0.0], [0.0, 100.0, 0.0]]])
    seen = views(torch.ones(1, 1, 100, 100), upright, torch.zeros(1, 2), CLOSE, TEMPLATE.hand_length)[0, 0]
    assert seen[: SIDE // 2 - 1].max() == 0  # above the film's corner; the next row lies on the corner's own half pixel
    assert seen[SIDE // 2 + 1 :, SIDE // 2 + 1 :].min() > 0.999


def test_an_edge_is_told_by_its_direction_whatever_the_exposure() -> None:
    cells = (SIDE // CELL) ** 2
    step = (torch.arange(SIDE) >= SIDE // 2).float().expand(1, 1, SIDE, SIDE)  # brighter to the right
    right, left, down, up, _ = described(step)[0].view(5, cells)
    assert right.max() > 0.5
    assert max(left.max(), down.max(), up.max()) < 1e-5
    torch.testing.assert_close(described(step), described(0.2 + 0.5 * step))
    turned = described(step.mT)[0].view(5, cells)
    torch.testing.assert_close(turned[2].view(6, 6), right.view(6, 6).mT)


def bars() -> Bank:
    """Two strokes, a bright bar that stands and one that lies; what the others answer is nothing."""
    filters = torch.zeros(STROKES, 1, STROKE, STROKE)
    filters[0, 0, :, STROKE // 2] = filters[1, 0, STROKE // 2, :] = 1.0
    filters[:2] -= filters[:2].mean(dim=(2, 3), keepdim=True)
    return Bank(filters, torch.zeros(STROKES), torch.tensor(0.5))


def test_a_stroke_is_told_by_its_kind_and_its_place_whatever_the_exposure() -> None:
    across = SIDE // CELL
    seen = torch.zeros(1, 1, SIDE, SIDE)
    seen[0, 0, 8:12, 17] = 1.0  # a bright standing bar in the cell of row 2 and column 4
    bank = bars()
    told = bank(seen)[0].view(2, STROKES, across, across)
    bright, dark = told
    assert bright[0].argmax() == 2 * across + 4
    assert bright[0].max() > 2 * max(bright[1].max(), dark[1].max())
    assert float(told[:, 2:].abs().max()) == 0
    torch.testing.assert_close(bank(seen), bank(0.2 + 0.5 * seen))
    inverted = bank(1 - seen)[0].view(2, STROKES, across, across)
    torch.testing.assert_close(inverted, told.flip(0), atol=1e-5, rtol=1e-4)
    lying = bank(seen.mT)[0].view(2, STROKES, across, across)
    torch.testing.assert_close(lying[0, 1], bright[0].mT, atol=1e-5, rtol=1e-4)


def test_the_strokes_of_a_bank_are_those_that_the_patches_show() -> None:
    """Patches that are either of two patterns, brighter or inverted, fainter or stronger, give two strokes: one for each."""
    rng = torch.Generator().manual_seed(3)
    standing, lying = (bars().filters[k].flatten() for k in (0, 1))
    first = torch.rand(4000, 1, generator=rng) < 0.5
    strength = (1 + torch.rand(4000, 1, generator=rng)) * torch.randn(4000, 1, generator=rng).sign()
    patches = strength * torch.where(first, standing, lying) + 0.02 * torch.randn(4000, STROKE**2, generator=rng) + 0.5
    learned = strokes(patches, torch.Generator().manual_seed(0), count=2)
    answers = (learned.filters.flatten(1) @ torch.stack([standing, lying], dim=1)).abs()
    assert float(answers.max(dim=1).values.min()) > 5 * float(answers.min(dim=1).values.max())
    assert set(answers.argmax(dim=1).tolist()) == {0, 1}
    assert float(learned.filters.mean(dim=(1, 2, 3)).abs().max()) < 1e-5
    again = strokes(patches, torch.Generator().manual_seed(0), count=2)
    torch.testing.assert_close(learned.filters, again.filters, atol=0, rtol=0)


def test_a_mean_hand_has_nothing_to_tell_and_a_point_that_was_not_found_neither() -> None:
    places, seen = torch.from_numpy(MEAN_HAND).float()[None].clone(), torch.ones(1, len(PLACES), dtype=torch.bool)
    assert float(told(places, seen, TEMPLATE).abs().max()) < 1e-5
    places[0, 7] += torch.tensor([0.04, -0.02]) * TEMPLATE.hand_length
    said = told(places, seen, TEMPLATE).view(TOLD, 2)
    torch.testing.assert_close(said[7], torch.tensor([1.0, -0.5]))
    assert float(said.abs().sum()) == pytest.approx(1.5, abs=1e-3)
    seen[0, 7] = False
    assert float(told(places, seen, TEMPLATE).abs().max()) < 1e-5


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


def test_a_head_that_is_off_is_counted_by_the_distance_to_the_reader() -> None:
    found = stated(4, (3.0, -2.0))
    away = missed_by(found, torch.zeros(len(found.film), 2), TEMPLATE.hand_length)
    torch.testing.assert_close(away, torch.full_like(away, math.hypot(3, 2)), rtol=1e-3, atol=0)
    assert figures(found, away)["epiphyses21"]["value"] == 0
    right = missed_by(found, wanted(found, TEMPLATE.hand_length), TEMPLATE.hand_length)
    assert figures(found, right)["epiphyses21"]["value"] == 1
    lost = dataclasses.replace(found, missed=torch.tensor([0.0, 84.0, 0.0, 0.0]))
    assert figures(lost, right)["epiphyses21"]["value"] == 0.5  # 84 of 4 x 21 were found, as many were not


def test_a_ridge_regression_answers_as_its_formula_with_fewer_films_than_features() -> None:
    # One film at x = (3, 4) and one at (-3, -4), answers ±10; held within 5 of their (lower) median they are -5 and -10:
    # level -7.5, and w = x * 2 * 2.5 / (2 * 25 + ridge).
    seen, answers = torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), torch.tensor([[10.0, 0.0], [-10.0, 0.0]])
    [(weight, bias)] = fit(seen, answers, [50.0])
    torch.testing.assert_close(weight, torch.tensor([[3.0 * 5 / 100, 0.0], [4.0 * 5 / 100, 0.0]]))
    torch.testing.assert_close(bias, torch.tensor([-7.5, 0.0]))


def test_a_habit_that_can_be_seen_is_learned_from_the_other_folds_and_one_that_cannot_is_not() -> None:
    rng = torch.Generator().manual_seed(5)
    found = stated(20, (3.0, -2.0))
    # Half of the films show an edge below each point, and there the reader sets it elsewhere.
    shows = (torch.arange(20) % 4 < 2).float()
    films = 0.05 * torch.rand(20, 1, 100, 100, generator=rng) + 0.5
    row = round(100 * MEAN_HAND[PLACE["loose pp3"], 1]) + 5
    films[:, :, row:, :] += 0.4 * shows[:, None, None, None]
    target = found.target + ONE_PERCENT * 4 * shows[found.film][:, None]
    found = dataclasses.replace(found, films=films, target=target)
    middle = found.place == PLACE["loose pp3"]
    found = dataclasses.replace(
        found,
        **{name: getattr(found, name)[middle] for name in ("film", "place", "target", "measure", "origin", "fold")},
    )
    seen, answers = given(found, TEMPLATE, bank(found, TEMPLATE)), wanted(found, TEMPLATE.hand_length)
    away = missed_by(found, crossed(found, seen, answers, [1.0])[1.0], TEMPLATE.hand_length)
    assert float(away.max()) < 2.5
    blind = missed_by(found, crossed(found, torch.zeros_like(seen), answers, [1.0])[1.0], TEMPLATE.hand_length)
    assert float((blind > 2.5).float().mean()) > 0.4


def test_no_film_of_the_fold_it_is_judged_on_teaches() -> None:
    """Where one fold's readers alone have a habit, what is said of that fold knows nothing of it."""
    found = stated(4, (0.0, 0.0))
    habit = torch.where(found.fold == 0, 4.0, 0.0)
    found = dataclasses.replace(found, target=found.target + ONE_PERCENT * habit[:, None])
    answers = wanted(found, TEMPLATE.hand_length)
    said = crossed(found, torch.zeros(len(answers), 3), answers, [1.0])[1.0]
    torch.testing.assert_close(said[found.fold == 0], torch.zeros_like(said[found.fold == 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(said[found.fold == 1], torch.full_like(said[found.fold == 1], 4.0), atol=1e-3, rtol=0)


def test_every_place_belongs_to_one_set() -> None:
    names = [name for names in SETS.values() for name in names]
    assert sorted(names) == sorted(PLACES)
    assert len(PLACE) == len(PLACES)
