import pytest
from pydicom.dataset import Dataset

from service.reporting import sr_html


def _code(meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99TEST", meaning
    return code


def _item(kind: str, name: str, **values: object) -> Dataset:
    item = Dataset()
    item.ValueType = kind
    item.ConceptNameCodeSequence = [_code(name)]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _report(*items: Dataset) -> Dataset:
    report = _item("CONTAINER", "Imaging Measurement Report", ContentSequence=list(items))
    report.PatientName = "TEST^<b>BOLD</b>"
    return report


def test_a_number_shows_its_name_value_and_unit() -> None:
    measured = Dataset()
    measured.NumericValue = "10.5"
    measured.MeasurementUnitsCodeSequence = [_code("year")]
    page = sr_html.render(_report(_item("NUM", "Bone age", MeasuredValueSequence=[measured])))
    assert "<span class='name'>Bone age</span> <span class='value'>10.5 year</span>" in page


def test_a_hostile_name_is_text_and_never_markup() -> None:
    page = sr_html.render(_report(_item("TEXT", "Comment", TextValue="<script>alert(1)</script>")))
    assert "<script>" not in page
    assert "<b>" not in page


def test_an_item_of_an_unknown_type_is_shown_with_its_type() -> None:
    assert "(WAVEFORM)" in sr_html.render(_report(_item("WAVEFORM", "Signal")))


def test_children_stand_inside_their_parent() -> None:
    child = _item("CODE", "Stage", ConceptCodeSequence=[_code("F")])
    page = sr_html.render(_report(_item("CONTAINER", "Radius", ContentSequence=[child])))
    assert page.index("Radius") < page.index("Stage") < page.index(">F<")


def test_a_dataset_that_is_no_report_is_refused() -> None:
    with pytest.raises(ValueError, match="an SR is needed"):
        sr_html.render(Dataset())
