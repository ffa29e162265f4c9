"""Write the one-page report as an Encapsulated PDF (PS3.3 A.45.1), for a reader without an SR viewer.

Modality DOC: review stations are known not to open one that says OT. The page names the patient, as a page that may be printed
has to, so it says that it carries burned-in text.
"""

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from models.reading import Reading
from service.reporting import codes, report_page, result_tables, results, wording
from service.reporting.codes import Language
from service.reporting.history import study_date
from service.reporting.results import ResultContext
from service.reporting.source import Source, shown

_SEXES: Final = {"F": ("female", "女"), "M": ("male", "男"), "O": ("other", "其他")}


def build(source: Source, reading: Reading, context: ResultContext, drawn: NDArray[np.uint8]) -> Dataset:
    """Return the page of a film that was read.

    Parameters
    ----------
    drawn
        The film with its regions, from `overview.film`.
    """
    language = results.language_for(source, context)
    page = report_page.render(
        drawn,
        reading,
        language,
        identity=list(_identity(source, language)),
        institution=context.institution_name,
        priors=context.priors,
        amendment=context.amendment,
        history=wording.history_sentences(reading, context.priors, study_date(source), language),
    )
    where = results.reference(source, "PDF", reading, context)
    document = Dataset()
    document.SOPClassUID = UID(where.SOPClassUID)
    document.SOPInstanceUID = UID(where.SOPInstanceUID)
    document.SeriesInstanceUID = UID(where.SeriesInstanceUID)
    document.Modality = "DOC"
    document.InstanceNumber = 1
    document.ConversionType = "WSD"
    document.ContentDate = document.ContentTime = document.AcquisitionDateTime = None
    document.BurnedInAnnotation = "YES"
    document.RecognizableVisualFeatures = "NO"
    origin = Dataset()
    origin.ReferencedSOPClassUID = source.header.SOPClassUID
    origin.ReferencedSOPInstanceUID = source.SOPInstanceUID
    document.SourceInstanceSequence = [origin]
    document.DocumentTitle = result_tables.word("report", language)
    title = Dataset()
    named = codes.DOCUMENT_TITLE.code(language)
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = (
        named.value,
        named.scheme_designator,
        named.meaning,
    )
    document.ConceptNameCodeSequence = [title]
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    # OB has even length (PS3.5 6.2); the true one stands beside it.
    document.EncapsulatedDocument = page + b"\0" * (len(page) % 2)
    document.EncapsulatedDocumentLength = len(page)
    return results.finish(document, source, "PDF", context)


def _identity(source: Source, language: Language) -> Iterator[tuple[str, str, bool]]:
    """Yield what the page says of patient and study, each text decoded for the eye."""
    name, guessed = shown(source, "PatientName")
    yield "name", _name(name, language), guessed
    yield "id", *shown(source, "PatientID")
    sex, _ = shown(source, "PatientSex")
    yield "sex", _SEXES.get(sex.strip(), ("unknown", "未知"))[language == "zh"], False
    for key, keyword in (("birth", "PatientBirthDate"), ("study", "StudyDate")):
        yield key, re.sub(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", shown(source, keyword)[0].strip()), False
    yield "accession", *shown(source, "AccessionNumber")


def _name(text: str, language: Language) -> str:
    """Join the components of a name for the eye: the ideographic group in Chinese where there is one (PS3.5 6.2.1)."""
    groups = [group.strip() for group in text.split("=")]
    latin, ideographic = _plain(groups[0]), _plain(groups[1]) if len(groups) > 1 else ""
    if not latin or not ideographic:
        return latin or ideographic
    return ideographic if language == "zh" else f"{latin} ({ideographic})"


def _plain(group: str) -> str:
    ideographic = not group.replace("^", "").isascii()
    return re.sub(r"\^+", "" if ideographic else " ", group).strip()
