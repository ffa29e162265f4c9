"""Text in the pixels: phantoms with writing beside and over the hand, read by the same recogniser before and after."""

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.ndimage import median_filter

from models.phantom import draw
from service.deidentification.burned_in import hand, leftovers, lines, networks, strokes, surround, weights
from service.deidentification.burned_in import ink as inking
from service.deidentification.burned_in.cleaning import clean, clean_instance
from service.deidentification.burned_in.recogniser import Line, Recogniser, Text, shared
from service.deidentification.burned_in.words import Words
from service.deidentification.deidentify import deidentify, for_inference
from service.deidentification.native_pixels import copy_pixels
from service.errors import InvalidInstance
from service.trust.pseudonyms import Pseudonyms
from service.wrap import Patient
from tests.factories import instance
from tests.service.seeded import from_bytes, to_bytes
from tests.writing import ink, write

PSEUDONYMS = Pseudonyms(b"k" * 32)
PATIENT = Patient("Ouyang^Xiaoming=欧阳^小明", "00482913", "M")
ROWS, COLUMNS = 1000, 800


@pytest.fixture(scope="module")
def hand_film() -> NDArray[np.uint16]:
    """Return a phantom without any furniture, 12 bit, bone bright."""
    phantom = draw(11, age_years=9.0, rows=ROWS, columns=COLUMNS, furnished=False, collimated=False,
                   rotation_degrees=0.0, zoom=0.8, photometric_interpretation="MONOCHROME2")  # fmt: skip
    levels: NDArray[np.uint16] = np.rint(phantom.image.pixels * 4095).astype(np.uint16)
    return levels


