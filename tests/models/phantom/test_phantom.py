"""The phantom: its truth agrees with its pixels, and with the standard."""

from typing import Literal

import numpy as np
import pytest

from models.phantom import draw, draw_other, epiphysis, maturity, two_hands
from models.phantom.others import KINDS, Kind
from models.phantom.two_hands import ARRANGEMENTS, Arrangement
from models.regions import REGIONS, RUS, Laterality, Sex

SMALL = {"rows": 400, "columns": 320}


def test_the_same_seed_draws_the_same_film() -> None:
    first, second = draw(3, **SMALL), draw(3, **SMALL)
    assert np.array_equal(first.image.pixels, second.image.pixels)
    assert first.boxes == second.boxes
    assert first.maturity == second.maturity
    assert not np.array_equal(first.image.pixels, draw(4, **SMALL).image.pixels)


@pytest.mark.parametrize("sex", ["F", "M"])
@pytest.mark.parametrize("age", [1.5, 4.0, 7.0, 9.5, 11.0, 12.5, 14.0, 16.0])
def test_the_stages_give_the_bone_age_asked_for(age: float, sex: Sex) -> None:
    rng = np.random.default_rng(int(age * 10))
    reached = [maturity.draw(rng, age, sex).bone_age_years for _ in range(20)]
    # Stages are discrete: one step of one bone is worth at most about half a year below four years, less above.
    assert abs(float(np.median(reached)) - age) < 0.25
    assert max(abs(value - age) for value in reached) < 0.8


@pytest.mark.parametrize("seed", [19, 25, 31])
def test_bone_under_a_frame_is_not_in_its_mask(seed: int) -> None:
    film = draw(seed, collimated=False, polarity="bone bright", **SMALL)
    framed = np.ptp(film.image.pixels, axis=1) == 0
    assert framed[-1]
    assert film.masks["radius"].any()
    assert not film.masks["radius"][framed].any()


def test_bones_of_one_hand_differ_in_their_progress() -> None:
    grown = [maturity.draw(np.random.default_rng(seed), 12.0, "M") for seed in range(20)]
    assert len({g.stages["pp3"] for g in grown}) > 1
    assert len({g.maturity["mc3"] for g in grown}) == 20


def test_a_stage_is_the_whole_part_of_the_maturity() -> None:
    assert [maturity.stage_of("pp3", m) for m in (0.0, 0.99, 1.0, 4.2, 5.9, 12.0, 13.0)] == [
        "0",
        "0",
        "1",
        "4(0)",
        "4(2)",
        "8",
        "8",
    ]


@pytest.mark.parametrize("bone", maturity.BONES)
def test_every_stage_of_every_bone_can_be_drawn(bone: str) -> None:
    labels = maturity.levels(bone)
    grown = maturity.draw(np.random.default_rng(1), 11.0, "F").maturity
    for level, label in enumerate(labels):
        film = draw(
            1,
            maturities={**grown, bone: level + 0.5},
            sex="F",
            furnished=False,
            collimated=False,
            rows=500,
            columns=400,
        )
        if bone in RUS:
            assert film.stages[bone] == label
        assert (bone in film.epiphyses) == (level > 0)


@pytest.mark.parametrize("bone", maturity.BONES)
def test_width_follows_the_definition_of_the_stages(bone: str) -> None:
    # Stage 3 (D): at least half the metaphysis. Last stage before fusion: at least as wide as the shaft.
    at_three = epiphysis.shape(bone, 3.0)
    fusing = epiphysis.shape(
        bone, float(next(i for i, label in enumerate(maturity.levels(bone)) if label == _fusing(bone)))
    )
    assert at_three is not None
    assert 0.5 * (at_three.lateral + at_three.medial) >= 0.5
    just_before = epiphysis.shape(bone, 2.9)
    assert just_before is not None
    assert 0.5 * (just_before.lateral + just_before.medial) < 0.5
    assert fusing is not None
    assert min(fusing.lateral, fusing.medial) >= 1.0
    assert fusing.fused > 0
    assert epiphysis.shape(bone, 0.99) is None


def _fusing(bone: str) -> str:
    return "8(0)" if bone == "radius" else "7(0)"


@pytest.mark.parametrize("laterality", ["L", "R"])
@pytest.mark.parametrize("sex", ["F", "M"])
def test_boxes_hold_their_epiphyses_and_the_thumb_lies_on_its_side(laterality: Laterality, sex: Sex) -> None:
    for seed, rotation in enumerate((0.0, 35.0, -90.0)):
        film = draw(seed, age_years=11.0, sex=sex, laterality=laterality, rotation_degrees=rotation, **SMALL)
        assert tuple(film.boxes) == REGIONS
        assert (film.laterality, film.sex) == (laterality, sex)
        for name in film.epiphyses:
            x1, y1, x2, y2 = film.boxes[name]
            ys, xs = np.nonzero(film.epiphyses[name])
            assert xs.min() >= x1 - 1, name
            assert xs.max() <= x2 + 1, name
            assert ys.min() >= y1 - 1, name
            assert ys.max() <= y2 + 1, name
        if rotation == 0.0:
            thumb, little = film.boxes["pp1"][0], film.boxes["pp5"][0]
            assert (thumb > little) == (laterality == "L")
            assert abs(film.rotation_degrees) < 15
        else:
            assert abs(film.rotation_degrees - rotation) < 15


