"""Take one film from step to step: the one file that knows every stage.

Each step gets a claimed job, works with what was passed in, and ends with one `Jobs.advance`. It knows no queue and no socket:
who calls it, how often and what happens after an error is decided in `tasks`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Final, Protocol, cast

from pydicom import Dataset, dcmread
from pydicom.uid import ComputedRadiographyImageStorage

from models import pixels
from models.image import Image
from models.reader import Reader
from models.reading import Reading, Reason, Verdict
from models.regions import Sex
from service import scu
from service.amendments import amendment_of
from service.breakers import Breakers
from service.deidentification.deidentify import age_days, for_inference, patient_of
from service.errors import CarpusError, InvalidInstance, Permanent, Postponed, Retryable
from service.jobs import WAITS_FOR_EARLIER, Claim, Jobs, ResultState, State
from service.pseudonyms import Pseudonyms
from service.reporting import presentation, secondary_capture, seg, source, sr, wording
from service.reporting.results import ResultContext
from service.reporting.source import Source
from service.routing import Outcome, route
from service.settings import Destination, ResultKind, Settings
from service.storage import Stores
from service.tables import Job, ResultObject

DAYS_PER_YEAR: Final = 365.25
EARLIER_SECONDS: Final = (
    60.0  # a job that waits for another one of its patient is woken by it; else it looks this often
)


class Send(Protocol):
    """How instances leave; `scu.store` is the one that uses DICOM."""

    def __call__(
        self,
        address: scu.Address,
        instances: Sequence[Any],
        *,
        calling_ae_title: str,
        timeout_seconds: float,
        maximum_pdu_size: int,
        on_sent: Callable[[scu.Sent], None],
    ) -> list[scu.Sent]:
        """Send the files over one association."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The three steps and what they work with; a process passes in what its own step needs.

    Parameters
    ----------
    pseudonyms
        For `prepare`.
    reader
        For `infer`.
    device_uid
        For `deliver`: the identifier of this installation in every report.
    """

    jobs: Jobs
    stores: Stores
    settings: Settings
    pseudonyms: Pseudonyms | None = None
    reader: Reader | None = None
    device_uid: str = ""
    software_version: str = "0.1.0"
    send: Send = scu.store

    def prepare(self, claim: Claim) -> None:
        """Decide whether the film is read; if so, write the copy that inference may see."""
        assert self.pseudonyms is not None  # noqa: S101 - wiring, not input
        timings: dict[str, float] = {}
        with _timed(timings, "header read"):
            film = dcmread(self.stores.identified.path(self.jobs.instance(claim.job.instance_id).name))
            decision = route(film)
        subject = self.pseudonyms.patient(patient_of(film))
        if decision.outcome is Outcome.FILTER:
            why = {"cause_code": decision.code, "cause_text": decision.text}
            return self.jobs.advance(claim, State.FILTERED, decision.text, timings_ms=timings, subject=subject, **why)
        if decision.outcome is Outcome.REJECT:
            return self._reject(claim, [Reason(decision.code, decision.text)], timings, subject=subject)
        try:
            with _timed(timings, "de-identified"):
                copy = for_inference(film, self.pseudonyms)
        except InvalidInstance as error:
            return self._reject(claim, [Reason(error.code, str(error))], timings, subject=subject)
        with _timed(timings, "copy written"):
            stored = self.stores.deidentified.write(_encoded(copy), name=f"job-{claim.job.id}")
        known: dict[str, Any] = {"sex": decision.sex, "age_days": age_days(film), "subject": subject}
        return self.jobs.advance(claim, State.PREPARED, timings_ms=timings, deidentified_name=stored.name, **known)

    def infer(self, claim: Claim) -> None:
        """Read the de-identified film; what cannot be read becomes a rejection with its reasons."""
        assert self.reader is not None  # noqa: S101 - wiring, not input
        timings: dict[str, float] = {}
        try:
            with _timed(timings, "decoded"):
                image = pixels.load(self.stores.deidentified.path(claim.job.deidentified_name or ""))
        except pixels.UnreadablePixels as error:
            return self._reject(claim, [Reason(error.code, error.text)], timings)
        age_years = None if claim.job.age_days is None else claim.job.age_days / DAYS_PER_YEAR
        reading = self.reader.read(image, cast("Sex | None", claim.job.sex), age_years)
        timings |= reading.timings_ms
        stored = {"reading": reading.to_json(), "bundle_sha256": reading.bundle.sha256}
        if not reading.verdict.accepted:
            return self._reject(claim, reading.verdict.reasons, timings, **stored)
        return self.jobs.advance(
            claim, State.INFERRED, timings_ms=timings, outcome="reading", read_at=self.jobs.now(), **stored
        )

    def deliver(self, claim: Claim) -> None:
        """Build the results from the original header and send them to every destination.

        Raises
        ------
        Retryable, Permanent
            When a destination did not take everything; what it took stays recorded and is not sent again.
        """
        if not self.settings.destinations:
            raise Permanent(
                "no destination is configured: the results have nowhere to go",
                code="no-destination",
                next_action="name the PACS under `destinations` in the configuration, restart, then retry the job",
            )
        timings: dict[str, float] = {}
        with _timed(timings, "results built"):
            self._build(claim)
        errors = []
        for destination in self.settings.destinations:
            try:
                with _timed(timings, f"sent to {destination.name}"):
                    self._deliver_to(destination, claim.job)
            except CarpusError as error:
                errors.append(error)
        if errors:
            raise _chief(errors)
        if claim.job.outcome != "rejection":
            return self.jobs.advance(claim, State.DELIVERED, timings_ms=timings)
        reasons = claim.job.reasons or []
        why = {"cause_code": reasons[0]["code"], "cause_text": "; ".join(reason["text"] for reason in reasons)}
        why["next_action"] = wording.ADVICE.get(reasons[0]["code"], wording.DEFAULT_ADVICE).text("en")
        return self.jobs.advance(claim, State.REJECTED, why["cause_text"], timings_ms=timings, **why)

    def warm_up(self) -> None:
        """Build a report and a picture that nobody will see: the first film must not wait for tables and fonts to load."""
        header = Dataset()
        header.SOPClassUID = ComputedRadiographyImageStorage
        header.SOPInstanceUID = header.StudyInstanceUID = header.SeriesInstanceUID = self.device_uid
        context = ResultContext(device_uid=self.device_uid, created_at=self.jobs.now())
        verdict = Verdict(False, (Reason("not-a-hand", "warm-up"),))
        film = source.normalise(header)
        for ds in (
            sr.build_rejection(film, verdict, context),
            secondary_capture.build_rejection(film, verdict, context),
        ):
            _encoded(ds)

    def _reject(self, claim: Claim, reasons: Sequence[Reason], timings: Mapping[str, float], **fields: Any) -> None:
        listed = [{"code": reason.code, "text": reason.text} for reason in reasons]
        text = "cannot be read: " + "; ".join(reason.text for reason in reasons)
        outcome = {"outcome": "rejection", "reasons": listed, "read_at": self.jobs.now()}
        self.jobs.advance(claim, State.INFERRED, text, timings_ms=timings, **outcome, **fields)

    def _build(self, claim: Claim) -> None:
        """Write every result of every destination to the store and record it; a later attempt finds them there."""
        kept = {
            row.destination for row in self.jobs.results(claim.job.id) if self.stores.results.path(row.name).exists()
        }
        if claim.job.attempts > 1 and kept.issuperset(destination.name for destination in self.settings.destinations):
            return
        path = self.stores.identified.path(self.jobs.instance(claim.job.instance_id).name)
        film = source.load(path)
        reading = Reading.from_json(claim.job.reading) if claim.job.reading else None
        image = cache(lambda: pixels.load(path))
        rows = []
        for destination in self.settings.destinations:
            context = self._context(claim.job, destination)
            if reading is not None and claim.job.outcome == "reading":
                objects = _results(destination.objects, film, reading, context, image)
            else:
                verdict = Verdict(False, tuple(Reason(**reason) for reason in claim.job.reasons or ()))
                objects = _rejections(destination.objects, film, verdict, context, image, reading)
            rows += [self._stored(destination.name, kind, ds) for kind, ds in objects.items()]
        self.jobs.record_results(claim, rows)

    def _context(self, job: Job, destination: Destination) -> ResultContext:
        return ResultContext(
            device_uid=self.device_uid,
            created_at=job.read_at or self.jobs.now(),
            language=destination.language,
            institution_name=self.settings.institution_name,
            device_serial_number=self.settings.device_serial_number,
            software_version=self.software_version,
            profile=destination.name,
            revision=job.revision,
            amendment=amendment_of(self.jobs, job, destination.name),
        )

    def _stored(self, destination: str, kind: str, ds: Dataset) -> dict[str, str]:
        """Write one object under a name that follows from its UID, so that a repeat replaces it."""
        stored = self.stores.results.write(_encoded(ds), name=str(ds.SOPInstanceUID).replace(".", "-"))
        uids = {keyword: str(ds[keyword].value) for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")}
        return {"destination": destination, "kind": kind, **uids, "name": stored.name, "sha256": stored.sha256}

    def _deliver_to(self, destination: Destination, job: Job) -> None:
        """Send what this destination has neither accepted nor refused for good, in order per patient; record each answer."""
        rows = [row for row in self.jobs.results(job.id) if row.destination == destination.name]
        waiting = [row for row in rows if row.state == ResultState.BUILT]
        if not waiting:
            return _say_refused(destination, rows, job)
        breakers = Breakers(self.jobs, self.settings.breaker)
        breakers.check(destination.name)
        earlier = self.jobs.earlier_unsent(job, destination.name)
        if earlier is not None:
            text = f"the results of job {earlier}, of the same patient, go to {destination.name} first"
            raise Postponed(text, seconds=EARLIER_SECONDS, code=WAITS_FOR_EARLIER)

        def record(sent: scu.Sent) -> None:
            if sent.accepted or sent.status is not None or isinstance(sent.error, Permanent):
                refused = ResultState.REFUSED if isinstance(sent.error, Permanent) else ResultState.BUILT
                state = ResultState.ACCEPTED if sent.accepted else refused
                self.jobs.record_status(job.id, destination.name, sent.SOPInstanceUID, state, sent.status)

        try:
            sent = self.send(
                scu.address_of(destination, self.settings),
                [self.stores.results.path(row.name) for row in waiting],
                calling_ae_title=self.settings.ae_title,
                timeout_seconds=destination.timeout_seconds,
                maximum_pdu_size=self.settings.limits.maximum_pdu_size,
                on_sent=record,
            )
        except Permanent:  # of the association: it holds for every object
            for row in waiting:
                self.jobs.record_status(job.id, destination.name, row.SOPInstanceUID, ResultState.REFUSED)
            breakers.succeeded(destination.name)  # it answers; what it says is for a person
            raise
        except Retryable as error:
            breakers.failed(destination.name, error)
            raise
        errors = [each.error for each in sent if each.error is not None]
        passing = next((error for error in errors if isinstance(error, Retryable)), None)
        if passing is not None:
            breakers.failed(destination.name, passing)
        else:
            breakers.succeeded(destination.name)
        if errors:
            raise _chief(errors)


def _chief(errors: Sequence[CarpusError]) -> CarpusError:
    """Return what is recorded of several failures: what a person has to change first, but as final only if nothing may pass."""
    permanent = next((error for error in errors if isinstance(error, Permanent)), None)
    passing = sorted((e for e in errors if not isinstance(e, Permanent)), key=lambda e: isinstance(e, Postponed))
    if permanent is None:
        return passing[0]
    if not passing:
        return permanent
    return Retryable(str(permanent), code=permanent.code, next_action=permanent.next_action)


def _say_refused(destination: Destination, rows: Sequence[ResultObject], job: Job) -> None:
    """Raise again what kept a destination from taking its results, where it refused some for good at an earlier attempt."""
    refused = [row.kind for row in rows if row.state == ResultState.REFUSED]
    if refused:
        text = job.cause_text or f"{destination.name} refused {', '.join(refused)}"
        raise Permanent(text, code=job.cause_code or "refused", next_action=job.next_action or "")


def _results(
    kinds: Sequence[ResultKind], film: Source, reading: Reading, context: ResultContext, image: Callable[[], Image]
) -> dict[str, Dataset]:
    """Return the results of a film that was read, by kind, in the order the destination lists them; no outline, no SEG."""
    builders: Mapping[ResultKind, Callable[[], Dataset | None]] = {
        "SR": lambda: sr.build(film, reading, context),
        "SC": lambda: secondary_capture.build(film, reading, context, image()),
        "GSPS": lambda: presentation.build(film, reading, context),
        "SEG": lambda: seg.build(film, reading, context),
    }
    return {kind: ds for kind in kinds if (ds := builders[kind]()) is not None}


def _rejections(
    kinds: Sequence[ResultKind],
    film: Source,
    verdict: Verdict,
    context: ResultContext,
    image: Callable[[], Image],
    reading: Reading | None,
) -> dict[str, Dataset]:
    """Return the report of a film that was not read, and the picture that says so where the destination wants pictures."""
    bundle = reading.bundle if reading else None
    objects = {"SR": sr.build_rejection(film, verdict, context, bundle=bundle)}
    if "SC" in kinds:
        try:
            picture = image()
        except pixels.UnreadablePixels:
            picture = None
        objects["SC"] = secondary_capture.build_rejection(film, verdict, context, image=picture, bundle=bundle)
    return objects


def _encoded(ds: Dataset) -> bytes:
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        timings[name] = (time.perf_counter() - started) * 1000