@pytest.fixture(scope="module")
def mask(hand_film: NDArray[np.uint16]) -> NDArray[np.bool_]:
    found = hand.find((hand_film >> 4).astype(np.uint8))
    assert found is not None
    scale = (np.arange(ROWS) * found.mask.shape[0] // ROWS, np.arange(COLUMNS) * found.mask.shape[1] // COLUMNS)
    whole: NDArray[np.bool_] = found.mask[np.ix_(*scale)]
    return whole


def over_the_hand(mask: NDArray[np.bool_], written: NDArray[np.float32]) -> tuple[int, int]:
    """Return the place over the hand where most of a line lies on it."""
    rows, columns = written.shape
    places = [(y, x) for y in range(0, ROWS - rows, 16) for x in range(0, COLUMNS - columns, 16)]
    y, x = max(places, key=lambda place: mask[place[0] : place[0] + rows, place[1] : place[1] + columns].mean())
    return x, y


def readings(film: NDArray[Any], box: tuple[int, int, int, int]) -> list[str]:
    x1, y1, x2, y2 = box
    grey = np.clip(film[max(y1 - 8, 0) : y2 + 8, max(x1 - 8, 0) : x2 + 8] / 16, 0, 255).astype(np.uint8)
    return [text.text for text in shared().read(grey) if text.confidence > 0.5]


@pytest.mark.parametrize(
    ("text", "size", "turns", "mirrored", "level"),
    [
        ("OUYANG XIAOMING", 22, 0, False, 4095),
        ("00482913", 40, 1, False, 2900),
        ("欧阳小明", 26, 2, False, 4095),
        ("Ouyang Xiaoming", 30, 3, True, 4095),
    ],
)
def test_writing_over_the_hand_cannot_be_read_afterwards(
    hand_film: NDArray[np.uint16], mask: NDArray[np.bool_], text: str, size: int, turns: int, mirrored: bool, level: int
) -> None:
    film = hand_film.copy()
    written = ink(text, size, turns=turns, mirrored=mirrored)
    box = write(film, written, *over_the_hand(mask, written), level)
    words = Words.of(from_bytes(to_bytes(instance(patient=PATIENT))))
    assert any(words.found_in(seen) for seen in readings(film, box)), "the writing cannot be read to begin with"
    cleaned, report = clean(film, words, shared())
    assert not any(words.found_in(seen) for seen in readings(cleaned, box))
    assert (report.identifying, report.remaining) == (1, 0)
    assert report.lines <= 2


def test_a_film_without_writing_keeps_every_sample_of_the_hand(
    hand_film: NDArray[np.uint16], mask: NDArray[np.bool_]
) -> None:
    cleaned, report = clean(hand_film, Words(frozenset()), shared())
    assert report.lines == 0
    assert np.array_equal(cleaned[mask], hand_film[mask])
    assert cleaned.dtype == hand_film.dtype


def test_only_the_strokes_are_filled_and_what_lies_between_them_stays(
    hand_film: NDArray[np.uint16], mask: NDArray[np.bool_]
) -> None:
    film = hand_film.copy()
    written = ink("SMITH^JOHN", 40)
    x1, y1, x2, y2 = box = write(film, written, *over_the_hand(mask, written), 4095)
    cleaned, report = clean(film, Words(frozenset()), shared())
    assert (report.lines, report.remaining) == (1, 0)
    assert not any("SMI" in text or "JOH" in text for text in readings(cleaned, box))
    kept = (cleaned == film)[y1:y2, x1:x2]
    assert 0.15 < kept.mean() < 0.7
    assert not kept[written > 0.3].any(), "a pixel of a letter was left"
    before, after = (np.abs(other.astype(float) - hand_film)[y1:y2, x1:x2].mean() for other in (film, cleaned))
    assert after < before / 3, "what was under the letters is not like what was there"


def test_a_line_of_which_some_signs_were_seen_is_followed_to_its_end(
    hand_film: NDArray[np.uint16], mask: NDArray[np.bool_]
) -> None:
    film = hand_film.copy()
    written = ink("20160504", 36)
    x1, y1, x2, y2 = write(film, written, *over_the_hand(mask, written), 4095)
    seen = (x1 - 2, y1 - 2, x1 + 92, y2 + 2)
    found = inking.of(film, seen, 4095.0)
    assert found is not None
    strokes_of_it, place, whole = inking.strokes(film, seen, found, 4095.0)
    on_the_film = np.zeros(film.shape, np.bool_)
    on_the_film[place] = strokes_of_it
    assert on_the_film[y1:y2, x1:x2][written > 0.5].all()
    assert (abs(whole[0] - x1) < 8, abs(whole[2] - x2) < 8) == (True, True)


def test_what_has_the_level_of_its_ground_all_around_is_not_followed() -> None:
    film = np.random.default_rng(0).choice(np.array([100, 130], np.uint16), (600, 500), p=[0.7, 0.3])
    box = (240, 280, 270, 320)
    filled, _, whole = inking.strokes(film, box, inking.Ink(1, 130.0, 30.0, 3.0, 9), 255.0)
    x1, y1, x2, y2 = whole
    assert max(x2 - x1, y2 - y1) < 100, "followed for eight times its height, as a line is"
    assert filled.sum() < 5 * 30 * 40


def signs_upright(levels: NDArray[np.uint16]) -> list[tuple[int, int]]:
    """Write nine squares of two pixels' stroke and level 130, one below the other; return the corner (x, y) of each."""
    corners = [(240, y) for y in range(190, 406, 24)]
    for x, y in corners:
        levels[y : y + 16, x : x + 16] = 130
        levels[y + 2 : y + 14, x + 2 : x + 14] = 100
    return corners


def test_a_line_between_bones_of_its_own_level_is_followed_along_itself() -> None:
    rng = np.random.default_rng(0)
    film = np.full((600, 500), 100, np.uint16)
    speckle = rng.choice(np.array([100, 130], np.uint16), film.shape, p=[0.7, 0.3])
    film[:, 180:230], film[:, 266:320] = speckle[:, 180:230], speckle[:, 266:320]
    corners = signs_upright(film)
    x, y = corners[4]
    filled, (rows, columns), (left, top, right, bottom) = inking.strokes(
        film, (x - 1, y - 1, x + 17, y + 17), inking.Ink(1, 130.0, 30.0, 3.0, 9), 255.0
    )
    assert (top <= corners[1][1], bottom >= corners[-2][1] + 16) == (True, True)
    assert right - left < 40, "bone beside the line was taken for it"
    inside = filled[corners[1][1] - rows.start : corners[-2][1] + 16 - rows.start, x - columns.start :][:, :16]
    assert inside[film[corners[1][1] : corners[-2][1] + 16, x : x + 16] == 130].all()


def test_a_line_is_followed_over_bone_where_it_stands_out_by_less() -> None:
    film = np.full((600, 500), 20, np.uint16)
    film[300:] = 105  # bone, brighter than the ground on which the line was seen
    corners = signs_upright(film)
    for x, y in corners:
        film[y + 2 : y + 14, x + 2 : x + 14] = 20 if y < 300 else 105
    seen = (239, corners[0][1] - 1, 257, corners[3][1] + 17)
    found = inking.of(film, seen, 255.0)
    assert found is not None
    assert found.contrast > 100
    _, _, whole = inking.strokes(film, seen, found, 255.0)
    assert whole[3] >= corners[-1][1] + 16


def test_joints_are_no_ink_and_letters_are(hand_film: NDArray[np.uint16], mask: NDArray[np.bool_]) -> None:
    rows, columns = np.nonzero(mask)
    places = [
        (x, y, x + 90, y + 90)
        for y in range(rows.min(), rows.max() - 90, 60)
        for x in range(columns.min(), columns.max() - 90, 60)
    ]
    assert not [place for place in places if (found := inking.of(hand_film, place, 4095.0)) and found.sign == 1]
    for text, size, level in (("王芳", 14, 2900), ("JOHN", 60, 4095), ("1998-03-12", 20, 3300)):
        film = hand_film.copy()
        written = ink(text, size)
        x1, y1, x2, y2 = write(film, written, *over_the_hand(mask, written), level)
        assert inking.of(film, (x1 - 3, y1 - 3, x2 + 3, y2 + 3), 4095.0) is not None, text


def test_white_writing_beyond_the_brightest_bone_is_seen(
    hand_film: NDArray[np.uint16], mask: NDArray[np.bool_]
) -> None:
    film = np.minimum(hand_film, 2600)
    written = ink("王芳", 24)
    box = write(film, written, *over_the_hand(mask, written), 4095)
    cleaned, _ = clean(film, Words(frozenset()), shared())
    assert not any("王" in text or "芳" in text for text in readings(cleaned, box))
    assert not (cleaned > 2900)[mask].any()


@pytest.mark.parametrize("shadow", [0, 3900])
def test_no_bone_is_blanked_where_the_collimator_is_seen(shadow: int) -> None:
    phantom = draw(7, age_years=11.0, rows=900, columns=720, furnished=False, collimated=False, rotation_degrees=0.0,
                   zoom=0.62, photometric_interpretation="MONOCHROME2")  # fmt: skip
    film = np.rint(600 + phantom.image.pixels * 3000).astype(np.uint16)
    bones = np.any(np.stack(list(phantom.masks.values())), axis=0)
    ys, xs = np.nonzero(bones)
    inside = np.zeros(film.shape, np.bool_)
    inside[max(ys.min() - 40, 60) :, max(xs.min() - 50, 60) : min(xs.max() + 50, 660)] = True
    film[~inside] = shadow
    outline = hand.find((film >> 4).astype(np.uint8))
    assert outline is not None
    _, blanked = surround.blanked(film, outline)
    assert (blanked & bones & inside).sum() < 0.002 * bones.sum()
    assert blanked.mean() > 0.3


@pytest.mark.parametrize(
    "seed",
    [57283, 57362, 57065, 50263, 70261],
    ids=[
        "wide bright penumbra",
        "bright forearm, dim fingers",
        "straight side of the hand",
        "leaning finger cut off",
        "finger, wrist and forearm in one line",
    ],
)
def test_no_finger_is_taken_for_background(seed: int) -> None:
    rng = np.random.default_rng([seed - 50_000, 1])
    rows = int(rng.integers(1000, 1500))
    film = draw(
        seed,
        rows=rows,
        columns=int(rows * rng.uniform(0.75, 0.9)),
        furnished=False,
        photometric_interpretation="MONOCHROME2",
    )
    levels = np.rint(film.image.pixels * 255).astype(np.uint8)
    outline = hand.find(levels)
    assert outline is not None
    _, blank = surround.blanked(levels, outline)
    assert blank.mean() > 0.1
    assert not any((mask & blank).any() for mask in film.masks.values())


def test_writing_beside_the_hand_is_blanked_to_the_level_of_the_background(hand_film: NDArray[np.uint16]) -> None:
    film = hand_film.copy()
    x1, y1, x2, y2 = write(film, ink("OUYANG 20160504", 24), 20, 20, 4095)
    outline = hand.find((film >> 4).astype(np.uint8))
    assert outline is not None
    blank, where = surround.blanked(film, outline)
    assert where[y1:y2, x1:x2].all()
    around = float(np.median(hand_film[y1:y2, x1:x2]))
    assert abs(float(np.median(blank[y1:y2, x1:x2])) - around) < 60
    # The square that keeps the brightest level, the fill around it, and nothing in between: no letter.
    levels = blank[y1:y2, x1:x2]
    assert not ((levels > around + 200) & (levels < 3900)).any()


def test_the_surround_is_filled_with_the_plain_median_and_squares_are_counted_to_the_last_pixel() -> None:
    levels = np.random.default_rng(0).normal(2000, 300, (129, 102)).astype(np.float32)
    assert np.array_equal(surround._median(levels), median_filter(levels, size=9, mode="nearest"))
    full = np.ones((300, 310), np.bool_)
    assert surround._sum(full, 290)[:11, :22].tolist() == [
        [min(290, 300 - y) * min(290, 310 - x) for x in range(22)] for y in range(11)
    ]


def test_the_brightest_thousandth_keeps_its_level_when_a_lead_marker_goes(hand_film: NDArray[np.uint16]) -> None:
    film = np.minimum(hand_film, 3000)
    write(film, ink("L", 110), 30, 60, 4095)
    outline = hand.find((film >> 4).astype(np.uint8))
    assert outline is not None
    blank, _ = surround.blanked(film, outline)
    before, after = (float(np.percentile(levels, 99.9)) for levels in (film, blank))
    assert before > 3500
    assert after == pytest.approx(before, rel=0.02)


def test_writing_that_went_does_not_decide_the_scale_of_the_film(hand_film: NDArray[np.uint16]) -> None:
    film = np.minimum(hand_film, 2600)
    for y in (20, 80, 140):
        write(film, ink("1998-03-12", 56), 10, y, 4095)
    outline = hand.find((film >> 4).astype(np.uint8))
    assert outline is not None
    blank, where = surround.blanked(film, outline)
    assert np.percentile(film, 99.9) > 3500
    assert (film[where] == 4095).sum() > 200
    assert blank[where].max() < 3000, "a square as bright as the writing was put where it stood"


def test_small_writing_on_a_dim_film_is_ink(hand_film: NDArray[np.uint16], mask: NDArray[np.bool_]) -> None:
    film = (hand_film // 64 + 12).astype(np.uint8)  # 12 to 75 of 256 levels
    written = ink("陈杰 12岁", 15, turns=2)
    box = write(film, written, *over_the_hand(mask, written), 255)
    reach = float(np.percentile(film, 99.9) - np.percentile(film, 0.5))
    assert reach < 70
    assert inking.of(film, box, reach) is not None
    cleaned, report = clean(film, Words(frozenset()), shared())
    assert (report.lines, report.remaining) == (1, 0)
    assert not (cleaned > 100).any()


@pytest.mark.parametrize(
    ("text", "confidence", "written"),
    [("张信", 0.74, True), ("张信", 0.5, False), ("米", 0.75, False), ("口日", 0.9, False), ("10", 0.9, False)],
)
def test_two_ideographs_are_writing_though_they_are_no_ink(text: str, confidence: float, written: bool) -> None:
    class Known(Recogniser):
        def read(self, picture: NDArray[np.uint8], *, mirrors: bool = True) -> Iterator[Text]:
            yield Text("米", 0.8, 2, mirrored=False)  # surer, and what a bone may look like
            yield Text(text, confidence, 3, mirrored=False)

    levels = np.zeros((100, 100), np.uint8)
    view = lines.View(levels, 255.0, levels, levels, np.ones(levels.shape, np.bool_))
    found = lines.find(view, [Line((20, 20, 46, 72), 0.53)], Words(frozenset()), Known())
    assert (found.lines == 1) is written


@pytest.mark.parametrize(
    ("before", "after", "confidence", "heard"),
    [
        ("OUYANG XIAOMING", "xMI1", 0.4, True),
        ("OUYANG XIAOMING", "xMI1", 0.2, False),
        ("OUYANG XIAOMING", "IM", 0.9, False),
        ("张伟", "张", 0.4, True),
        ("张伟", "ZW", 0.9, False),
    ],
)
def test_two_signs_in_order_or_an_ideograph_are_an_echo(
    before: str, after: str, confidence: float, heard: bool
) -> None:
    again = Text(after, confidence, 2, mirrored=True)
    assert leftovers.echo(Text(before, 0.99, 0, mirrored=False), again) is heard


def test_dark_writing_on_bright_bone_is_ink() -> None:
    ys, xs = np.mgrid[:120, :320]
    film = 205 + 25 * np.sin(xs / 40) + 15 * np.cos(ys / 30) + np.random.default_rng(3).normal(0, 3, ys.shape)
    levels = film.astype(np.uint8)
    box = write(levels, ink("WILSON", 59), 30, 30, 149)
    found = inking.of(levels, box, 246.0)
    assert found is not None
    assert found.sign == -1


@pytest.mark.parametrize(("height", "lines_found"), [(70, 1), (104, 0)])
def test_a_bone_higher_than_any_writing_is_no_line(height: int, lines_found: int) -> None:
    class Bone(Recogniser):
        def read(self, picture: NDArray[np.uint8], *, mirrors: bool = True) -> Iterator[Text]:
            yield Text("10", 0.9, 0, mirrored=False)

    levels = np.zeros((200, 400), np.uint8)
    view = lines.View(levels, 255.0, levels, levels, np.ones(levels.shape, np.bool_))
    found = lines.find(view, [Line((20, 20, 20 + 3 * height, 20 + height), 0.77)], Words(frozenset()), Bone())
    assert found.lines == lines_found


def test_a_bone_that_reaches_over_a_filled_line_is_not_what_is_left_of_it() -> None:
    class Bone(Recogniser):
        def find(self, picture: NDArray[np.uint8], *, scale: float = 1.0) -> list[Line]:
            return [Line((10, 0, 170, 100), 0.7)]

        def read(self, picture: NDArray[np.uint8], *, mirrors: bool = True) -> Iterator[Text]:
            yield Text("200", 0.85, 2, mirrored=True)

    grey = np.full((300, 400), 90, np.uint8)
    assert leftovers.left(grey, [(60, 120, 300, 180)], Words(frozenset()), Bone(), look=1) == ([], 0)


def test_an_echo_in_another_position_is_filled_whole() -> None:
    class Hears(Recogniser):
        def read(self, picture: NDArray[np.uint8], *, mirrors: bool = True) -> Iterator[Text]:
            yield Text("", 0.0, 0, mirrored=False)
            yield Text("AN", 0.4, 2, mirrored=True)

    box = (20, 20, 80, 40)
    grey = np.zeros((100, 100), np.uint8)
    assert leftovers.echoes(grey, [(box, Text("ZHANG WEI", 0.99, 0, mirrored=False))], Hears()) == [box]
    assert leftovers.echoes(grey, [(box, Text("SMITH", 0.99, 0, mirrored=False))], Hears()) == []


def test_a_side_marker_becomes_a_finding(hand_film: NDArray[np.uint16]) -> None:
    film = hand_film.copy()
    write(film, ink("R", 80), 30, 60, 4095)
    _, report = clean(film, Words(frozenset()), shared())
    assert report.markers == ("R",)
    assert "side marker R" in str(report)


@pytest.mark.parametrize(("interpretation", "bits"), [("MONOCHROME1", 12), ("MONOCHROME2", 8)])
def test_an_instance_is_cleaned_whatever_its_grey_scale(
    hand_film: NDArray[np.uint16], mask: NDArray[np.bool_], interpretation: str, bits: int
) -> None:
    film = hand_film.copy()
    written = ink("OUYANG XIAOMING", 28)
    x1, y1, x2, y2 = write(film, written, *over_the_hand(mask, written), 4095)
    stored = (film >> (12 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    shown = stored if interpretation == "MONOCHROME2" else 2**bits - 1 - stored
    source = instance(
        picture=shown.astype(stored.dtype), patient=PATIENT, bits_stored=bits, photometric_interpretation=interpretation
    )
    source = from_bytes(to_bytes(source))
    copy, actions = deidentify(source, PSEUDONYMS, clean=clean_instance)
    pixels = from_bytes(to_bytes(copy)).pixel_array
    if interpretation == "MONOCHROME1":
        pixels = 2**bits - 1 - pixels
    words = Words.of(source)
    seen = readings((pixels.astype(np.uint16) << (12 - bits)), (x1, y1, x2, y2))
    assert not any(words.found_in(text) for text in seen)
    assert copy.BurnedInAnnotation == "NO"
    assert copy.DeidentificationMethodCodeSequence[-1].CodeValue == "113101"
    assert [action.path for action in actions].count("PixelData") == 1


class Stubborn(Recogniser):
    """Sees a line of text in the middle of whatever it is shown, however often it was filled."""

    def find(self, picture: NDArray[np.uint8], *, scale: float = 1.0) -> list[Line]:
        rows, columns = picture.shape
        return [Line((columns // 3, rows // 3, columns // 3 + 40, rows // 3 + 20), 0.9)]

    def read(self, picture: NDArray[np.uint8], *, mirrors: bool = True) -> Any:
        yield Text("OUYANG", 0.99, 0, False)


def test_what_can_still_be_read_refuses_the_export_and_is_flagged_for_inference() -> None:
    source = from_bytes(to_bytes(instance(patient=PATIENT)))
    with pytest.raises(InvalidInstance, match="remain in the pixels") as refused:
        deidentify(source, PSEUDONYMS, clean=lambda copy, header: clean_instance(copy, header, Stubborn()))
    assert refused.value.code == "burned-in-text"
    copy = for_inference(source, PSEUDONYMS)
    report = clean_instance(copy, source, Stubborn())
    assert report is not None
    assert report.remaining > 0
    assert copy.BurnedInAnnotation == "YES"


def test_colour_is_cleaned_in_every_plane_and_palettes_are_refused(hand_film: NDArray[np.uint16]) -> None:
    grey = (hand_film >> 4).astype(np.uint8)
    colour = np.stack([grey] * 3, axis=-1)
    written = ink("OUYANG XIAOMING", 30)
    colour[20 : 20 + written.shape[0], 20 : 20 + written.shape[1], 0] = 255 * written
    source = instance(kind="SC", picture=grey, bits_stored=8, patient=PATIENT)
    source.SamplesPerPixel, source.PhotometricInterpretation, source.PlanarConfiguration = 3, "RGB", 0
    source.PixelData = colour.tobytes()
    copy = Dataset()
    copy_pixels(from_bytes(to_bytes(source)), copy)
    report = clean_instance(copy, source)
    assert report is not None
    after = np.frombuffer(copy.PixelData, np.uint8).reshape(colour.shape)
    seen = after[10 : 40 + written.shape[0], 10 : 40 + written.shape[1], 0].astype(np.uint16) << 4
    assert not any(Words.of(source).found_in(text) for text in readings(seen, (0, 0, seen.shape[1], seen.shape[0])))
    copy.PhotometricInterpretation = "PALETTE COLOR"
    with pytest.raises(InvalidInstance, match="PALETTE COLOR"):
        clean_instance(copy, source)
    copy.BitsAllocated = 1
    assert clean_instance(copy, source) is None


@pytest.mark.parametrize("turned", [False, True])
def test_the_hand_is_found_bright_and_dark(hand_film: NDArray[np.uint16], turned: bool) -> None:
    grey = (hand_film >> 4).astype(np.uint8)
    found = hand.find(255 - grey if turned else grey)
    assert found is not None
    assert found.bone_dark == turned
    assert 0.1 < found.mask.mean() < 0.6


@pytest.mark.parametrize(
    ("bright", "dark", "searches", "bone_dark"),
    [(0.7, 1.0, 1, False), (0.69, 1.0, 2, True), (0.69, 0.9, 2, False), (None, 0.1, 2, True)],
)
def test_bone_is_looked_for_dark_where_that_could_be_the_likelier(
    monkeypatch: pytest.MonkeyPatch, bright: float | None, dark: float, searches: int, bone_dark: bool
) -> None:
    """It is from 0.7 of its score on, and no score is above 1."""
    mask = np.ones((256, 205), np.bool_)
    left = [None if score is None else hand._Candidate(mask, ~mask, score) for score in (bright, dark)]
    monkeypatch.setattr(hand, "_in_field", lambda _: left.pop(0))
    found = hand.find(np.zeros((1000, 800), np.uint8))
    assert found is not None
    assert (2 - len(left), found.bone_dark) == (searches, bone_dark)


def test_a_film_without_a_hand_is_searched_whole_and_blanked_nowhere() -> None:
    rng = np.random.default_rng(0)
    film = np.rint(1000 + 20 * rng.standard_normal((600, 500))).astype(np.uint16)
    box = write(film, ink("OUYANG XIAOMING", 24), 100, 200, 2000)
    assert hand.find(np.clip(film / 8, 0, 255).astype(np.uint8)) is None
    cleaned, report = clean(film, Words.of(instance(patient=PATIENT)), shared())
    assert (report.blanked, report.identifying) == (0.0, 1)
    assert str(report).startswith("no hand outlined")
    x1, y1, x2, y2 = box
    assert cleaned[y1:y2, x1:x2].max() < 1200


def test_only_places_dense_with_strokes_are_looked_at_closely() -> None:
    film = np.full((2000, 1600), 90, np.uint8)
    everywhere = np.ones(film.shape, np.bool_)
    assert strokes.patches(film, everywhere) == []
    a, b, c, d = write(film, ink("20160504", 14), 140, 150, 200)
    ((x1, y1, x2, y2),) = strokes.patches(film, everywhere)
    assert x1 < a < c < x2
    assert y1 < b < d < y2
    assert strokes.area((x1, y1, x2, y2)) < 10 * strokes.area((a, b, c, d))


def test_a_film_dense_with_strokes_all_over_is_covered_by_tiles() -> None:
    film = np.full((1500, 730), 60, np.uint8)
    film[:, ::12] = film[:, 1::12] = 200
    seen = np.zeros(film.shape, np.int64)
    for x1, y1, x2, y2 in strokes.patches(film, np.ones(film.shape, np.bool_)):
        assert max(x2 - x1, y2 - y1) <= strokes.TILE + 1
        seen[y1:y2, x1:x2] += 1
    assert seen.min() >= 1


def test_noise_is_not_taken_for_strokes() -> None:
    film = np.clip(np.random.default_rng(0).normal(120, 5, (1500, 730)), 0, 255).astype(np.uint8)
    assert strokes.patches(film, np.ones(film.shape, np.bool_)) == []


def test_words_of_a_header_in_characters_pinyin_and_every_form_of_a_date() -> None:
    header = instance(patient=dataclasses.replace(PATIENT, PatientName="曾^小红"))
    header.PatientBirthDate = "20160504"
    words = Words.of(from_bytes(to_bytes(header)))
    written = ["曾小红", "ZENG XIAOHONG", "Xiaohong Zeng", "zēng xiǎo hóng", "xiaohong", "ID: 00482913", "OO4829I3",
               "2016-05-04", "04/05/2016", "2016年5月4日", "4 May 2016".replace("4 ", "04 ")]  # fmt: skip
    assert [text for text in written if not words.found_in(text)] == []
    assert not any(words.found_in(text) for text in ("L", "HAND PA", "小李", "2017-05-04", "AP 50 kV"))


def test_the_networks_say_what_their_package_makes_of_the_same_picture(hand_film: NDArray[np.uint16]) -> None:
    """Each place has its own score here: RapidOCR 3.10 sorts the places it found, but not their scores."""
    from rapidocr import RapidOCR

    package: Any = RapidOCR(
        params={
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "Rec.rec_img_shape": [3, 48, 96],
            "Det.limit_side_len": 32,
            "Global.log_level": "error",
        }
    )
    film = (hand_film >> 4).astype(np.uint8)
    boxes = [
        write(film, ink(text, size), 200, y, 255) for text, size, y in (("WILSON", 44, 300), ("欧阳小明", 18, 520))
    ]
    detector, reader = networks.Detector(0.3), networks.Reader()
    for part in (film[250:620, 150:650], film[300:340, 100:780], film[515:540, 180:400]):
        picture = np.stack([np.ascontiguousarray(part)] * 3, axis=-1)
        theirs = package(picture, use_det=True, use_cls=False, use_rec=False, box_thresh=0.3)
        ours = detector(np.ascontiguousarray(part))
        assert sorted(places.tolist() for places, _ in ours) == sorted(np.asarray(theirs.boxes).astype(int).tolist())
        assert sorted(score for _, score in ours) == pytest.approx(sorted(theirs.scores), abs=1e-4)
    for x1, y1, x2, y2 in (*boxes, (150, 515, 200, 535), (180, 290, 190, 400)):
        line = np.ascontiguousarray(film[y1:y2, x1:x2])
        read = package(np.stack([line] * 3, axis=-1), use_det=False, use_cls=False, use_rec=True, text_score=0.0)
        text, confidence = reader(line)
        assert text == read.txts[0]
        assert confidence == pytest.approx(read.scores[0], abs=1e-4)


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """Return a protocol buffer: small numbers as they are, bytes with their length before them."""
    return b"".join(
        bytes([field << 3, value]) if isinstance(value, int) else bytes([field << 3 | 2, len(value)]) + value
        for field, value in fields
    )


def test_only_weights_that_are_no_normal_numbers_become_zero(tmp_path: Path) -> None:
    """Neither whole numbers nor other fields, whatever number their bytes would be, as the steps of a slice."""
    floats = np.array([1.0, 1e-40, -1e-45, -1.2e-38, 0.0], "<f4").tobytes()
    zeroed = np.array([1.0, 0.0, 0.0, -1.2e-38, 0.0], "<f4").tobytes()
    integers = np.array([1, 2], "<i8").tobytes()

    def model(weights: bytes) -> bytes:
        node, fixed = message((1, floats)), b"\x15" + floats[4:8] + b"\x11" + integers[:8]
        tensors = [(5, message((1, 5), (2, 1), (9, weights))), (5, message((1, 2), (2, 7), (9, integers)))]
        graph = message((1, node), *tensors, (13, floats))
        return message((1, 8), (2, b"a name"), (7, graph)) + fixed + message((8, floats))

    path = tmp_path / "network.onnx"
    path.write_bytes(model(floats))
    assert weights.load(path) == model(zeroed) != model(floats)


def test_the_networks_get_normal_weights_and_answer_as_with_those_of_their_files(
    monkeypatch: pytest.MonkeyPatch, hand_film: NDArray[np.uint16]
) -> None:
    import onnxruntime
    import rapidocr

    session, given = onnxruntime.InferenceSession, list[Any]()
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda network, *a, **k: given.append(network) or session(network, *a, **k)
    )
    networks.Detector(0.3)
    networks.Reader()
    shown = (hand_film[None, None, 300:600, 300:600].repeat(3, axis=1) / 2048 - 1).astype(np.float32)
    for name, network, rows, columns in zip(
        (networks.DETECTOR, networks.READER), given, (288, 48), (256, 96), strict=True
    ):
        path = Path(rapidocr.__file__).parent / "models" / name
        assert network == weights.load(path) != path.read_bytes()
        served, plain = session(network), session(path)
        picture = {served.get_inputs()[0].name: np.ascontiguousarray(shown[:, :, :rows, :columns])}
        assert np.array_equal(served.run(None, picture)[0], plain.run(None, picture)[0])


def test_the_recogniser_loads_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    picture = np.zeros((80, 400), np.uint8)
    write(picture, ink("CARPUS 2026", 30), 20, 20, 255)
    fresh = Recogniser()
    ((line),) = fresh.find(picture)
    x1, y1, x2, y2 = line.box
    assert any(text.text.replace(" ", "") == "CARPUS2026" for text in fresh.read(picture[y1:y2, x1:x2]))


def test_the_recogniser_reports_to_nobody(tmp_path: Path) -> None:
    """ONNX Runtime would keep an identifier and a queue of events in the home directory, and send them to its maker."""
    lines = [
        "import numpy",
        "from service.deidentification.burned_in.recogniser import shared",
        "shared().find(numpy.zeros((64, 64), numpy.uint8))",
    ]
    root = Path(__file__).parents[2]
    # A clean environment: what marks a machine as one of CI would keep it silent as well.
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=root, env=environment, timeout=100, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