def test_masks_hold_radius_and_ulna_and_do_not_touch() -> None:
    for seed in range(4):
        film = draw(seed, **SMALL)
        radius, ulna = film.masks["radius"], film.masks["ulna"]
        assert radius.shape == ulna.shape == (400, 320)
        assert radius.sum() > ulna.sum() > 100
        assert (radius & ulna).sum() <= 0.02 * ulna.sum()


def test_bone_is_brighter_than_the_flesh_beside_it_unless_inverted() -> None:
    film = draw(5, low_contrast=False, furnished=False, **SMALL)
    bone = film.masks["mc3"]
    ring = np.roll(bone, 9, axis=1) & ~np.any([film.masks[name] for name in film.masks], axis=0)
    assert film.image.pixels[bone].mean() > film.image.pixels[ring].mean()
    inverted = draw(5, low_contrast=False, furnished=False, polarity="bone dark", **SMALL)
    assert np.allclose(inverted.image.pixels, 1 - film.image.pixels, atol=1e-6)
    assert inverted.polarity == "bone dark"


def test_text_stands_where_the_truth_says() -> None:
    film = draw(2, furnished=True, text="TEST", low_contrast=False, **SMALL)
    burned = [text for text in film.text_boxes if text.kind == "burned"]
    assert [text.text for text in burned] == ["TEST"]
    x1, y1, x2, y2 = (int(v) for v in burned[0].box)
    assert film.image.pixels[y1:y2, x1:x2].max() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_other_films_are_drawn_from_their_seed(kind: Kind) -> None:
    film = draw_other(kind, 1, rows=300, columns=260)
    assert film.pixels.shape == (300, 260)
    assert np.array_equal(film.pixels, draw_other(kind, 1, rows=300, columns=260).pixels)


def test_an_age_outside_childhood_is_refused_with_its_value() -> None:
    with pytest.raises(ValueError, match=r"age of 33 years"):
        draw(0, age_years=33)


def test_maturities_lie_inside_their_stages_not_on_a_border() -> None:
    for seed in range(60):
        grown = maturity.draw(np.random.default_rng(seed), 2.0 + seed / 4, "M")
        for bone in RUS:
            if 0.5 < grown.maturity[bone] < len(maturity.levels(bone)) - 0.01:
                assert abs(grown.maturity[bone] - round(grown.maturity[bone])) > 1e-6, (seed, bone)


def test_joints_lie_between_the_bones_they_join() -> None:
    film = draw(7, age_years=12.0, rotation_degrees=0.0, laterality="L", **SMALL)
    assert film.joints["mcp3"][1] > film.joints["pip3"][1] > film.joints["dip3"][1] > film.joints["tip3"][1]
    assert not film.masks["pp3"][round(film.joints["pip3"][1]), round(film.joints["pip3"][0])]


@pytest.mark.parametrize("material", ["plaster", "fibreglass"])
def test_a_cast_covers_the_wrist_and_leaves_fingers_and_truth_as_they_were(
    material: Literal["plaster", "fibreglass"],
) -> None:
    options = {"rows": 400, "columns": 320, "rotation_degrees": 0.0, "furnished": False, "collimated": False}
    bare, cast = draw(11, **options), draw(11, cast=material, **options)  # type: ignore[arg-type]
    assert (bare.boxes, bare.stages) == (cast.boxes, cast.stages)
    rank_bare, rank_cast = (
        np.argsort(np.argsort(film.image.pixels.ravel())).reshape(400, 320) for film in (bare, cast)
    )

    def mean(ranks: np.ndarray, name: str) -> float:
        x1, y1, x2, y2 = (round(v) for v in bare.boxes[name])
        return float(ranks[y1:y2, x1:x2].mean())

    # Grey levels are stretched anew over the film with its cast: compare ranks.
    assert mean(rank_cast, "carpus") > mean(rank_bare, "carpus")
    assert mean(rank_cast, "dp3") < mean(rank_cast, "carpus")


def test_the_axes_of_a_phantom_point_from_the_growth_plate_to_the_joint() -> None:
    drawn = draw(12, rows=400, columns=320, rotation_degrees=0.0)
    assert set(drawn.axes) == set(REGIONS) - {"carpus"}
    assert drawn.axes["pp3"][1] > 0  # the knuckle lies below the plate of the proximal phalanx
    assert drawn.axes["mc3"][1] < 0  # and above that of its metacarpal
    assert drawn.axes["radius"][1] < 0


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_two_hands_are_drawn_in_every_arrangement_from_their_seed(arrangement: Arrangement) -> None:
    film = two_hands(arrangement, 3, rows=150, columns=120).pixels
    assert film.size > 1.4 * 150 * 120  # more than one plate
    assert 0 <= film.min() < film.max() <= 1
    assert np.array_equal(film, two_hands(arrangement, 3, rows=150, columns=120).pixels)


def test_an_unknown_arrangement_of_two_hands_is_refused() -> None:
    with pytest.raises(ValueError, match=r"crossed.*beside, above"):
        two_hands("crossed", 1)  # type: ignore[arg-type]
