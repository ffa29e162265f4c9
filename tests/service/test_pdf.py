"""The one-page report and the key object note: what a reader finds on them, and that they repeat byte for byte."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage

from models.reading import Reason
from service import priors
from service.reporting import encapsulated_pdf, growth, key_objects, overview, results, source
from service.reporting.history import Prior
from service.reporting.results import ResultContext
from service.sending.retrieval import Found
from service.settings import PriorSettings
from tests.factories import CHINESE_CHILD, encoded
from tests.service import readings
from tests.service.headers import NAMES, received, with_raw
from tests.service.test_sr import AT, CONTEXT, film, reread
from tests.system.tools import tool

CHINESE = ResultContext("2.25.42", AT, "zh")


FILM = overview.film(readings.image(), readings.reading())


def page_of(ds: Dataset) -> bytes:
    page: bytes = ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength]
    return page


def made(context: ResultContext = CONTEXT, film_: source.Source | None = None, **changes: Any) -> Dataset:
    built = encapsulated_pdf.build(film_ or film(), readings.reading(**changes), context, FILM)
    return reread(built)


def text_of(ds: Dataset, folder: Path) -> str:
    (folder / "page.pdf").write_bytes(page_of(ds))
    done = subprocess.run(
        [tool("pdftotext", "poppler-utils"), "-layout", str(folder / "page.pdf"), "-"], capture_output=True, check=True
    )
    return re.sub(r"\s+", " ", done.stdout.decode())


def test_the_document_is_a_pdf_of_modality_doc_that_cites_the_film() -> None:
    ds = made()
    assert (ds.SOPClassUID, ds.Modality, ds.MIMETypeOfEncapsulatedDocument) == (
        EncapsulatedPDFStorage,
        "DOC",
        "application/pdf",
    )
    assert page_of(ds).startswith(b"%PDF-")
    assert page_of(ds).rstrip().endswith(b"%%EOF")
    assert len(ds.EncapsulatedDocument) % 2 == 0
    assert ds.BurnedInAnnotation == "YES"  # the page names the patient
    assert ds.SourceInstanceSequence[0].ReferencedSOPInstanceUID == film().SOPInstanceUID


@pytest.mark.parametrize("context", [CONTEXT, CHINESE], ids=["en", "zh"])
def test_the_page_repeats_byte_for_byte(context: ResultContext) -> None:
    first, second = (encoded(encapsulated_pdf.build(film(), readings.reading(), context, FILM)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("context", [CONTEXT, CHINESE], ids=["en", "zh"])
@pytest.mark.parametrize("sex", ["F", None])
def test_everything_stands_on_one_page_with_its_fonts_inside(
    context: ResultContext, sex: str | None, tmp_path: Path
) -> None:
    reasons = tuple(Reason(code, "measured 12.3 against a limit of 4.5") for code in ("rotated", "polarity", "order"))
    ds = made(context, sex=sex, alarm=True, reasons=reasons)
    (tmp_path / "page.pdf").write_bytes(page_of(ds))
    fonts = subprocess.run([tool("pdffonts", "poppler-utils"), str(tmp_path / "page.pdf")], capture_output=True)
    embedded = [line.split() for line in fonts.stdout.decode().splitlines()[2:]]
    assert embedded
    assert all(line[-5:-2] == ["yes", "yes", "yes"] for line in embedded)  # embedded, subset, with its Unicode map
    info = subprocess.run([tool("pdfinfo", "poppler-utils"), str(tmp_path / "page.pdf")], capture_output=True)
    assert re.search(rb"Pages:\s+1\n", info.stdout)
    assert b"CHILD" not in info.stdout  # the metadata name nobody


def test_the_english_page_says_what_was_read(tmp_path: Path) -> None:
    said = text_of(made(), tmp_path)
    for words in (
        *("Bone age report", "For research, not for clinical use", "TEST CHILD", "TEST-1", "2016-05-04"),
        *("10.5 years", "RUS-CHN, girls", "MC3", "PP1*", "Conclusion", "Chronological age 9.6 years"),
        "not verified by a radiologist",
    ):
        assert words in said


def test_the_chinese_page_says_what_was_read(tmp_path: Path) -> None:
    said = text_of(made(CHINESE, film(patient=CHINESE_CHILD, character_set="GB18030")), tmp_path)
    for words in ("骨龄报告", "仅供科研，不用于临床", "测试张", "10.5岁", "第三掌骨", "结论", "未经医师审核"):
        assert words in said


@pytest.mark.parametrize(
    ("number", "shown", "guessed"),
    [
        *((0, "Müller^Zoë", False), (1, "Test^Zhang=测试^张", False), (2, "Test^Zhang=测试^张", False)),
        *((3, "Zhang^XiaoDong=张^小东", False), (4, "张^测试", True), (5, "ÕÅ^²âÊÔ", False), (6, "", True)),
    ],
)
def test_a_name_is_decoded_for_the_eye_and_a_guess_is_marked(number: int, shown: str, guessed: bool) -> None:
    character_set, name = NAMES[number]
    film_ = source.normalise(
        received(with_raw("PatientName", name + b" " * (len(name) % 2), character_set=character_set))
    )
    assert source.shown(film_, "PatientName") == (shown, guessed)


def test_a_character_that_no_font_holds_is_marked_and_not_lost(tmp_path: Path) -> None:
    name = "Li^Zhe=李^㐱".encode("gb18030")
    film_ = source.normalise(received(with_raw("PatientName", name + b" " * (len(name) % 2), character_set="GB18030")))
    assert "李〓" in text_of(made(CHINESE, film_), tmp_path)


def prior(age: float, bone_age: float, *, comparable: bool = True) -> Prior:
    uids = dict.fromkeys(("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"), "2.25.1")
    return Prior(
        None, "RUS-CHN", "F", bone_age, age, "3f" * 32, comparable, "" if comparable else "other-bundle", **uids
    )


def test_the_growth_plot_moves_with_the_age_and_shows_the_earlier_ages_that_may_be_compared() -> None:
    def marks(age: float | None, *priors: Prior) -> list[growth.Mark]:
        reading = readings.reading(chronological_age_years=age)
        return growth.plot(reading, "en", 400, 300, size=10, priors=priors)

    plain = marks(9.6)
    assert marks(None) != plain
    assert len(marks(9.6, prior(8.5, 9.0))) > len(plain)
    assert marks(9.6, prior(8.5, 9.0, comparable=False)) == plain


def test_the_page_says_that_an_earlier_age_cannot_be_compared(tmp_path: Path) -> None:
    def page(*priors: Prior) -> str:
        context = ResultContext("2.25.42", AT, priors=priors)
        return text_of(encapsulated_pdf.build(film(), readings.reading(), context, FILM), tmp_path)

    assert page() != page(prior(8.5, 9.0, comparable=False))


def test_the_key_object_note_names_the_film_and_the_picture_that_is_sent() -> None:
    note = reread(key_objects.build(film(), readings.reading(), CONTEXT))
    assert note.Modality == "KO"
    cited = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in note.ContentSequence
        if item.ValueType == "IMAGE"
    }
    picture = results.reference(film(), "SC", readings.reading(), CONTEXT)
    assert cited == {film().SOPInstanceUID, picture.SOPInstanceUID}
    alone = reread(key_objects.build(film(), readings.reading(), ResultContext("2.25.42", AT, kinds=("SR", "KOS"))))
    assert SecondaryCaptureImageStorage not in encoded(alone).decode("latin-1")


def test_the_key_object_note_repeats_byte_for_byte() -> None:
    first, second = (encoded(key_objects.build(film(), readings.reading(), CHINESE)) for _ in range(2))
    assert first == second


class Nobody:
    """An archive that knows nobody."""

    def report_series(self, patient_id: str) -> list[Found]:
        return []

    def reports(self, series: Sequence[Found]) -> list[Dataset]:
        return []

    def film(self, study: str, series: str, instance: str) -> Dataset | None:
        return None


def test_the_page_names_the_patient_after_earlier_reports_were_looked_up(tmp_path: Path) -> None:
    asked = film()
    assert priors.find(Nobody(), asked, readings.reading(), PriorSettings()).note.startswith("0 earlier studies")
    assert text_of(made(film_=asked), tmp_path) == text_of(made(), tmp_path)


def test_the_page_can_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "page.pdf").write_bytes(page_of(made()))
    command = [
        tool("pdftoppm", "poppler-utils"),
        "-r",
        "50",
        "-png",
        str(tmp_path / "page.pdf"),
        str(tmp_path / "page"),
    ]
    subprocess.run(command, check=True)
    with Picture.open(next(tmp_path.glob("page*.png"))) as picture:
        assert picture.size == (414, 585)
        assert (
            len(picture.convert("RGB").getcolors(1 << 20) or ()) > 50
        )  # the film, the plot and the stages, not a blank
