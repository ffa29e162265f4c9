"""SEG, GSPS and SC: what is drawn lies where the reading has it, on the pixels of the film."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from pydicom.pixels import pixel_array

from models.image import Image
from models.reading import CONTRADICTED, Mask, Reading, Reason, Verdict
from models.regions import RUS
from service.reporting import codes, overview, presentation, result_tables, secondary_capture, seg, wording
from service.reporting.codes import Language
from service.reporting.results import ResultContext
from tests.factories import encoded
from tests.service import readings
from tests.service.test_sr import AT, CONTEXT, film, reread

CHINESE = ResultContext("2.25.42", AT, "zh")
FILM = overview.film(readings.image(), readings.reading())


def drawn(image: Image, reading: Reading, language: Language) -> Any:
    return overview.beside(overview.film(image, reading), reading, language)


def test_each_segment_is_the_mask_of_its_bone_pixel_for_pixel() -> None:
    made = seg.build(film(), readings.reading(), CONTEXT)
    assert made is not None
    frames = np.asarray(pixel_array(reread(made)), dtype=bool)
    labels = [segment.SegmentLabel for segment in made.SegmentSequence]
    assert labels == ["Distal radius", "Distal ulna"]
    for frame, name in zip(frames, ("radius", "ulna"), strict=True):
        assert np.array_equal(frame, readings.mask(name))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_segments_of_turned_and_mirrored_films_stay_on_their_pixels(turns: int) -> None:
    turned = {name: np.rot90(readings.mask(name), turns)[:, ::-1] for name in ("radius", "ulna")}
    rows, columns = turned["radius"].shape
    reading = readings.reading(
        image=readings.facts(rows=rows, columns=columns),
        masks={name: Mask.from_array(np.ascontiguousarray(mask)) for name, mask in turned.items()},
    )
    made = seg.build(film(rows=rows, columns=columns), reading, CONTEXT)
    assert made is not None
    assert np.array_equal(np.asarray(pixel_array(made), dtype=bool), np.stack([turned["radius"], turned["ulna"]]))


def test_a_reading_without_outlines_gives_no_segmentation() -> None:
    assert seg.build(film(), readings.reading(masks={}), CONTEXT) is None


def test_one_missing_outline_leaves_the_other() -> None:
    reading = readings.reading()
    made = seg.build(film(), readings.reading(masks={"ulna": reading.masks["ulna"]}), CONTEXT)
    assert made is not None
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == ["Distal ulna"]
    assert np.array_equal(np.asarray(pixel_array(made), dtype=bool), readings.mask("ulna"))


def test_the_presentation_state_boxes_and_names_every_region() -> None:
    reading = readings.reading()
    state = reread(presentation.build(film(), reading, CONTEXT))
    drawn, texts = {}, []
    for annotation in state.GraphicAnnotationSequence:
        for graphic in annotation.get("GraphicObjectSequence", ()):
            points = np.array(graphic.GraphicData).reshape(-1, 2)
            drawn[(*points.min(axis=0).round(1), *points.max(axis=0).round(1))] = annotation.GraphicLayer
        texts += [text.UnformattedTextValue for text in annotation.get("TextObjectSequence", ())]
    assert {tuple(region.box): presentation.layer_of(region) for region in reading.regions} == {
        tuple(round(float(v), 1) for v in box): layer for box, layer in drawn.items()
    }
    for region in reading.regions:
        label = region.name.upper() + (f" {region.stage.label} ({region.stage.letter})" if region.stage else "")
        assert label in texts
    assert any(text.startswith("RUS-CHN, girls: 10.5 years") for text in texts)
    assert "For research, not for clinical use" in texts


def test_the_presentation_state_marks_the_stage_that_the_other_bones_contradict() -> None:
    regions = tuple(
        dataclasses.replace(r, flags=(CONTRADICTED,)) if r.name == "mc1" else r for r in readings.reading().regions
    )
    state = reread(presentation.build(film(), readings.reading(regions=regions), CONTEXT))
    texts = [
        text.UnformattedTextValue
        for annotation in state.GraphicAnnotationSequence
        for text in annotation.get("TextObjectSequence", ())
    ]
    assert [text for text in texts if text.endswith("!")] == ["MC1 6(0) (G) !"]


@pytest.mark.parametrize(("declared", "shape"), [("MONOCHROME1", "INVERSE"), ("MONOCHROME2", "IDENTITY")])
def test_the_presentation_state_inverts_monochrome1_alone(declared: str, shape: str) -> None:
    state = presentation.build(film(photometric_interpretation=declared), readings.reading(), CONTEXT)
    assert state.PresentationLUTShape == shape


@pytest.mark.parametrize("kind", ["CR", "DX"])
def test_the_presentation_state_repeats_the_window_of_the_film(kind: str) -> None:
    made = film(kind=kind)
    state = presentation.build(made, readings.reading(), CONTEXT)
    if "WindowCenter" in made.header:
        assert state.SoftcopyVOILUTSequence[0].WindowCenter == made.header.WindowCenter
    else:
        assert "SoftcopyVOILUTSequence" not in state


def test_white_red_and_mid_grey_have_their_cielab_values() -> None:
    # D50: white is L* 100; sRGB red is 54.3, 80.8, 69.9; sRGB grey 119 is L* 50 (0.1845 ** (1/3) * 116 - 16 = 50.0).
    def decoded(rgb: tuple[int, int, int]) -> list[float]:
        lightness, a, b = presentation.lab(rgb).value
        return [lightness / 65535 * 100, a / 65535 * 255 - 128, b / 65535 * 255 - 128]

    assert decoded((255, 255, 255)) == pytest.approx([100, 0, 0], abs=0.2)
    assert decoded((255, 0, 0)) == pytest.approx([54.3, 80.8, 69.9], abs=0.3)
    assert decoded((119, 119, 119)) == pytest.approx([50, 0, 0], abs=0.3)


def test_the_overview_shows_each_region_of_the_film_where_the_reading_has_it() -> None:
    picture = drawn(readings.image(), readings.reading(), "en").astype(int)
    scale = overview.HEIGHT / readings.ROWS
    for region in readings.reading().regions:
        if region.stage is None:
            continue
        x1, y1, x2, y2 = (round(v * scale) for v in region.box)
        colour = np.array(overview.overlay.STAGE_COLOURS[region.stage.letter])
        near = np.abs(picture - colour).sum(axis=2) < 60
        for line in (near[y2 - 2 : y2 + 1, x1:x2].any(axis=0), near[y1:y2, x2 - 2 : x2 + 1].any(axis=1)):
            assert line.mean() > 0.5, region.name  # neighbours and labels cover some of it


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_capture_of_one_language_differs_only_in_words(language: Language) -> None:
    context = ResultContext("2.25.42", AT, language)
    made = reread(secondary_capture.build(film(), readings.reading(), context, FILM))
    assert (made.Rows, made.PhotometricInterpretation, made.SamplesPerPixel) == (overview.HEIGHT, "RGB", 3)
    picture = drawn(readings.image(), readings.reading(), language)
    assert np.array_equal(pixel_array(made), picture)
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == film().SOPInstanceUID


def test_a_changed_stage_changes_the_picture() -> None:
    reading = readings.reading()
    other = tuple(
        type(r)(r.name, r.box, r.score, readings.stage("8")) if r.name == "mc3" else r for r in reading.regions
    )
    before = drawn(readings.image(), reading, "en")
    assert (before != drawn(readings.image(), readings.reading(regions=other), "en")).any()


@pytest.mark.parametrize("with_image", [True, False])
@pytest.mark.parametrize("context", [CONTEXT, CHINESE], ids=["en", "zh"])
def test_a_rejection_picture_is_made_with_or_without_the_film(with_image: bool, context: ResultContext) -> None:
    verdict = Verdict(False, (Reason("undecodable", "the decoder raised"), Reason("unheard-of", "something else")))
    image = readings.image() if with_image else None
    made = secondary_capture.build_rejection(film(), verdict, context, image=image)
    assert made.Columns == overview.REJECTION_WIDTH + (900 if with_image else 0)
    assert encoded(made)


@pytest.mark.parametrize("sex", ["F", None])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_overview_stays_within_its_panel_for_the_longest_reading(sex: str | None, language: Language) -> None:
    reasons = tuple(Reason(code, "measured 12.3 against a limit of 4.5") for code in list(codes.REASONS)[:9])
    picture = drawn(readings.image(), readings.reading(sex=sex, alarm=True, reasons=reasons), language)
    panel = picture[:, -overview.PANEL_WIDTH :]
    assert (panel[:, -8:] == overview.GROUND).all()
    assert (panel[-8:] == overview.GROUND).all()


def test_the_font_holds_every_character_we_write_in_chinese() -> None:
    from fontTools.ttLib import TTFont

    held = set(TTFont(str(overview.CHINESE_FONT)).getBestCmap())
    texts = [concept.chinese for concept in codes.table()] + [advice.chinese for advice in wording.ADVICE.values()]
    texts += [zh for _, zh in result_tables._WORDS.values()]
    for changes in ({}, {"sex": None}, {"alarm": True}, {"chronological_age_years": None}):
        texts.append(wording.conclusion(readings.reading(**changes), "zh"))
    missing = {
        character for text in texts for character in text if not character.isascii() and ord(character) not in held
    }
    assert not missing


@pytest.mark.parametrize("build", [seg.build, presentation.build], ids=["SEG", "GSPS"])
def test_overlays_repeat_byte_for_byte_and_refuse_another_film(build: Any) -> None:
    first, second = (encoded(build(film(), readings.reading(), CONTEXT)) for _ in range(2))
    assert first == second
    with pytest.raises(ValueError, match="240 x 180"):
        build(film(rows=240, columns=180), readings.reading(), CONTEXT)


def test_the_capture_repeats_byte_for_byte_and_refuses_another_film() -> None:
    first, second = (encoded(secondary_capture.build(film(), readings.reading(), CONTEXT, FILM)) for _ in range(2))
    assert first == second
    other = Image(np.zeros((100, 100), dtype=np.float32))
    with pytest.raises(ValueError, match="100 x 100"):
        overview.film(other, readings.reading())


def test_each_bone_of_the_table_is_a_rus_bone_with_words_in_both_languages() -> None:
    for name in RUS:
        assert codes.BONES[name].english.isascii()
        assert codes.BONES[name].chinese
