"""The report, read back as a PACS or a viewer would read it."""

import datetime as dt
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from models.reading import Reason, Verdict
from models.regions import RUS
from service.reporting import codes, source, sr
from service.reporting.results import DISCLAIMER, ResultContext
from tests.factories import CHINESE_CHILD, encoded, instance
from tests.service import readings

AT = dt.datetime(2026, 11, 21, 5, 30, tzinfo=dt.UTC)
CONTEXT = ResultContext("2.25.42", AT)


def film(**options: Any) -> source.Source:
    options = {"rows": readings.ROWS, "columns": readings.COLUMNS, "kind": "DX", **options}
    return source.normalise(dcmread(BytesIO(encoded(instance(**options)))))


def reread(ds: Dataset) -> Dataset:
    return dcmread(BytesIO(encoded(ds)))


def groups(report: Dataset) -> dict[str, Dataset]:
    """Return the measurement groups by their tracking identifier."""
    measurements = next(i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    return {child(group, "112039").TextValue: group for group in measurements.ContentSequence}


def children(item: Dataset, code: str) -> list[Dataset]:
    return [i for i in item.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == code]


def child(item: Dataset, code: str) -> Dataset:
    (only,) = children(item, code)
    return only


def value(item: Dataset) -> float:
    return float(item.MeasuredValueSequence[0].FloatingPointValue)


def test_the_report_read_back_gives_the_numbers_of_the_reading() -> None:
    reading = readings.reading()
    found = groups(reread(sr.build(film(), reading, CONTEXT)))
    for method in reading.methods:
        group = found[f"{method.name} F"]
        if method.bone_age_years is None:
            assert not children(group, "85151-9")
            assert child(group, "QUALIFIER").ConceptCodeSequence[0].CodeValue == "NORESULT"
            continue
        age = child(group, "85151-9")
        assert value(age) == method.bone_age_years
        assert age.MeasuredValueSequence[0].NumericValue == round(method.bone_age_years, 2)
        assert age.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "a"
        assert method.interval_years == (value(child(group, "INTERVALLOW")), value(child(group, "INTERVALHIGH")))
        assert value(child(age, "371884006")) == pytest.approx(0.81)  # the larger half of 10.53 - 0.7 .. 10.53 + 0.81
        assert value(child(group, "AGEDIFF")) == pytest.approx(method.bone_age_years - 9.61)
        assert child(group, "370129005").RelationshipType == "HAS CONCEPT MOD"
        if method.score is not None:
            assert value(child(group, "TOTALSCORE")) == method.score


def test_every_rus_bone_carries_its_stage_score_and_what_one_stage_would_change() -> None:
    reading = readings.reading()
    found = groups(sr.build(film(), reading, CONTEXT))
    assert [name for name in found if name in codes.BONES] == list(RUS)
    for name in RUS:
        region, group = reading.region(name), found[name]
        assert region is not None
        assert region.stage is not None
        stage = child(group, "STAGE").ConceptCodeSequence[0]
        assert (stage.CodeValue, stage.CodingSchemeDesignator) == (f"RUSCHN-{region.stage.label}", "99CARPUS")
        assert f"TW3 stage {region.stage.letter}" in stage.CodeMeaning
        assert value(child(group, "STAGEPROB")) == region.stage.probability
        assert child(group, "RUNNERUP").ConceptCodeSequence[0].CodeValue == f"RUSCHN-{region.stage.runner_up}"
        assert child(group, "121071").ConceptCodeSequence[0].CodingSchemeDesignator == "FMA"
        assert child(child(group, "363698007"), "272741003").ConceptCodeSequence[0].CodeValue == "7771000"  # left
        scored = [method for method in reading.methods if name in method.per_bone]
        assert [value(item) for item in children(group, "BONESCORE")] == [m.per_bone[name].score for m in scored]
        ups = [m.per_bone[name].one_stage_up_years for m in scored]
        assert [value(item) for item in children(group, "STAGEUP")] == [up for up in ups if up is not None]


def test_every_group_draws_its_region_where_the_reading_has_it() -> None:
    reading = readings.reading()
    for name, group in groups(sr.build(film(), reading, CONTEXT)).items():
        outline = child(group, "111030")
        assert outline.GraphicType == "POLYLINE"
        points = np.array(outline.GraphicData).reshape(-1, 2)
        assert len(points) == 5
        assert points[0].tolist() == points[-1].tolist()
        drawn = (*points.min(axis=0), *points.max(axis=0))
        region = reading.region(name)
        if region is not None:
            assert drawn == pytest.approx(region.box)
        elif name == "film":
            assert drawn == (0, 0, readings.COLUMNS, readings.ROWS)
        else:  # a method: around all regions
            boxes = np.array([region.box for region in reading.regions])
            assert drawn == pytest.approx((*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)))


