"""Find the earlier bone ages of a patient, for the report that is about to be made.

A PACS that is slow, silent or wrong costs its time limit and a line in the timeline, never the report. What was found is kept
with the job: a repeat of the delivery makes the same report although the PACS may by then know more.
"""

import datetime as dt
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

from pydicom import Dataset

from models import pixels
from models.reader import Reader
from models.reading import Reading
from models.regions import Sex
from service.deidentification.deidentify import age_days
from service.errors import CarpusError, InvalidInstance
from service.reporting import codes
from service.reporting.history import DAYS_PER_YEAR, Prior, Remark, parse_date, study_date
from service.reporting.source import Source, shown
from service.routing import route
from service.sending.requestor import Address
from service.sending.retrieval import Archive, Found
from service.settings import PriorSettings

METHODS: Final = {concept.value: name for name, concept in codes.METHODS.items()}
CURVES: Final[dict[str, Sex]] = {codes.GIRLS.value: "F", codes.BOYS.value: "M"}
OURS: Final = re.compile(r"bone age|骨龄", re.IGNORECASE)
SHA256: Final = re.compile(r"sha256 ([0-9a-f]{64})")


class Sought(Protocol):
    """What is asked of an archive; `retrieval.Archive` asks over DIMSE, `dicomweb.WebArchive` over HTTP."""

    def report_series(self, patient_id: str) -> list[Found]:
        """Return the report series of a patient."""

    def reports(self, series: Sequence[Found]) -> list[Dataset]:
        """Return every report of these series."""

    def film(self, study: str, series: str, instance: str) -> Dataset | None:
        """Return one film, None where there is none."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """What came of one look-up: the earlier bone ages, and what to say of it in the timeline."""

    priors: tuple[Prior, ...]
    note: str


def archive(address: Address, calling_ae_title: str, settings: PriorSettings) -> Sought:
    """Return the archive to ask, its deadline counted from now."""
    deadline = time.monotonic() + settings.timeout_seconds
    if settings.web is not None:
        from service.sending.dicomweb import WebArchive  # who asks over DIMSE need not load a web client

        return WebArchive(settings.web, settings, deadline)
    return Archive(address, calling_ae_title, settings, deadline)


def find(
    sought: Sought,
    film: Source,
    reading: Reading,
    settings: PriorSettings,
    *,
    reader: Callable[[], Reader] | None = None,
) -> Lookup:
    """Return the earlier bone ages of the patient of a film; an archive that fails leaves none, with the cause as the note.

    Parameters
    ----------
    reader
        Loads the present Reader, for films that other weights read; None never reads one again.
    """
    patient, present = _text(film, "PatientID"), study_date(film)
    if not patient or present is None:
        return Lookup((), f"not looked up: the film states no {'PatientID' if not patient else 'StudyDate'}")
    try:
        series = [each for each in sought.report_series(patient) if _may_be_prior(each, film, present)]
        # The latest first, an undated one last: it may be anything.
        series.sort(key=lambda each: each.StudyDate, reverse=True)
        received = sought.reports(series[: settings.maximum_reports])
    except CarpusError as error:
        return Lookup((), f"{error.code}: {error}")
    documents = [ds for ds in received if _same_patient(ds, film) and not _is(ds, film.header.StudyInstanceUID)]
    replaced = {uid for ds in documents for uid in _predecessors(ds)}
    found: dict[tuple[str, str, str], tuple[str, Prior]] = {}
    for ds in documents:
        if str(ds.get("SOPInstanceUID", "")) in replaced:
            continue
        for prior in parse(ds):
            if prior.study_date is not None and prior.study_date >= present:
                continue
            key = (prior.StudyInstanceUID, prior.method, prior.sex)
            made_at = f"{ds.get('ContentDate', '')}{ds.get('ContentTime', '')}"
            if key not in found or made_at > found[key][0]:
                found[key] = (made_at, _compared(prior, reading))
    priors = [prior for _, prior in found.values()]
    if settings.reread and reader is not None:
        priors = list(_read_again(priors, documents, sought, reading, reader))
    priors.sort(key=lambda prior: (prior.study_date or dt.date.min, prior.method))
    studies = len({prior.StudyInstanceUID for prior in priors})
    compared = sum(prior.comparable for prior in priors)
    return Lookup(tuple(priors), f"{studies} earlier studies, {len(priors)} bone ages, {compared} of them comparable")


def parse(ds: Dataset) -> Iterator[Prior]:
    """Yield the bone ages of one of our reports; nothing for a report of another kind."""
    document = {
        keyword: str(ds.get(keyword, ""))
        for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    }
    if not all(document.values()):
        return
    for group in _items(ds, "126010", "125007"):
        age = _number(group, codes.BONE_AGE.value)
        method, sex = METHODS.get(_code(group, codes.METHOD.value)), CURVES.get(_code(group, codes.SEX_OF_CURVE.value))
        if age is None or method is None or sex is None:
            continue
        sha256 = next(
            (
                match[1]
                for item in _items(group, "111002")
                if (match := SHA256.fullmatch(str(item.get("TextValue", ""))))
            ),
            "",
        )
        chronological = _number(group, codes.CHRONOLOGICAL_AGE.value)
        try:
            yield Prior(_date(ds), method, sex, age, chronological, sha256, comparable=False, remark="", **document)
        except InvalidInstance:
            continue  # damaged, or not ours after all


def to_stored(priors: Sequence[Prior]) -> list[dict[str, Any]]:
    """Return the form the database keeps."""
    return [asdict(prior) | {"study_date": prior.study_date and prior.study_date.isoformat()} for prior in priors]


def from_stored(rows: Sequence[dict[str, Any]]) -> tuple[Prior, ...]:
    """Rebuild what `to_stored` gave."""
    return tuple(
        Prior(**(row | {"study_date": dt.date.fromisoformat(row["study_date"]) if row["study_date"] else None}))
        for row in rows
    )


def _may_be_prior(found: Found, film: Source, present: dt.date) -> bool:
    """Judge by what the answer says; what it leaves out is found out from the report itself."""
    date = parse_date(found.StudyDate)
    ours = not found.SeriesDescription or OURS.search(found.SeriesDescription) is not None
    return ours and found.StudyInstanceUID != film.header.StudyInstanceUID and (date is None or date < present)


def _compared(prior: Prior, reading: Reading) -> Prior:
    """Say whether a bone age may be compared with the present reading, or why not."""
    same = [method for method in reading.methods if method.name == prior.method and method.bone_age_years is not None]
    remark: Remark = ""
    if prior.study_date is None:
        remark = "undated"
    elif not same:
        remark = "other-method"
    elif all(method.sex != prior.sex for method in same):
        remark = "other-sex"
    elif prior.bundle_sha256 != reading.bundle.sha256:
        remark = "other-bundle"
    return replace(prior, comparable=not remark, remark=remark)


def _read_again(
    priors: Sequence[Prior],
    documents: Sequence[Dataset],
    sought: Sought,
    reading: Reading,
    reader: Callable[[], Reader],
) -> Iterator[Prior]:
    """Read the films of incomparable ages with the present weights, as far as the archive still has them in time."""
    films = {str(ds.SOPInstanceUID): _evidence(ds) for ds in documents}
    again: dict[str, Reading | None] = {}
    for prior in priors:
        if prior.remark != "other-bundle":
            yield prior
            continue
        if prior.SOPInstanceUID not in again:
            again[prior.SOPInstanceUID] = _reading_of(films.get(prior.SOPInstanceUID), sought, reader)
        new = again[prior.SOPInstanceUID]
        ages = {} if new is None else {(m.name, m.sex): m.bone_age_years for m in new.methods}
        age = ages.get((prior.method, prior.sex))
        if new is None or age is None or new.bundle.sha256 != reading.bundle.sha256:
            yield prior
        else:
            yield replace(prior, bone_age_years=age, bundle_sha256=new.bundle.sha256, comparable=True, remark="reread")


def _reading_of(place: tuple[str, str, str] | None, sought: Sought, reader: Callable[[], Reader]) -> Reading | None:
    if place is None:
        return None
    try:
        ds = sought.film(*place)
        if ds is None:
            return None
        days, image = age_days(ds), pixels.from_dataset(ds)
    except (CarpusError, pixels.UnreadablePixels):
        return None  # cannot be had: the earlier age stays, marked as not comparable
    sex = route(ds).sex
    return reader().read(image, sex, None if days is None else days / DAYS_PER_YEAR)


def _evidence(ds: Dataset) -> tuple[str, str, str] | None:
    """Return study, series and instance of the film a report was made from: the first it cites."""
    for study in ds.get("CurrentRequestedProcedureEvidenceSequence", ()):
        for series in study.get("ReferencedSeriesSequence", ()):
            for item in series.get("ReferencedSOPSequence", ()):
                return str(study.StudyInstanceUID), str(series.SeriesInstanceUID), str(item.ReferencedSOPInstanceUID)
    return None


def _predecessors(ds: Dataset) -> Iterator[str]:
    for study in ds.get("PredecessorDocumentsSequence", ()):
        for series in study.get("ReferencedSeriesSequence", ()):
            for item in series.get("ReferencedSOPSequence", ()):
                yield str(item.get("ReferencedSOPInstanceUID", ""))


def _same_patient(ds: Dataset, film: Source) -> bool:
    """Compare the number, and birth date and sex where both state them: a number may have been given twice."""
    if str(ds.get("PatientID", "")).strip() != _text(film, "PatientID"):
        return False
    for keyword in ("PatientBirthDate", "PatientSex", "IssuerOfPatientID"):
        theirs, own = str(ds.get(keyword, "") or "").strip(), _text(film, keyword)
        if theirs and own and theirs != own:
            return False
    return True


def _is(ds: Dataset, study: str) -> bool:
    return str(ds.get("StudyInstanceUID", "")) == str(study)


def _text(film: Source, keyword: str) -> str:
    return shown(film, keyword)[0].strip()


def _date(ds: Dataset) -> dt.date | None:
    return parse_date(str(ds.get("StudyDate", "") or ""))


def _items(item: Dataset, *path: str) -> Iterator[Dataset]:
    """Yield the content items along a path of concept codes; whatever a foreign report leaves out is no match."""
    if not path:
        yield item
        return
    for child in item.get("ContentSequence", ()):
        names = child.get("ConceptNameCodeSequence", ())
        if names and names[0].get("CodeValue") == path[0]:
            yield from _items(child, *path[1:])


def _code(item: Dataset, name: str) -> str:
    for child in _items(item, name):
        for concept in child.get("ConceptCodeSequence", ()):
            return str(concept.get("CodeValue", ""))
    return ""


def _number(item: Dataset, name: str) -> float | None:
    for child in _items(item, name):
        for measured in child.get("MeasuredValueSequence", ()):
            try:
                return float(measured.get("FloatingPointValue", measured.get("NumericValue")))
            except (TypeError, ValueError):
                return None
    return None