def test_a_box_over_the_edge_is_clipped_to_the_film() -> None:
    reading = readings.reading()
    over = tuple(
        type(region)("radius", (-5.0, 560.0, 100.0, 640.0), 0.9, region.stage) if region.name == "radius" else region
        for region in reading.regions
    )
    group = groups(sr.build(film(), readings.reading(regions=over), CONTEXT))["radius"]
    points = np.array(child(group, "111030").GraphicData).reshape(-1, 2)
    assert (*points.min(axis=0), *points.max(axis=0)) == (0, 560, 100, 600)


def test_an_unknown_sex_gives_each_method_on_both_curves() -> None:
    found = groups(sr.build(film(), readings.reading(sex=None), CONTEXT))
    for sex, curve in (("F", "GIRLS"), ("M", "BOYS")):
        assert child(found[f"RUS-CHN {sex}"], "CURVESEX").ConceptCodeSequence[0].CodeValue == curve
    curves = [child(i, "CURVESEX").ConceptCodeSequence[0].CodeValue for i in children(found["radius"], "BONESCORE")]
    assert set(curves) == {"GIRLS", "BOYS"}


@pytest.mark.parametrize(("alarm", "expected"), [(False, "AGREE"), (True, "DISAGREE")])
def test_the_agreement_of_the_methods_reaches_the_report(alarm: bool, expected: str) -> None:
    found = groups(sr.build(film(), readings.reading(alarm=alarm), CONTEXT))["film"]
    assert child(found, "METHODAGREE").ConceptCodeSequence[0].CodeValue == expected
    assert value(child(found, "SPREAD")) == (1.9 if alarm else 0.75)


def test_each_group_names_the_algorithm_the_bundle_and_the_sex_used() -> None:
    for name, group in groups(sr.build(film(), readings.reading(), CONTEXT)).items():
        parameters = {item.TextValue for item in children(group, "111002")}
        assert {f"sha256 {readings.BUNDLE.sha256}", "sex F"} <= parameters, name
        assert child(group, "111003").TextValue == readings.BUNDLE.version
        assert child(group, "122405").TextValue == "Carpus"


def test_the_report_is_unverified_and_says_what_it_is_for() -> None:
    report = sr.build(film(), readings.reading(), CONTEXT)
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert DISCLAIMER["en"] in report.SeriesDescription
    conclusion = child(child(report, "121076"), "121077").TextValue
    assert DISCLAIMER["en"] in conclusion
    assert "RUS-CHN, girls: 10.5 years (9.8 to 11.3, 90 %); total score 512" in conclusion


def test_every_container_is_separate_so_that_values_stand_beside_their_names() -> None:
    def containers(item: Dataset) -> list[Dataset]:
        found = [item] if item.get("ValueType") == "CONTAINER" else []
        return found + [c for nested in item.get("ContentSequence", ()) for c in containers(nested)]

    found = containers(sr.build(film(), readings.reading(), CONTEXT))
    assert len(found) > 20
    assert {item.ContinuityOfContent for item in found} == {"SEPARATE"}


def test_highdicom_reads_the_report_as_tid_1500() -> None:
    report = hd.sr.Comprehensive3DSR.from_dataset(reread(sr.build(film(), readings.reading(), CONTEXT)))
    found = report.content.get_planar_roi_measurement_groups(finding_type=codes.BONE_AGE.code())
    ages = [m[0].value for group in found for m in [group.get_measurements(name=codes.BONE_AGE.code())] if m]
    assert ages == [10.5312345, 10.31, 10.02, 10.77]
    assert str(report.content.get_observer_contexts()[0].observer_identifying_attributes.uid) == "2.25.42"


def test_a_repeat_makes_the_same_bytes() -> None:
    first, second = (encoded(sr.build(film(), readings.reading(), CONTEXT)) for _ in range(2))
    assert first == second


def test_a_report_does_not_depend_on_those_built_before_it() -> None:
    """Codes and their items are shared by all reports of a process, whatever their language and character set."""
    english = film(), readings.reading(), CONTEXT
    chinese = (
        film(patient=CHINESE_CHILD, character_set="GB18030"),
        readings.reading(),
        ResultContext("2.25.42", AT, "zh"),
    )
    old_chinese = film(patient=CHINESE_CHILD, character_set=["", "ISO 2022 IR 58"]), readings.reading(), chinese[2]
    first = [encoded(sr.build(*one)) for one in (english, chinese, old_chinese)]
    again = [encoded(sr.build(*one)) for one in (old_chinese, chinese, english)]
    assert first == again[::-1]
    assert "桡骨".encode("gb18030") in first[1]
    assert "桡骨".encode("gb18030") not in first[0]


def test_the_regions_of_a_report_name_its_own_film_in_its_own_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share all but their outline. No word of theirs is translated yet; here one is, to see that it stays in its report."""
    words = {**codes.translations(), ("DCM", "111030"): codes.COMMENT}
    monkeypatch.setattr(codes, "translations", lambda: words)
    one, other = film(), film(seed=1)
    reports = [
        (each, reread(sr.build(each, readings.reading(), ResultContext("2.25.42", AT, language))), name)
        for each in (one, other, one)
        for language, name in (("zh", codes.COMMENT.code("zh").value), ("en", "111030"))
    ]
    for each, report, name in reports:
        regions = [item for group in groups(report).values() for item in group.ContentSequence if "GraphicData" in item]
        assert {region.ConceptNameCodeSequence[0].CodeValue for region in regions} == {name}
        cited = [region.ContentSequence[0].ReferencedSOPSequence[0] for region in regions]
        assert {item.ReferencedSOPInstanceUID for item in cited} == {each.SOPInstanceUID}


def test_the_report_leaves_the_header_of_the_film_to_the_other_objects_as_it_is() -> None:
    """The image library has a film without orientation under another modality; a picture with that of the film has not."""
    bare = film(without=("PatientOrientation",))
    before = str(bare.header)
    sr.build(bare, readings.reading(), CONTEXT)
    assert str(bare.header) == before
    assert bare.header.Modality == "DX"


def test_another_sex_language_profile_or_revision_makes_another_instance() -> None:
    made = [
        sr.build(film(), readings.reading(), CONTEXT),
        sr.build(film(), readings.reading(sex="M"), CONTEXT),
        *(
            sr.build(film(), readings.reading(), ResultContext("2.25.42", AT, **change))
            for change in ({"language": "zh"}, {"profile": "archive"}, {"revision": 1})
        ),
    ]
    assert len({report.SOPInstanceUID for report in made}) == len(made)


def test_the_chinese_report_holds_the_same_numbers_in_chinese_words() -> None:
    chinese = ResultContext("2.25.42", AT, "zh")
    report = reread(sr.build(film(patient=CHINESE_CHILD, character_set="GB18030"), readings.reading(), chinese))
    assert report.SpecificCharacterSet == "GB18030"
    assert report.PatientName == "Test^Zhang=测试^张"
    assert DISCLAIMER["zh"] in report.SeriesDescription
    age = child(groups(report)["RUS-CHN F"], "85151-9")
    assert age.ConceptNameCodeSequence[0].CodeMeaning == "骨龄"
    assert value(age) == 10.5312345
    assert "RUS-CHN（女）：10.5岁" in child(child(report, "121076"), "121077").TextValue


def test_a_rejection_says_why_and_what_to_repeat() -> None:
    verdict = Verdict(False, (Reason("two-hands", "2 hands found; one is needed"),))
    report = reread(sr.build_rejection(film(), verdict, CONTEXT, bundle=readings.BUNDLE))
    group = groups(report)["film"]
    assert child(group, "REASON").ConceptCodeSequence[0].CodeValue == "TWOHANDS"
    assert child(group, "IMAGEQUALITY").ConceptCodeSequence[0].CodeValue == "FILMNOTREAD"
    assert len(child(group, "111030").GraphicData) == 10
    conclusion = child(child(report, "121076"), "121077").TextValue
    assert "More than one hand on the film: 2 hands found" in conclusion
    assert "Repeat: one left hand and wrist" in conclusion


def test_a_rejection_without_image_geometry_cites_the_instance_alone() -> None:
    without = film(without=("Rows", "Columns", "PixelData"))
    report = sr.build_rejection(without, Verdict(False, (Reason("no-pixel-data", ""),)), CONTEXT)
    group = groups(report)["film"]
    assert not children(group, "111030")
    assert [
        i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in group.ContentSequence if i.ValueType == "IMAGE"
    ] == [without.SOPInstanceUID]
    assert report.CurrentRequestedProcedureEvidenceSequence


def test_a_film_that_was_not_accepted_gets_no_bone_age_report() -> None:
    with pytest.raises(ValueError, match="build_rejection"):
        sr.build(film(), readings.reading(verdict=Verdict(False)), CONTEXT)


def test_a_reading_of_another_film_size_is_refused() -> None:
    with pytest.raises(ValueError, match="240 x 180"):
        sr.build(film(rows=240, columns=180), readings.reading(), CONTEXT)
